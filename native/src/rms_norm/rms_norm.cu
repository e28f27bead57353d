#include "core/rows.cuh"
#include "rms_norm/rms_norm.h"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

__device__ double add(double a, double b) { return a + b; }

// Columns of a thread at once, whatever their alignment: a result does not depend on it.
constexpr int kWide = kPack<float>;
constexpr int kHeld = 4;  // times so many stay in registers
using Columns = Floats<kWide>;

// Columns j, j + 1 ... of a row of n; 0 beyond it.  kVectors: all rows are whole vectors.
template <bool kVectors>
__device__ __forceinline__ Columns load(const float* row, uint32_t j, uint32_t n) {
  if constexpr (kVectors) {
    return load_floats<kWide>(row + j);
  } else {
    Columns values;
#pragma unroll
    for (int e = 0; e < kWide; ++e) values.x[e] = j + e < n ? row[j + e] : 0.0f;
    return values;
  }
}

template <bool kVectors>
__device__ __forceinline__ void store(float* row, uint32_t j, uint32_t n, const Columns& values) {
  if constexpr (kVectors) {
    store_floats(row + j, values);
  } else {
#pragma unroll
    for (int e = 0; e < kWide; ++e)
      if (j + e < n) row[j + e] = values.x[e];
  }
}

// Calls body(j) with the first of every kWide columns of a thread, one of kTeam of a row, from column `first` on.
template <int kTeam, class Body>
__device__ __forceinline__ void for_columns(uint32_t first, uint32_t columns, const Body& body) {
#pragma unroll 4
  for (uint32_t j = first + threadIdx.x % kTeam * kWide; j < columns; j += kTeam * kWide) body(j);
}

