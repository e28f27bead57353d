#include "core/rows.cuh"
#include "rms_norm/rms_norm.h"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

__device__ double add(double a, double b) { return a + b; }

// Sum of term(j) over the columns, by kTeam threads, a warp or the block: f32 within 4096 terms of a thread, f64
// beyond.
template <int kTeam, class Term>
__device__ double sum_over_row(int64_t columns, double* shared, const Term& term) {
  constexpr int64_t kPartial = int64_t{kTeam} << 12;
  double total = 0.0;
  for (int64_t begin = 0; begin < columns; begin += kPartial) {
    const int64_t end = begin + kPartial < columns ? begin + kPartial : columns;
    float sum = 0.0f;
#pragma unroll 4
    for (int64_t j = begin + threadIdx.x % kTeam; j < end; j += kTeam) sum += term(j);
    total += static_cast<double>(sum);
  }
  if constexpr (kTeam == kThreads) {
    return reduce_block(total, shared, add);
  } else {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) total += __shfl_xor_sync(~0u, total, distance);
    return total;
  }
}

// kTeam threads a row, which stays in the caches between its two reads.
template <int kTeam>
__global__ void __launch_bounds__(kThreads) forward_kernel(saccade_rms_norm_args args) {
  __shared__ double shared[32];
  const int64_t r = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kTeam;
  if (r >= args.rows) return;
  float* __restrict__ x = pointer<float>(args.x) + r * args.x_stride;
  const float* __restrict__ residual =
      args.residual ? pointer<const float>(args.residual) + r * args.residual_stride : nullptr;
  const float* weight = pointer<const float>(args.weight);
  float* y = pointer<float>(args.y) + r * args.y_stride;
  const double squares = sum_over_row<kTeam>(args.columns, shared, [&](int64_t j) {
    const float value = residual ? x[j] + residual[j] : x[j];
    if (residual) x[j] = value;
    return value * value;
  });
  const float scale =
      static_cast<float>(1.0 / sqrt(squares / static_cast<double>(args.columns) + static_cast<double>(args.eps)));
  if (threadIdx.x % kTeam == 0) pointer<float>(args.rstd)[r] = scale;
#pragma unroll 4
  for (int64_t j = threadIdx.x % kTeam; j < args.columns; j += kTeam) y[j] = x[j] * scale * weight[j];
}

// One block for the rows of a partial sum of d_weight.  A few rows at once: first what each takes off, by kTeam threads
// a row, then all of them column by column.
template <int kTeam>
__global__ void __launch_bounds__(kThreads) backward_kernel(saccade_rms_norm_backward_args args, RmsNormBlocks cut) {
  constexpr int kRows = kThreads / kTeam;
  __shared__ double shared[32];
  __shared__ float scales[kRows], pulls[kRows];
  const float* weight = pointer<const float>(args.weight);
  float* partial = pointer<float>(args.workspace) + blockIdx.x * cut.stride;
  const int64_t begin = blockIdx.x * cut.block, end = begin + cut.block < args.rows ? begin + cut.block : args.rows;
  for (int64_t first = begin; first < end; first += kRows) {
    const int team = static_cast<int>(threadIdx.x) / kTeam,
              rows = end - first < kRows ? static_cast<int>(end - first) : kRows;
    if (team < rows) {
      const float* x = pointer<const float>(args.x) + (first + team) * args.x_stride;
      const float* dy = pointer<const float>(args.dy) + (first + team) * args.dy_stride;
      const double dot = sum_over_row<kTeam>(args.columns, shared, [&](int64_t j) { return dy[j] * weight[j] * x[j]; });
      if (threadIdx.x % kTeam == 0) {
        const float scale = pointer<const float>(args.rstd)[first + team];
        const double s = static_cast<double>(scale);
        scales[team] = scale;
        pulls[team] = static_cast<float>(s * s * s * dot / static_cast<double>(args.columns));
      }
    }
    __syncthreads();
    for (int64_t j = threadIdx.x; j < args.columns; j += kThreads) {
      const float w = weight[j];
      float sum = first == begin ? 0.0f : partial[j];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= rows) break;
        const float v = pointer<const float>(args.x)[(first + r) * args.x_stride + j];
        const float g = pointer<const float>(args.dy)[(first + r) * args.dy_stride + j];
        float* dx = pointer<float>(args.dx) + (first + r) * args.dx_stride + j;
        const float gradient = g * w * scales[r] - v * pulls[r];
        *dx = args.residual ? pointer<const float>(args.residual)[(first + r) * args.residual_stride + j] + gradient
                            : gradient;
        sum += g * (v * scales[r]);
      }
      partial[j] = sum;
    }
    __syncthreads();
  }
}

// A warp's 32 columns; its block's warps share the partial sums.
__global__ void __launch_bounds__(kThreads) weight_kernel(saccade_rms_norm_backward_args args, RmsNormBlocks cut) {
  __shared__ double sums[kWarps][32];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t j = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  double sum = 0.0;
  if (j < args.columns)
#pragma unroll 8
    for (int64_t b = warp; b < cut.blocks; b += kWarps)
      sum += static_cast<double>(pointer<const float>(args.workspace)[b * cut.stride + j]);
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || j >= args.columns) return;
  float* d_weight = pointer<float>(args.d_weight);
  double all = static_cast<double>(d_weight[j]);
  for (int w = 0; w < kWarps; ++w) all += sums[w][lane];
  d_weight[j] = static_cast<float>(all);
}

// Calls body(threads a row, a compile-time constant).
template <class Body>
void with_team(int64_t columns, const Body& body) {
  if (columns <= 1024)
    body(std::integral_constant<int, 32>{});
  else
    body(std::integral_constant<int, kThreads>{});
}

}  // namespace

void rms_norm(const Device& device, const saccade_rms_norm_args& args) {
  with_team(args.columns, [&](auto team) {
    launch(device, forward_kernel<team>, divide_up(args.rows * team, kThreads), kThreads, args);
  });
}

void rms_norm_backward(const Device& device, const saccade_rms_norm_backward_args& args) {
  if (args.rows == 0) return;
  const RmsNormBlocks cut(args.rows, args.columns, true);
  with_team(args.columns, [&](auto team) { launch(device, backward_kernel<team>, cut.blocks, kThreads, args, cut); });
  launch(device, weight_kernel, divide_up(args.columns, 32), kThreads, args, cut);
}

}  // namespace saccade::cuda
