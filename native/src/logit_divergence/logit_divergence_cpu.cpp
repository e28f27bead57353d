#include "core/logit_rows.h"
#include "core/softmax_row.h"
#include "logit_divergence/logit_divergence.h"

// A divergence is a mean under one of the two rows, p; the other is q.  All that is asked of a token follows from its p
// and its log-ratio y = log q - log p, and y from the difference of the two logits, so that policies close to each
// other keep it to full relative precision:
//
//   KL(p || q)                p K3(y)                       K3(y) = e^y - 1 - y
//   JSD, w the weight of q    p (w G(y) - phi(v))           v = w (e^y - 1), so that M = p (1 + v);
//                                                           G(y) = y e^y - (e^y - 1), phi(v) = (1 + v) log(1 + v) - v
//
// FORWARD_KL is the mean under the reference, REVERSE_KL under the policy, JSD under the one of larger weight.  These
// terms are never negative; they leave out multiples of sum (q - p) = 0, so that an error e of a log-normaliser changes
// their sum by e^2/2 only.  What the sum of q - p then differs from 0 by is e, and e^2/2 is taken off.
// Where y >= kFar, p is nothing beside q, and may be below the range of f32: the terms are those of p = 0.
//
// The gradient with respect to z = logits/temperature is q - p for FORWARD_KL, within about 1e-7 of p where they are
// close; for the others it is policy * (mean - score), score = log r - log policy or log M - log policy, and mean the
// mean of these very scores under the policy, which cancels what error they have in common.

namespace saccade::SACCADE_ISA {
namespace {

constexpr float kNan = __builtin_nanf("");
constexpr float kMasked = -__builtin_inff();
constexpr float kFar = 40.0f;
constexpr int64_t kBlock = 512;  // terms of an f32 partial sum; few, as scores may differ little from their mean
static_assert(kBlock <= kMaxPartial);

enum class Form { kForwardKl, kReverseKl, kJsdUnderPolicy, kJsdUnderReference };

constexpr bool is_jsd(Form form) { return form == Form::kJsdUnderPolicy || form == Form::kJsdUnderReference; }
constexpr bool under_policy(Form form) { return form == Form::kReverseKl || form == Form::kJsdUnderPolicy; }

template <class T>
struct Row {
  const T* x;
  float max, log_sum, inverse_temperature;

  SACCADE_INLINE vfloat logits(int64_t j, int64_t lanes) const { return load(x + j, lanes, kMasked); }
  SACCADE_INLINE vfloat probability(vfloat logit) const { return exp((logit - max) * inverse_temperature - log_sum); }
};

template <Form kForm, class T>
struct Pair {
  Row<T> policy, reference;
  float inverse_temperature;
  float weight;  // of q, for JSD; at most 1/2
  // The difference of the log-normalisers in units of logits: an integer, which the larger of the two logits loses
  // without rounding where the rows differ by about a constant; the nearest f32 to the rest, which the difference of
  // the logits loses without rounding where it is about that; and what remains, scaled.
  float whole_p, whole_q, fraction, rest;

  Pair(const T* logits, const SoftmaxRow& policy_row, const T* ref_logits, const SoftmaxRow& ref_row, float inverse,
       float beta)
      : policy{logits, policy_row.max, static_cast<float>(policy_row.log_sum()), inverse},
        reference{ref_logits, ref_row.max, static_cast<float>(ref_row.log_sum()), inverse},
        inverse_temperature(inverse),
        weight(under_policy(kForm) ? beta : 1.0f - beta) {
    const double scale = static_cast<double>(inverse);
    const double maxima = static_cast<double>(ref_row.max) - static_cast<double>(policy_row.max);
    const double difference =
        (under_policy(kForm) ? 1.0 : -1.0) * (maxima + (ref_row.log_sum() - policy_row.log_sum()) / scale);
    const double whole = std::rint(difference);
    const bool from_q = std::fabs(q().max) > std::fabs(p().max);
    whole_p = from_q ? 0.0f : static_cast<float>(-whole);
    whole_q = from_q ? static_cast<float>(whole) : 0.0f;
    fraction = static_cast<float>(difference - whole);
    rest = static_cast<float>((difference - whole - static_cast<double>(fraction)) * scale);
  }

  const Row<T>& p() const { return under_policy(kForm) ? policy : reference; }
  const Row<T>& q() const { return under_policy(kForm) ? reference : policy; }

  SACCADE_INLINE vfloat difference(vfloat logit_p, vfloat logit_q) const {
    return (logit_q - whole_q) - (logit_p - whole_p);
  }

  // y from the difference, between bounds beyond which nothing changes but KL where q is nothing beside p.  NaN, which
  // is a token masked on both sides, becomes the lower one; p is 0 there.
  SACCADE_INLINE vfloat log_ratio(vfloat difference) const {
    constexpr float kLow = is_jsd(kForm) ? -88.0f : -__FLT_MAX__, kHigh = under_policy(kForm) ? 88.0f : kFar;
    return at_most(max((difference - fraction) * inverse_temperature - rest, splat(kLow)), kHigh);
  }

