#include "core/logit_rows.h"
#include "core/softmax_row.h"
#include "logit_divergence/logit_divergence.h"
#include "logit_divergence/pair.h"

namespace saccade::SACCADE_ISA {
namespace {

constexpr float kNan = __builtin_nanf("");
constexpr float kMasked = -__builtin_inff();
constexpr int64_t kBlock = 512;  // terms of an f32 partial sum; few, as scores may differ little from their mean
static_assert(kBlock <= kMaxPartial);

// Two rows of logits in the order of a pair's p and q.
template <class T>
struct Rows {
  const T *p, *q;

  SACCADE_INLINE vfloat logits(const T* x, int64_t j, int64_t lanes) const { return load(x + j, lanes, kMasked); }
};

struct Sums {
  double divergence;
  double change;  // of q - p: the error of the log-normalisers
  double score;   // its mean under the policy, but for FORWARD_KL
  double top;     // FORWARD_KL: minus the sum of q - p over all but the token of the policy's largest logit
};

// The second sweep; for FORWARD_KL also dx = slope * (q - p), where dx is given.
template <Form kForm, class T, class G>
Sums measure(const Pair<kForm> pair, const Rows<T> rows, int64_t n, float slope, G* dx) {
  Sums sums{0.0, 0.0, 0.0, 0.0};
  double score = 0.0, mass = 0.0;
  vfloat lowest = splat(0.0f);
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    vfloat divergences = splat(0.0f), changes = divergences, scores = divergences, masses = divergences,
           others = divergences;
    const auto add = [&](int64_t i, int64_t lanes) __attribute__((always_inline)) {
      const int64_t j = begin + i;
      const vfloat logit_p = rows.logits(rows.p, j, lanes), logit_q = rows.logits(rows.q, j, lanes);
      const vfloat difference = pair.difference(logit_p, logit_q);
      lowest = min(difference, lowest);
      const auto token = pair.token(logit_p, logit_q, difference);
      divergences += token.divergence;
      changes += token.change;
      if (kForm != Form::kForwardKl) {
        scores += token.policy * token.score;
        masses += token.policy;
      } else {
        others += select(logit_q == pair.policy.max, splat(0.0f), token.change);
        if (dx) store(dx + j, lanes, token.change * slope);
      }
    };
    for_lanes(n - begin < kBlock ? n - begin : kBlock, add);
    sums.divergence += sum_of(divergences);
    sums.change += sum_of(changes);
    sums.top -= sum_of(others);
    score += sum_of(scores);
    mass += sum_of(masses);
  }
  sums.score = score / mass;
  sums.divergence = pair.corrected(sums.divergence, sums.change);
  if (!is_jsd(kForm) && any(lowest == kMasked)) sums.divergence = __builtin_inf();  // p > 0 = q
  return sums;
}

// The third sweep, for all but FORWARD_KL: dx = slope * policy * (mean - score).  Returns minus the sum of policy *
// (mean - score) over all but the token of the policy's largest logit.
template <Form kForm, class T, class G>
double write_gradient(const Pair<kForm> pair, const Rows<T> rows, int64_t n, float mean, float slope, G* dx) {
  double top = 0.0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    vfloat others = splat(0.0f);
    const auto write = [&](int64_t i, int64_t lanes) __attribute__((always_inline)) {
      const int64_t j = begin + i;
      const vfloat logit_p = rows.logits(rows.p, j, lanes), logit_q = rows.logits(rows.q, j, lanes);
      const vfloat gradient = pair.gradient(logit_p, logit_q, mean);
      others += select((under_policy(kForm) ? logit_p : logit_q) == pair.policy.max, splat(0.0f), gradient);
      store(dx + j, lanes, gradient * slope);
    };
    for_lanes(n - begin < kBlock ? n - begin : kBlock, write);
    top -= sum_of(others);
  }
  return top;
}

template <class T>
SoftmaxRow statistics(const T* x, int64_t n, float inverse_temperature) {
  return softmax_row(x, n, inverse_temperature);
}

