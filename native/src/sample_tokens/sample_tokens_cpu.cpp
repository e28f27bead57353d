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

// Unnormalised probability: 1 for the largest logit at any scale of the logits, exactly 0 for a masked token.
SACCADE_INLINE vfloat weight(vfloat logit, float maximum, float inverse_temperature) {
  return exp((logit - maximum) * inverse_temperature);
}

// The smallest logit of the nucleus; `maximum` is the largest logit.
template <class T>
SACCADE_INLINE float nucleus(const T* x, int64_t n, float maximum, float inverse_temperature, float top_p) {
  constexpr int kDigit = 11;  // bits of a key that a sweep resolves
  double mass[1 << kDigit];
  double above = 0.0, target = 0.0;  // above: the weight of keys that are larger in the digits known so far
  uint32_t prefix = 0;               // those digits
  for (int shift = 32; shift > 0;) {
    const int next = shift > kDigit ? shift - kDigit : 0;
    std::memset(mass, 0, sizeof mass);
    for_lanes(n, [&](int64_t j, int64_t lanes) {
      const vfloat logit = load(x + j, lanes, kMasked);
      // Unsigned keys in the order of the logits, of which -0 and 0 are equal.
      const vint bits = as_int(logit + 0.0f);
      const vuint key = (vuint)(bits ^ (bits >> 31 | INT32_MIN));
      const vint member = shift == 32 ? ~vint{} : (vint)(key >> shift == prefix);
      if (!any(member)) return;
      const vfloat w = weight(logit, maximum, inverse_temperature);
      for (int i = 0; i < kLanes; ++i)
        if (member[i]) mass[key[i] >> next & ((1u << (shift - next)) - 1)] += static_cast<double>(w[i]);
    });
    constexpr int kLast = (1 << kDigit) - 1;
    if (shift == 32) {
      for (int digit = kLast; digit >= 0; --digit) target += mass[digit];
      target *= static_cast<double>(top_p);
    }
    // Where rounding leaves all sums below the target, the smallest logit of weight above 0 stands.
    int chosen = 0;
    double reached = above;
    for (int digit = kLast; digit >= 0 && !(reached >= target); --digit) {
      if (!(mass[digit] > 0.0)) continue;
      chosen = digit;
      above = reached;
      reached += mass[digit];
    }
    prefix = prefix << (shift - next) | static_cast<uint32_t>(chosen);
    shift = next;
  }
  const int32_t key = static_cast<int32_t>(prefix), bits = key ^ (~key >> 31 | INT32_MIN);
  float cutoff;
  std::memcpy(&cutoff, &bits, sizeof cutoff);
  return cutoff;
}

// The first token whose cumulative probability among those of at least `cutoff` exceeds u.
template <class T>
SACCADE_INLINE int32_t draw(const T* x, int64_t n, float maximum, float inverse_temperature, float cutoff, double u) {
  constexpr int64_t kBlock = 512;  // short: the block of the token is walked one token at a time
  const auto weight_at = [&](int64_t j, int64_t lanes) {
    const vfloat logit = load(x + j, lanes, kMasked);
    return select(logit >= cutoff, weight(logit, maximum, inverse_temperature), splat(0.0f));
  };
  const auto block_sum = [&](int64_t begin) {
    vfloat sum = splat(0.0f);
    for_lanes(n - begin < kBlock ? n - begin : kBlock,
              [&](int64_t j, int64_t lanes) { sum += weight_at(begin + j, lanes); });
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
    const vfloat w = weight_at(j, lanes);
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
  const bool greedy = args.temperature == 0.0f, all = args.top_p == 0.0f || args.top_p == 1.0f;
  // Bounded, so that a subnormal temperature keeps the weight of the largest logit at e^0.
  const float inverse = args.temperature > 0x1p-126f ? 1.0f / args.temperature : 0x1p126f;
  with_float_type(args.logits_dtype, [&](auto element) {
    using T = decltype(element);
    for_logit_rows(pool, args.rows, args.vocabulary, [&](int64_t r) {
      const T* x = pointer<const T>(args.logits) + r * args.logits_stride;
      const int64_t own = stream ? stream[r] : r;
      const float maximum = largest(x, args.vocabulary);
      if (maximum != maximum) {
        tokens[r] = kNoToken;
      } else if (greedy) {
        tokens[r] = static_cast<int32_t>(first_of(x, args.vocabulary, maximum));
      } else {
        const float cutoff = all ? kMasked : nucleus(x, args.vocabulary, maximum, inverse, args.top_p);
        tokens[r] = draw(x, args.vocabulary, maximum, inverse, cutoff,
                         uniform(philox(key, offset, static_cast<uint64_t>(own))));
      }
    });
  });
}

}  // namespace saccade::SACCADE_ISA
