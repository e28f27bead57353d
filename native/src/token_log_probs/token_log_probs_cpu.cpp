#include "core/softmax_row.h"
#include "token_log_probs/token_log_probs.h"

namespace saccade::SACCADE_ISA {
namespace {

constexpr float kNan = __builtin_nanf("");

}  // namespace

void token_log_probs(Pool& pool, const saccade_token_log_probs_args& args) {
  const int32_t* targets = pointer<const int32_t>(args.targets);
  float* log_prob = pointer<float>(args.log_prob);
  float* entropy = pointer<float>(args.entropy);
  float* lse = pointer<float>(args.lse);
  const float inverse = 1.0f / args.temperature;
  with_float_type(args.logits_dtype, [&](auto element) {
    using T = decltype(element);
    for_rows(pool, args.rows, args.vocabulary, [&](int64_t r) {
      const T* x = pointer<const T>(args.logits) + r * args.logits_stride;
      const int32_t target = targets[r];
      const bool ignored = target == args.ignore_index;
      const SoftmaxRow row = softmax_row(x, args.vocabulary, inverse);
      const double max = static_cast<double>(row.max), log_sum = row.log_sum();
      const double per_logit = static_cast<double>(inverse);
      if (ignored) {
        log_prob[r] = 0.0f;
        if (entropy) entropy[r] = 0.0f;
      } else if (target < 0 || target >= args.vocabulary) {
        log_prob[r] = kNan;
        if (entropy) entropy[r] = kNan;
      } else {
        log_prob[r] = static_cast<float>((static_cast<double>(to_float(x[target])) - max) * per_logit - log_sum);
        if (entropy) entropy[r] = static_cast<float>(row.entropy());
      }
      if (lse) lse[r] = static_cast<float>(max * per_logit + log_sum);
    });
  });
}

void token_log_probs_backward(Pool& pool, const saccade_token_log_probs_backward_args& args) {
  const int32_t* targets = pointer<const int32_t>(args.targets);
  const float* d_log_prob = pointer<const float>(args.d_log_prob);
  const float* d_entropy = pointer<const float>(args.d_entropy);
  const float inverse = 1.0f / args.temperature;
  const auto backward = [&](auto logit, auto gradient) {
    using T = decltype(logit);
    using G = decltype(gradient);
    for_rows(pool, args.rows, args.vocabulary, [&](int64_t r) {
      const T* x = pointer<const T>(args.logits) + r * args.logits_stride;
      G* dx = pointer<G>(args.d_logits) + r * args.d_logits_stride;
      const int32_t target = targets[r];
      const float dl = d_log_prob ? d_log_prob[r] : 0.0f, de = d_entropy ? d_entropy[r] : 0.0f;
      const bool ignored = target == args.ignore_index, bad = target < 0 || target >= args.vocabulary;
      if (ignored || bad) {
        const vfloat fill = splat(ignored ? 0.0f : kNan);
        for_lanes(args.vocabulary, [&](int64_t j, int64_t lanes) { store(dx + j, lanes, fill); });
        return;
      }
      const SoftmaxRow row = softmax_row(x, args.vocabulary, inverse);
      const float log_sum = static_cast<float>(row.log_sum()), entropy = static_cast<float>(row.entropy());
      const double below_max = static_cast<double>(to_float(x[target])) - static_cast<double>(row.max);
      const float log_p = static_cast<float>(below_max * static_cast<double>(inverse) - row.log_sum());
      // With log p = (z - m) - log s: dx = -p (dl + de (log p + entropy)) / temperature, plus dl/temperature at the
      // target.  A masked token has p = 0 and the bounded logarithm that at_least leaves it, so its product is 0.
      for_lanes(args.vocabulary, [&](int64_t j, int64_t lanes) {
        vfloat d = at_least((load(x + j, lanes, 0.0f) - row.max) * inverse, -1.0e30f) - log_sum;
        vfloat p = exp(d);
        store(dx + j, lanes, -p * (dl + de * (d + entropy)) * inverse);
      });
      const float p_target = std::exp(log_p);
      store_one(dx + target,
                (dl * -std::expm1(log_p) - (p_target > 0.0f ? de * p_target * (log_p + entropy) : 0.0f)) * inverse);
    });
  };
  with_float_type(args.logits_dtype, [&](auto logit) {
    if (args.d_logits_dtype == SACCADE_F32)
      backward(logit, float{});
    else
      backward(logit, logit);
  });
}

}  // namespace saccade::SACCADE_ISA