// The divergence of one pair of rows; where dx is given, also slope times its gradient with respect to
// logits/temperature.
template <Form kForm, class T, class G>
double divergence_row(const T* logits, const T* ref_logits, int64_t n, float inverse, float beta, G* dx, double slope) {
  const SoftmaxRow policy = statistics(logits, n, inverse), reference = statistics(ref_logits, n, inverse);
  double divergence = policy.sum + reference.sum;  // NaN where a row is no distribution
  if (divergence == divergence) {
    const Pair<kForm> pair({policy.max, static_cast<float>(policy.log_sum())},
                           {reference.max, static_cast<float>(reference.log_sum())},
                           reference.log_sum() - policy.log_sum(), inverse, beta);
    const Rows<T> rows{under_policy(kForm) ? logits : ref_logits, under_policy(kForm) ? ref_logits : logits};
    if (is_jsd(kForm)) slope *= 1.0 - static_cast<double>(beta);
    const float f32_slope = static_cast<float>(slope);
    // The token that holds most of the policy is written last.
    const int64_t top = dx && policy.sum < 2.0 ? first_of(logits, n, policy.max) : -1;
    double top_gradient = 0.0;
    if constexpr (kForm == Form::kForwardKl) {
      const Sums sums = measure(pair, rows, n, f32_slope, dx);
      divergence = sums.divergence;
      top_gradient = sums.top + sums.change * (1.0 - 1.0 / policy.sum);  // without the others' share of the error
    } else {
      const Sums sums = measure(pair, rows, n, 0.0f, static_cast<float*>(nullptr));
      divergence = sums.divergence;
      if (dx && divergence < __builtin_inf())
        top_gradient = write_gradient(pair, rows, n, static_cast<float>(sums.score), f32_slope, dx);
    }
    if (top >= 0) store_one(dx + top, static_cast<float>(top_gradient * slope));
  }
  if (dx && !(divergence < __builtin_inf())) fill_row(dx, n, kNan);
  return divergence;
}

template <Form kForm>
void divergence_rows(Pool& pool, const saccade_logit_divergence_args& args) {
  const float* weight = pointer<const float>(args.weight);
  float* divergence = pointer<float>(args.divergence);
  const float inverse = 1.0f / args.temperature;
  const double factor = static_cast<double>(scalar(args.grad_output, 1.0f)) / static_cast<double>(args.temperature);
  const auto rows = [&](auto logit, auto gradient) {
    using T = decltype(logit);
    using G = decltype(gradient);
    for_logit_rows(pool, args.rows, args.vocabulary, [&](int64_t r) {
      const T* logits = pointer<const T>(args.logits) + r * args.logits_stride;
      const T* ref_logits = pointer<const T>(args.ref_logits) + r * args.ref_logits_stride;
      G* dx = args.d_logits ? pointer<G>(args.d_logits) + r * args.d_logits_stride : nullptr;
      const double w = weight ? static_cast<double>(weight[r]) : 1.0;
      const bool inactive = w == 0.0;
      if (divergence || (dx && !inactive)) {
        const double d = divergence_row<kForm>(logits, ref_logits, args.vocabulary, inverse, args.beta,
                                               inactive ? nullptr : dx, w * factor);
        if (divergence) divergence[r] = static_cast<float>(d);
      }
      if (dx && inactive) fill_row(dx, args.vocabulary, 0.0f);
    });
  };
  with_float_type(args.dtype, [&](auto logit) {
    if (args.d_logits_dtype == SACCADE_F32)
      rows(logit, float{});
    else
      rows(logit, logit);
  });
}

}  // namespace

void logit_divergence(Pool& pool, const saccade_logit_divergence_args& args) {
  if (args.kind == SACCADE_DIVERGENCE_FORWARD_KL)
    divergence_rows<Form::kForwardKl>(pool, args);
  else if (args.kind == SACCADE_DIVERGENCE_REVERSE_KL)
    divergence_rows<Form::kReverseKl>(pool, args);
  else if (args.beta <= 0.5f)
    divergence_rows<Form::kJsdUnderPolicy>(pool, args);
  else
    divergence_rows<Form::kJsdUnderReference>(pool, args);
}

}  // namespace saccade::SACCADE_ISA
