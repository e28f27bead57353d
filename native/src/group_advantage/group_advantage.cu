#include "core/rows.cuh"
#include "group_advantage/group_advantage.h"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kHeld = 8;  // rewards of a group that a lane holds: groups of up to kHeld * kLanes are read once

// 1 / x, and sqrt(x) of a positive x, to 2^-38: what follows is f32, and f64's own division and root take longer than
// all else that is done for a group.
__device__ __forceinline__ double inverse_of(double x) {
  double y;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  return x == 0.0 ? y : fma(fma(-x, y, 1.0), y, y);
}
__device__ __forceinline__ double root_of(double x) {
  double y;
  asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  const double root = x * y;
  return fma(fma(-root, root, x), 0.5 * y, root);
}

// Standard deviation of `count` numbers from their sum and sum of squares, both of differences from any number near
// them.
__device__ double deviation_of(double count, double sum, double squares, int32_t ddof) {
  if (!(count > ddof)) return 0.0;
  const double variance = (squares - sum * (sum * inverse_of(count))) * inverse_of(count - ddof);
  return variance <= 0.0 ? 0.0 : root_of(variance);
}

// One group, in the hands of kLanes lanes of a warp.
template <int kLanes>
struct Group {
  int64_t begin, end;
  bool clamped;  // the offsets are no offsets
  bool degenerate;
  int count;            // valid members
  float pivot;          // one of their rewards, 0 where there is none
  double sum, squares;  // of their differences from the pivot
  const float* rewards;
  const uint8_t* valid;
  float held[kHeld];  // of the first kLanes kHeld members
  uint32_t has;       // bit k: member k of this lane is there and valid

  __device__ double mean() const { return degenerate ? static_cast<double>(pivot) : pivot + sum * inverse_of(count); }
  __device__ double deviation(int32_t ddof) const { return degenerate ? 0.0 : deviation_of(count, sum, squares, ddof); }

  // body(reward) for the valid members of this lane.
  template <class Body>
  __device__ __forceinline__ void for_members(const Body& body) const {
#pragma unroll
    for (int k = 0; k < kHeld; ++k)
      if (has >> k & 1) body(held[k]);
    for (int64_t i = begin + kLanes * kHeld + threadIdx.x % kLanes; i < end; i += kLanes)
      if (!valid || valid[i]) body(rewards[i]);
  }

  // All lanes of a warp come here together.
  __device__ __forceinline__ Group(const saccade_group_advantage_args& args, int64_t g) {
    const int32_t* offsets = pointer<const int32_t>(args.offsets);
    rewards = pointer<const float>(args.rewards);
    valid = pointer<const uint8_t>(args.valid);
    const uint32_t lanes = (~0u >> (32 - kLanes)) << (threadIdx.x % 32 / kLanes * kLanes);
    const auto sum_lanes = [](auto v) {
#pragma unroll
      for (int distance = 1; distance < kLanes; distance *= 2) v += __shfl_xor_sync(~0u, v, distance);
      return v;
    };
    const int64_t first = offsets[g], last = offsets[g + 1], size = args.size;
    begin = first < 0 ? 0 : first > size ? size : first;
    end = last < begin ? begin : last > size ? size : last;
    clamped = begin != first || end != last;
    has = 0;
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      if (begin + k * kLanes >= end) break;
      const int64_t i = begin + k * kLanes + threadIdx.x % kLanes;
      const bool there = i < end && (!valid || valid[i]);
      held[k] = there ? rewards[i] : 0.0f;
      has |= static_cast<uint32_t>(there) << k;
    }
    // Any valid member will do.
    float own = 0.0f;
    bool found = false;
    for_members([&](float x) {
      own = found ? own : x;
      found = true;
    });
    const uint32_t finders = __ballot_sync(~0u, found) & lanes;
    pivot = __shfl_sync(~0u, own, __ffs(finders) - 1);
    if (!finders) pivot = 0.0f;
    int members = 0;
    bool equal = true;
    double differences = 0.0, square = 0.0;
    for_members([&](float x) {
      ++members;
      equal &= x == pivot;
      const double d = static_cast<double>(x) - static_cast<double>(pivot);
      differences += d;
      square = fma(d, d, square);
    });
    count = sum_lanes(members);
    const uint32_t others = __ballot_sync(~0u, !equal) & lanes;
    degenerate = count < 2 || !others;
    sum = sum_lanes(differences);
    squares = sum_lanes(square);
  }
};

// Count, sum and sum of squares of a slice of the batch.
struct Batch {
  double count, sum, squares;

  __device__ static Batch add(const Batch& a, const Batch& b) {
    return {a.count + b.count, a.sum + b.sum, a.squares + b.squares};
  }
};

constexpr int kSlices = 2 * kThreads;

// A batch's differences are from its first reward.
__device__ float batch_pivot(const saccade_group_advantage_args& args) {
  const float first = args.size > 0 ? *pointer<const float>(args.rewards) : 0.0f;
  return first - first == 0.0f ? first : 0.0f;
}

// The rewards that a block will read where groups are of one size.
__device__ __forceinline__ void prefetch_rewards(const saccade_group_advantage_args& args) {
  constexpr int kLine = 32;
  const int64_t begin = args.size * blockIdx.x / gridDim.x, end = args.size * (blockIdx.x + 1) / gridDim.x;
  const int64_t i = begin + threadIdx.x * kLine;
  if (i < end) prefetch(pointer<const float>(args.rewards) + i);
}

