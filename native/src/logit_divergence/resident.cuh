// Pairs of rows that the blocks of a cluster keep in their shared memory, on Hopper: every logit is read once from
// device memory.
//
// A cluster takes pair after pair; each of its blocks owns a part of the vocabulary, which passes through a ring of
// slots in steps of a 16-byte pack a lane.  One warp of a block fills the slots by bulk loads; two join what the
// blocks' warps sum up, in the first and the later sweeps; the others compute:
//
//   1  sums of exponentials; for REVERSE_KL also the mean of the log-ratios, which are linear in the logits
//   2  with the normalisers, the divergence; for KL also the gradient
//   3  JSD: with the mean of the scores, the gradient
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

constexpr int kResidentWarps = 19;  // that compute
constexpr int kResidentThreads = (kResidentWarps + 3) * 32;
constexpr int kResidentCluster = 8;  // most blocks of a cluster
constexpr int kStepPacks = kResidentWarps * 32;
constexpr int kSlotBytes = 2 * kStepPacks * 16;  // policy, reference
constexpr int kMostSlots = 32;
// Of JSD: below it log2(M/p) is small where the log-ratio is not, and a plain logarithm of M/p too coarse.
constexpr double kLeastWeight = 1.0 / 16.0;

// Terms of JSD near y = 0 by the log-ratio z to base 2: log2(M/p) = z log(z), and the divergence in units of p log 2 is
// z^2 term(z).
struct MixtureSeries {
  static constexpr int kTerms = 6;
  static constexpr float kNear = 1.0f;  // in z
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

// What a warp or a block knows of its part of a pair: the largest logits, and the sums of 2^(scale logit - base) with
// base the product of scale and the largest, rounded; for REVERSE_KL also that of the policy's terms times (reference -
// policy - offset).
struct ResidentPart {
  float policy_max, policy_sum, reference_max, reference_sum, moment, offset;
};

// What a warp or a block finds in its part of a pair.  The token that holds most of the policy, where there is one, is
// kept apart.
struct ResidentSums {
  float divergence;
  float others;       // KL: of gradients
  float score, mass;  // JSD: of the policy
  float top_value;    // FORWARD_KL: q - p; JSD: the score
  float top_probability;
  int32_t top;  // below 0: none
};

// What all threads must know of a pair of rows between its sweeps.
struct ResidentRow {
  double log_sums;  // of the reference's normaliser less that of the policy, relative to the largest logits
  float policy_max, policy_log_sum, reference_max, reference_log_sum;
  // Pair::difference, and what is left of it by scale.
  float whole_p, whole_q, fraction, rest;
  // 2^(scale logit - integer) * factor is a probability.
  float policy_integer, reference_integer, policy_factor, reference_factor;
  float all_but_top;  // of the policy
  float slope;
  float mean;        // REVERSE_KL: of `difference - fraction` under the policy
  float mean_ratio;  // that of the log-ratio
  float mean_score;  // JSD
  bool proper;       // both rows are distributions
  bool led;          // one token holds most of the policy
  bool active;       // there is a gradient to be written
};

template <Form kForm>
__device__ __forceinline__ Pair<kForm> pair_of(const ResidentRow& row, float inverse, float beta) {
  return Pair<kForm>({row.policy_max, row.policy_log_sum}, {row.reference_max, row.reference_log_sum}, row.log_sums,
                     inverse, beta);
}

// Writes to where `p` of this block is in the shared memory of block `rank`.
template <class V>
__device__ __forceinline__ void cluster_post(V* p, int rank, const V& value) {
  float words[sizeof(V) / 4];
  memcpy(words, &value, sizeof value);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(V) / 4); ++i)
    cluster_store(reinterpret_cast<float*>(p) + i, rank, words[i]);
}

template <class V>
__device__ __forceinline__ V warp_sum(V x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
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

template <class T>
__device__ __forceinline__ void unpack(const uint4& bits, float (&x)[kPack<T>]) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      x[i] = __uint_as_float(words[i]);
    } else if constexpr (std::is_same_v<T, bf16>) {
      x[2 * i] = __uint_as_float(words[i] << 16);
      x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    } else {
      __half2 pair;
      memcpy(&pair, &words[i], 4);
      x[2 * i] = __low2float(pair);
      x[2 * i + 1] = __high2float(pair);
    }
  }
}

