#include "core/rows.cuh"
#include "scatter_add_rows/scatter_add_rows.h"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// The first i of an index does the work of all that have it, in their order: no atomics, and every block finds its own
// rows by itself.  A warp a row.
__global__ void __launch_bounds__(kThreads) scatter_kernel(saccade_scatter_add_rows_args args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (i >= args.count) return;
  const int32_t* index = pointer<const int32_t>(args.index);
  const int lane = threadIdx.x % 32;
  const int64_t row = index[i];
  if (row < 0 || row >= args.y_rows) return;
  for (int64_t before = 0; before < i; before += 32)
    if (__any_sync(~0u, before + lane < i && index[before + lane] == row)) return;
  float* y = pointer<float>(args.y) + row * args.y_stride;
  for (int64_t first = i; first < args.count; first += 32) {
    uint32_t equal = __ballot_sync(~0u, first + lane < args.count && index[first + lane] == row);
    for (; equal; equal &= equal - 1) {
      const float* x = pointer<const float>(args.x) + (first + __ffs(equal) - 1) * args.x_stride;
      for (int64_t j = lane; j < args.columns; j += 32) y[j] += x[j];
    }
  }
}

}  // namespace

void scatter_add_rows(const Device& device, const saccade_scatter_add_rows_args& args) {
  launch(device, scatter_kernel, args.columns > 0 ? divide_up(args.count, kWarps) : 0, kThreads, args);
}

}  // namespace saccade::cuda