  struct Term {
    vfloat divergence;  // in units of p
    vfloat change;      // (q - p)/p
    vfloat score;
  };

  SACCADE_INLINE Term term(vfloat y) const {
    const ExpParts e = exp_parts(y);
    if (!is_jsd(kForm)) return {e.k3, e.expm1, y};
    const Log1pParts m = log1p_parts(weight * e.expm1, weight * e.exp + (1.0f - weight));
    return {weight * e.g - m.phi, e.expm1, kForm == Form::kJsdUnderPolicy ? m.log1p : m.log1p - y};
  }
};

struct Sums {
  double divergence;
  double change;  // of q - p: the error of the log-normalisers
  double score;   // its mean under the policy, but for FORWARD_KL
  double top;     // FORWARD_KL: minus the sum of q - p over all but the token of the policy's largest logit
};

// The second sweep; for FORWARD_KL also dx = slope * (q - p), where dx is given.
template <Form kForm, class T, class G>
Sums measure(const Pair<kForm, T> rows, int64_t n, float slope, G* dx) {
  const float limit = is_jsd(kForm) ? -rows.weight * std::log(rows.weight) : 1.0f;  // of the term in units of q
  Sums sums{0.0, 0.0, 0.0, 0.0};
  double score = 0.0, mass = 0.0;
  vfloat lowest = splat(0.0f);
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    vfloat divergences = splat(0.0f), changes = divergences, scores = divergences, masses = divergences,
           others = divergences;
    const auto add = [&](int64_t i, int64_t lanes) __attribute__((always_inline)) {
      const int64_t j = begin + i;
      const vfloat logit_p = rows.p().logits(j, lanes), logit_q = rows.q().logits(j, lanes);
      const vfloat difference = rows.difference(logit_p, logit_q), y = rows.log_ratio(difference);
      lowest = min(difference, lowest);
      const auto term = rows.term(y);
      const vfloat p = rows.p().probability(logit_p);
      vfloat divergence = p * term.divergence, q_minus_p = p * term.change;
      const vint far = y >= kFar;
      if (any(far)) {
        const vfloat q = rows.q().probability(logit_q);
        divergence = select(far, limit * q, divergence);
        q_minus_p = select(far, q, q_minus_p);
      }
      divergences += divergence;
      changes += q_minus_p;
      if (kForm != Form::kForwardKl) {
        const vfloat policy = under_policy(kForm) ? p : p + q_minus_p;
        scores += policy * term.score;
        masses += policy;
      } else {
        others += select(logit_q == rows.policy.max, splat(0.0f), q_minus_p);
        if (dx) store(dx + j, lanes, q_minus_p * slope);
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
  const double w = static_cast<double>(rows.weight), curvature = is_jsd(kForm) ? w * (1.0 - w) : 1.0;
  sums.divergence -= 0.5 * curvature * sums.change * sums.change;
  if (sums.divergence < 0.0) sums.divergence = 0.0;
  if (!is_jsd(kForm) && any(lowest == kMasked)) sums.divergence = __builtin_inf();  // p > 0 = q
  return sums;
}

// The third sweep, for all but FORWARD_KL: dx = slope * policy * (mean - score).  Returns minus the sum of policy *
// (mean - score) over all but the token of the policy's largest logit.
template <Form kForm, class T, class G>
double write_gradient(const Pair<kForm, T> rows, int64_t n, float mean, float slope, G* dx) {
  double top = 0.0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    vfloat others = splat(0.0f);
    const auto write = [&](int64_t i, int64_t lanes) __attribute__((always_inline)) {
      const int64_t j = begin + i;
      const vfloat logit_p = rows.p().logits(j, lanes), logit_q = rows.q().logits(j, lanes);
      const vfloat score = rows.term(rows.log_ratio(rows.difference(logit_p, logit_q))).score;
      const vfloat logit = under_policy(kForm) ? logit_p : logit_q;
      const vfloat gradient = rows.policy.probability(logit) * (mean - score);
      others += select(logit == rows.policy.max, splat(0.0f), gradient);
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
    const Pair<kForm, T> rows(logits, policy, ref_logits, reference, inverse, beta);
    if (is_jsd(kForm)) slope *= 1.0 - static_cast<double>(beta);
    const float f32_slope = static_cast<float>(slope);
    // The gradients of a row sum to 0.  That of a token which holds most of the policy would be a difference of numbers
    // that agree in most of their digits: it is written last, from the others.
    const int64_t top = dx && policy.sum < 2.0 ? first_of(logits, n, policy.max) : -1;
    double top_gradient = 0.0;
    if constexpr (kForm == Form::kForwardKl) {
      const Sums sums = measure(rows, n, f32_slope, dx);
      divergence = sums.divergence;
      top_gradient = sums.top + sums.change * (1.0 - 1.0 / policy.sum);  // without the others' share of the error
    } else {
      const Sums sums = measure(rows, n, 0.0f, static_cast<float*>(nullptr));
      divergence = sums.divergence;
      if (dx && divergence < __builtin_inf())
        top_gradient = write_gradient(rows, n, static_cast<float>(sums.score), f32_slope, dx);
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
