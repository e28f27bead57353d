#include "core/rows.cuh"
#include "rms_norm/rms_norm.h"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 256;

__device__ double add(double a, double b) { return a + b; }

// Sum of term(j) over the columns: f32 within 4096 terms of a thread, f64 beyond.
template <class Term>
__device__ double sum_over_row(int64_t columns, double* shared, const Term& term) {
  constexpr int64_t kPartial = int64_t{kThreads} << 12;
  double total = 0.0;
  for (int64_t begin = 0; begin < columns; begin += kPartial) {
    const int64_t end = begin + kPartial < columns ? begin + kPartial : columns;
    float sum = 0.0f;
    for (int64_t j = begin + threadIdx.x; j < end; j += kThreads) sum += term(j);
    total += static_cast<double>(sum);
  }
  return reduce_block(total, shared, add);
}

// One block a row, which stays in the caches between its two reads.
__global__ void __launch_bounds__(kThreads) forward_kernel(saccade_rms_norm_args args) {
  __shared__ double shared[32];
  const int64_t r = blockIdx.x;
  const float* x = pointer<const float>(args.x) + r * args.x_stride;
  const float* weight = pointer<const float>(args.weight);
  float* y = pointer<float>(args.y) + r * args.y_stride;
  const double squares = sum_over_row(args.columns, shared, [&](int64_t j) { return x[j] * x[j]; });
  const float scale =
      static_cast<float>(1.0 / sqrt(squares / static_cast<double>(args.columns) + static_cast<double>(args.eps)));
  if (threadIdx.x == 0) pointer<float>(args.rstd)[r] = scale;
  for (int64_t j = threadIdx.x; j < args.columns; j += kThreads) y[j] = x[j] * scale * weight[j];
}

// One block for the rows of a partial sum of d_weight.
__global__ void __launch_bounds__(kThreads) backward_kernel(saccade_rms_norm_backward_args args, RmsNormBlocks cut) {
  __shared__ double shared[2][32];
  const float* weight = pointer<const float>(args.weight);
  float* partial = pointer<float>(args.workspace) + blockIdx.x * cut.stride;
  for (int64_t j = threadIdx.x; j < args.columns; j += kThreads) partial[j] = 0.0f;
  const int64_t begin = blockIdx.x * cut.block, end = begin + cut.block < args.rows ? begin + cut.block : args.rows;
  for (int64_t r = begin; r < end; ++r) {
    const float* x = pointer<const float>(args.x) + r * args.x_stride;
    const float* dy = pointer<const float>(args.dy) + r * args.dy_stride;
    float* dx = pointer<float>(args.dx) + r * args.dx_stride;
    const float scale = pointer<const float>(args.rstd)[r];
    const double dot = sum_over_row(args.columns, shared[r % 2], [&](int64_t j) { return dy[j] * weight[j] * x[j]; });
    const double s = static_cast<double>(scale);
    const float pull = static_cast<float>(s * s * s * dot / static_cast<double>(args.columns));
    for (int64_t j = threadIdx.x; j < args.columns; j += kThreads) {
      const float v = x[j], g = dy[j], gradient = g * weight[j] * scale - v * pull;
      dx[j] = args.accumulate_dx ? dx[j] + gradient : gradient;
      partial[j] += g * (v * scale);
    }
  }
}

__global__ void __launch_bounds__(kThreads) weight_kernel(saccade_rms_norm_backward_args args, RmsNormBlocks cut) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (j >= args.columns) return;
  float* d_weight = pointer<float>(args.d_weight);
  double sum = static_cast<double>(d_weight[j]);
  for (int64_t b = 0; b < cut.blocks; ++b)
    sum += static_cast<double>(pointer<const float>(args.workspace)[b * cut.stride + j]);
  d_weight[j] = static_cast<float>(sum);
}

}  // namespace

void rms_norm(const Device& device, const saccade_rms_norm_args& args) {
  launch(device, forward_kernel, args.rows, kThreads, args);
}

void rms_norm_backward(const Device& device, const saccade_rms_norm_backward_args& args) {
  if (args.rows == 0) return;
  const RmsNormBlocks cut(args.rows, args.columns);
  launch(device, backward_kernel, cut.blocks, kThreads, args, cut);
  launch(device, weight_kernel, divide_up(args.columns, kThreads), kThreads, args, cut);
}

}  // namespace saccade::cuda
