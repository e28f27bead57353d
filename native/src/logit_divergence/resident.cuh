// Pairs of rows that the blocks of a cluster keep in their shared memory, on Hopper: every logit is read once from
// device memory.
//
// A cluster takes pair after pair; each of its blocks owns a part of the vocabulary, which passes through a ring of
// slots in steps of a 16-byte pack a lane.  One warp of a block fills the slots by bulk loads; one joins what all warps
// of the cluster find in the first sweep, one what they find in the second; the others compute:
//
//   1  sums of exponentials; for REVERSE_KL of 16 bits also the mean of the log-ratios, which are linear in the logits
//   2  with the normalisers, the divergence; for KL, but REVERSE_KL of f32, also the gradient
//   3  otherwise: with the mean of the scores, the gradient
//
// Where the ring has room for two pairs, the next pair's first sweep runs while this one's sums are joined.
//
// Exponents are to base 2.  A token's terms come from formulas that hold wherever none of them overflows.  Where one
// does (a masked token, two policies that have nothing in common) its pack is flagged, and so is that of the policy's
// largest logit where it holds most of the policy; tokens of flagged packs take the way of pair.h.
#pragma once

#include "core/bulk.cuh"
#include "core/softmax_row.cuh"
#include "logit_divergence/pair.h"

namespace saccade::cuda {

constexpr int kResidentWarps = 16;  // that compute, as many on each of a multiprocessor's four schedulers
constexpr int kResidentThreads = (kResidentWarps + 3) * 32;
constexpr int kResidentCluster = 8;  // most blocks of a cluster
constexpr int kStepPacks = kResidentWarps * 32;
constexpr int kSlotBytes = 2 * kStepPacks * 16;  // policy, reference
constexpr int kMostSlots = 32;
// Of JSD: below it log2(M/p) is small where the log-ratio is not, and a plain logarithm of M/p too coarse.
constexpr double kLeastWeight = 1.0 / 16.0;

// Terms of JSD near y = 0 by the log-ratio z to base 2: log2(M/p) = z log(z), and the divergence in units of p log 2 is
// z^2 term(z).  Four terms are for 16-bit rows, which take the divergence from log2(M/p): what rounding makes of a
// token's is of either sign, 4e-7/z of it.
template <int kTerms>
struct MixtureSeries {
  // In z.  The series are off by 1e-6 at most; at this z, the logarithm of M/p by 2e-6 to 1.4e-5 of it, the divergence
  // from that by 3e-5 to 1.5e-4 with four terms and 4e-6 to 1.8e-5 with six, the more the smaller the weight.
  static constexpr float kNear = kTerms < 6 ? 0.3f : 1.0f;
  float log[kTerms], term[kTerms];
  float weight, other_weight;

  // Polynomials through the Chebyshev nodes; weight: of q.
  static MixtureSeries of(double weight) {
    MixtureSeries series{};
    series.weight = static_cast<float>(weight);
    series.other_weight = static_cast<float>(1.0 - weight);
    double nodes[kTerms], logs[kTerms], terms[kTerms];
    for (int i = 0; i < kTerms; ++i) {
      const double z = static_cast<double>(kNear) * std::cos(3.14159265358979324 * (i + 0.5) / kTerms);
      const double q = weight * std::exp2(z), log = std::log2(q + (1.0 - weight));
      nodes[i] = z;
      logs[i] = log / z;
      terms[i] = (q * z - (q + (1.0 - weight)) * log) / (z * z);
    }
    interpolate(nodes, logs, series.log);
    interpolate(nodes, terms, series.term);
    return series;
  }

 private:
  // Newton's divided differences, multiplied out.
  static void interpolate(const double (&nodes)[kTerms], double (&values)[kTerms], float (&coefficients)[kTerms]) {
    for (int k = 1; k < kTerms; ++k)
      for (int i = kTerms - 1; i >= k; --i) values[i] = (values[i] - values[i - 1]) / (nodes[i] - nodes[i - k]);
    double sum[kTerms] = {};
    for (int k = kTerms - 1; k >= 0; --k) {
      for (int i = kTerms - 1; i >= 0; --i) sum[i] = (i > 0 ? sum[i - 1] : 0.0) - nodes[k] * sum[i];
      sum[0] += values[k];
    }
    for (int i = 0; i < kTerms; ++i) coefficients[i] = static_cast<float>(sum[i]);
  }
};

template <class T>
using SeriesOf = MixtureSeries<sizeof(T) == 4 ? 6 : 4>;

// What a warp knows of its part of a pair: the sums of 2^(scale logit - base), of f32 rows less 1, which is about the
// term of the largest logit and would take the others' digits; for the moment that of the policy's terms times the
// logarithm to base 2 of the reference's term over the policy's.
struct alignas(16) ResidentPart {
  float policy_base, policy_sum, reference_base, reference_sum;
};
struct alignas(16) ResidentMoment : ResidentPart {
  float moment;
};

// What a warp or a block finds in its part of a pair.  The token that holds most of the policy, where there is one, is
// kept apart.
struct alignas(16) ResidentSums {
  float divergence;
  float others;       // of gradients
  float score, mass;  // of the policy
  float top_value;    // FORWARD_KL: q - p; else the score
  float top_probability;
  int32_t top;  // below 0: none
};

// What all threads must know of a pair of rows between its sweeps.
struct ResidentRow {
  // As a Pair has them, the largest logits replaced by logits near the log-normalisers.
  double log_sums;
  float policy_max, policy_log_sum, reference_max, reference_log_sum;
  // The log-ratio to base 2 is scale (Pair::difference - fraction) - rest; of 16-bit rows only the rest is not 0.
  float whole_p, whole_q, fraction, rest;
  // 2^(scale logit - integer) * factor is a probability.
  float policy_integer, reference_integer, policy_factor, reference_factor;
  float half;  // a logit of the policy above this holds most of it
  float slope;
  float mean_ratio;  // of the log-ratio to base 2 under the policy, where the first sweep has it
  float mean_score;  // where the second sweep has it
  bool proper;       // both rows are distributions
  bool active;       // there is a gradient to be written
};

template <Form kForm>
__device__ __forceinline__ Pair<kForm> pair_of(const ResidentRow& row, float inverse, float beta) {
  return Pair<kForm>({row.policy_max, row.policy_log_sum}, {row.reference_max, row.reference_log_sum}, row.log_sums,
                     inverse, beta);
}

// As few instructions as its size allows.
template <class V>
__device__ __forceinline__ void store_whole(V* p, const V& value) {
  uint4 pieces[sizeof(V) / 16];
  memcpy(pieces, &value, sizeof value);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(V) / 16); ++i) reinterpret_cast<uint4*>(p)[i] = pieces[i];
}

