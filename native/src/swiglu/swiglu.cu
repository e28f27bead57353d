#include "core/rows.cuh"
#include "swiglu/swiglu.h"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 256;

// sigmoid(x) and 1 - sigmoid(x), each without cancellation.
struct Sigmoid {
  float value, complement;

  __device__ explicit Sigmoid(float x) {
    const float e = expf(-fabsf(x)), near = 1.0f / (1.0f + e), far = e * near;
    value = x >= 0.0f ? near : far;
    complement = x >= 0.0f ? far : near;
    if (x != x) value = complement = x;
  }
};

__global__ void __launch_bounds__(kThreads) forward_kernel(saccade_swiglu_args args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, r = i / args.columns;
  if (r >= args.rows) return;
  const float* gate = pointer<const float>(args.x) + i + r * args.columns;
  const float g = gate[0], up = gate[args.columns];
  pointer<float>(args.y)[i] = g * Sigmoid(g).value * up;
}

// In place, gate and up are read before either is written.
__global__ void __launch_bounds__(kThreads) backward_kernel(saccade_swiglu_backward_args args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, r = i / args.columns;
  if (r >= args.rows) return;
  const int64_t at = i + r * args.columns;
  const float* x = pointer<const float>(args.x);
  float* dx = pointer<float>(args.dx);
  const float g = x[at], up = x[at + args.columns], d = pointer<const float>(args.dy)[i];
  const Sigmoid s(g);
  dx[at] = d * up * (s.value * (1.0f + g * s.complement));
  dx[at + args.columns] = d * (g * s.value);
}

}  // namespace

void swiglu(const Device& device, const saccade_swiglu_args& args) {
  launch(device, forward_kernel, divide_up(args.rows * args.columns, kThreads), kThreads, args);
}

void swiglu_backward(const Device& device, const saccade_swiglu_backward_args& args) {
  launch(device, backward_kernel, divide_up(args.rows * args.columns, kThreads), kThreads, args);
}

}  // namespace saccade::cuda