template <class T>
__device__ __forceinline__ uint4 pack(const float (&x)[kPack<T>]) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      words[i] = __float_as_uint(x[i]);
    } else if constexpr (std::is_same_v<T, bf16>) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
      memcpy(&words[i], &pair, 4);
    } else {
      const __half2 pair = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
      memcpy(&words[i], &pair, 4);
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// The larger, element by element; NaN only where both are.
template <class T>
__device__ __forceinline__ uint4 max_pack(const uint4& a, const uint4& b) {
  uint32_t x[4] = {a.x, a.y, a.z, a.w};
  const uint32_t y[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4)
      x[i] = __float_as_uint(fmaxf(__uint_as_float(x[i]), __uint_as_float(y[i])));
    else if constexpr (std::is_same_v<T, bf16>)
      asm("max.bf16x2 %0, %0, %1;" : "+r"(x[i]) : "r"(y[i]));
    else
      asm("max.f16x2 %0, %0, %1;" : "+r"(x[i]) : "r"(y[i]));
  }
  return make_uint4(x[0], x[1], x[2], x[3]);
}

// -inf.
template <class T>
__device__ __forceinline__ uint4 lowest_pack() {
  constexpr uint32_t kBits = sizeof(T) == 4 ? 0xff800000u : std::is_same_v<T, bf16> ? 0xff80ff80u : 0xfc00fc00u;
  return make_uint4(kBits, kBits, kBits, kBits);
}

template <class T>
__device__ __forceinline__ float max_of_pack(uint4 a) {
  a = max_pack<T>(a, make_uint4(a.z, a.w, a.z, a.w));
  a = max_pack<T>(a, make_uint4(a.y, a.y, a.z, a.w));
  if constexpr (sizeof(T) == 4) return __uint_as_float(a.x);
  float x[kPack<T>];
  unpack<T>(a, x);
  return fmaxf(x[0], x[1]);
}

// Keeps a value in its register: the compiler would rather make it again in every step of a loop.
__device__ __forceinline__ void hold(int& x) { asm volatile("" : "+r"(x)); }
__device__ __forceinline__ void hold(float& x) { asm volatile("" : "+f"(x)); }
template <class V>
__device__ __forceinline__ void hold(V*& x) {
  asm volatile("" : "+l"(x));
}

// a and b where `take`, without a branch.
__device__ __forceinline__ void choose(bool take, float a, float& x, float b, float& y) {
  asm("{\n.reg .pred p;\nsetp.ne.u32 p, %2, 0;\nselp.f32 %0, %3, %0, p;\nselp.f32 %1, %4, %1, p;\n}"
      : "+f"(x), "+f"(y)
      : "r"(static_cast<uint32_t>(take)), "f"(a), "f"(b));
}

// K3 by the log-ratio z to base 2, up to 128: by a polynomial, whose first coefficient the caller holds, where |z| is
// small.
constexpr float kK3First = 1.541727834e-4f;

__device__ __forceinline__ float k3_base_2(float z, float first) {
  float p = fmaf(first, z, 1.338124974e-3f);
  p = fmaf(p, z, 9.618172422e-3f);
  p = fmaf(p, z, 5.550381169e-2f);
  p = fmaf(p, z, 2.402265072e-1f);
  const float far = fmaf(z, -kLog2, exp2_fast(z) - 1.0f);
  return fabsf(z) < 0.5f ? __fmul_rn(p, __fmul_rn(z, z)) : far;
}

