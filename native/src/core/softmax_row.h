// One row of logits: its statistics in one read, and the gradient from them.
#pragma once

#include "core/simd.h"

namespace saccade::SACCADE_ISA {

// The first of the n logits that is `value`; -1 for none.
template <class T>
SACCADE_INLINE int64_t first_of(const T* x, int64_t n, float value) {
  constexpr float kMasked = -__builtin_inff();
  for (int64_t j = 0; j < n; j += kLanes) {
    const int64_t lanes = n - j < kLanes ? n - j : kLanes;
    const vint equal = load(x + j, lanes, kMasked) == splat(value);
    if (!any(equal)) continue;
    for (int64_t i = 0; i < lanes; ++i)
      if (equal[i]) return j + i;
  }
  return -1;
}

// One row in one read.  Of z = x / temperature, with m = max z: max = m * temperature (the largest x itself, so that
// differences from it are exact), sum = sum e^(z-m), moment = sum e^(z-m)(z-m).  Masked tokens (-inf) count nothing.
// NaN or +inf in the row, or nothing but -inf, makes sum and moment NaN.
struct SoftmaxRow {
  float max;
  double sum;
  double moment;

  double log_sum() const { return std::log(sum); }
  double entropy() const { return std::log(sum) - moment / sum; }
};

template <class T>
SACCADE_INLINE SoftmaxRow softmax_row(const T* x, int64_t n, float inverse_temperature) {
  constexpr int64_t kBlock = kMaxPartial;  // f32 elements in half of a first-level cache
  constexpr float kMasked = -__builtin_inff();
  constexpr float kFaint = -87.0f;  // e^-87 = 1e-38 for all that is fainter: nothing beside the maximum's 1
  SoftmaxRow row{kMasked, 0.0, 0.0};
  const auto scaled = [&](float a, float b) {
    return (static_cast<double>(a) - static_cast<double>(b)) * static_cast<double>(inverse_temperature);
  };
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t size = n - begin < kBlock ? n - begin : kBlock;
    const T* block = x + begin;
    vfloat m0 = splat(kMasked), m1 = m0, m2 = m0, m3 = m0;
    int64_t i = 0;
    for (; i + 4 * kLanes <= size; i += 4 * kLanes) {
      m0 = max(load(block + i), m0);
      m1 = max(load(block + i + kLanes), m1);
      m2 = max(load(block + i + 2 * kLanes), m2);
      m3 = max(load(block + i + 3 * kLanes), m3);
    }
    for_lanes(size - i, [&](int64_t j, int64_t lanes) { m0 = max(load(block + i + j, lanes, kMasked), m0); });
    const float top = max_of(max(max(m0, m1), max(m2, m3)));
    if (top == kMasked) {  // nothing but masked tokens and NaN, which a maximum does not show
      for (i = 0; i < size; ++i)
        if (to_float(block[i]) != to_float(block[i])) row.sum = __builtin_nan("");
      continue;
    }
    const vfloat shift = splat(top);
    vfloat s0 = splat(0.0f), s1 = s0, t0 = s0, t1 = s0;
    const auto add = [&](vfloat z, vfloat& s, vfloat& t) {
      vfloat d = at_least((z - shift) * inverse_temperature, kFaint);
      vfloat e = exp_bounded(d);
      s += e;
      t += e * d;
    };
    for (i = 0; i + 2 * kLanes <= size; i += 2 * kLanes) {
      // The next block arrives while this one is computed.
      __builtin_prefetch(block + i + kBlock);
      __builtin_prefetch(block + i + kBlock + kLanes);
      add(load(block + i), s0, t0);
      add(load(block + i + kLanes), s1, t1);
    }
    for_lanes(size - i, [&](int64_t j, int64_t lanes) { add(load(block + i + j, lanes, kMasked), s0, t0); });
    const double sum = sum_of(s0 + s1), moment = sum_of(t0 + t1);
    if (!(top <= row.max)) {  // a new maximum, or NaN
      const double d = scaled(row.max, top), scale = std::exp(d);
      if (row.sum != 0.0) row.moment = scale * (row.moment + d * row.sum);
      row.sum *= scale;
      row.max = top;
      row.sum += sum;
      row.moment += moment;
    } else {
      const double d = scaled(top, row.max), scale = std::exp(d);
      row.sum += scale * sum;
      row.moment += scale * (moment + d * sum);
    }
  }
  if (row.sum == 0.0) row.sum = row.moment = __builtin_nan("");
  return row;
}

// dx = gradient by x of d_log_prob * log_prob[target] + d_entropy * entropy, for a target inside the row.  log_sum and
// entropy are those of the row.  dx may be x.
template <class T, class G>
SACCADE_INLINE void softmax_row_gradient(const T* x, G* dx, int64_t n, float inverse_temperature, int32_t target,
                                         float max, double log_sum, float entropy, float d_log_prob, float d_entropy) {
  const double below_max = static_cast<double>(to_float(x[target])) - static_cast<double>(max);
  const float log_p = static_cast<float>(below_max * static_cast<double>(inverse_temperature) - log_sum);
  const float shift = static_cast<float>(log_sum);
  // With log p = (z - m) - log s: dx = -p (dl + de (log p + entropy)) / temperature, plus dl/temperature at the
  // target.  A masked token has p = 0 and the bounded logarithm that at_least leaves it, so its product is 0.
  for_lanes(n, [&](int64_t j, int64_t lanes) {
    const vfloat d = at_least((load(x + j, lanes, 0.0f) - max) * inverse_temperature, -1.0e30f) - shift;
    const vfloat p = exp(d);
    store(dx + j, lanes, -p * (d_log_prob + d_entropy * (d + entropy)) * inverse_temperature);
  });
  const float p = std::exp(log_p);
  store_one(dx + target, (d_log_prob * -std::expm1(log_p) - (p > 0.0f ? d_entropy * p * (log_p + entropy) : 0.0f)) *
                             inverse_temperature);
}

template <class T>
SACCADE_INLINE void fill_row(T* x, int64_t n, float value) {
  for_lanes(n, [&](int64_t j, int64_t lanes) { store(x + j, lanes, splat(value)); });
}

}  // namespace saccade::SACCADE_ISA
