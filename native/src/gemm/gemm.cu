#include <memory>
#include <optional>

#include "core/device.cuh"
#include "gemm/gemm.h"

namespace saccade::cuda {
namespace {

// Of cublas_api.h and library_types.h, the part that products need: the library is the caller's, and so is its version.
using Handle = struct Opaque*;
using Status = int;
constexpr Status kAllocationFailed = 3, kArchitectureMismatch = 8, kNotSupported = 15;
constexpr int kNoTrans = 0, kTrans = 1;                                        // cublasOperation_t
constexpr int kRealF32 = 0, kRealF16 = 2, kRealBf16 = 14;                      // cudaDataType
constexpr int kComputeF32 = 68, kComputeFastBf16 = 75, kComputeFastTf32 = 77;  // cublasComputeType_t
constexpr int kDefaultAlgorithm = -1;                                          // cublasGemmAlgo_t

using Create = Status (*)(Handle*);
using Destroy = Status (*)(Handle);
using SetStream = Status (*)(Handle, cudaStream_t);
using SetWorkspace = Status (*)(Handle, void*, size_t);
using GemmEx = Status (*)(Handle, int trans_a, int trans_b, int m, int n, int k, const void* alpha, const void* a,
                          int a_type, int lda, const void* b, int b_type, int ldb, const void* beta, void* c,
                          int c_type, int ldc, int compute_type, int algorithm);
using StatusString = const char* (*)(Status);

constexpr int64_t kWorkspace = int64_t{32} << 20;  // what cuBLAS takes on Hopper, the most of any GPU

template <class Function>
Function function(const char* argument, saccade_address address) {
  if (!address) invalid(argument, "the address of the function of cuBLAS", "null");
  return reinterpret_cast<Function>(address);
}

constexpr int kScaleThreads = 256;

// c = beta * c, without reading c where beta is 0: what is left of a product without terms.
__global__ void __launch_bounds__(kScaleThreads) scale_kernel(const __grid_constant__ saccade_gemm_args args) {
  for (int64_t i = blockIdx.x; i < args.m; i += gridDim.x) {
    float* c = pointer<float>(args.c) + i * args.c_stride;
    for (int64_t j = threadIdx.x; j < args.n; j += kScaleThreads) c[j] = args.beta == 0.0f ? 0.0f : args.beta * c[j];
  }
}

}  // namespace

struct Cublas {
  explicit Cublas(const saccade_cublas& functions)
      : create(function<Create>("create", functions.create)),
        destroy(function<Destroy>("destroy", functions.destroy)),
        set_stream(function<SetStream>("set_stream", functions.set_stream)),
        set_workspace(function<SetWorkspace>("set_workspace", functions.set_workspace)),
        gemm_ex(function<GemmEx>("gemm_ex", functions.gemm_ex)),
        status_string(function<StatusString>("status_string", functions.status_string)) {}

  void check(Status status, const char* what) const {
    if (status == 0) return;
    cuda::check(cudaGetLastError(), what);  // where the GPU itself is the reason, it says more
    const bool unable = status == kArchitectureMismatch || status == kNotSupported;
    fail(status == kAllocationFailed ? SACCADE_OUT_OF_MEMORY
         : unable                    ? SACCADE_UNSUPPORTED
                                     : SACCADE_INTERNAL,
         what, "success of cuBLAS", status_string(status));
  }

  // Sends products where the device's launches go.
  void use(const Device& device) {
    if (stream && *stream == device.stream) return;
    void*& workspace = workspaces[device.in_branch];
    if (!workspace) workspace = pointer<void>(allocate(device, kWorkspace));
    stream.reset();
    // In this order: a new stream takes the workspace away.
    check(set_stream(handle, device.stream), "cublasSetStream");
    check(set_workspace(handle, workspace, kWorkspace), "cublasSetWorkspace");
    stream = device.stream;
  }

  const Create create;
  const Destroy destroy;
  const SetStream set_stream;
  const SetWorkspace set_workspace;
  const GemmEx gemm_ex;
  const StatusString status_string;
  Handle handle = nullptr;
  std::optional<cudaStream_t> stream;  // of the handle
  void* workspaces[2] = {};  // that of the context's stream, and of branches, which are at work at the same time
};

void close_cublas(Device& device) {
  Cublas* cublas = device.cublas;
  if (!cublas) return;
  device.cublas = nullptr;
  // It waits for the GPU.
  if (cublas->handle) recordings().keep_off([&] { cublas->destroy(cublas->handle); });
  for (void* workspace : cublas->workspaces)
    if (workspace) cudaFreeAsync(workspace, device.stream);
  delete cublas;
}

void set_cublas(Device& device, const saccade_cublas* functions) {
  std::unique_ptr<Cublas> cublas;
  if (functions) cublas.reset(new Cublas(copy_args(functions, "functions")));
  close_cublas(device);
  if (!cublas) return;
  device.cublas = cublas.release();
  try {
    Cublas& own = *device.cublas;
    recordings().keep_off([&] { own.check(own.create(&own.handle), "cublasCreate"); });
    own.use(device);
  } catch (...) {
    close_cublas(device);
    throw;
  }
}

bool has_cublas(const Device& device) { return device.cublas != nullptr; }

void multiply(const Device& device, const saccade_gemm_args& args, int32_t dtype) {
  if (args.m == 0 || args.n == 0) return;
  if (args.k == 0) return launch(device, scale_kernel, args.m < 65535 ? args.m : 65535, kScaleThreads, args);
  Cublas& cublas = *device.cublas;
  cublas.use(device);
  const int type = dtype == SACCADE_BF16 ? kRealBf16 : dtype == SACCADE_F16 ? kRealF16 : kRealF32;
  int compute = kComputeF32;
  if (dtype == SACCADE_F32 && args.precision == SACCADE_PRECISION_TF32) compute = kComputeFastTf32;
  if (dtype == SACCADE_F32 && args.precision == SACCADE_PRECISION_BF16) compute = kComputeFastBf16;
  // C = op(A) op(B) row by row is C^T = op(B)^T op(A)^T column by column.
  cublas.check(
      cublas.gemm_ex(cublas.handle, args.trans_b ? kTrans : kNoTrans, args.trans_a ? kTrans : kNoTrans,
                     static_cast<int>(args.n), static_cast<int>(args.m), static_cast<int>(args.k), &args.alpha,
                     pointer<const void>(args.b), type, static_cast<int>(args.b_stride), pointer<const void>(args.a),
                     type, static_cast<int>(args.a_stride), &args.beta, pointer<void>(args.c), kRealF32,
                     static_cast<int>(args.c_stride), compute, kDefaultAlgorithm),
      "cublasGemmEx");
}

}  // namespace saccade::cuda
