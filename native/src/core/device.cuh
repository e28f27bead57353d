// The GPU of a context inside the CUDA backend, and the one way to launch a kernel on it.
#pragma once

#include <cuda_runtime.h>

#include <condition_variable>
#include <mutex>

#include "core/call.h"
#include "core/device.h"

namespace saccade::cuda {

struct Cublas;  // gemm/gemm.cu

// Page-locked memory that copies to the GPU pass through: while those of one half are on their way, the other fills.
struct Staging {
  static constexpr int64_t kHalf = int64_t{4} << 20;

  char* memory;  // null until it is first needed
  int half;
  int64_t used;         // of the half
  cudaEvent_t read[2];  // after the last copy from each half

  bool has(saccade_address address) const {
    const auto begin = reinterpret_cast<saccade_address>(memory);
    return memory && address >= begin && address < begin + 2 * kHalf;
  }
};

struct Device {
  int index;
  cudaStream_t stream;
  bool owns_stream;
  cudaMemPool_t pool;
  int processors;      // multiprocessors
  int capability;      // 10 * major + minor
  int shared_memory;   // most bytes of it that a block may have
  cudaEvent_t event;   // for orders between streams
  cudaStream_t aside;  // what must happen at once while the other stream records
  Cublas* cublas;      // null: no provider of matrix products
  Staging staging;
  bool recording;
  cudaStream_t branch;  // the other of the two streams that record a branch; null until one is
  bool in_branch;       // the streams have changed places
  bool branched;        // and what the branch was given has not been waited for
};

// Streams of a process that record, and calls that wait for a whole GPU: those would end every recording on it.
class Recordings {
 public:
  void begin();
  void end();
  // Work without a recording of another thread meanwhile.
  template <class Work>
  void keep_off(const Work& work) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (own_ == 0) ended_.wait(lock, [this] { return open_ == 0; });
    work();
  }

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  int open_ = 0;
  static thread_local int own_;  // a thread that records waits for nobody: others might wait for it
};

Recordings& recordings();

// Frees the provider of matrix products, whatever state the device is in.
void close_cublas(Device& device);

// Turns a CUDA error into a Failure.  One that leaves the device unusable says so.
void check(cudaError_t status, const char* what);

inline cudaLaunchConfig_t cluster_config(const Device& device, int cluster, int64_t clusters, int threads, int shared,
                                         cudaLaunchAttribute& attribute) {
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(cluster * clusters));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared);
  config.stream = device.stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return config;
}

// Clusters that the device runs at once.
template <class Kernel>
int64_t resident_clusters(const Device& device, Kernel kernel, int cluster, int threads, int shared) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "shared memory");
  cudaLaunchAttribute attribute;
  const cudaLaunchConfig_t config = cluster_config(device, cluster, 1, threads, shared, attribute);
  int clusters = 0;
  check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config), "occupancy");
  return clusters;
}

// Asynchronous, on the device's stream.  A grid of no blocks is no launch.
template <class... Parameters, class... Arguments>
void launch(const Device& device, void (*kernel)(Parameters...), int64_t blocks, int threads,
            Arguments&&... arguments) {
  if (blocks == 0) return;
  kernel<<<static_cast<unsigned>(blocks), threads, 0, device.stream>>>(std::forward<Arguments>(arguments)...);
  check(cudaPeekAtLastError(), "launch");
}

// On Hopper the blocks of a kernel that launch_overlapping() launches may come while those of the one before it still
// work: once all of those have called allow_next(), or have ended.  Before wait_for_last() they may read only what was
// there before the one before.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ __forceinline__ void allow_next() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ void wait_for_last() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
#else
__device__ __forceinline__ void allow_next() {}
__device__ __forceinline__ void wait_for_last() {}
#endif

// Brings what may be read after wait_for_last() nearer.
__device__ __forceinline__ void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// Counts the blocks of a grid that come here, one thread of each; returns those before.  The last of them sees what the
// threads that came before have written.
__device__ __forceinline__ int32_t arrive(int32_t* counter) {
  int32_t before;
  asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

// As launch(), with `shared` bytes of dynamic shared memory a block, the same in all calls of a kernel: what it may
// have is known to all contexts of the GPU.
template <class... Parameters, class... Arguments>
void launch_shared(const Device& device, void (*kernel)(Parameters...), int64_t blocks, int threads, int shared,
                   Arguments&&... arguments) {
  if (blocks == 0) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "shared memory");
  kernel<<<static_cast<unsigned>(blocks), threads, shared, device.stream>>>(std::forward<Arguments>(arguments)...);
  check(cudaPeekAtLastError(), "launch");
}

// As launch_shared().
template <class... Parameters, class... Arguments>
void launch_shared_overlapping(const Device& device, void (*kernel)(Parameters...), int64_t blocks, int threads,
                               int shared, Arguments&&... arguments) {
  if (device.capability != 90 || blocks == 0)
    return launch_shared(device, kernel, blocks, threads, shared, std::forward<Arguments>(arguments)...);
  if (shared > 0)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "shared memory");
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared);
  config.stream = device.stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), "launch");
}

// As launch().
template <class... Parameters, class... Arguments>
void launch_overlapping(const Device& device, void (*kernel)(Parameters...), int64_t blocks, int threads,
                        Arguments&&... arguments) {
  launch_shared_overlapping(device, kernel, blocks, threads, 0, std::forward<Arguments>(arguments)...);
}

// As launch(), in clusters of `cluster` blocks with `shared` bytes of dynamic shared memory each.
template <class... Parameters, class... Arguments>
void launch_clusters(const Device& device, void (*kernel)(Parameters...), int cluster, int64_t clusters, int threads,
                     int shared, Arguments&&... arguments) {
  cudaLaunchAttribute attribute;
  cudaLaunchConfig_t config = cluster_config(device, cluster, clusters, threads, shared, attribute);
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), "launch");
}

inline __host__ __device__ int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace saccade::cuda