template <int kLanes>
__global__ void __launch_bounds__(kThreads) batch_kernel(saccade_group_advantage_args args) {
  __shared__ Batch shared[32];
  wait_for_last();
  allow_next();
  const bool baseline = args.estimator == SACCADE_ADVANTAGE_REINFORCE_PP_BASELINE;
  const double pivot = static_cast<double>(batch_pivot(args));
  const int64_t begin = args.groups * blockIdx.x / kSlices, end = args.groups * (blockIdx.x + 1) / kSlices;
  Batch own{0.0, 0.0, 0.0};
  for (int64_t first = begin; first < end; first += kThreads / kLanes) {
    const int64_t g = first + threadIdx.x / kLanes;
    const Group<kLanes> group(args, g < end ? g : end - 1);
    const double n = group.count, shift = static_cast<double>(group.pivot) - pivot;
    if (g >= end || group.count == 0) continue;
    // Of the centred rewards, or of the rewards themselves.
    const double m2 = group.degenerate ? 0.0 : group.squares - group.sum * (group.sum * inverse_of(n));
    own = Batch::add(
        own, baseline ? Batch{n, 0.0, m2}
                      : Batch{n, group.sum + n * shift, group.squares + 2.0 * shift * group.sum + n * shift * shift});
  }
  if (threadIdx.x % kLanes != 0) own = {0.0, 0.0, 0.0};
  own = reduce_block(own, shared, Batch::add);
  if (threadIdx.x == 0) pointer<Batch>(args.workspace)[blockIdx.x] = own;
}

template <int kLanes, bool kBatch>
__global__ void __launch_bounds__(kThreads) advantage_kernel(saccade_group_advantage_args args) {
  const int64_t g = static_cast<int64_t>(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes;
  // What batch_kernel reads is there when it lets these blocks come.
  if (!kBatch) {
    prefetch_rewards(args);
    wait_for_last();
    allow_next();
  }
  const Group<kLanes> group(args, g < args.groups ? g : args.groups - 1);
  double divisor_of_all = 1.0;
  if (kBatch) {
    __shared__ Batch shared[32];
    wait_for_last();
    const Batch* slices = pointer<const Batch>(args.workspace);
    const Batch all = reduce_block(Batch::add(slices[threadIdx.x], slices[threadIdx.x + kThreads]), shared, Batch::add);
    divisor_of_all = deviation_of(all.count, all.sum, all.squares, args.ddof) + static_cast<double>(args.eps);
  }
  if (g >= args.groups) return;
  const int lane = threadIdx.x % kLanes;
  const double n = group.count, mean = group.mean(), deviation = group.deviation(args.ddof);
  double factor = 1.0;
  if (args.estimator == SACCADE_ADVANTAGE_GRPO) factor = inverse_of(deviation + static_cast<double>(args.eps));
  if (args.estimator == SACCADE_ADVANTAGE_RLOO) factor = n * inverse_of(n - 1.0);
  if (kBatch) factor = inverse_of(divisor_of_all);
  const float high = static_cast<float>(mean), low = static_cast<float>(mean - static_cast<double>(high));
  const float slope = static_cast<float>(factor);
  float* advantage = pointer<float>(args.advantage);
  const auto write = [&](int64_t i, bool there, float x) {
    advantage[i] = group.clamped ? NAN : group.degenerate || !there ? 0.0f : ((x - high) - low) * slope;
  };
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    const int64_t i = group.begin + k * kLanes + lane;
    if (i < group.end) write(i, group.has >> k & 1, group.held[k]);
  }
  for (int64_t i = group.begin + kLanes * kHeld + lane; i < group.end; i += kLanes)
    write(i, !group.valid || group.valid[i], group.rewards[i]);
  // Rows before the first group or behind the last one are no group's.
  if (g == 0)
    for (int64_t i = lane; i < group.begin; i += kLanes) advantage[i] = NAN;
  if (g == args.groups - 1)
    for (int64_t i = group.end + lane; i < args.size; i += kLanes) advantage[i] = NAN;
  if (lane != 0) return;
  if (args.mean) pointer<float>(args.mean)[g] = group.clamped ? NAN : static_cast<float>(mean);
  if (args.std) pointer<float>(args.std)[g] = group.clamped ? NAN : static_cast<float>(deviation);
  if (args.degenerate) pointer<uint8_t>(args.degenerate)[g] = group.degenerate;
}

}  // namespace

int64_t group_advantage_workspace(const saccade_group_advantage_args& args) {
  return divides_by_batch(args) ? kSlices * static_cast<int64_t>(sizeof(Batch)) : 0;
}

void group_advantage(const Device& device, const saccade_group_advantage_args& args) {
  const auto run = [&](auto lanes) {
    constexpr int kLanes = decltype(lanes)::value;
    const int64_t blocks = divide_up(args.groups, kThreads / kLanes);
    if (divides_by_batch(args)) {
      launch_overlapping(device, batch_kernel<kLanes>, blocks > 0 ? kSlices : 0, kThreads, args);
      launch_overlapping(device, advantage_kernel<kLanes, true>, blocks, kThreads, args);
    } else {
      launch_overlapping(device, advantage_kernel<kLanes, false>, blocks, kThreads, args);
    }
  };
  // What a group costs besides its rewards, f64 divisions above all, costs a warp as much for four groups as for one.
  constexpr int kFew = 8;
  if (args.size <= args.groups * kFew * kHeld)
    run(std::integral_constant<int, kFew>{});
  else
    run(std::integral_constant<int, 32>{});
}

}  // namespace saccade::cuda
