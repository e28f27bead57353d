// The GPU of a CUDA context, as code without CUDA's headers sees it.
#pragma once

#include "saccade.h"

namespace saccade::cuda {

struct Device;

void describe(int32_t index, saccade_gpu& gpu);

// Of GPU `index`; launches go to `stream`, or to a new stream of its own where own_stream is set.
Device* open(int32_t index, saccade_address stream, bool own_stream);
void close(Device* device);

// Makes the device the thread's current one as long as this lives; then the one before is again.
class Current {
 public:
  explicit Current(const Device* device);
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  int before_;
};

// In the order of the stream.
saccade_address allocate(const Device& device, int64_t bytes);
void free(const Device& device, saccade_address address);
// Without a context: waits for what uses the memory of GPU `index`.  Errors are lost.
void free_now(int32_t index, saccade_address address);
// Host memory for a copy to the GPU, until that is done; 0 where it has not as much.
saccade_address stage(Device& device, int64_t bytes);
// Returns when host memory that it reads, but that of stage(), may be changed, and what it writes there can be read.
void copy(const Device& device, saccade_address destination, saccade_address source, int64_t bytes);
void zero(const Device& device, saccade_address destination, int64_t bytes);

// Between the two what the stream is given is recorded.  end_capture() gives an executable graph.
void begin_capture(Device& device);
saccade_address end_capture(Device& device);
void launch_graph(const Device& device, saccade_address graph);
void destroy_graph(const Device& device, saccade_address graph);

// Between begin_branch() and end_branch() launches go to a branch of what is recorded, which join_branch() ends.
void begin_branch(Device& device);
void end_branch(Device& device);
void join_branch(Device& device);

void wait_for(const Device& device, saccade_address stream);
void signal(const Device& device, saccade_address stream);
void synchronize(const Device& device);

saccade_address stream_of(const Device& device);
int32_t index_of(const Device& device);
int capability_of(const Device& device);  // 10 * major + minor

// The provider of matrix products (gemm/gemm.cu), in the place of the one before; null: none.
void set_cublas(Device& device, const saccade_cublas* functions);
bool has_cublas(const Device& device);

}  // namespace saccade::cuda