// As cluster_send().
template <class V>
__device__ __forceinline__ void cluster_post(uint32_t address, const V& value, uint32_t barrier) {
  uint4 pieces[sizeof(V) / 16];
  memcpy(pieces, &value, sizeof value);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(V) / 16); ++i) cluster_send(address + i * 16, pieces[i], barrier);
}

// Over a group of lanes, each of which gets it.
template <int kLanes = 32, class V>
__device__ __forceinline__ V warp_sum(V x) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
  return x;
}

// Of two values at once, with fewer shuffles.
template <class V>
__device__ __forceinline__ void warp_sum_both(V& a, V& b) {
  const bool upper = threadIdx.x & 16;
  V x = upper ? b : a;
  x += __shfl_xor_sync(~0u, upper ? a : b, 16);
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
  a = __shfl_sync(~0u, x, 0);
  b = __shfl_sync(~0u, x, 16);
}

// By the order of signed integers, in which NaN are the largest or the least.
__device__ __forceinline__ float warp_max(float x) {
  const auto ordered = [](int bits) { return bits ^ (bits >> 31 & 0x7fffffff); };
  return __int_as_float(ordered(__reduce_max_sync(~0u, ordered(__float_as_int(x)))));
}

// Keeps a value in its register: what comes out of a shuffle the compiler cannot make again in every step of a loop.
template <class V>
__device__ __forceinline__ void hold(V& x) {
  x = __shfl_sync(~0u, x, static_cast<int>(threadIdx.x % 32));
}

// a and b where `take`, without a branch.
__device__ __forceinline__ void choose(bool take, float a, float& x, float b, float& y) {
  asm("{\n.reg .pred p;\nsetp.ne.u32 p, %2, 0;\nselp.f32 %0, %3, %0, p;\nselp.f32 %1, %4, %1, p;\n}"
      : "+f"(x), "+f"(y)
      : "r"(static_cast<uint32_t>(take)), "f"(a), "f"(b));
}

// K3 by the log-ratio z to base 2, up to 128: by a polynomial, whose first coefficient the caller holds, where |z| is
// small.  Relative error of that and of the formula for larger z: 3e-7 and 5e-6; where T is of 16 bits, 2.2e-5 and
// 1.7e-5.
template <class T>
constexpr float kK3First = sizeof(T) == 4 ? 1.541727834e-4f : 9.625352417e-3f;

template <class T>
__device__ __forceinline__ float k3_base_2(float z, float first) {
  float p;
  if constexpr (sizeof(T) == 4) {
    p = fmaf(first, z, 1.338124974e-3f);
    p = fmaf(p, z, 9.618172422e-3f);
    p = fmaf(p, z, 5.550381169e-2f);
    p = fmaf(p, z, 2.402265072e-1f);
  } else {
    p = fmaf(first, z, 5.556664324e-2f);
    p = fmaf(p, z, 2.402265070e-1f);
  }
  const float far = fmaf(z, -kLog2, exp2_fast(z) - 1.0f);
  return fabsf(z) < (sizeof(T) == 4 ? 0.5f : 0.25f) ? __fmul_rn(p, __fmul_rn(z, z)) : far;
}

// A lane's sums with what any lane has of the token that holds most of the policy.
__device__ __forceinline__ ResidentSums with_top(ResidentSums sums) {
  const uint32_t holder = __ballot_sync(~0u, sums.top >= 0);
  if (holder) {
    const int from_lane = __ffs(static_cast<int>(holder)) - 1;
    sums.top = __shfl_sync(~0u, sums.top, from_lane);
    sums.top_value = __shfl_sync(~0u, sums.top_value, from_lane);
    sums.top_probability = __shfl_sync(~0u, sums.top_probability, from_lane);
  }
  return sums;
}

// How a pair of rows is worked on.
template <Form kForm, class T, bool kGradient>
struct ResidentShape {
  // The error of 16-bit rows' normalisers is nothing beside the steps of their logits.
  static constexpr bool kCorrected = sizeof(T) == 4;
  // The mean of the scores is that of the very scores that the third sweep reads; of 16-bit log-ratios, that of the
  // first sweep does.
  static constexpr bool kScored = is_jsd(kForm) || (kForm == Form::kReverseKl && kCorrected);
  static constexpr bool kThird = kScored && kGradient;
  static constexpr bool kMoment = kForm == Form::kReverseKl && !kScored && kGradient;
  // Pairs of which parts may be under way between blocks at once.  Where there are three sweeps all blocks know the
  // mean of a pair's scores before any has summed the next but one.  Otherwise a block that sends parts of a pair knows
  // the normalisers of the last but one, so that all blocks have sent theirs of that, and know those of two before.
  static constexpr int kDepth = kThird ? 2 : 4;
  using Part = std::conditional_t<kMoment, ResidentMoment, ResidentPart>;
  // Bytes of static shared memory: the parts and less than 3072 for all else.
  static constexpr int kStatic = kDepth * kResidentCluster * kResidentWarps * static_cast<int>(sizeof(Part)) + 3072;
  // Scores take the place of a pack of the reference, and as much again where those are 16-bit.
  static constexpr bool kMoreScores = kThird && sizeof(T) < 4;
};

