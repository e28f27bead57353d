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

// A thread has kWide columns of a row.
template <int kWide>
__global__ void __launch_bounds__(kThreads) forward_kernel(saccade_swiglu_args args) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kWide, r = i / args.columns;
  if (r >= args.rows) return;
  const float* x = pointer<const float>(args.x) + i + r * args.columns;
  const auto gate = load_floats<kWide>(x), up = load_floats<kWide>(x + args.columns);
  Floats<kWide> y;
#pragma unroll
  for (int e = 0; e < kWide; ++e) y.x[e] = gate.x[e] * Sigmoid(gate.x[e]).value * up.x[e];
  store_floats(pointer<float>(args.y) + i, y);
}

// In place, gate and up are read before either is written.
template <int kWide>
__global__ void __launch_bounds__(kThreads) backward_kernel(saccade_swiglu_backward_args args) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kWide, r = i / args.columns;
  if (r >= args.rows) return;
  const int64_t at = i + r * args.columns;
  const float* x = pointer<const float>(args.x) + at;
  float* dx = pointer<float>(args.dx) + at;
  const auto gate = load_floats<kWide>(x), up = load_floats<kWide>(x + args.columns);
  const auto dy = load_floats<kWide>(pointer<const float>(args.dy) + i);
  Floats<kWide> d_gate, d_up;
#pragma unroll
  for (int e = 0; e < kWide; ++e) {
    const float g = gate.x[e], d = dy.x[e];
    const Sigmoid s(g);
    d_gate.x[e] = d * up.x[e] * (s.value * (1.0f + g * s.complement));
    d_up.x[e] = d * (g * s.value);
  }
  store_floats(dx, d_gate);
  store_floats(dx + args.columns, d_up);
}

}  // namespace

void swiglu(const Device& device, const saccade_swiglu_args& args) {
  with_width(args.columns, {{args.x, 0}, {args.y, 0}}, [&](auto wide) {
    launch(device, forward_kernel<wide>, divide_up(args.rows * args.columns, kThreads * wide), kThreads, args);
  });
}

void swiglu_backward(const Device& device, const saccade_swiglu_backward_args& args) {
  with_width(args.columns, {{args.x, 0}, {args.dy, 0}, {args.dx, 0}}, [&](auto wide) {
    launch(device, backward_kernel<wide>, divide_up(args.rows * args.columns, kThreads * wide), kThreads, args);
  });
}

}  // namespace saccade::cuda
