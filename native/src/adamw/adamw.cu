#include "adamw/adamw.h"
#include "core/rows.cuh"
#include "grad_norm/tensor_list.cuh"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPacks = 2;  // of every array, in flight a thread
constexpr int64_t kBlock = int64_t{kThreads} * kPacks * kPack<float>;
constexpr int kMost = 480;  // what 32 KB of parameters hold
using List = TensorList<saccade_adamw_tensor, kMost>;

// Scalars of a step; skip where the step is not taken.
struct Step {
  float grad_scale, lr, rate, root;
  bool skip;

  __device__ static Step of(const saccade_adamw_args& args) {
    const float grad_scale = args.grad_scale_scalar ? *pointer<const float>(args.grad_scale_scalar) : args.grad_scale;
    const float lr = args.lr_scalar ? *pointer<const float>(args.lr_scalar) : args.lr;
    const int64_t step = args.step_scalar ? *pointer<const int64_t>(args.step_scalar) : args.step;
    const double n = static_cast<double>(step);
    // lr * (m/c1) / (sqrt(v/c2) + eps) with the corrections c1 and c2 drawn into scalars.
    const double rate = static_cast<double>(lr) / (1.0 - pow(static_cast<double>(args.beta1), n));
    const double root = 1.0 / sqrt(1.0 - pow(static_cast<double>(args.beta2), n));
    return {grad_scale, lr, static_cast<float>(rate), static_cast<float>(root), !(grad_scale - grad_scale == 0.0f)};
  }
};

struct Update {
  const saccade_adamw_args& args;
  const Step& step;
  float decay;

  __device__ __forceinline__ void operator()(float g, float& m, float& v, float& p) const {
    g *= step.grad_scale;
    m = args.beta1 * m + static_cast<float>(1.0 - static_cast<double>(args.beta1)) * g;
    v = args.beta2 * v + static_cast<float>(1.0 - static_cast<double>(args.beta2)) * (g * g);
    p = p - (decay * p + step.rate * m / (sqrtf(v) * step.root + args.eps));  // one rounding at the weight's size
  }
};

__global__ void __launch_bounds__(kThreads)
    step_kernel(const __grid_constant__ saccade_adamw_args args, const __grid_constant__ List list, bool first) {
  __shared__ Step shared;
  if (threadIdx.x == 0) {
    shared = Step::of(args);
    if (first && blockIdx.x == 0 && shared.skip && args.skipped) {
      int32_t& skipped = *pointer<int32_t>(args.skipped);
      if (skipped < INT32_MAX) ++skipped;
    }
  }
  __syncthreads();
  const Step step = shared;
  const int32_t t = list.of(blockIdx.x);
  const saccade_adamw_tensor& tensor = list.tensor[t];
  const int64_t begin = (blockIdx.x - list.first_block[t]) * kBlock, left = tensor.count - begin;
  const int64_t n = left < kBlock ? left : kBlock;
  float* param = pointer<float>(tensor.param) + begin;
  const float* grad = pointer<const float>(tensor.grad) + begin;
  float* m = pointer<float>(tensor.m) + begin;
  float* v = pointer<float>(tensor.v) + begin;
  bf16* copy = tensor.param_bf16 ? pointer<bf16>(tensor.param_bf16) + begin : nullptr;
  if (step.skip) {
    if (copy)
      for (int64_t i = threadIdx.x; i < n; i += kThreads) copy[i] = from_float<bf16>(param[i]);
    return;
  }
  const Update update{args, step,
                      static_cast<float>(static_cast<double>(step.lr) * static_cast<double>(tensor.weight_decay))};
  const uint64_t addresses = reinterpret_cast<uint64_t>(param) | reinterpret_cast<uint64_t>(grad) |
                             reinterpret_cast<uint64_t>(m) | reinterpret_cast<uint64_t>(v) |
                             reinterpret_cast<uint64_t>(copy) * 2;
  if (n == kBlock && addresses % 16 == 0) {
    Pack<float> g4[kPacks], m4[kPacks], v4[kPacks], p4[kPacks];
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int i = k * kThreads + threadIdx.x;
      g4[k] = load_pack<true>(reinterpret_cast<const Pack<float>*>(grad) + i);
      m4[k] = load_pack<true>(reinterpret_cast<const Pack<float>*>(m) + i);
      v4[k] = load_pack<true>(reinterpret_cast<const Pack<float>*>(v) + i);
      p4[k] = load_pack<true>(reinterpret_cast<const Pack<float>*>(param) + i);
    }
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int i = k * kThreads + threadIdx.x;
#pragma unroll
      for (int e = 0; e < 4; ++e) update(g4[k].x[e], m4[k].x[e], v4[k].x[e], p4[k].x[e]);
      reinterpret_cast<Pack<float>*>(m)[i] = m4[k];
      reinterpret_cast<Pack<float>*>(v)[i] = v4[k];
      reinterpret_cast<Pack<float>*>(param)[i] = p4[k];
      if (copy) {
        const __nv_bfloat162 low = __floats2bfloat162_rn(p4[k].x[0], p4[k].x[1]),
                             high = __floats2bfloat162_rn(p4[k].x[2], p4[k].x[3]);
        uint2 bits;
        memcpy(&bits.x, &low, 4);
        memcpy(&bits.y, &high, 4);
        reinterpret_cast<uint2*>(copy)[i] = bits;
      }
    }
    return;
  }
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    float p = param[i];
    update(grad[i], m[i], v[i], p);
    param[i] = p;
    if (copy) copy[i] = from_float<bf16>(p);
  }
}

// A list without elements still counts a skipped step.
__global__ void skip_kernel(saccade_adamw_args args) {
  int32_t& skipped = *pointer<int32_t>(args.skipped);
  if (Step::of(args).skip && skipped < INT32_MAX) ++skipped;
}

}  // namespace

void adamw(const Device& device, const saccade_adamw_args& args, int64_t elements) {
  for_tensor_lists<kMost>(pointer<const saccade_adamw_tensor>(args.entries), args.tensors, kBlock,
                          [&](const List& list, int64_t blocks, int64_t before) {
                            launch(device, step_kernel, blocks, kThreads, args, list, before == 0);
                          });
  if (elements == 0 && args.skipped) launch(device, skip_kernel, 1, 1, args);
}

}  // namespace saccade::cuda