template <Form kForm, class T, bool kGradient>
__global__ void __launch_bounds__(kResidentThreads, 1)
    resident_kernel(const __grid_constant__ saccade_logit_divergence_args args,
                    const __grid_constant__ SeriesOf<T> series, int32_t cluster, int32_t slots, bool ahead) {
#if defined(SACCADE_HOPPER)
  constexpr int kElements = kPack<T>;
  using Shape = ResidentShape<kForm, T, kGradient>;
  using Part = typename Shape::Part;
  constexpr bool kByPolicy = under_policy(kForm), kJsd = is_jsd(kForm), kCorrected = Shape::kCorrected;
  constexpr bool kScored = Shape::kScored, kThird = Shape::kThird, kMoment = Shape::kMoment;
  constexpr bool kChanges = !kScored && (kGradient || kCorrected);
  // JSD of 16-bit rows is summed up as the divergences of its two sides from the mixture, of which the sum of scores is
  // one; and what a warp has of the policy is known from the first sweep.
  constexpr bool kHalves = kJsd && !kCorrected;
  constexpr int kDepth = Shape::kDepth;
  // Probabilities are held times 2^kBoost: of a token whose p is below the range of f32 and whose e^y is not beyond it,
  // less than 2^-30 of q is lost.
  constexpr float kBoost = 32.0f;
  constexpr float kLeast = -1e30f;                    // below any logit but masked ones
  constexpr float kApart = kCorrected ? 1.0f : 0.0f;  // what a part's sums lack
  const float kInfinite = INFINITY;
  extern __shared__ __align__(128) unsigned char memory[];
  // Barriers and what they guard: slots; by the parity of the pair, the normalisers, the divergence's sums of the
  // block's warps, of all blocks, the results; the sums of exponentials of all warps of the cluster.
  constexpr int kFull = 0, kEmpty = kFull + kMostSlots, kReady = kEmpty + kMostSlots, kMeasured = kReady + 2,
                kGathered = kMeasured + 2, kJudged = kGathered + 2, kJoined = kJudged + 2;
  __shared__ uint64_t barriers[kJoined + kDepth];
  __shared__ Part parts[kDepth][kResidentCluster * kResidentWarps];
  __shared__ ResidentSums warp_sums[2][kResidentWarps], block_sums[2][kResidentCluster];
  __shared__ ResidentRow row_of[2];
  __shared__ uint4 masked_pack;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = cluster_rank();
  auto* const ring = reinterpret_cast<uint4*>(memory);

  const int64_t rows = args.rows, step = gridDim.x / cluster;
  const int64_t row_packs = args.vocabulary / kElements, block_packs = (row_packs + cluster - 1) / cluster;
  const int64_t first_pack = rank * block_packs, first = first_pack * kElements;
  const int64_t left = row_packs - first_pack;
  const int size = static_cast<int>(left < 0 ? 0 : left < block_packs ? left : block_packs);
  int steps = (size + kStepPacks - 1) / kStepPacks;
  hold(steps);
  const auto weight_of = [&](int64_t r) { return args.weight ? pointer<const float>(args.weight)[r] : 1.0f; };
  const auto from = [&](int64_t r) {  // the first row from r on that must be read
    while (r < rows && !args.divergence && weight_of(r) == 0.0f) r += step;
    return r;
  };
  const auto policy_of = [&](int64_t r) { return pointer<const T>(args.logits) + r * args.logits_stride + first; };
  const auto reference_of = [&](int64_t r) {
    return pointer<const T>(args.ref_logits) + r * args.ref_logits_stride + first;
  };
  const auto gradient_of = [&](int64_t r) { return pointer<T>(args.d_logits) + r * args.d_logits_stride + first; };
  const float inverse = 1.0f / args.temperature, scale = inverse * kLog2E;
  if (threadIdx.x == 0) {
    for (int s = 0; s < slots; ++s) {
      barrier_init(barriers + kFull + s, 2);
      barrier_init(barriers + kEmpty + s, kResidentWarps);
    }
    for (int i = 0; i < kDepth; ++i) barrier_init(barriers + kJoined + i, 1);
    for (int i = 0; i < 2; ++i) {
      barrier_init(barriers + kMeasured + i, kResidentWarps);
      barrier_init(barriers + kGathered + i, 1);
      barrier_init(barriers + kReady + i, 1);
      barrier_init(barriers + kJudged + i, 1);
    }
    barrier_fence();
    masked_pack = lowest_pack<T>();
  }
  cluster_sync();
  const int64_t start = from(blockIdx.x / cluster);

  if (warp == kResidentWarps) {
    // ------------------------------------------------------------------------------------------------ loads
    if (lane == 0) {
      int slot = 0;
      uint32_t phase = 1;
      for (int64_t r = start; r < rows; r = from(r + step)) {
        const T *const policy = policy_of(r), *const reference = reference_of(r);
        for (int s = 0; s < steps; ++s) {
          const int at = s * kStepPacks, bytes = (size - at < kStepPacks ? size - at : kStepPacks) * 16;
          uint4* const to = ring + slot * 2 * kStepPacks;
          barrier_sleep(barriers + kEmpty + slot, phase);
          bulk_load(to, policy + at * kElements, bytes, barriers + kFull + slot);
          bulk_load(to + kStepPacks, reference + at * kElements, bytes, barriers + kFull + slot);
          if (++slot == slots) slot = 0, phase ^= 1;
        }
      }
    }
    __syncwarp();
  } else if (warp == kResidentWarps + 1) {
    // ------------------------------------------------------------------------------------------------ normalisers
    // Of 16-bit rows f32 tells enough.
    using Sum = std::conditional_t<sizeof(T) == 4, double, float>;
    const Sum inverse_scale = Sum{1} / static_cast<Sum>(scale);
    const float common_slope = (args.grad_output ? *pointer<const float>(args.grad_output) : 1.0f) * inverse *
                               (kJsd ? 1.0f - args.beta : 1.0f);
    const auto difference = [](float a, float b) { return static_cast<Sum>(a) - static_cast<Sum>(b); };
    const int count = cluster * kResidentWarps;  // of parts
    const auto normalise = [&](int pair, float weight) {
      const int i = pair % 2, at = pair % kDepth;
      barrier_sleep(barriers + kJudged + i, (pair / 2 & 1) ^ 1);  // what this overwrites was read
      if (lane == 0) barrier_expect(barriers + kJoined + at, static_cast<uint32_t>(count * sizeof(Part)));
      barrier_sleep_cluster(barriers + kJoined + at, pair / kDepth & 1);
      constexpr int kOwn = kResidentCluster * kResidentWarps / 32;  // a lane's
      Part own[kOwn]{};
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        own[k].policy_base = own[k].reference_base = kLeast;
        own[k].policy_sum = own[k].reference_sum = -kApart;
        if (k * 32 + lane < count) own[k] = parts[at][k * 32 + lane];
      }
      // To the largest base.
      float policy_base = kLeast, reference_base = kLeast;
      for (const Part& part : own) {
        policy_base = fmaxf(policy_base, part.policy_base);
        reference_base = fmaxf(reference_base, part.reference_base);
      }
      policy_base = warp_max(policy_base);
      reference_base = warp_max(reference_base);
      Sum all_of_policy = 0, all_of_reference = 0;
      const auto whole_sum = [](float sum) { return kCorrected ? static_cast<Sum>(sum) + Sum{1} : sum; };
      for (const Part& part : own) {
        all_of_policy += whole_sum(part.policy_sum) * static_cast<Sum>(exp2_fast(part.policy_base - policy_base));
        all_of_reference +=
            whole_sum(part.reference_sum) * static_cast<Sum>(exp2_fast(part.reference_base - reference_base));
      }
      // All lanes go on with both rows: shuffles would take longer than what they save.
      all_of_policy = warp_sum(all_of_policy);
      all_of_reference = warp_sum(all_of_reference);
      const float policy_sum = static_cast<float>(all_of_policy), reference_sum = static_cast<float>(all_of_reference);
      ResidentRow row;
      const auto describe = [&](float base, float sum, float& max, float& left, float& integer, float& factor) {
        const float log_sum = log2_fast(sum), norm = base + log_sum;
        max = norm * static_cast<float>(inverse_scale);
        left = (fmaf(-max, scale, base) + log_sum) * kLog2;
        integer = rintf(norm) - kBoost;
        factor = __fdividef(exp2_fast(integer - base), sum);
      };
      describe(policy_base, policy_sum, row.policy_max, row.policy_log_sum, row.policy_integer, row.policy_factor);
      describe(reference_base, reference_sum, row.reference_max, row.reference_log_sum, row.reference_integer,
               row.reference_factor);
      // log2 of the reference's sum over the policy's: where they are close by the series of atanh.
      const float apart = __fdividef(static_cast<float>(all_of_reference - all_of_policy), reference_sum + policy_sum);
      float log_sums = log2_fast(__fdividef(reference_sum, policy_sum));
      if (fabsf(apart) < 0.2f) {
        const float square = apart * apart;
        float series = fmaf(square, 1.0f / 9, 1.0f / 7);
        series = fmaf(series, square, 1.0f / 5);
        series = fmaf(series, square, 1.0f / 3);
        log_sums = 2 * kLog2E * fmaf(series * square, apart, apart);
      }
      // Of the log-normalisers to base 2.
      const Sum distance = difference(reference_base, policy_base) + static_cast<Sum>(log_sums);
      const Sum q_distance = kByPolicy ? distance : -distance;
      row.log_sums =
          (distance * inverse_scale - difference(row.reference_max, row.policy_max)) * static_cast<Sum>(inverse);
      row.whole_p = row.whole_q = row.fraction = 0.0f;
      row.rest = static_cast<float>(q_distance);
      if constexpr (sizeof(T) == 4) {
        const Sum logits = q_distance * inverse_scale, whole = rint(logits);
        const bool from_q = kByPolicy == (fabsf(row.reference_max) > fabsf(row.policy_max));
        row.whole_p = from_q ? 0.0f : static_cast<float>(-whole);
        row.whole_q = from_q ? static_cast<float>(whole) : 0.0f;
        row.fraction = static_cast<float>(logits - whole);
        row.rest = static_cast<float>((logits - whole - static_cast<Sum>(row.fraction)) * static_cast<Sum>(scale));
      }
      row.half = row.policy_max - 0.999f * static_cast<float>(inverse_scale);
      row.slope = common_slope * weight;
      row.mean_ratio = 0.0f;
      if constexpr (kMoment) {
        float moment = 0.0f;
        for (const Part& part : own)
          moment += exp2_fast(part.policy_base - policy_base) *
                    fmaf(part.policy_sum, (part.reference_base - part.policy_base) - row.rest, part.moment);
        row.mean_ratio = __fdividef(warp_sum(moment), policy_sum);
      }
      row.mean_score = 0.0f;
      row.proper = policy_sum > 0.0f && policy_sum < kInfinite && reference_sum > 0.0f && reference_sum < kInfinite;
      row.active = kGradient && weight != 0.0f;
      if (lane == 0) {
        row_of[i] = row;
        barrier_arrive(barriers + kReady + i);
      }
      __syncwarp();
    };
    int pair = 0;
    for (int64_t r = start; r < rows; r = from(r + step)) normalise(pair++, weight_of(r));
  } else if (warp == kResidentWarps + 2) {
    // ---------------------------------------------------------------------------------------------- results
    const auto judge = [&](int64_t r, int i, uint32_t phase) {
      barrier_sleep(barriers + kMeasured + i, phase);
      const ResidentRow row = row_of[i];
      ResidentSums none{};
      none.top = -1;
      {
        const ResidentSums part = lane < kResidentWarps ? warp_sums[i][lane] : none;
        ResidentSums block = with_top(part);
        block.divergence = warp_sum<kResidentWarps>(block.divergence);
        if (!kScored) block.others = warp_sum<kResidentWarps>(block.others);
        if (kScored) block.score = warp_sum<kResidentWarps>(block.score);
        if (kScored) block.mass = warp_sum<kResidentWarps>(block.mass);
        if (lane < cluster)
          cluster_post(cluster_address(&block_sums[i][rank], lane), block,
                       cluster_address(barriers + kGathered + i, lane));
        if (lane == 0) barrier_expect(barriers + kGathered + i, static_cast<uint32_t>(cluster * sizeof(ResidentSums)));
      }
      barrier_sleep_cluster(barriers + kGathered + i, phase);
      const ResidentSums part = lane < cluster ? block_sums[i][lane] : none;
      const ResidentSums top = with_top(part);
      using Sum = std::conditional_t<sizeof(T) == 4, double, float>;
      const auto all_blocks = [](float x) { return warp_sum<kResidentCluster>(static_cast<Sum>(x)); };
      Sum divergence = all_blocks(part.divergence);
      const Sum others = kScored ? Sum{0} : all_blocks(part.others);
      const Sum score = kScored ? all_blocks(part.score) : Sum{0}, mass = kScored ? all_blocks(part.mass) : Sum{0};
      const Sum top_value = top.top_value, share = top.top_probability, slope = row.slope;
      const Sum top_share = top.top >= 0 ? share : Sum{0}, all = mass + top_share;
      // Of q - p.
      Sum change = 0;
      if (kForm == Form::kForwardKl && kChanges) change = others + (top.top >= 0 ? top_value : Sum{0});
      if constexpr (kScored) {
        const float mean = static_cast<float>(score + top_share * top_value) / static_cast<float>(all);
        if (!kJsd) change = divergence + static_cast<Sum>(mean);
        if constexpr (kThird) {
          __syncwarp();  // all have read the row
          if (lane == 0) {
            row_of[i].mean_score = mean;
            row_of[i].active = row.active && divergence < static_cast<Sum>(kInfinite);
          }
        }
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(barriers + kJudged + i);
      if (divergence < static_cast<Sum>(kInfinite)) {
        divergence -= change * change / 2;
        if (divergence < 0) divergence = 0;
      }
      if (args.divergence && rank == 0 && lane == 0)
        pointer<float>(args.divergence)[r] = static_cast<float>(divergence);
      if (!kGradient || !row.active) return;
      if (!(__shfl_sync(~0u, divergence, 0) < static_cast<Sum>(kInfinite))) {
        float nan[kElements];
#pragma unroll
        for (float& x : nan) x = __builtin_nanf("");
        const uint4 bits = pack<T>(nan);
#pragma unroll 1
        for (int j = lane; j < size; j += 32) __stcs(reinterpret_cast<uint4*>(gradient_of(r)) + j, bits);
      } else if (top.top >= 0 && rank == 0 && lane == 0) {
        Sum top_gradient = -others;
        if (kForm == Form::kForwardKl)
          top_gradient = (change * (Sum{1} - share) - others) * slope;  // without the others' share of the error
        else if (kScored)
          // Its share times how far its score is from the mean, which is that of all.
          top_gradient = share * (score - mass * top_value) / all * slope;
        gradient_of(r)[top.top] = from_float<T>(static_cast<float>(top_gradient));
      }
    };
    int i = 0;
    uint32_t phase = 0;
    for (int64_t r = start; r < rows; r = from(r + step)) {
      judge(r, i, phase);
      if (i == 1) phase ^= 1;
      i ^= 1;
    }
  } else {
    // ------------------------------------------------------------------------------------------------ sweeps
    int own = warp * 32 + lane;
    // Addresses in shared memory: of the lane's pack of slot 0, of barriers, of a masked pack, of the second half of a
    // pack's scores; in that of the block of the lane's number, of the warp's part of pair 0, of the parts' barriers.
    constexpr uint32_t kHalfSlot = kSlotBytes / 2;
    uint32_t own_address = shared_address(ring + own), barriers_address = shared_address(barriers),
             masked_address = shared_address(&masked_pack),
             scores_address = shared_address(ring + slots * 2 * kStepPacks + own),
             parts_address = cluster_address(&parts[0][rank * kResidentWarps + warp], lane % cluster),
             joined_address = cluster_address(barriers + kJoined, lane % cluster);
    const auto barrier = [&](int i) { return barriers_address + static_cast<uint32_t>(i) * 8; };
    float k3_first = kK3First<T>, weight = series.weight, other_weight = series.other_weight;
    hold(own);
    hold(own_address);
    hold(barriers_address);
    hold(masked_address);
    hold(scores_address);
    hold(parts_address);
    hold(joined_address);
    hold(k3_first);
    hold(weight);
    hold(other_weight);
    // Steps of which the warp has packs.
    const int own_steps = (max(size - warp * 32, 0) + kStepPacks - 1) / kStepPacks;
    uint32_t summed = 0;         // pairs
    int sum_slot = 0, slot = 0;  // of the next pair to be summed, of the oldest in the ring
    uint32_t sum_phase = 0;
    float policy_base = 0.0f, policy_sum = 0.0f;  // the warp's part of the pair that was summed last
    const auto sum_up = [&] {
      constexpr int kAtOnce = sizeof(T) == 4 ? 2 : 1;  // steps in registers
      ResidentPart part;
      float all_moments;
      // Of f32 rows, the largest logit's term: this lane's, 0 in all lanes but one, and how far it is from 1.
      float policy_top = 0.0f, reference_top = 0.0f, policy_left = -kApart, reference_left = -kApart;
      // Bases are the largest logits: of f32 rows those so far; of 16-bit rows those of the first step, and where that
      // proves to be too little for f32, those of all.
      for (bool careful = false;; careful = true) {
        part = {kLeast, 0.0f, kLeast, 0.0f};
        all_moments = 0.0f;
        int at;
        uint32_t phase;
        const auto first_slot = [&] { at = sum_slot, phase = sum_phase; };
        const auto next_packs = [&](bool inside, uint4& policy, uint4& reference) {
          barrier_sleep(barrier(kFull + at), phase);
          const uint32_t address = own_address + at * kSlotBytes;
          policy = load_shared(inside ? address : masked_address);
          reference = load_shared(inside ? address + kHalfSlot : masked_address);
          if (++at == slots) at = 0, phase ^= 1;
        };
        if (!kCorrected && own_steps > 0) {
          uint4 tops[2];
          first_slot();
          next_packs(own < size, tops[0], tops[1]);
          for (int s = 1; careful && s < own_steps; ++s) {
            uint4 policy, reference;
            next_packs(own + s * kStepPacks < size, policy, reference);
            tops[0] = max_pack<T>(tops[0], policy);
            tops[1] = max_pack<T>(tops[1], reference);
          }
          part.policy_base = fmaxf(kLeast, __fmul_rn(warp_max(max_of_pack<T>(tops[0])), scale));
          part.reference_base = fmaxf(kLeast, __fmul_rn(warp_max(max_of_pack<T>(tops[1])), scale));
        }
        first_slot();
#pragma unroll 1
        for (int first_step = 0, left = size - own; first_step < own_steps; first_step += kAtOnce) {
          uint4 policy[kAtOnce], reference[kAtOnce];
#pragma unroll
          for (int j = 0; j < kAtOnce; ++j) {
            if (j > 0 && first_step + j >= own_steps) break;
            next_packs(left > j * kStepPacks, policy[j], reference[j]);
          }
          // Of the terms of these steps, what does not belong to the sums.
          float policy_apart = 0.0f, reference_apart = 0.0f;
          if constexpr (kCorrected) {
            uint4 tops[2] = {policy[0], reference[0]};
#pragma unroll
            for (int j = 1; j < kAtOnce; ++j) {
              if (first_step + j >= own_steps) break;
              tops[0] = max_pack<T>(tops[0], policy[j]);
              tops[1] = max_pack<T>(tops[1], reference[j]);
            }
            const auto raise = [&](const uint4& packs, float& base, float& sum, float& top, float& left) {
              const float own = max_of_pack<T>(packs), largest = warp_max(own), raised = __fmul_rn(largest, scale);
              if (!(raised > base)) return 0.0f;
              sum = (sum + top) * exp2_fast(base - raised);
              base = raised;
              const float z = fmaf(largest, scale, -base), y = z * kLog2;
              left = fmaf(y, 0.5f * y, y);
              top = lane == __ffs(static_cast<int>(__ballot_sync(~0u, own == largest))) - 1 ? exp2_fast(z) : 0.0f;
              return top;
            };
            policy_apart = raise(tops[0], part.policy_base, part.policy_sum, policy_top, policy_left);
            reference_apart = raise(tops[1], part.reference_base, part.reference_sum, reference_top, reference_left);
          }
          float policy_terms = 0.0f, reference_terms = 0.0f;
#pragma unroll
          for (int j = 0; j < kAtOnce; ++j) {
            if (j > 0 && first_step + j >= own_steps) break;
            float x[kElements], y[kElements], e[kElements], sums[4], moments[2];
            unpack<T>(policy[j], x);
            unpack<T>(reference[j], y);
#pragma unroll
            for (int n = 0; n < kElements; ++n) {
              x[n] = fmaf(x[n], scale, -part.policy_base);
              y[n] = fmaf(y[n], scale, -part.reference_base);
              e[n] = exp2_fast(x[n]);
              const float f = exp2_fast(y[n]);
              sums[n % 2] = n < 2 ? e[n] : sums[n % 2] + e[n];
              sums[2 + n % 2] = n < 2 ? f : sums[2 + n % 2] + f;
              if (kMoment)
                moments[n % 2] = n < 2 ? __fmul_rn(e[n], y[n] - x[n]) : fmaf(e[n], y[n] - x[n], moments[n % 2]);
            }
            const float policy_pack = sums[0] + sums[1], reference_pack = sums[2] + sums[3];
            policy_terms = j == 0 ? policy_pack : policy_terms + policy_pack;
            reference_terms = j == 0 ? reference_pack : reference_terms + reference_pack;
            if constexpr (kMoment) {
              float moment = moments[0] + moments[1];
              if (careful && !(fabsf(moment) < kInfinite)) {  // a masked token, or none at all
                moment = 0.0f;
#pragma unroll
                for (int n = 0; n < kElements; ++n)
                  if (x[n] != -kInfinite) moment += y[n] == -kInfinite ? -kInfinite : __fmul_rn(e[n], y[n] - x[n]);
              }
              if (left > j * kStepPacks) all_moments += moment;
            }
          }
          part.policy_sum += kCorrected ? policy_terms - policy_apart : policy_terms;
          part.reference_sum += kCorrected ? reference_terms - reference_apart : reference_terms;
          left -= kAtOnce * kStepPacks;
        }
        warp_sum_both(part.policy_sum, part.reference_sum);
        if (kCorrected) part.policy_sum += policy_left, part.reference_sum += reference_left;
        if (kMoment) all_moments = warp_sum(all_moments);
        constexpr float kMost = 1e30f;
        if (kCorrected || careful ||
            (part.policy_sum < kMost && part.reference_sum < kMost && fabsf(all_moments) < kMost))
          break;
      }
      sum_slot += steps;
      if (sum_slot >= slots) sum_slot -= slots, sum_phase ^= 1;
      const uint32_t at = summed++ % kDepth;
      if (lane < cluster) {
        const uint32_t to = parts_address + at * static_cast<uint32_t>(sizeof parts[0]),
                       there = joined_address + at * 8;
        if constexpr (kMoment)
          cluster_post(to, Part{part, all_moments}, there);
        else
          cluster_post(to, part, there);
      }
      policy_base = part.policy_base;
      policy_sum = part.policy_sum + kApart;
    };
    // body(step, the pack's index in the block's part, the policy's pack, the reference's pack, its address) for the
    // lane's packs of the oldest pair.
    const auto sweep = [&](bool last, const auto& body) {
      int at = slot;
#pragma unroll 1
      for (int s = 0, j = own; s < steps; ++s, j += kStepPacks) {
        const uint32_t address = own_address + at * kSlotBytes;
        if (j < size) body(s, j, load_shared(address), load_shared(address + kHalfSlot), address + kHalfSlot);
        if (last) {
          __syncwarp();
          if (lane == 0) barrier_arrive(barrier(kEmpty + at));
        }
        if (++at == slots) at = 0;
      }
      if (last) slot = at;
    };

    int i = 0;
    uint32_t phase = 0;
    T* dx = kGradient ? gradient_of(start) : nullptr;
    if (start < rows) sum_up();
    for (int64_t r = start, next; r < rows; r = next) {
      next = from(r + step);
      const float own_base = policy_base, own_sum = policy_sum;
      const auto first_of_next = [&] {
        if (next < rows) sum_up();
      };
      if (ahead && !kThird) first_of_next();
      barrier_sleep(barrier(kReady + i), phase);
      const ResidentRow& row = row_of[i];
      const T *const policy_logits = policy_of(r), *const reference_logits = reference_of(r);
      const bool gradient = kGradient && row.active, proper = row.proper;
      // body(token, logit of p, logit of q) for all tokens of flagged packs, several at once.
      const auto for_flagged = [&](uint32_t flags, const auto& body) {
        for (uint32_t marked = __reduce_or_sync(~0u, flags); marked; marked &= marked - 1) {
          const int s = __ffs(static_cast<int>(marked)) - 1;
          for (uint32_t lanes = __ballot_sync(~0u, flags >> s & 1); lanes;) {
            uint32_t mine = lanes;
#pragma unroll
            for (int n = 0; n < 32 / kElements; ++n) {
              if (n < lane / kElements) mine &= mine - 1;
              lanes &= lanes - 1;
            }
            if (!mine) continue;
            const int j =
                (s * kStepPacks + warp * 32 + __ffs(static_cast<int>(mine)) - 1) * kElements + lane % kElements;
            const float x = to_float(policy_logits[j]), y = to_float(reference_logits[j]);
            body(j, kByPolicy ? x : y, kByPolicy ? y : x);
          }
        }
      };
      ResidentSums sums{};
      sums.top = -1;
      uint32_t flags = 0;
      {
        const float whole_p = row.whole_p, whole_q = row.whole_q, fraction = row.fraction, rest = row.rest;
        const float p_integer = kByPolicy ? row.policy_integer : row.reference_integer;
        const float p_factor = kByPolicy ? row.policy_factor : row.reference_factor;
        const float own_slope = row.slope * p_factor * (kMoment ? kLog2 : 1.0f), own_mean = row.mean_ratio * own_slope;
        const float half = row.half;
        // The warp's share of the policy; more than half where it has the token that holds most, if one does.
        const float own_share = own_sum * exp2_fast(own_base - row.policy_integer) * row.policy_factor;
        const bool has_top = own_share > 0.5f;
        float divergence = 0.0f, others = 0.0f, score = 0.0f, mass = 0.0f;
        sweep(!kThird, [&](int s, int index, const uint4& policy, const uint4& reference, uint32_t address) {
          float p[kElements], q[kElements], g[kElements], terms[2] = {}, changes[2] = {}, scored[2] = {},
                                                          masses[2] = {};
          unpack<T>(kByPolicy ? policy : reference, p);
          unpack<T>(kByPolicy ? reference : policy, q);
#pragma unroll
          for (int n = 0; n < kElements; ++n) {
            const float d = sizeof(T) < 4 ? q[n] - p[n] : ((q[n] - whole_q) - (p[n] - whole_p)) - fraction;
            const float z = fmaf(d, scale, -rest);
            const float probability = exp2_fast(fmaf(p[n], scale, -p_integer));
            if constexpr (!kJsd) {
              const float k3 = k3_base_2<T>(z, k3_first);
              terms[n % 2] = fmaf(probability, k3, terms[n % 2]);
              if constexpr (kScored) {
                g[n] = z;
              } else if constexpr (kChanges && kForm == Form::kForwardKl) {
                const float change = __fmul_rn(probability, fmaf(z, kLog2, k3));
                changes[n % 2] = n < 2 ? change : __fadd_rn(changes[n % 2], change);
                g[n] = __fmul_rn(change, own_slope);
              } else if constexpr (kChanges) {
                g[n] = __fmul_rn(probability, fmaf(z, -own_slope, own_mean));
                changes[n % 2] = n < 2 ? g[n] : __fadd_rn(changes[n % 2], g[n]);
              }
            } else {
              constexpr int kTerms = sizeof(series.log) / sizeof(float);
              const auto polynomial = [&](const float(&c)[kTerms]) {
                float sum = c[kTerms - 1];
#pragma unroll
                for (int m = kTerms - 2; m >= 0; --m) sum = fmaf(sum, z, c[m]);
                return sum;
              };
              const bool near = fabsf(z) < series.kNear;
              const float e = exp2_fast(z), near_log = __fmul_rn(polynomial(series.log), z);
              if constexpr (sizeof(T) < 4) {
                const float mixed = fmaf(weight, e, other_weight);
                const float log_mixed = near ? near_log : log2_fast(mixed);
                g[n] = kByPolicy ? log_mixed : __fsub_rn(log_mixed, z);
                terms[n % 2] = kByPolicy ? fmaf(__fmul_rn(probability, e), __fsub_rn(z, log_mixed), terms[n % 2])
                                         : fmaf(probability, log_mixed, terms[n % 2]);
              } else {
                const float we = __fmul_rn(series.weight, e), mixed = __fadd_rn(we, series.other_weight);
                const float log = log2_fast(mixed);
                float log_mixed = log, term = fmaf(we, z, -__fmul_rn(mixed, log));
                choose(near, near_log, log_mixed, __fmul_rn(polynomial(series.term), __fmul_rn(z, z)), term);
                terms[n % 2] = fmaf(probability, term, terms[n % 2]);
                g[n] = kByPolicy ? log_mixed : __fsub_rn(log_mixed, z);
              }
            }
            if constexpr (kScored) {
              const float of_policy = kByPolicy ? probability : __fmul_rn(probability, exp2_fast(z));
              scored[n % 2] = fmaf(of_policy, g[n], scored[n % 2]);
              if (!kHalves) masses[n % 2] = n < 2 ? of_policy : __fadd_rn(masses[n % 2], of_policy);
            }
          }
          const float sum = terms[0] + terms[1], scores = scored[0] + scored[1];
          const float overflowing = kHalves && !kByPolicy ? scores : sum;  // where any of the terms does
          const bool special = !(fabsf(overflowing) < kInfinite) || (has_top && max_of_pack<T>(policy) > half);
          if (special) {
            flags |= 1u << s;
            return;
          }
          divergence += sum;
          if constexpr (!kScored) {
            if (kChanges) others += changes[0] + changes[1];
            if (gradient) __stcs(reinterpret_cast<uint4*>(dx) + index, pack<T>(g));
          } else {
            score += scores;
            if (!kHalves) mass += masses[0] + masses[1];
            if constexpr (kThird) {  // scores take the reference's place
              uint4 halves[kElements / 4];
              memcpy(halves, g, sizeof g);
              store_shared(address, halves[0]);
              if (Shape::kMoreScores) store_shared(scores_address + s * kHalfSlot, halves[kElements / 4 - 1]);
            }
          }
        });
        if (kHalves)  // in units of log 2
          divergence = kByPolicy ? fmaf(series.weight, divergence, -series.other_weight * score)
                                 : -fmaf(series.other_weight, divergence, series.weight * score);
        sums.divergence = divergence * p_factor * (kJsd ? kLog2 : 1.0f);
        sums.others = kMoment ? others : others * p_factor;
        sums.score = score * p_factor * kLog2;
        sums.mass = mass * p_factor;
        if (kHalves) {
          sums.mass = own_share;
          if (kThird && has_top) {  // which does not count: taken off, it would leave few digits
            sweep(false, [&](int, int, const uint4& policy, const uint4&, uint32_t) {
              float x[kElements];
              unpack<T>(policy, x);
#pragma unroll
              for (const float logit : x)
                mass += logit > half ? 0.0f : exp2_fast(fmaf(logit, scale, -row.policy_integer));
            });
            sums.mass = warp_sum(mass) * row.policy_factor;
          }
        }
      }
      if (!proper) {
        sums.divergence = __builtin_nanf("");
      } else if (__any_sync(~0u, flags != 0)) {
        const auto pair = pair_of<kForm>(row, inverse, args.beta);
        for_flagged(flags, [&](int j, float p, float q) {
          const float difference = pair.difference(p, q);
          const auto token = pair.token(p, q, difference);
          sums.divergence =
              __fadd_rn(sums.divergence, !kJsd && difference == -kInfinite ? kInfinite : token.divergence);
          if ((kByPolicy ? p : q) > row.half) {
            sums.top = static_cast<int32_t>(first) + j;
            sums.top_probability = token.policy;
            sums.top_value = kScored ? token.score : token.change;
          } else if (kScored) {
            sums.score = fmaf(token.policy, token.score, sums.score);
            if (!kHalves) sums.mass = __fadd_rn(sums.mass, token.policy);
          } else {
            const float own_gradient =
                kForm == Form::kForwardKl
                    ? token.change
                    : __fmul_rn(__fmul_rn(token.policy, row.mean_ratio * kLog2 - token.score), row.slope);
            sums.others = __fadd_rn(sums.others, own_gradient);
            if (gradient) dx[j] = from_float<T>(kForm == Form::kForwardKl ? own_gradient * row.slope : own_gradient);
          }
        });
      }
      {
        sums = with_top(sums);
        if (kHalves) {
          warp_sum_both(sums.divergence, sums.score);
        } else if (kScored) {
          sums.divergence = warp_sum(sums.divergence);
          warp_sum_both(sums.score, sums.mass);
        } else {
          warp_sum_both(sums.divergence, sums.others);
        }
        if (lane == 0) {
          store_whole(&warp_sums[i][warp], sums);
          barrier_arrive(barrier(kMeasured + i));
        }
        if (kThird) bulk_fence();  // scores were written where loads will be
      }
      if (ahead && kThird) first_of_next();
      if constexpr (kThird) {
        barrier_sleep(barrier(kJudged + i), phase);
        const bool active = gradient && row.active;
        const float own_slope = row.slope * row.policy_factor, own_log_slope = own_slope * kLog2;
        const float own_mean = own_slope * row.mean_score, integer = row.policy_integer;
        const uint32_t skipped = active ? flags : ~0u;
        sweep(true, [&](int s, int index, const uint4& policy, const uint4& reference, uint32_t) {
          if (skipped >> s & 1) return;
          float x[kElements], g[kElements];
          uint4 halves[kElements / 4];
          unpack<T>(policy, x);
          halves[0] = reference;
          if (Shape::kMoreScores) halves[kElements / 4 - 1] = load_shared(scores_address + s * kHalfSlot);
          memcpy(g, halves, sizeof g);
#pragma unroll
          for (int n = 0; n < kElements; ++n)
            g[n] = exp2_fast(fmaf(x[n], scale, -integer)) * fmaf(g[n], -own_log_slope, own_mean);
          __stcs(reinterpret_cast<uint4*>(dx) + index, pack<T>(g));
        });
        if (active && __any_sync(~0u, flags != 0)) {
          const auto pair = pair_of<kForm>(row, inverse, args.beta);
          for_flagged(flags, [&](int j, float p, float q) {
            if (static_cast<int32_t>(first) + j != sums.top)
              dx[j] = from_float<T>(pair.gradient(p, q, row.mean_score) * row.slope);
          });
        }
      }
      if (!ahead) first_of_next();
      if (kGradient) dx += (next - r) * args.d_logits_stride;
      if (i == 1) phase ^= 1;
      i ^= 1;
    }
    if (kGradient && args.weight) {
      // 32 of the cluster's rows a warp, a weight a lane: one after the other they would cost a latency each.
      for (int64_t k = warp * 32; blockIdx.x / cluster + k * step < rows; k += kStepPacks) {
        const int64_t r = blockIdx.x / cluster + (k + lane) * step;
        for (uint32_t left = __ballot_sync(~0u, r < rows && weight_of(r) == 0.0f); left; left &= left - 1) {
          const int64_t row = blockIdx.x / cluster + (k + __ffs(static_cast<int>(left)) - 1) * step;
          for (int j = lane; j < size; j += 32)
            __stcs(reinterpret_cast<uint4*>(gradient_of(row)) + j, make_uint4(0, 0, 0, 0));
        }
      }
    }
  }
  cluster_sync();  // no block leaves while others write to its shared memory
#endif
}

