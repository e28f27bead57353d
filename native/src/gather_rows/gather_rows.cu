#include "core/rows.cuh"
#include "gather_rows/gather_rows.h"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 128;

// One block a row, a thread kWide of its columns at once.
template <int kWide>
__global__ void __launch_bounds__(kThreads) gather_kernel(saccade_gather_rows_args args) {
  const int64_t i = blockIdx.x;
  const int64_t from = args.index ? pointer<const int32_t>(args.index)[i] : i;
  const int64_t to = args.out_index ? pointer<const int32_t>(args.out_index)[i] : i;
  if (to < 0 || to >= args.y_rows || (from == -1 && args.accumulate)) return;
  float* __restrict__ y = pointer<float>(args.y) + to * args.y_stride;
  const bool inside = from >= 0 && from < args.x_rows;
  const float* __restrict__ x = pointer<const float>(args.x) + (inside ? from : 0) * args.x_stride;
  const float fill = from == -1 ? 0.0f : __int_as_float(0x7fc00000);
#pragma unroll 4
  for (int64_t j = threadIdx.x * kWide; j < args.columns; j += kThreads * kWide) {
    Floats<kWide> value;
    if (inside) {
      value = load_floats<kWide>(x + j);
    } else {
#pragma unroll
      for (float& e : value.x) e = fill;
    }
    if (inside && args.accumulate) {
      const auto old = load_floats<kWide>(y + j);
#pragma unroll
      for (int e = 0; e < kWide; ++e) value.x[e] = old.x[e] + value.x[e];
    }
    store_floats(y + j, value);
  }
}

}  // namespace

void gather_rows(const Device& device, const saccade_gather_rows_args& args) {
  with_width(args.columns, {{args.x, args.x_stride}, {args.y, args.y_stride}}, [&](auto wide) {
    launch(device, gather_kernel<wide>, args.columns > 0 ? args.count : 0, kThreads, args);
  });
}

}  // namespace saccade::cuda
