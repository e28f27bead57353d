#include "adamw/adamw.h"
#include "core/simd.h"
#include "grad_norm/tensor_list.h"

namespace saccade::SACCADE_ISA {
namespace {

SACCADE_INLINE vfloat sqrt(vfloat x) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (vfloat)_mm256_sqrt_ps((__m256)x);
#elif defined(SACCADE_X86)
  return (vfloat)_mm_sqrt_ps((__m128)x);
#else
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

}  // namespace

void adamw(Pool& pool, const saccade_adamw_args& args, int64_t elements) {
  const float grad_scale = scalar(args.grad_scale_scalar, args.grad_scale);
  const bool skip = !(grad_scale - grad_scale == 0.0f);
  const double lr = static_cast<double>(scalar(args.lr_scalar, args.lr));
  const double step = static_cast<double>(scalar(args.step_scalar, args.step));
  const double beta1 = static_cast<double>(args.beta1), beta2 = static_cast<double>(args.beta2);
  // lr * (m/c1) / (sqrt(v/c2) + eps) with the corrections c1 and c2 drawn into scalars.
  const float rate = static_cast<float>(lr / (1.0 - std::pow(beta1, step)));
  const float root = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta2, step)));
  const float keep1 = args.beta1, add1 = static_cast<float>(1.0 - beta1);
  const float keep2 = args.beta2, add2 = static_cast<float>(1.0 - beta2);
  const float eps = args.eps;

  const auto update = [&](const saccade_adamw_tensor& tensor, int64_t begin, int64_t size) {
    float* param = pointer<float>(tensor.param) + begin;
    const float* grad = pointer<const float>(tensor.grad) + begin;
    float* first = pointer<float>(tensor.m) + begin;
    float* second = pointer<float>(tensor.v) + begin;
    bf16* copy = tensor.param_bf16 ? pointer<bf16>(tensor.param_bf16) + begin : nullptr;
    if (skip) {
      if (!copy) return;
      for_lanes(size, [&](int64_t i, int64_t lanes) { store(copy + i, lanes, load(param + i, lanes, 0.0f)); });
      return;
    }
    const float decay = static_cast<float>(lr * static_cast<double>(tensor.weight_decay));
    for_lanes(size, [&](int64_t i, int64_t lanes) {
      const vfloat g = load(grad + i, lanes, 0.0f) * grad_scale;
      const vfloat m = keep1 * load(first + i, lanes, 0.0f) + add1 * g;
      const vfloat v = keep2 * load(second + i, lanes, 0.0f) + add2 * (g * g);
      const vfloat old = load(param + i, lanes, 0.0f);
      const vfloat p = old - (decay * old + rate * m / (sqrt(v) * root + eps));  // one rounding at the weight's size
      store(first + i, lanes, m);
      store(second + i, lanes, v);
      store(param + i, lanes, p);
      if (copy) store(copy + i, lanes, p);
    });
  };

  const auto* entries = pointer<const saccade_adamw_tensor>(args.entries);
  pool.run((elements + kAdamwBlock - 1) / kAdamwBlock,
           [&](int64_t block, int) { for_pieces(entries, args.tensors, block * kAdamwBlock, kAdamwBlock, update); });
  if (!skip || !args.skipped) return;
  int32_t& skipped = *pointer<int32_t>(args.skipped);
  if (skipped < INT32_MAX) ++skipped;
}

}  // namespace saccade::SACCADE_ISA