// Where a cluster can hold a pair of rows, which are whole packs; false: none can.
template <Form kForm, class T, bool kGradient>
bool launch_resident(const Device& device, const saccade_logit_divergence_args& args) {
  const int64_t row_packs = args.vocabulary / kPack<T>;
  const double weight = under_policy(kForm) ? static_cast<double>(args.beta) : 1.0 - static_cast<double>(args.beta);
  if (is_jsd(kForm) && weight < kLeastWeight) return false;
  using Shape = ResidentShape<kForm, T, kGradient>;
  for (const bool ahead : {true, false})
    for (int cluster = 2; cluster <= kResidentCluster; cluster *= 2) {
      const int64_t steps = divide_up(divide_up(row_packs, cluster), kStepPacks);
      const int64_t scores = Shape::kMoreScores ? steps * kSlotBytes / 2 : 0;
      int64_t slots = (device.shared_memory - Shape::kStatic - scores) / kSlotBytes;
      if (slots > kMostSlots) slots = kMostSlots;
      if (slots < (ahead ? 2 * steps : steps)) continue;
      if (slots > 3 * steps) slots = 3 * steps;
      const int shared = static_cast<int>(slots * kSlotBytes + scores);
      const auto kernel = resident_kernel<kForm, T, kGradient>;
      int64_t clusters = resident_clusters(device, kernel, cluster, kResidentThreads, shared);
      if (clusters == 0) return false;
      if (clusters > args.rows) clusters = args.rows;
      launch_clusters(device, kernel, cluster, clusters, kResidentThreads, shared, args, SeriesOf<T>::of(weight),
                      cluster, static_cast<int32_t>(slots), ahead);
      return true;
    }
  return false;
}

}  // namespace saccade::cuda
