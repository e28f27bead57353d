#include <cstdlib>
#include <memory>

#include "core/device.cuh"

namespace saccade::cuda {
namespace {

// Errors after which no call of this process with the device succeeds.
bool is_fatal(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContextIsDestroyed:
      return true;
    default:
      return false;
  }
}

cudaStream_t as_stream(saccade_address stream) { return reinterpret_cast<cudaStream_t>(stream); }

cudaMemoryType memory_type(saccade_address address) {
  cudaPointerAttributes attributes;
  check(cudaPointerGetAttributes(&attributes, pointer<void>(address)), "pointer attributes");
  return attributes.type;
}

bool is_host(cudaMemoryType type) { return type == cudaMemoryTypeUnregistered || type == cudaMemoryTypeHost; }

// How many GPUs there are; at least one, and `index` is one of them.
int require_gpu(const char* argument, int32_t index) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();
    fail(SACCADE_UNSUPPORTED, "device", "a GPU and its driver", cudaGetErrorString(status));
  }
  if (index < 0 || index >= count) {
    char expected[64];
    std::snprintf(expected, sizeof expected, "0 to %d", count - 1);
    invalid(argument, expected, "%d", index);
  }
  return count;
}

// What `after` is given from now on happens after what `before` was given.
cudaError_t order(cudaEvent_t event, cudaStream_t before, cudaStream_t after) {
  const cudaError_t status = cudaEventRecord(event, before);
  return status == cudaSuccess ? cudaStreamWaitEvent(after, event) : status;
}

bool capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status), "capture status");
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // what is not fatal is over with this report
  char actual[160];
  std::snprintf(actual, sizeof actual, "%s (%s)", cudaGetErrorName(status), cudaGetErrorString(status));
  if (status == cudaErrorStreamCaptureInvalidated)
    fail(SACCADE_UNSUPPORTED, what,
         "nothing in this process that waits for the whole GPU while a graph is recorded (cudaDeviceSynchronize, "
         "cudaFree)",
         actual);
  if (status == cudaErrorMemoryAllocation)
    fail(SACCADE_OUT_OF_MEMORY, "device memory", "an amount that the GPU has left", actual);
  if (is_fatal(status))
    fail(SACCADE_FATAL, what, "a working GPU; no context of it can be used by this process any more", actual);
  fail(SACCADE_INTERNAL, what, "success", actual);
}

void describe(int32_t index, saccade_gpu& gpu) {
  gpu.count = require_gpu("index", index);
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index), "device properties");
  gpu.capability = 10 * properties.major + properties.minor;
  gpu.processors = properties.multiProcessorCount;
  check(cudaDriverGetVersion(&gpu.cuda_version), "driver version");
  gpu.memory = static_cast<int64_t>(properties.totalGlobalMem);
  std::memcpy(gpu.name, properties.name, sizeof gpu.name - 1);
  gpu.name[sizeof gpu.name - 1] = 0;
}

Device* open(int32_t index, saccade_address stream, bool own_stream) {
  require_gpu("device_index", index);
  std::unique_ptr<Device> device(new Device{});
  device->index = index;
  const Current current(device.get());
  const auto attribute = [&](cudaDeviceAttr name) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, name, index), "device attribute");
    return value;
  };
  device->processors = attribute(cudaDevAttrMultiProcessorCount);
  device->capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
  // What GPUs of another capability would run can be tried, and measured, on this one.
  if (const char* other = std::getenv("SACCADE_CAPABILITY"))
    if (const int wanted = std::atoi(other); wanted >= 80 && wanted < device->capability) device->capability = wanted;
  device->shared_memory = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (device->capability < 80) {
    char actual[64];
    std::snprintf(actual, sizeof actual, "%d.%d", device->capability / 10, device->capability % 10);
    fail(SACCADE_UNSUPPORTED, "device", "a GPU of compute capability 8.0 or more", actual);
  }
  cudaMemPoolProps properties = {};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = index;
  check(cudaMemPoolCreate(&device->pool, &properties), "memory pool");
  check(cudaEventCreateWithFlags(&device->event, cudaEventDisableTiming), "event");
  check(cudaStreamCreateWithFlags(&device->aside, cudaStreamNonBlocking), "stream");
  device->stream = as_stream(stream);
  device->owns_stream = own_stream;
  if (own_stream) check(cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking), "stream");
  return device.release();
}

