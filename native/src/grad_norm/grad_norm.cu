#include "core/rows.cuh"
#include "grad_norm/grad_norm.h"
#include "grad_norm/tensor_list.cuh"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kMost = 1024;
using List = TensorList<saccade_grad_norm_tensor, kMost>;

__device__ double add(double a, double b) { return a + b; }

__global__ void __launch_bounds__(kThreads) squares_kernel(const __grid_constant__ List list, double* sums) {
  __shared__ double shared[32];
  const int32_t t = list.of(blockIdx.x);
  const int64_t begin = (blockIdx.x - list.first_block[t]) * kGradNormBlock, left = list.tensor[t].count - begin;
  const float* x = pointer<const float>(list.tensor[t].grad) + begin;
  const int64_t n = left < kGradNormBlock ? left : kGradNormBlock;
  const Split<float> split(x, n);
  const auto* packs = reinterpret_cast<const Pack<float>*>(x + split.head);
  double sum = 0.0;
  const auto square = [&](float v) { sum = fma(static_cast<double>(v), static_cast<double>(v), sum); };
  if (threadIdx.x < split.head) square(x[threadIdx.x]);
  if (threadIdx.x < split.tail) square(x[n - split.tail + threadIdx.x]);
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < split.packs; i += kThreads) {
    const Pack<float> pack = load_pack<true>(packs + i);
    for (float v : pack.x) square(v);
  }
  sum = reduce_block(sum, shared, add);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    norm_kernel(saccade_grad_norm_args args, int64_t blocks, const double* sums) {
  __shared__ double shared[32];
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < blocks; i += kThreads) sum += sums[i];
  sum = reduce_block(sum, shared, add);
  if (threadIdx.x != 0) return;
  const double exact = sqrt(sum);
  const float norm = static_cast<float>(exact);
  *pointer<float>(args.norm) = norm;
  if (!args.scale) return;
  const double scale = static_cast<double>(args.max_norm) / (exact + 1e-6);
  *pointer<float>(args.scale) =
      norm - norm == 0.0f ? (scale < 1.0 ? static_cast<float>(scale) : 1.0f) : __int_as_float(0x7fc00000);
}

}  // namespace

void grad_norm(const Device& device, const saccade_grad_norm_args& args, const GradNormWorkspace& workspace) {
  for_tensor_lists<kMost>(pointer<const saccade_grad_norm_tensor>(args.entries), args.tensors, kGradNormBlock,
                          [&](const List& list, int64_t blocks, int64_t before) {
                            launch(device, squares_kernel, blocks, kThreads, list, workspace.sums + before);
                          });
  launch(device, norm_kernel, 1, kThreads, args, workspace.blocks, workspace.sums);
}

}  // namespace saccade::cuda
