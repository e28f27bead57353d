#include <cmath>

#include "core/simd.h"
#include "group_advantage/group_advantage.h"

namespace saccade::SACCADE_ISA {
namespace {

// Count, mean and sum of squared deviations.
struct Moments {
  int64_t count = 0;
  double mean = 0.0;
  double m2 = 0.0;

  void merge(const Moments& other) {
    if (other.count == 0) return;
    const double n = static_cast<double>(count), k = static_cast<double>(other.count), d = other.mean - mean;
    mean += d * (k / (n + k));
    m2 += other.m2 + d * d * (n * k / (n + k));
    count += other.count;
  }

  double deviation(int32_t ddof) const {
    return count > ddof ? std::sqrt(m2 / static_cast<double>(count - ddof)) : 0.0;
  }
};

// Calls body(i, lanes, rewards from i on, which of them count) for the rewards of a group, by vectors.
template <class Body>
SACCADE_INLINE void for_rewards(const saccade_group_advantage_args& args, int64_t begin, int64_t end,
                                const Body& body) {
  const float* rewards = pointer<const float>(args.rewards);
  const uint8_t* valid = pointer<const uint8_t>(args.valid);
  for (int64_t i = begin; i < end; i += kDoubles) {
    const int64_t lanes = end - i < kDoubles ? end - i : kDoubles;
    if (lanes == kDoubles && !valid) {
      const vdouble x = load_double(rewards + i);
      body(i, lanes, x, vlong{} == 0);
    } else {
      vdouble x = {};
      vlong counts = {};
      for (int64_t j = 0; j < lanes; ++j) {
        x[j] = static_cast<double>(rewards[i + j]);
        counts[j] = valid && !valid[i + j] ? 0 : -1;
      }
      body(i, lanes, x, counts);
    }
  }
}

struct Group {
  int64_t begin, end;
  Moments moments;  // of the valid rewards
  bool degenerate;
};

Group group_of(const saccade_group_advantage_args& args, int64_t g) {
  const int32_t* offsets = pointer<const int32_t>(args.offsets);
  const uint8_t* valid = pointer<const uint8_t>(args.valid);
  Group group{offsets[g], offsets[g + 1], {}, true};
  Moments& moments = group.moments;
  int64_t at = group.begin;  // of the first that counts
  while (at < group.end && valid && !valid[at]) ++at;
  if (at == group.end) return group;
  const double first = static_cast<double>(pointer<const float>(args.rewards)[at]);
  const vdouble zero = {};
  vdouble sum = zero;
  vlong number = {}, unlike = {};  // NaN is unlike itself
  for_rewards(args, at, group.end, [&](int64_t, int64_t, vdouble x, vlong counts) {
    sum += counts ? x : zero;
    number -= counts;
    unlike |= counts & (x != first);
  });
  bool equal = true;
  for (int lane = 0; lane < kDoubles; ++lane) {
    moments.count += number[lane];
    equal = equal && !unlike[lane];
  }
  if (moments.count < 2 || equal) {
    moments.mean = first;
    return group;
  }
  group.degenerate = false;
  moments.mean = sum_of(sum) / static_cast<double>(moments.count);
  vdouble squares = zero;
  for_rewards(args, at, group.end, [&](int64_t, int64_t, vdouble x, vlong counts) {
    const vdouble d = counts ? x - moments.mean : zero;
    squares += d * d;
  });
  moments.m2 = sum_of(squares);
  return group;
}

constexpr int64_t kMaxSlices = 64;

// Calls body(slice, begin, end) for slices of the groups, cut by the size of the problem.
template <class Body>
void for_slices(Pool& pool, const saccade_group_advantage_args& args, int64_t slices, const Body& body) {
  pool.run(slices,
           [&](int64_t slice, int) { body(slice, args.groups * slice / slices, args.groups * (slice + 1) / slices); });
}

}  // namespace

void group_advantage(Pool& pool, const saccade_group_advantage_args& args) {
  constexpr int64_t kMembers = 1 << 12;  // of a slice, roughly
  const int64_t wanted = (args.size + args.groups) / kMembers + 1;
  const int64_t slices = wanted < kMaxSlices ? wanted : kMaxSlices;
  const bool baseline = args.estimator == SACCADE_ADVANTAGE_REINFORCE_PP_BASELINE;
  const double eps = static_cast<double>(args.eps);

  double batch_deviation = 0.0;
  if (divides_by_batch(args)) {
    Moments partial[kMaxSlices];
    for_slices(pool, args, slices, [&](int64_t slice, int64_t begin, int64_t end) {
      Moments moments;
      for (int64_t g = begin; g < end; ++g) {
        Moments own = group_of(args, g).moments;
        if (baseline) own.mean = 0.0;  // that of the centred rewards
        moments.merge(own);
      }
      partial[slice] = moments;
    });
    for (int64_t slice = 1; slice < slices; ++slice) partial[0].merge(partial[slice]);
    batch_deviation = partial[0].deviation(args.ddof);
  }

  float* advantage = pointer<float>(args.advantage);
  float* mean = pointer<float>(args.mean);
  float* std = pointer<float>(args.std);
  uint8_t* degenerate = pointer<uint8_t>(args.degenerate);
  for_slices(pool, args, slices, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      const Group group = group_of(args, g);
      const double n = static_cast<double>(group.moments.count), deviation = group.moments.deviation(args.ddof);
      double multiplier = 1.0, divisor = 1.0;
      switch (args.estimator) {
        case SACCADE_ADVANTAGE_GRPO:
          divisor = deviation + eps;
          break;
        case SACCADE_ADVANTAGE_DR_GRPO:
          break;
        case SACCADE_ADVANTAGE_RLOO:
          multiplier = n;
          divisor = n - 1.0;
          break;
        default:
          divisor = batch_deviation + eps;
      }
      const double factor = multiplier / divisor;
      if (group.degenerate)
        for (int64_t i = group.begin; i < group.end; ++i) advantage[i] = 0.0f;
      else
        for_rewards(args, group.begin, group.end, [&](int64_t i, int64_t lanes, vdouble x, vlong counts) {
          const vdouble zero = {}, a = counts ? (x - group.moments.mean) * factor : zero;
          float chunk[kLanes];
          store(chunk, narrow(a, zero));
          std::memcpy(advantage + i, chunk, static_cast<size_t>(lanes) * sizeof(float));
        });
      if (mean) mean[g] = static_cast<float>(group.moments.mean);
      if (std) std[g] = static_cast<float>(deviation);
      if (degenerate) degenerate[g] = group.degenerate;
    }
  });
}

}  // namespace saccade::SACCADE_ISA
