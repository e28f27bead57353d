#include "axpby/axpby.h"
#include "core/rows.cuh"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kElements = 4 * kThreads;  // of a block

__global__ void __launch_bounds__(kThreads) axpby_kernel(saccade_axpby_args args, int64_t across) {
  const int64_t r = blockIdx.x / across, begin = blockIdx.x % across * kElements;
  const float* x = pointer<const float>(args.x) + r * args.x_stride;
  float* y = pointer<float>(args.y) + r * args.y_stride;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int64_t j = begin + k * kThreads + threadIdx.x;
    if (j < args.columns) y[j] = args.b == 0.0f ? x[j] * args.a : fmaf(x[j], args.a, y[j] * args.b);
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
  launch(device, axpby_kernel, flat.rows * across, kThreads, flat, across);
}

}  // namespace saccade::cuda