void close(Device* device) {
  if (!device) return;
  {
    // Whatever state the device is in: there is nobody to tell.
    const Current current(device);
    if (device->recording) {
      try {
        destroy_graph(*device, end_capture(*device));
      } catch (const Failure&) {
      }
    }
    cudaStreamSynchronize(device->stream);
    close_cublas(*device);
    if (device->branch) cudaStreamDestroy(device->branch);
    if (device->staging.memory) recordings().keep_off([&] { cudaFreeHost(device->staging.memory); });
    for (cudaEvent_t read : device->staging.read)
      if (read) cudaEventDestroy(read);
    if (device->owns_stream) cudaStreamDestroy(device->stream);
    cudaStreamDestroy(device->aside);
    cudaEventDestroy(device->event);
    cudaMemPoolDestroy(device->pool);
    cudaGetLastError();
  }
  delete device;
}

Current::Current(const Device* device) : before_(-1) {
  if (!device) return;
  check(cudaGetDevice(&before_), "current device");
  if (before_ == device->index)
    before_ = -1;
  else
    check(cudaSetDevice(device->index), "current device");
}

Current::~Current() {
  if (before_ >= 0) cudaSetDevice(before_);
}

saccade_address allocate(const Device& device, int64_t bytes) {
  void* memory = nullptr;
  const bool recording = capturing(device.stream);
  const cudaStream_t stream = recording ? device.aside : device.stream;
  const auto take = [&] { return cudaMallocFromPoolAsync(&memory, static_cast<size_t>(bytes), device.pool, stream); };
  cudaError_t status = take();
  if (status == cudaErrorMemoryAllocation && !recording) {
    // What was freed is the system's again, and can be cut anew, once the stream is past it.
    cudaGetLastError();
    synchronize(device);
    check(cudaMemPoolTrimTo(device.pool, 0), "trim");
    status = take();
  }
  check(status, "allocate");
  if (recording) check(cudaStreamSynchronize(stream), "allocate");
  return reinterpret_cast<saccade_address>(memory);
}

void free(const Device& device, saccade_address address) {
  if (!address) return;
  if (capturing(device.stream))
    fail(SACCADE_UNSUPPORTED, "context", "no memory freed while a graph is recorded", "a free");
  check(cudaFreeAsync(pointer<void>(address), device.stream), "free");
}

void free_now(int32_t index, saccade_address address) {
  int before = 0;
  if (cudaGetDevice(&before) == cudaSuccess && cudaSetDevice(index) == cudaSuccess) {
    recordings().keep_off([&] { cudaFree(pointer<void>(address)); });
    cudaSetDevice(before);
  }
  cudaGetLastError();
}

saccade_address stage(Device& device, int64_t bytes) {
  Staging& staging = device.staging;
  if (bytes > Staging::kHalf || device.recording) return 0;
  if (!staging.memory) {
    for (cudaEvent_t& read : staging.read)
      if (!read) check(cudaEventCreateWithFlags(&read, cudaEventDisableTiming), "event");
    cudaError_t status = cudaSuccess;
    recordings().keep_off([&] { status = cudaMallocHost(&staging.memory, 2 * Staging::kHalf); });
    if (status != cudaSuccess) {
      staging.memory = nullptr;
      cudaGetLastError();  // pageable memory will do
      return 0;
    }
  }
  if (staging.used + bytes > Staging::kHalf) {
    check(cudaEventRecord(staging.read[staging.half], device.stream), "record");
    staging.half ^= 1;
    staging.used = 0;
    check(cudaEventSynchronize(staging.read[staging.half]), "copy");
  }
  char* memory = staging.memory + staging.half * Staging::kHalf + staging.used;
  staging.used += divide_up(bytes, 64) * 64;
  return reinterpret_cast<saccade_address>(memory);
}

