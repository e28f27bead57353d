#include "core/rows.cuh"
#include "scatter_add_rows/scatter_add_rows.h"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kOwn = 8, kColumns = 32 * kOwn;  // of a lane and of a warp
constexpr int kAhead = 4;                      // indices, or rows, on their way at once

// No atomics: a warp adds up, in their order, all that have its row, and kColumns of it, which stay in registers. Where
// the index is the longer of the two, there is a warp for every row; else for every i, and the first of its row does
// the work.
__global__ void __launch_bounds__(kThreads) scatter_kernel(saccade_scatter_add_rows_args args) {
  const int64_t parts = divide_up(args.columns, kColumns), i = blockIdx.x / parts * kWarps + threadIdx.x / 32;
  const int32_t* index = pointer<const int32_t>(args.index);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const bool every_row = args.y_rows <= args.count;
  if (i >= (every_row ? args.y_rows : args.count)) return;
  const int64_t row = every_row ? i : index[i], begin = every_row ? 0 : i;
  if (row < 0 || row >= args.y_rows) return;
  for (int64_t first = lane; first - lane < begin; first += 32 * kAhead) {
    bool before = false;
#pragma unroll
    for (int e = 0; e < kAhead; ++e) {
      const int64_t at = first + 32 * e;
      before |= at < begin && index[at] == row;
    }
    if (__any_sync(~0u, before)) return;
  }
  const int64_t column = blockIdx.x % parts * kColumns + lane;
  float* y = pointer<float>(args.y) + row * args.y_stride + column;
  const auto inside = [&](int e) { return column + 32 * e < args.columns; };
  float sum[kOwn];
#pragma unroll
  for (int e = 0; e < kOwn; ++e) sum[e] = inside(e) ? y[32 * e] : 0.0f;
  const float* x = pointer<const float>(args.x) + column;
  uint32_t some = 0;
  for (int64_t first = begin; first < args.count; first += 32 * kAhead) {
    uint32_t equal[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int64_t at = first + 32 * k + lane;
      equal[k] = __ballot_sync(~0u, at < args.count && index[at] == row);
      some |= equal[k];
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      while (equal[k]) {
        // The next rows, all on their way before they are added.
        const int count = __popc(equal[k]);
        float next[kAhead][kOwn] = {};
#pragma unroll
        for (int n = 0; n < kAhead; ++n) {
          if (n >= count) break;
          const float* from = x + (first + 32 * k + __ffs(equal[k]) - 1) * args.x_stride;
          equal[k] &= equal[k] - 1;
#pragma unroll
          for (int e = 0; e < kOwn; ++e)
            if (inside(e)) next[n][e] = from[32 * e];
        }
#pragma unroll
        for (int n = 0; n < kAhead; ++n)
#pragma unroll
          for (int e = 0; e < kOwn; ++e)
            if (n < count) sum[e] += next[n][e];
      }
  }
  if (some == 0) return;
#pragma unroll
  for (int e = 0; e < kOwn; ++e)
    if (inside(e)) y[32 * e] = sum[e];
}

}  // namespace

void scatter_add_rows(const Device& device, const saccade_scatter_add_rows_args& args) {
  launch(device, scatter_kernel,
         divide_up(std::min(args.count, args.y_rows), kWarps) * divide_up(args.columns, kColumns), kThreads, args);
}

}  // namespace saccade::cuda
