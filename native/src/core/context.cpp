#include "core/context.h"

#include <sched.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <system_error>
#if defined(SACCADE_X86)
#include <cpuid.h>
#endif

#include "core/call.h"
#include "core/dlpack.h"

namespace saccade {
namespace {

struct IsaName {
  Isa isa;
  const char* name;
};

constexpr IsaName kIsaNames[] = {{Isa::kBaseline, "baseline"}, {Isa::kAvx2, "avx2"}, {Isa::kAvx512, "avx512"}};

#if defined(SACCADE_X86)
// Clang's __builtin_cpu_supports does not know it by name.
bool has_f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#endif

// Whether this build and this processor have the instruction set.
bool supported(Isa isa) {
  if (isa == Isa::kBaseline) return true;
#if defined(SACCADE_X86)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) return false;
#endif
#if defined(SACCADE_WITH_AVX2)
  if (isa == Isa::kAvx2) return true;
#endif
#if defined(SACCADE_WITH_AVX512)
  if (isa == Isa::kAvx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  return false;
}

Isa best_isa() {
  Isa best = Isa::kBaseline;
  for (const IsaName& entry : kIsaNames)
    if (supported(entry.isa)) best = entry.isa;
  return best;
}

int available_threads() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

constexpr int kMaxThreads = 1024;

saccade_context* create_cpu(const saccade_context_args& args) {
  if (args.device_index != 0) invalid("device_index", "0 for the CPU", "%d", args.device_index);
  if (args.threads < 0 || args.threads > kMaxThreads) invalid("threads", "0 (all) to 1024", "%d", args.threads);
  if (args.own_stream != 0) invalid("own_stream", "0 for the CPU", "%d", args.own_stream);
  Isa isa = best_isa();
  if (args.instruction_set && args.instruction_set[0]) {
    const IsaName* found = nullptr;
    for (const IsaName& entry : kIsaNames)
      if (!std::strcmp(entry.name, args.instruction_set)) found = &entry;
    if (!found) invalid("instruction_set", "avx512, avx2 or baseline", "%.40s", args.instruction_set);
    if (!supported(found->isa))
      fail(SACCADE_UNSUPPORTED, "instruction_set", "one that this processor and build have", found->name);
    isa = found->isa;
  }
  int threads = args.threads ? args.threads : available_threads();
  if (threads < 1) threads = 1;
  try {
    return new saccade_context(threads, isa);
  } catch (const std::system_error&) {
    fail(SACCADE_OUT_OF_MEMORY, "threads", "as many as the system gives", std::to_string(threads).c_str());
  }
}

saccade_context* create_cuda(const saccade_context_args& args) {
#if defined(SACCADE_WITH_CUDA)
  if (args.threads != 0) invalid("threads", "0 for a GPU", "%d", args.threads);
  if (args.instruction_set && args.instruction_set[0])
    invalid("instruction_set", "none for a GPU", "%.40s", args.instruction_set);
  require_choice("own_stream", args.own_stream, 2, "0 or 1");
  if (args.own_stream && args.stream) invalid("stream", "0 beside own_stream", "another stream");
  std::unique_ptr<saccade_context> context(new saccade_context(1, best_isa()));
  context->gpu = cuda::open(args.device_index, args.stream, args.own_stream != 0);
  return context.release();
#else
  (void)args;
  fail(SACCADE_UNSUPPORTED, "device", "a backend of this build (CPU)", "CUDA; this build has no CUDA backend");
#endif
}

saccade_context* create(const saccade_context_args& args) {
  require_choice("device", args.device, 2, "SACCADE_CPU (0) or SACCADE_CUDA (1)");
  return args.device == SACCADE_CUDA ? create_cuda(args) : create_cpu(args);
}

saccade_address allocate(const saccade_context& context, int64_t bytes) {
  SACCADE_IF_CUDA(if (context.gpu) return cuda::allocate(*context.gpu, bytes);)
  (void)context;
  constexpr int64_t kAlignment = 64;
  void* memory = nullptr;
  if (bytes > INT64_MAX - kAlignment ||
      posix_memalign(&memory, kAlignment, static_cast<size_t>((bytes + kAlignment - 1) / kAlignment * kAlignment)))
    fail(SACCADE_OUT_OF_MEMORY, "bytes", "an amount that the machine has", std::to_string(bytes).c_str());
  return reinterpret_cast<saccade_address>(memory);
}

// Streams and waits are those of a GPU.
void require_gpu(const saccade_context* context) {
  if (!context->gpu) fail(SACCADE_UNSUPPORTED, "context", "a CUDA context", "a CPU context");
}

}  // namespace
}  // namespace saccade

using saccade::ErrorState;
using saccade::Isa;

extern "C" {

int32_t saccade_abi_version(void) { return SACCADE_ABI_VERSION; }

const char* saccade_build_info(void) {
  return "saccade " SACCADE_VERSION ", " SACCADE_COMPILER ", " SACCADE_BUILD_TYPE
         ", backends: cpu" SACCADE_IF_CUDA(", cuda " SACCADE_CUDA_VERSION);
}

int32_t saccade_gpu_describe(int32_t index, saccade_gpu* gpu, char* error, int64_t error_capacity) {
  ErrorState state;
  const int32_t status = saccade::guarded(state, "gpu_describe", [&] {
    const saccade_gpu asked = saccade::copy_args(gpu, "gpu");
    saccade::require_size("struct_size", static_cast<int64_t>(asked.struct_size), sizeof(saccade_gpu));
    SACCADE_IF_CUDA(return saccade::cuda::describe(index, *gpu);)
    (void)index;
    saccade::fail(SACCADE_UNSUPPORTED, "device", "a build with a CUDA backend", "a build without one");
  });
  if (error && error_capacity > 0) std::snprintf(error, static_cast<size_t>(error_capacity), "%s", state.message);
  return status;
}

int32_t saccade_context_create(const saccade_context_args* args, saccade_context** context, char* error,
                               int64_t error_capacity) {
  ErrorState state;
  if (!context) return SACCADE_INVALID_ARGUMENT;
  *context = nullptr;
  int32_t status =
      saccade::guarded(state, "context_create", [&] { *context = saccade::create(saccade::copy_args(args)); });
  if (error && error_capacity > 0) std::snprintf(error, static_cast<size_t>(error_capacity), "%s", state.message);
  return status;
}

void saccade_context_destroy(saccade_context* context) {
  if (!context) return;
  // A GPU that can no longer be used has nothing left to free, and nobody to tell.
  saccade::guarded(context->error, "context_destroy", [&] { SACCADE_IF_CUDA(saccade::cuda::close(context->gpu);) });
  delete context;
}

const char* saccade_error_message(const saccade_context* context) { return context ? context->error.message : ""; }
const char* saccade_error_argument(const saccade_context* context) { return context ? context->error.argument : ""; }
const char* saccade_error_expected(const saccade_context* context) { return context ? context->error.expected : ""; }
const char* saccade_error_actual(const saccade_context* context) { return context ? context->error.actual : ""; }

int32_t saccade_context_threads(const saccade_context* context) {
  return context && !context->gpu ? context->pool.threads() : 0;
}

const char* saccade_context_instruction_set(const saccade_context* context) {
  if (context && !context->gpu)
    for (const auto& entry : saccade::kIsaNames)
      if (entry.isa == context->isa) return entry.name;
  return "";
}

int32_t saccade_context_set_gemm(saccade_context* context, saccade_address cblas_sgemm) {
  return saccade::run(context, "context_set_gemm", [&] {
    if (context->gpu)
      saccade::fail(SACCADE_UNSUPPORTED, "context", "a CPU context; saccade_context_set_cublas is for GPUs",
                    "a CUDA context");
    context->gemm = reinterpret_cast<saccade_cblas_sgemm>(cblas_sgemm);
  });
}

int32_t saccade_context_set_cublas(saccade_context* context, const saccade_cublas* functions) {
  return saccade::run(context, "context_set_cublas", [&] {
    if (!context->gpu)
      saccade::fail(SACCADE_UNSUPPORTED, "context", "a CUDA context; saccade_context_set_gemm is for the CPU",
                    "a CPU context");
    SACCADE_IF_CUDA(saccade::cuda::set_cublas(*context->gpu, functions);)
    (void)functions;
  });
}

int32_t saccade_context_wait_for(saccade_context* context, saccade_address stream) {
  return saccade::run(context, "context_wait_for", [&] {
    saccade::require_gpu(context);
    SACCADE_IF_CUDA(saccade::cuda::wait_for(*context->gpu, stream);)
    (void)stream;
  });
}

int32_t saccade_context_signal(saccade_context* context, saccade_address stream) {
  return saccade::run(context, "context_signal", [&] {
    saccade::require_gpu(context);
    SACCADE_IF_CUDA(saccade::cuda::signal(*context->gpu, stream);)
    (void)stream;
  });
}

int32_t saccade_context_synchronize(saccade_context* context) {
  return saccade::run(context, "context_synchronize",
                      [&] { SACCADE_IF_CUDA(if (context->gpu) saccade::cuda::synchronize(*context->gpu);) });
}

int32_t saccade_context_stream(saccade_context* context, saccade_address* stream) {
  return saccade::run(context, "context_stream", [&] {
    if (!stream) saccade::invalid("stream", "a place for the result", "null");
    saccade::require_gpu(context);
    SACCADE_IF_CUDA(*stream = saccade::cuda::stream_of(*context->gpu);)
  });
}

int32_t saccade_graph_begin(saccade_context* context) {
  return saccade::run(context, "graph_begin", [&] {
    saccade::require_gpu(context);
    SACCADE_IF_CUDA(saccade::cuda::begin_capture(*context->gpu);)
  });
}

int32_t saccade_graph_end(saccade_context* context, saccade_address* graph) {
  return saccade::run(context, "graph_end", [&] {
    if (!graph) saccade::invalid("graph", "an address for the result", "null");
    *graph = 0;
    saccade::require_gpu(context);
    SACCADE_IF_CUDA(*graph = saccade::cuda::end_capture(*context->gpu);)
  });
}

int32_t saccade_graph_launch(saccade_context* context, saccade_address graph) {
  return saccade::run(context, "graph_launch", [&] {
    saccade::require_gpu(context);
    if (!graph) saccade::invalid("graph", "a graph", "0");
    SACCADE_IF_CUDA(saccade::cuda::launch_graph(*context->gpu, graph);)
  });
}

int32_t saccade_graph_destroy(saccade_context* context, saccade_address graph) {
  return saccade::run(context, "graph_destroy", [&] {
    saccade::require_gpu(context);
    (void)graph;
    SACCADE_IF_CUDA(saccade::cuda::destroy_graph(*context->gpu, graph);)
  });
}

int32_t saccade_branch_begin(saccade_context* context) {
  return saccade::run(context, "branch_begin",
                      [&] { SACCADE_IF_CUDA(if (context->gpu) saccade::cuda::begin_branch(*context->gpu);) });
}

int32_t saccade_branch_end(saccade_context* context) {
  return saccade::run(context, "branch_end",
                      [&] { SACCADE_IF_CUDA(if (context->gpu) saccade::cuda::end_branch(*context->gpu);) });
}

int32_t saccade_branch_join(saccade_context* context) {
  return saccade::run(context, "branch_join",
                      [&] { SACCADE_IF_CUDA(if (context->gpu) saccade::cuda::join_branch(*context->gpu);) });
}

int32_t saccade_memory_allocate(saccade_context* context, int64_t bytes, saccade_address* address) {
  return saccade::run(context, "memory_allocate", [&] {
    if (!address) saccade::invalid("address", "a place for the result", "null");
    *address = 0;
    if (bytes < 0) saccade::invalid("bytes", "0 or more", "%lld", static_cast<long long>(bytes));
    if (bytes == 0) return;
    *address = saccade::allocate(*context, bytes);
  });
}

int32_t saccade_memory_free(saccade_context* context, saccade_address address) {
  return saccade::run(context, "memory_free", [&] {
    if (saccade::let_holders_free(address)) return;
    SACCADE_IF_CUDA(if (context->gpu) return saccade::cuda::free(*context->gpu, address);)
    std::free(reinterpret_cast<void*>(address));
  });
}

int32_t saccade_memory_stage(saccade_context* context, int64_t bytes, saccade_address* address) {
  return saccade::run(context, "memory_stage", [&] {
    if (!address) saccade::invalid("address", "a place for the result", "null");
    *address = 0;
    if (bytes < 0) saccade::invalid("bytes", "0 or more", "%lld", static_cast<long long>(bytes));
    saccade::require_gpu(context);
    SACCADE_IF_CUDA(*address = saccade::cuda::stage(*context->gpu, bytes);)
  });
}

int32_t saccade_memory_copy(saccade_context* context, saccade_address destination, saccade_address source,
                            int64_t bytes) {
  return saccade::run(context, "memory_copy", [&] {
    if (bytes < 0) saccade::invalid("bytes", "0 or more", "%lld", static_cast<long long>(bytes));
    if (bytes == 0) return;
    if (!destination) saccade::invalid("destination", "an address", "null");
    if (!source) saccade::invalid("source", "an address", "null");
    SACCADE_IF_CUDA(if (context->gpu) return saccade::cuda::copy(*context->gpu, destination, source, bytes);)
    std::memmove(reinterpret_cast<void*>(destination), reinterpret_cast<const void*>(source),
                 static_cast<size_t>(bytes));
  });
}

int32_t saccade_memory_zero(saccade_context* context, saccade_address destination, int64_t bytes) {
  return saccade::run(context, "memory_zero", [&] {
    if (bytes < 0) saccade::invalid("bytes", "0 or more", "%lld", static_cast<long long>(bytes));
    if (bytes == 0) return;
    if (!destination) saccade::invalid("destination", "an address", "null");
    SACCADE_IF_CUDA(if (context->gpu) return saccade::cuda::zero(*context->gpu, destination, bytes);)
    std::memset(reinterpret_cast<void*>(destination), 0, static_cast<size_t>(bytes));
  });
}

}  // extern "C"