template <Form kForm, class T, bool kGradient>
__global__ void __launch_bounds__(kResidentThreads, 1)
    resident_kernel(const __grid_constant__ saccade_logit_divergence_args args,
                    const __grid_constant__ MixtureSeries series, int32_t cluster, int32_t slots, bool ahead) {
#if defined(SACCADE_HOPPER)
  constexpr int kElements = kPack<T>;
  constexpr bool kByPolicy = under_policy(kForm), kJsd = is_jsd(kForm), kThird = kJsd && kGradient;
  // The error of 16-bit rows' normalisers is nothing beside the steps of their logits.
  constexpr bool kCorrected = sizeof(T) == 4;
  constexpr bool kChanges = !kJsd && (kGradient || kCorrected);
  constexpr bool kMoment = kForm == Form::kReverseKl && kGradient;
  // Probabilities are held times 2^kBoost: of a token whose p is below the range of f32 and whose e^y is not beyond it,
  // less than 2^-30 of q is lost.
  constexpr float kBoost = 32.0f;
  constexpr float kLeast = -1e30f;  // below any logit but masked ones
  const float kInfinite = INFINITY;
  extern __shared__ __align__(128) unsigned char memory[];
  __shared__ uint64_t full[kMostSlots], empty[kMostSlots];
  // Barriers and what they guard, by the parity of the pair: the sums of exponentials of the block's warps, of all
  // blocks, the normalisers; the divergence's sums of the block's warps, of all blocks, the results.
  __shared__ uint64_t summed[2], joined[2], ready[2], measured[2], gathered[2], judged[2];
  __shared__ ResidentPart warp_parts[2][32], block_parts[2][kResidentCluster];
  __shared__ ResidentSums warp_sums[2][32], block_sums[2][kResidentCluster];
  __shared__ ResidentRow row_of[2];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = cluster_rank();
  auto* const ring = reinterpret_cast<uint4*>(memory);
  auto* const lows = ring + slots * 2 * kStepPacks;  // lower halves of scores

  const int64_t rows = args.rows, step = gridDim.x / cluster;
  const int64_t row_packs = args.vocabulary / kElements, block_packs = (row_packs + cluster - 1) / cluster;
  const int64_t first_pack = rank * block_packs, first = first_pack * kElements;
  const int64_t left = row_packs - first_pack;
  const int size = static_cast<int>(left < 0 ? 0 : left < block_packs ? left : block_packs);
  const int steps = (size + kStepPacks - 1) / kStepPacks;
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
  const auto base_of = [&](float max) { return __fmul_rn(max, scale); };  // rounded, in every use

  if (threadIdx.x == 0) {
    for (int s = 0; s < slots; ++s) {
      barrier_init(full + s, 2);
      barrier_init(empty + s, kResidentWarps);
    }
    for (int i = 0; i < 2; ++i) {
      barrier_init(summed + i, kResidentWarps);
      barrier_init(measured + i, kResidentWarps);
      barrier_init(joined + i, cluster);
      barrier_init(gathered + i, cluster);
      barrier_init(ready + i, 1);
      barrier_init(judged + i, 1);
    }
    barrier_fence();
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
          barrier_wait(empty + slot, phase);
          bulk_load(to, policy + at * kElements, bytes, full + slot);
          bulk_load(to + kStepPacks, reference + at * kElements, bytes, full + slot);
          if (++slot == slots) slot = 0, phase ^= 1;
        }
      }
    }
    __syncwarp();
  } else if (warp == kResidentWarps + 1) {
    // ------------------------------------------------------------------------------------------------ normalisers
    const double inverse_scale = 1.0 / static_cast<double>(scale);
    const double common_slope = static_cast<double>(args.grad_output ? *pointer<const float>(args.grad_output) : 1.0f) /
                                static_cast<double>(args.temperature) *
                                (kJsd ? 1.0 - static_cast<double>(args.beta) : 1.0);
    // Sums of parts, to the largest of their maxima.
    struct Joined {
      float policy_max, reference_max;
      double policy_sum, reference_sum;
    };
    const auto join = [&](const ResidentPart& part) {
      Joined all;
      all.policy_max = warp_max(part.policy_max);
      all.reference_max = warp_max(part.reference_max);
      const float policy_unit = exp2_fast(base_of(part.policy_max) - base_of(all.policy_max));
      const float reference_unit = exp2_fast(base_of(part.reference_max) - base_of(all.reference_max));
      all.policy_sum = static_cast<double>(part.policy_sum) * static_cast<double>(policy_unit);
      all.reference_sum = static_cast<double>(part.reference_sum) * static_cast<double>(reference_unit);
      warp_sum_both(all.policy_sum, all.reference_sum);
      return all;
    };
    const auto join_moments = [&](const ResidentPart& part, float policy_max, float offset) {
      return warp_sum(static_cast<double>(exp2_fast(base_of(part.policy_max) - base_of(policy_max))) *
                      (static_cast<double>(part.moment) +
                       static_cast<double>(part.policy_sum) * static_cast<double>(part.offset - offset)));
    };
    const ResidentPart nothing{kLeast, 0.0f, kLeast, 0.0f, 0.0f, 0.0f};
    const auto normalise = [&](int i, uint32_t phase, bool used, float weight) {
      if (used) barrier_wait(judged + i, phase ^ 1);  // what this overwrites was read
      barrier_wait(summed + i, phase);
      {
        const ResidentPart part = lane < kResidentWarps ? warp_parts[i][lane] : nothing;
        const Joined all = join(part);
        ResidentPart block{all.policy_max,
                           static_cast<float>(all.policy_sum),
                           all.reference_max,
                           static_cast<float>(all.reference_sum),
                           0.0f,
                           all.reference_max - all.policy_max};
        if (kMoment) block.moment = static_cast<float>(join_moments(part, all.policy_max, block.offset));
        if (lane < cluster) {
          cluster_post(&block_parts[i][rank], lane, block);
          cluster_arrive(joined + i, lane);
        }
      }
      barrier_wait_cluster(joined + i, phase);
      const ResidentPart part = lane < cluster ? block_parts[i][lane] : nothing;
      const Joined all = join(part);
      const float policy_base = base_of(all.policy_max), reference_base = base_of(all.reference_max);
      const float policy_sum = static_cast<float>(all.policy_sum),
                  reference_sum = static_cast<float>(all.reference_sum);
      // log2 of the reference's sum over the policy's: by log1p where they are close.
      const float excess = static_cast<float>(all.reference_sum - all.policy_sum) / policy_sum;
      const float log_policy = log2f(policy_sum), log_reference = log2f(reference_sum);
      const float log_sums = fabsf(excess) < 0.5f ? log1pf(excess) * kLog2E : log_reference - log_policy;
      const double distance =
          (static_cast<double>(reference_base) - static_cast<double>(policy_base) + static_cast<double>(log_sums)) *
          inverse_scale;  // of the normalisers, in units of logits
      const double q_distance = kByPolicy ? distance : -distance, whole = sizeof(T) < 4 ? 0.0 : rint(q_distance);
      const bool from_q = kByPolicy == (fabsf(all.reference_max) > fabsf(all.policy_max));
      // What rounding put between a base and scale times the largest.
      const float policy_rounded = fmaf(all.policy_max, scale, -policy_base);
      const float reference_rounded = fmaf(all.reference_max, scale, -reference_base);
      ResidentRow row;
      row.log_sums = (distance - (static_cast<double>(all.reference_max) - static_cast<double>(all.policy_max))) *
                     static_cast<double>(inverse);
      row.policy_max = all.policy_max;
      row.reference_max = all.reference_max;
      row.policy_log_sum = (log_policy - policy_rounded) * kLog2;
      row.reference_log_sum = (log_reference - reference_rounded) * kLog2;
      row.whole_p = from_q ? 0.0f : static_cast<float>(-whole);
      row.whole_q = from_q ? static_cast<float>(whole) : 0.0f;
      row.fraction = static_cast<float>(q_distance - whole);
      row.rest =
          static_cast<float>((q_distance - whole - static_cast<double>(row.fraction)) * static_cast<double>(scale));
      row.policy_integer = rintf(policy_base) - kBoost;
      row.reference_integer = rintf(reference_base) - kBoost;
      row.policy_factor = exp2f(row.policy_integer - policy_base) / policy_sum;
      row.reference_factor = exp2f(row.reference_integer - reference_base) / reference_sum;
      row.all_but_top =
          static_cast<float>(all.policy_sum - 1.0 - static_cast<double>(policy_rounded * kLog2)) / policy_sum;
      row.slope = static_cast<float>(common_slope * static_cast<double>(weight));
      row.mean = 0.0f;
      if (kMoment)
        row.mean = static_cast<float>(join_moments(part, all.policy_max, static_cast<float>(whole) + row.fraction)) /
                   policy_sum;
      row.mean_ratio = fmaf(row.mean, inverse, -row.rest * kLog2);
      row.mean_score = 0.0f;
      row.proper = policy_sum > 0.0f && policy_sum < kInfinite && reference_sum > 0.0f && reference_sum < kInfinite;
      row.led = policy_sum < 1.999f;
      row.active = kGradient && weight != 0.0f;
      if (lane == 0) {
        row_of[i] = row;
        barrier_arrive(ready + i);
      }
      __syncwarp();
    };
    int i = 0;
    uint32_t phase = 0;
    bool used = false;
    for (int64_t r = start; r < rows; r = from(r + step)) {
      normalise(i, phase, used, weight_of(r));
      if (i == 1) phase ^= 1, used = true;
      i ^= 1;
    }
  } else if (warp == kResidentWarps + 2) {
    // ---------------------------------------------------------------------------------------------- results
    const auto judge = [&](int64_t r, int i, uint32_t phase) {
      barrier_wait(measured + i, phase);
      const ResidentRow row = row_of[i];
      // A lane's part with what all lanes have of the top token.
      const auto with_top = [&](ResidentSums part) {
        const uint32_t holder = __ballot_sync(~0u, part.top >= 0);
        const int from_lane = holder ? __ffs(static_cast<int>(holder)) - 1 : 0;
        part.top = __shfl_sync(~0u, part.top, from_lane);
        part.top_value = __shfl_sync(~0u, part.top_value, from_lane);
        part.top_probability = __shfl_sync(~0u, part.top_probability, from_lane);
        return part;
      };
      ResidentSums none{};
      none.top = -1;
      {
        const ResidentSums part = lane < kResidentWarps ? warp_sums[i][lane] : none;
        ResidentSums block = with_top(part);
        warp_sum_both(block.divergence, kJsd ? block.score : block.others);
        if (kJsd) block.mass = warp_sum(block.mass);
        if (lane < cluster) {
          cluster_post(&block_sums[i][rank], lane, block);
          cluster_arrive(gathered + i, lane);
        }
      }
      barrier_wait_cluster(gathered + i, phase);
      const ResidentSums part = lane < cluster ? block_sums[i][lane] : none;
      const ResidentSums top = with_top(part);
      double divergence = static_cast<double>(part.divergence), others = static_cast<double>(part.others);
      double score = static_cast<double>(part.score), mass = static_cast<double>(part.mass);
      warp_sum_both(divergence, kJsd ? score : others);
      if (kJsd) mass = warp_sum(mass);
      const double top_value = static_cast<double>(top.top_value), share = static_cast<double>(top.top_probability);
      double change = 0.0, top_gradient;
      if (kForm == Form::kForwardKl) {
        change = others + (top.top >= 0 ? top_value : 0.0);
        // Without the others' share of the error.
        top_gradient = (change * static_cast<double>(row.all_but_top) - others) * static_cast<double>(row.slope);
      } else if (kForm == Form::kReverseKl) {
        change = divergence + static_cast<double>(row.mean_ratio);
        top_gradient = -others;
      } else {
        const double top_share = top.top >= 0 ? share : 0.0, all = mass + top_share;
        // Its share times how far its score is from the mean, which is that of all.
        top_gradient = share * (score - mass * top_value) / all * static_cast<double>(row.slope);
        if (kThird && lane == 0)
          row_of[i].mean_score = static_cast<float>(score + top_share * top_value) / static_cast<float>(all);
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(judged + i);
      if (divergence < static_cast<double>(kInfinite)) {
        if (kCorrected) divergence -= 0.5 * change * change;
        if (divergence < 0.0) divergence = 0.0;
      }
      if (args.divergence && rank == 0 && lane == 0)
        pointer<float>(args.divergence)[r] = static_cast<float>(divergence);
      if (!kGradient || !row.active) return;
      if (!(divergence < static_cast<double>(kInfinite))) {
        float nan[kElements];
#pragma unroll
        for (float& x : nan) x = __builtin_nanf("");
        const uint4 bits = pack<T>(nan);
#pragma unroll 1
        for (int j = lane; j < size; j += 32) __stcs(reinterpret_cast<uint4*>(gradient_of(r)) + j, bits);
      } else if (top.top >= 0 && rank == 0 && lane == 0) {
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
    float k3_first = kK3First;
    hold(own);
    hold(k3_first);
    int sum_slot = 0, slot = 0;  // of the next pair to be summed, of the oldest in the ring
    uint32_t sum_phase = 0;
    const auto sum_up = [&](int i) {
      ResidentPart part{kLeast, 0.0f, kLeast, 0.0f, 0.0f, 0.0f};
      constexpr int kAtOnce = 2;  // steps in registers
#pragma unroll 1
      for (int first_step = 0; first_step < steps; first_step += kAtOnce) {
        uint4 policy[kAtOnce], reference[kAtOnce], tops[2] = {lowest_pack<T>(), lowest_pack<T>()};
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          if (first_step + j >= steps) break;
          barrier_wait(full + sum_slot, sum_phase);
          const uint4* const packs = ring + sum_slot * 2 * kStepPacks + own;
          const int inside = size - (first_step + j) * kStepPacks - warp * 32;  // packs for the warp
          if (inside >= 32) {
            policy[j] = packs[0];
            reference[j] = packs[kStepPacks];
          } else {
            policy[j] = lane < inside ? packs[0] : lowest_pack<T>();
            reference[j] = lane < inside ? packs[kStepPacks] : lowest_pack<T>();
          }
          if (++sum_slot == slots) sum_slot = 0, sum_phase ^= 1;
          tops[0] = max_pack<T>(tops[0], policy[j]);
          tops[1] = max_pack<T>(tops[1], reference[j]);
        }
        const float policy_max = fmaxf(part.policy_max, warp_max(max_of_pack<T>(tops[0])));
        const float reference_max = fmaxf(part.reference_max, warp_max(max_of_pack<T>(tops[1])));
        const float policy_base = base_of(policy_max), reference_base = base_of(reference_max);
        if (first_step > 0) {
          const float unit = exp2_fast(base_of(part.policy_max) - policy_base);
          part.policy_sum *= unit;
          part.moment *= unit;
          part.reference_sum *= exp2_fast(base_of(part.reference_max) - reference_base);
        } else {
          part.offset = reference_max - policy_max;
          if (!(fabsf(part.offset) < kInfinite)) part.offset = 0.0f;
        }
        part.policy_max = policy_max;
        part.reference_max = reference_max;
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          if (first_step + j >= steps) break;
          float x[kElements], y[kElements], e[kElements], sums[4], moments[2];
          unpack<T>(policy[j], x);
          unpack<T>(reference[j], y);
#pragma unroll
          for (int n = 0; n < kElements; ++n) {
            e[n] = exp2_fast(fmaf(x[n], scale, -policy_base));
            const float f = exp2_fast(fmaf(y[n], scale, -reference_base)), d = (y[n] - x[n]) - part.offset;
            sums[n % 2] = n < 2 ? e[n] : sums[n % 2] + e[n];
            sums[2 + n % 2] = n < 2 ? f : sums[2 + n % 2] + f;
            if (kMoment) moments[n % 2] = n < 2 ? __fmul_rn(e[n], d) : fmaf(e[n], d, moments[n % 2]);
          }
          part.policy_sum += sums[0] + sums[1];
          part.reference_sum += sums[2] + sums[3];
          if constexpr (kMoment) {
            float moment = moments[0] + moments[1];
            if (!(fabsf(moment) < kInfinite)) {  // a masked token, or none at all
              moment = 0.0f;
#pragma unroll
              for (int n = 0; n < kElements; ++n)
                if (x[n] != -kInfinite)
                  moment += y[n] == -kInfinite ? -kInfinite : __fmul_rn(e[n], (y[n] - x[n]) - part.offset);
            }
            part.moment += moment;
          }
        }
      }
      warp_sum_both(part.policy_sum, part.reference_sum);
      if (kMoment) part.moment = warp_sum(part.moment);
      if (lane == 0) {
        warp_parts[i][warp] = part;
        barrier_arrive(summed + i);
      }
      return part.policy_max;
    };
    // body(step, the pack's index in the block's part, policy's pack, reference's pack) for the lane's packs of the
    // oldest pair.
    const auto sweep = [&](bool last, const auto& body) {
      int at = slot;
      int offset = at * 2 * kStepPacks + own;
      hold(offset);
#pragma unroll 1
      for (int s = 0, j = own; s < steps; ++s, j += kStepPacks) {
        if (j < size) body(s, j, ring[offset], ring[offset + kStepPacks]);
        if (last) {
          if (kThird) bulk_fence();  // scores were written there
          __syncwarp();
          if (lane == 0) barrier_arrive(empty + at);
        }
        offset += 2 * kStepPacks;
        if (++at == slots) at = 0, offset = own;
      }
      if (last) slot = at;
    };

    int i = 0;
    uint32_t phase = 0;
    float next_max = start < rows ? sum_up(0) : 0.0f;
    for (int64_t r = start, next; r < rows; r = next) {
      next = from(r + step);
      const float own_max = next_max;
      const auto first_of_next = [&] {
        if (next < rows) next_max = sum_up(i ^ 1);
      };
      if (ahead && !kThird) first_of_next();
      barrier_wait(ready + i, phase);
      const ResidentRow& row = row_of[i];
      const T *const policy_logits = policy_of(r), *const reference_logits = reference_of(r);
      T* dx = kGradient ? gradient_of(r) : nullptr;
      hold(dx);
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
        const float own_slope = row.slope * p_factor * (kForm == Form::kReverseKl ? inverse : 1.0f);
        const float own_mean = row.mean * own_slope;
        const bool has_top = row.led && own_max == row.policy_max;
        float divergence = 0.0f, others = 0.0f, score = 0.0f, mass = 0.0f;
        sweep(!kThird, [&](int s, int index, const uint4& policy, uint4& reference) {
          float p[kElements], q[kElements], g[kElements], terms[2] = {}, changes[2] = {}, scores[2] = {},
                                                          masses[2] = {};
          unpack<T>(kByPolicy ? policy : reference, p);
          unpack<T>(kByPolicy ? reference : policy, q);
#pragma unroll
          for (int n = 0; n < kElements; ++n) {
            const float d = (sizeof(T) < 4 ? q[n] - p[n] : (q[n] - whole_q) - (p[n] - whole_p)) - fraction;
            const float z = fmaf(d, scale, -rest);
            const float probability = exp2_fast(fmaf(p[n], scale, -p_integer));
            if constexpr (!kJsd) {
              const float k3 = k3_base_2(z, k3_first);
              terms[n % 2] = fmaf(probability, k3, terms[n % 2]);
              if constexpr (kChanges && kForm == Form::kForwardKl) {
                const float change = __fmul_rn(probability, fmaf(z, kLog2, k3));
                changes[n % 2] = __fadd_rn(changes[n % 2], change);
                g[n] = __fmul_rn(change, own_slope);
              } else if constexpr (kChanges) {
                g[n] = __fmul_rn(probability, fmaf(d, -own_slope, own_mean));
                changes[n % 2] = __fadd_rn(changes[n % 2], g[n]);
              }
            } else {
              const float e = exp2_fast(z), mixed = fmaf(series.weight, e, series.other_weight), log = log2_fast(mixed);
              float a = series.log[MixtureSeries::kTerms - 1], b = series.term[MixtureSeries::kTerms - 1];
#pragma unroll
              for (int m = MixtureSeries::kTerms - 2; m >= 0; --m) {
                a = fmaf(a, z, series.log[m]);
                b = fmaf(b, z, series.term[m]);
              }
              const float far_term = fmaf(__fmul_rn(series.weight, e), z, -__fmul_rn(mixed, log));
              float log_mixed = log, term = far_term;
              choose(fabsf(z) < MixtureSeries::kNear, __fmul_rn(a, z), log_mixed, __fmul_rn(b, __fmul_rn(z, z)), term);
              terms[n % 2] = fmaf(probability, term, terms[n % 2]);
              g[n] = kByPolicy ? log_mixed : __fsub_rn(log_mixed, z);
              const float of_policy = kByPolicy ? probability : __fmul_rn(probability, e);
              scores[n % 2] = fmaf(of_policy, g[n], scores[n % 2]);
              masses[n % 2] = __fadd_rn(masses[n % 2], of_policy);
            }
          }
          const float sum = terms[0] + terms[1];
          const bool special = !(sum < kInfinite) || (has_top && max_of_pack<T>(policy) == own_max);
          if (special) {
            flags |= 1u << s;
            return;
          }
          divergence += sum;
          if constexpr (!kJsd) {
            if (kChanges) others += changes[0] + changes[1];
            if (gradient) __stcs(reinterpret_cast<uint4*>(dx) + index, pack<T>(g));
          } else {
            score += scores[0] + scores[1];
            mass += masses[0] + masses[1];
            if constexpr (kThird) {
              // The upper halves of scores take the reference's place.
              uint32_t w[kElements];
              memcpy(w, g, sizeof w);
              reference = make_uint4(__byte_perm(w[0], w[1], 0x7632), __byte_perm(w[2], w[3], 0x7632),
                                     __byte_perm(w[4], w[5], 0x7632), __byte_perm(w[6], w[7], 0x7632));
              lows[index] = make_uint4(__byte_perm(w[0], w[1], 0x5410), __byte_perm(w[2], w[3], 0x5410),
                                       __byte_perm(w[4], w[5], 0x5410), __byte_perm(w[6], w[7], 0x5410));
            }
          }
        });
        sums.divergence = divergence * p_factor * (kJsd ? kLog2 : 1.0f);
        sums.others = kForm == Form::kReverseKl ? others : others * p_factor;
        sums.score = score * p_factor * kLog2;
        sums.mass = mass * p_factor;
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
          if (row.led && (kByPolicy ? p : q) == row.policy_max) {
            sums.top = static_cast<int32_t>(first) + j;
            sums.top_probability = token.policy;
            sums.top_value = kJsd ? token.score : token.change;
          } else if (kJsd) {
            sums.score = fmaf(token.policy, token.score, sums.score);
            sums.mass = __fadd_rn(sums.mass, token.policy);
          } else {
            const float own_gradient =
                kForm == Form::kForwardKl ? token.change
                                          : __fmul_rn(__fmul_rn(token.policy, row.mean_ratio - token.score), row.slope);
            sums.others = __fadd_rn(sums.others, own_gradient);
            if (gradient) dx[j] = from_float<T>(kForm == Form::kForwardKl ? own_gradient * row.slope : own_gradient);
          }
        });
      }
      {
        const uint32_t holder = __ballot_sync(~0u, sums.top >= 0);
        if (holder) {
          const int from_lane = __ffs(static_cast<int>(holder)) - 1;
          sums.top = __shfl_sync(~0u, sums.top, from_lane);
          sums.top_value = __shfl_sync(~0u, sums.top_value, from_lane);
          sums.top_probability = __shfl_sync(~0u, sums.top_probability, from_lane);
        }
        if (kJsd) {
          sums.divergence = warp_sum(sums.divergence);
          warp_sum_both(sums.score, sums.mass);
        } else {
          warp_sum_both(sums.divergence, sums.others);
        }
        if (lane == 0) {
          warp_sums[i][warp] = sums;
          barrier_arrive(measured + i);
        }
      }
      if (ahead && kThird) first_of_next();
      if constexpr (kThird) {
        barrier_wait(judged + i, phase);
        const float own_slope = row.slope * row.policy_factor, own_log_slope = own_slope * kLog2;
        const float own_mean = own_slope * row.mean_score, integer = row.policy_integer;
        sweep(true, [&](int s, int index, const uint4& policy, const uint4& reference) {
          if ((flags >> s & 1) || !gradient || !proper) return;
          float x[kElements], g[kElements];
          uint32_t w[kElements];
          unpack<T>(policy, x);
          const uint4 high = reference, low = lows[index];
          w[0] = __byte_perm(low.x, high.x, 0x5410), w[1] = __byte_perm(low.x, high.x, 0x7632);
          w[2] = __byte_perm(low.y, high.y, 0x5410), w[3] = __byte_perm(low.y, high.y, 0x7632);
          w[4] = __byte_perm(low.z, high.z, 0x5410), w[5] = __byte_perm(low.z, high.z, 0x7632);
          w[6] = __byte_perm(low.w, high.w, 0x5410), w[7] = __byte_perm(low.w, high.w, 0x7632);
#pragma unroll
          for (int n = 0; n < kElements; ++n)
            g[n] = exp2_fast(fmaf(x[n], scale, -integer)) * fmaf(__uint_as_float(w[n]), -own_log_slope, own_mean);
          __stcs(reinterpret_cast<uint4*>(dx) + index, pack<T>(g));
        });
        if (gradient && proper && __any_sync(~0u, flags != 0)) {
          const auto pair = pair_of<kForm>(row, inverse, args.beta);
          for_flagged(flags, [&](int j, float p, float q) {
            if (static_cast<int32_t>(first) + j != sums.top)
              dx[j] = from_float<T>(pair.gradient(p, q, row.mean_score) * row.slope);
          });
        }
      }
      if (!ahead) first_of_next();
      if (i == 1) phase ^= 1;
      i ^= 1;
    }
    if (kGradient && args.weight)
      for (int64_t r = blockIdx.x / cluster; r < rows; r += step)
        if (weight_of(r) == 0.0f)
          for (int j = own; j < size; j += kStepPacks)
            __stcs(reinterpret_cast<uint4*>(gradient_of(r)) + j, make_uint4(0, 0, 0, 0));
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
  constexpr int kStatic = 6144;  // bytes of static shared memory, rounded up
  constexpr bool kLows = is_jsd(kForm) && kGradient;
  for (const bool ahead : {true, false})
    for (int cluster = 1; cluster <= kResidentCluster; cluster *= 2) {
      const int64_t steps = divide_up(divide_up(row_packs, cluster), kStepPacks);
      const int64_t low = kLows ? steps * kSlotBytes / 2 : 0;
      int64_t slots = (device.shared_memory - kStatic - low) / kSlotBytes;
      if (slots > kMostSlots) slots = kMostSlots;
      if (slots < (ahead ? 2 * steps : steps)) continue;
      if (slots > 3 * steps) slots = 3 * steps;
      const int shared = static_cast<int>(slots * kSlotBytes + low);
      const auto kernel = resident_kernel<kForm, T, kGradient>;
      int64_t clusters = resident_clusters(device, kernel, cluster, kResidentThreads, shared);
      if (clusters == 0) return false;
      if (clusters > args.rows) clusters = args.rows;
      launch_clusters(device, kernel, cluster, clusters, kResidentThreads, shared, args, MixtureSeries::of(weight),
                      cluster, static_cast<int32_t>(slots), ahead);
      return true;
    }
  return false;
}

}  // namespace saccade::cuda