// Sum of term(j), of kWide columns from j on, over those of the row from `first` on, by kTeam threads, a warp or the
// block: f32 within 4096 terms of a thread, f64 beyond.  `begun`: what the thread has already.
template <int kTeam, class Term>
__device__ double sum_over_row(float begun, uint32_t first, uint32_t columns, double* shared, const Term& term) {
  constexpr uint32_t kPartial = uint32_t{kTeam} << 12;
  double total = static_cast<double>(begun);
  for (uint32_t begin = first; begin < columns; begin += kPartial) {
    float sum = 0.0f;
    for_columns<kTeam>(begin, columns - begin < kPartial ? columns : begin + kPartial,
                       [&](uint32_t j) { sum += term(j); });
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

// kTeam threads a row.  Its first columns stay in registers between their two uses, the others in the caches.
template <int kTeam, bool kVectors>
__global__ void __launch_bounds__(kThreads) forward_kernel(saccade_rms_norm_args args) {
  constexpr uint32_t kStep = kTeam * kWide, kRest = kHeld * kStep;
  __shared__ double shared[32];
  const int64_t r = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kTeam;
  if (r >= args.rows) return;
  const uint32_t n = static_cast<uint32_t>(args.columns), own = threadIdx.x % kTeam * kWide;
  float* x = pointer<float>(args.x) + r * args.x_stride;
  const float* __restrict__ residual =
      args.residual ? pointer<const float>(args.residual) + r * args.residual_stride : nullptr;
  const float* weight = pointer<const float>(args.weight);
  float* y = pointer<float>(args.y) + r * args.y_stride;
  // With a residual, that is added first.
  const auto take = [&](uint32_t j) {
    auto values = load<kVectors>(x, j, n);
    if (residual) {
      const auto more = load<kVectors>(residual, j, n);
#pragma unroll
      for (int e = 0; e < kWide; ++e) values.x[e] += more.x[e];
      store<kVectors>(x, j, n, values);
    }
    return values;
  };
  const auto squares_of = [](const Columns& values) {
    float sum = 0.0f;
#pragma unroll
    for (int e = 0; e < kWide; ++e) sum += values.x[e] * values.x[e];
    return sum;
  };
  Columns held[kHeld] = {};
#pragma unroll
  for (int k = 0; k < kHeld; ++k)
    if (own + k * kStep < n) held[k] = take(own + k * kStep);
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < kHeld; ++k) sum += squares_of(held[k]);
  const double squares = sum_over_row<kTeam>(sum, kRest, n, shared, [&](uint32_t j) { return squares_of(take(j)); });
  const float scale = static_cast<float>(1.0 / sqrt(squares / static_cast<double>(n) + static_cast<double>(args.eps)));
  if (own == 0) pointer<float>(args.rstd)[r] = scale;
  const auto put = [&](uint32_t j, const Columns& values) {
    auto result = load<kVectors>(weight, j, n);
#pragma unroll
    for (int e = 0; e < kWide; ++e) result.x[e] *= values.x[e] * scale;
    store<kVectors>(y, j, n, result);
  };
#pragma unroll
  for (int k = 0; k < kHeld; ++k)
    if (own + k * kStep < n) put(own + k * kStep, held[k]);
  for_columns<kTeam>(kRest, n, [&](uint32_t j) { put(j, load<kVectors>(x, j, n)); });
}

// One block for the rows of a partial sum of d_weight.  A few rows at once: first what each takes off, by kTeam threads
// a row, then all of them column by column.
template <int kTeam, bool kVectors>
__global__ void __launch_bounds__(kThreads) backward_kernel(saccade_rms_norm_backward_args args, RmsNormBlocks cut) {
  constexpr int kRows = kThreads / kTeam;
  __shared__ double shared[32];
  __shared__ float scales[kRows], pulls[kRows];
  const uint32_t n = static_cast<uint32_t>(args.columns);
  const float* weight = pointer<const float>(args.weight);
  float* partial = pointer<float>(args.workspace) + blockIdx.x * cut.stride;
  const int64_t begin = blockIdx.x * cut.block, end = begin + cut.block < args.rows ? begin + cut.block : args.rows;
  for (int64_t first = begin; first < end; first += kRows) {
    const int team = static_cast<int>(threadIdx.x) / kTeam,
              rows = end - first < kRows ? static_cast<int>(end - first) : kRows;
    if (team < rows) {
      const float* x = pointer<const float>(args.x) + (first + team) * args.x_stride;
      const float* dy = pointer<const float>(args.dy) + (first + team) * args.dy_stride;
      const double dot = sum_over_row<kTeam>(0.0f, 0, n, shared, [&](uint32_t j) {
        const auto v = load<kVectors>(x, j, n), g = load<kVectors>(dy, j, n), w = load<kVectors>(weight, j, n);
        float sum = 0.0f;
#pragma unroll
        for (int e = 0; e < kWide; ++e) sum += g.x[e] * w.x[e] * v.x[e];
        return sum;
      });
      if (threadIdx.x % kTeam == 0) {
        const float scale = pointer<const float>(args.rstd)[first + team];
        const double s = static_cast<double>(scale);
        scales[team] = scale;
        pulls[team] = static_cast<float>(s * s * s * dot / static_cast<double>(n));
      }
    }
    __syncthreads();
    for (uint32_t j = threadIdx.x * kWide; j < n; j += kThreads * kWide) {
      const auto w = load<kVectors>(weight, j, n);
      Columns sum = {};
      if (first > begin) sum = load<kVectors>(partial, j, n);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= rows) break;
        const auto v = load<kVectors>(pointer<const float>(args.x) + (first + r) * args.x_stride, j, n);
        const auto g = load<kVectors>(pointer<const float>(args.dy) + (first + r) * args.dy_stride, j, n);
        Columns result = {};
        if (args.residual)
          result = load<kVectors>(pointer<const float>(args.residual) + (first + r) * args.residual_stride, j, n);
#pragma unroll
        for (int e = 0; e < kWide; ++e) {
          result.x[e] += g.x[e] * w.x[e] * scales[r] - v.x[e] * pulls[r];
          sum.x[e] += g.x[e] * (v.x[e] * scales[r]);
        }
        store<kVectors>(pointer<float>(args.dx) + (first + r) * args.dx_stride, j, n, result);
      }
      store<kVectors>(partial, j, n, sum);
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

// Calls body(threads a row, whether all rows are whole vectors), compile-time constants.
template <class Body>
void with_team(int64_t columns, std::initializer_list<Rows> matrices, const Body& body) {
  with_width(columns, matrices, [&](auto wide) {
    constexpr std::bool_constant<wide == kWide> kVectors;
    if (columns <= 1024)
      body(std::integral_constant<int, 32>{}, kVectors);
    else
      body(std::integral_constant<int, kThreads>{}, kVectors);
  });
}

}  // namespace

void rms_norm(const Device& device, const saccade_rms_norm_args& args) {
  with_team(args.columns,
            {{args.x, args.x_stride}, {args.y, args.y_stride}, {args.residual, args.residual_stride}, {args.weight, 0}},
            [&](auto team, auto vectors) {
              launch(device, forward_kernel<team, vectors>, divide_up(args.rows * team, kThreads), kThreads, args);
            });
}

void rms_norm_backward(const Device& device, const saccade_rms_norm_backward_args& args) {
  if (args.rows == 0) return;
  const RmsNormBlocks cut(args.rows, args.columns, true);
  with_team(args.columns,
            {{args.x, args.x_stride},
             {args.dy, args.dy_stride},
             {args.dx, args.dx_stride},
             {args.residual, args.residual_stride},
             {args.weight, 0},
             {args.workspace, cut.stride}},
            [&](auto team, auto vectors) {
              launch(device, backward_kernel<team, vectors>, cut.blocks, kThreads, args, cut);
            });
  launch(device, weight_kernel, divide_up(args.columns, 32), kThreads, args, cut);
}

}  // namespace saccade::cuda
