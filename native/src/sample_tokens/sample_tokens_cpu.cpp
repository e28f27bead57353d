#include "core/logit_rows.h"
#include "core/softmax_row.h"
#include "sample_tokens/philox.h"
#include "sample_tokens/sample_tokens.h"

namespace saccade::SACCADE_ISA {
namespace {

constexpr int32_t kNoToken = -1;
constexpr float kMasked = -__builtin_inff();

// The largest logit; NaN for a row that gives no token: with NaN or +inf, or with nothing but -inf.
template <class T>
SACCADE_INLINE float largest(const T* x, int64_t n) {
  vfloat top = splat(kMasked);
  vint nan = lane_index() < 0;
  for_lanes(n, [&](int64_t j, int64_t lanes) {
    const vfloat v = load(x + j, lanes, kMasked);
    top = max(v, top);
    nan |= v != v;
  });
  const float maximum = max_of(top);
  return any(nan) || maximum == kMasked || maximum == -kMasked ? __builtin_nanf("") : maximum;
}

// The first token whose cumulative probability exceeds u; `maximum` is the largest logit.
template <class T>
SACCADE_INLINE int32_t draw(const T* x, int64_t n, float maximum, float inverse_temperature, double u) {
  constexpr int64_t kBlock = 512;  // short: the block of the token is walked one token at a time
  // Unnormalised probability: 1 for the largest logit at any scale of the logits, exactly 0 for a masked token.
  const auto weight = [&](int64_t j, int64_t lanes) {
    return exp((load(x + j, lanes, kMasked) - maximum) * inverse_temperature);
  };
  const auto block_sum = [&](int64_t begin) {
    vfloat sum = splat(0.0f);
    for_lanes(n - begin < kBlock ? n - begin : kBlock,
              [&](int64_t j, int64_t lanes) { sum += weight(begin + j, lanes); });
    return sum_of(sum);
  };
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += kBlock) total += block_sum(begin);
  // u is at most 1 - 2^-53, so the product, rounded, is below the total; the same sums in the same order reach it.
  const double target = u * total;
  int64_t block = 0;
  double before = 0.0;
  for (double after = block_sum(0); !(after > target);) {
    block += kBlock;
    if (block >= n) return kNoToken;
    before = after;
    after += block_sum(block);
  }
  // Within the block the sum is taken in another order: where rounding leaves it at the target, the last token of
  // weight above 0 stands.
  int32_t token = kNoToken;
  double cumulative = before;
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
  const int32_t* stream = pointer<const int32_t>(args.stream);
  int32_t* tokens = pointer<int32_t>(args.tokens);
  const uint64_t key = static_cast<uint64_t>(args.seed);
  const uint64_t offset = static_cast<uint64_t>(scalar(args.offset_scalar, args.offset));
  const bool greedy = args.temperature == 0.0f;
  // Bounded, so that a subnormal temperature keeps the weight of the largest logit at e^0.
  const float inverse = args.temperature > 0x1p-126f ? 1.0f / args.temperature : 0x1p126f;
  with_float_type(args.logits_dtype, [&](auto element) {
    using T = decltype(element);
    for_logit_rows(pool, args.rows, args.vocabulary, [&](int64_t r) {
      const T* x = pointer<const T>(args.logits) + r * args.logits_stride;
      const int64_t own = stream ? stream[r] : r;
      const float maximum = largest(x, args.vocabulary);
      if (maximum != maximum)
        tokens[r] = kNoToken;
      else if (greedy)
        tokens[r] = static_cast<int32_t>(first_of(x, args.vocabulary, maximum));
      else
        tokens[r] =
            draw(x, args.vocabulary, maximum, inverse, uniform(philox(key, offset, static_cast<uint64_t>(own))));
    });
  });
}

}  // namespace saccade::SACCADE_ISA
