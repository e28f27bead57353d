#include "axpby/axpby.h"
#include "core/rows.cuh"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kElements = 4 * kThreads;  // of a block

template <int kWide>
__global__ void __launch_bounds__(kThreads) axpby_kernel(saccade_axpby_args args, int64_t across) {
  const int64_t r = blockIdx.x / across, begin = blockIdx.x % across * kElements;
  const float* x = pointer<const float>(args.x) + r * args.x_stride;
  float* y = pointer<float>(args.y) + r * args.y_stride;
#pragma unroll
  for (int k = 0; k < 4 / kWide; ++k) {
    const int64_t j = begin + (k * kThreads + threadIdx.x) * kWide;
    if (j >= args.columns) break;
    auto value = load_floats<kWide>(x + j);
    if (args.b == 0.0f) {
#pragma unroll
      for (int e = 0; e < kWide; ++e) value.x[e] *= args.a;
    } else {
      const auto old = load_floats<kWide>(y + j);
#pragma unroll
      for (int e = 0; e < kWide; ++e) value.x[e] = fmaf(value.x[e], args.a, old.x[e] * args.b);
    }
    store_floats(y + j, value);
  }
}

}  // namespace

void axpby(const Device& device, const saccade_axpby_args& args) {
  // A matrix without gaps is one row.
  saccade_axpby_args flat = args;
  if (args.x_stride == args.columns && args.y_stride == args.columns) {
    flat.columns = args.rows * args.columns;
    flat.rows = flat.columns > 0 ? 1 : 0;
  }
  const int64_t across = divide_up(flat.columns, kElements);
  with_width(flat.columns, {{flat.x, flat.rows > 1 ? flat.x_stride : 0}, {flat.y, flat.rows > 1 ? flat.y_stride : 0}},
             [&](auto wide) { launch(device, axpby_kernel<wide>, flat.rows * across, kThreads, flat, across); });
}

}  // namespace saccade::cuda
