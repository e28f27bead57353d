#include "sample_tokens/sample_tokens.h"

#include "core/softmax_row.h"
#include "sample_tokens/philox.h"

namespace saccade::SACCADE_ISA {
namespace {

constexpr int32_t kNoToken = -1;

SACCADE_INLINE bool any(vint mask) {
  int32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= mask[i];
  return bits != 0;
}

// The first of the largest logits; no token where the row has NaN or +inf, or nothing but -inf.
template <class T>
SACCADE_INLINE int32_t largest(const T* x, int64_t n) {
  constexpr float kMasked = -__builtin_inff();
  vfloat top = splat(kMasked);
  vint bad = lane_index() < 0;
  for_lanes(n, [&](int64_t j, int64_t lanes) {
    const vfloat v = load(x + j, lanes, kMasked);
    top = max(v, top);
    bad |= v != v;
  });
  const float maximum = max_of(top);
  if (any(bad) || maximum == kMasked || maximum == __builtin_inff()) return kNoToken;
  for (int64_t j = 0; j < n; j += kLanes) {
    const int64_t lanes = n - j < kLanes ? n - j : kLanes;
    const vint equal = load(x + j, lanes, kMasked) == splat(maximum);
    if (!any(equal)) continue;
    for (int64_t i = 0; i < lanes; ++i)
      if (equal[i]) return static_cast<int32_t>(j + i);
  }
  return kNoToken;
}

// The first token whose cumulative probability exceeds u.
template <class T>
SACCADE_INLINE int32_t draw(const T* x, int64_t n, float inverse_temperature, double u) {
  constexpr int64_t kBlock = 512;  // short: the block of the token is walked one token at a time
  constexpr float kMasked = -__builtin_inff();
  const SoftmaxRow row = softmax_row(x, n, inverse_temperature);
  if (!(row.sum > 0.0)) return kNoToken;
  const vfloat shift = splat(row.max);
  // Unnormalised probability; exactly 0 for a masked token, which is thereby never drawn.
  const auto weight = [&](int64_t j, int64_t lanes) {
    return exp(load(x + j, lanes, kMasked) * inverse_temperature - shift);
  };
  const double target = u * row.sum;
  double cumulative = 0.0;  // of the tokens before `block`, the last block that holds a token of weight above 0
  int64_t block = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t size = n - begin < kBlock ? n - begin : kBlock;
    vfloat lanes_sum = splat(0.0f);
    for_lanes(size, [&](int64_t j, int64_t lanes) { lanes_sum += weight(begin + j, lanes); });
    const double sum = sum_of(lanes_sum);
    if (!(sum > 0.0)) continue;
    block = begin;
    if (cumulative + sum > target) break;
    if (begin + kBlock < n) cumulative += sum;
  }
  // Rounding may leave the target above every cumulative sum: then the last token of weight above 0 stands.
  int32_t token = kNoToken;
  const int64_t end = n - block < kBlock ? n : block + kBlock;
  for (int64_t j = block; j < end; j += kLanes) {
    const int64_t lanes = end - j < kLanes ? end - j : kLanes;
    const vfloat w = weight(j, lanes);
    for (int64_t i = 0; i < lanes; ++i) {
      if (!(w[i] > 0.0f)) continue;
      token = static_cast<int32_t>(j + i);
      cumulative += static_cast<double>(w[i]);
      if (cumulative > target) return token;
    }
  }
  return token;
}

}  // namespace

void sample_tokens(Pool& pool, const saccade_sample_tokens_args& args) {
  constexpr int64_t kLogits = 1 << 15;  // pay for handing a task out
  const int32_t* stream = pointer<const int32_t>(args.stream);
  int32_t* tokens = pointer<int32_t>(args.tokens);
  const uint64_t key = static_cast<uint64_t>(args.seed);
  const uint64_t offset = static_cast<uint64_t>(scalar(args.offset_scalar, args.offset));
  const bool greedy = args.temperature == 0.0f;
  const float inverse = greedy ? 0.0f : 1.0f / args.temperature;
  const int64_t step = (kLogits + args.vocabulary - 1) / args.vocabulary;
  with_float_type(args.logits_dtype, [&](auto element) {
    using T = decltype(element);
    pool.run((args.rows + step - 1) / step, [&](int64_t task, int) {
      const int64_t end = (task + 1) * step < args.rows ? (task + 1) * step : args.rows;
      for (int64_t r = task * step; r < end; ++r) {
        const T* x = pointer<const T>(args.logits) + r * args.logits_stride;
        const int64_t own = stream ? stream[r] : r;
        tokens[r] = greedy ? largest(x, args.vocabulary)
                           : draw(x, args.vocabulary, inverse,
                                  uniform(philox(key, offset, static_cast<uint64_t>(own))));
      }
    });
  });
}

}  // namespace saccade::SACCADE_ISA