void copy(const Device& device, saccade_address destination, saccade_address source, int64_t bytes) {
  const cudaMemoryType from = memory_type(source), to = memory_type(destination);
  const bool recording = capturing(device.stream);
  if (recording && (is_host(from) || is_host(to)))
    fail(SACCADE_UNSUPPORTED, "copy", "memory of the GPU on both sides while a graph is recorded", "host memory");
  check(cudaMemcpyAsync(pointer<void>(destination), pointer<const void>(source), static_cast<size_t>(bytes),
                        cudaMemcpyDefault, device.stream),
        "copy");
  if (recording) return;
  // CUDA has read pageable memory when the call returns: what was launched before need not be waited for.
  if (is_host(to) || (from == cudaMemoryTypeHost && !device.staging.has(source))) synchronize(device);
}

void zero(const Device& device, saccade_address destination, int64_t bytes) {
  check(cudaMemsetAsync(pointer<void>(destination), 0, static_cast<size_t>(bytes), device.stream), "zero");
}

thread_local int Recordings::own_ = 0;

void Recordings::begin() {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++open_;
  ++own_;
}

void Recordings::end() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    --open_;
    if (own_ > 0) --own_;
  }
  ended_.notify_all();
}

Recordings& recordings() {
  static Recordings* all = new Recordings;  // contexts may close when statics are gone
  return *all;
}

void begin_capture(Device& device) {
  recordings().begin();
  // Relaxed: allocations that a recording needs go to another stream.
  const cudaError_t status = cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeRelaxed);
  if (status != cudaSuccess) recordings().end();
  check(status, "recording");
  device.recording = true;
}

saccade_address end_capture(Device& device) {
  end_branch(device);
  cudaError_t joined = cudaSuccess;
  if (device.branched) joined = order(device.event, device.branch, device.stream);
  device.branched = false;
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(device.stream, &graph);
  if (device.recording) recordings().end();
  device.recording = false;
  check(ended != cudaSuccess ? ended : joined, "recording");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "graph");
  return reinterpret_cast<saccade_address>(executable);
}

void launch_graph(const Device& device, saccade_address graph) {
  check(cudaGraphLaunch(reinterpret_cast<cudaGraphExec_t>(graph), device.stream), "launch");
}

void destroy_graph(const Device&, saccade_address graph) {
  if (graph) check(cudaGraphExecDestroy(reinterpret_cast<cudaGraphExec_t>(graph)), "graph");
}

void begin_branch(Device& device) {
  if (!device.recording || device.in_branch) return;
  if (!device.branch) check(cudaStreamCreateWithFlags(&device.branch, cudaStreamNonBlocking), "stream");
  check(order(device.event, device.stream, device.branch), "branch");
  std::swap(device.stream, device.branch);
  device.in_branch = device.branched = true;
}

void end_branch(Device& device) {
  if (!device.in_branch) return;
  std::swap(device.stream, device.branch);
  device.in_branch = false;
}

void join_branch(Device& device) {
  if (!device.branched || device.in_branch) return;
  check(order(device.event, device.branch, device.stream), "join");
  device.branched = false;
}

void wait_for(const Device& device, saccade_address stream) {
  check(order(device.event, as_stream(stream), device.stream), "wait");
}

void signal(const Device& device, saccade_address stream) {
  check(order(device.event, device.stream, as_stream(stream)), "wait");
}

void synchronize(const Device& device) { check(cudaStreamSynchronize(device.stream), "synchronize"); }

saccade_address stream_of(const Device& device) { return reinterpret_cast<saccade_address>(device.stream); }

int32_t index_of(const Device& device) { return device.index; }
int capability_of(const Device& device) { return device.capability; }

}  // namespace saccade::cuda
