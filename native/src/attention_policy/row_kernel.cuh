// What the passes of attention_policy on the tensor cores share, whatever instructions they multiply by.
#pragma once

#include "attention_policy/attention_policy.h"
#include "attention_policy/policy_heads.cuh"

namespace saccade::cuda {

constexpr int kRowThreads = 256;

// The thread's part of the sum of term(key, sum over heads) over the support.  Which keys it has depends on the support
// alone, so that results do not depend on which others are wanted.
template <class Term>
__device__ __forceinline__ double over_support(const float* sums, const Support& support, const Term& term) {
  constexpr int kUnroll = 8;
  double total = 0.0;
  for (int64_t key = support.begin + threadIdx.x; key < support.end; key += kUnroll * kRowThreads) {
    float x[kUnroll], part = 0.0f;
#pragma unroll
    for (int e = 0; e < kUnroll; ++e) x[e] = key + e * kRowThreads < support.end ? sums[key + e * kRowThreads] : 0.0f;
#pragma unroll
    for (int e = 0; e < kUnroll; ++e)
      if (key + e * kRowThreads < support.end) part += term(key + e * kRowThreads, x[e]);
    total += static_cast<double>(part);
  }
  return total;
}

// One block a row of `sums`, which may be the map itself: its policy.  Entropy and mass count for a share; those of the
// `first` policy are not added to others.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    policy_row_kernel(const __grid_constant__ saccade_attention_policy_args args,
                      const __grid_constant__ PolicyRows rows, const __grid_constant__ PolicyMap sums, float share,
                      bool first) {
  __shared__ double shared_mass[32], shared_entropy[32];
  const int64_t row = sums.begin + blockIdx.x, s = sequence_of_row(rows.sequences, row);
  T* map = args.map ? pointer<T>(args.map) + row * args.map_stride : nullptr;
  const auto fill = [&](int64_t begin, int64_t end, float value) {
    for (int64_t c = begin + threadIdx.x; c < end; c += kRowThreads) map[c] = from_float<T>(value);
  };
  const auto write = [&](float entropy, float mass) {
    if (threadIdx.x != 0) return;
    const auto add = [&](saccade_address results, float value) {
      if (!results) return;
      float& result = pointer<float>(results)[row];
      result = (first ? 0.0f : result) + value * share;
    };
    add(args.entropy, entropy);
    add(args.mass, mass);
  };
  if (rows.sequences.bad[s]) {
    if (map) fill(0, args.map_stride, kNan);
    return write(kNan, kNan);
  }
  const Support support = rows.of(s, visible_keys(rows.sequences, s, row));
  const int64_t first_column = args.compact ? rows.first_key(s) : 0;
  if (map) {
    const int64_t begin = support.begin - first_column, end = support.end - first_column;
    // Ranges come from the device: one may be wider than the caller said.
    const bool fits = end <= args.map_stride;
    if (begin == end) {
      fill(0, args.map_stride, 0.0f);
    } else if (fits) {
      fill(0, begin, 0.0f);
      fill(end, args.map_stride, 0.0f);
    } else {
      fill(0, args.map_stride, kNan);
    }
    map = fits ? map - first_column : nullptr;
  }
  const float* own = sums.row(row);
  const double total = over_support(own, support, [](int64_t, float sum) { return sum; });
  const Mass mass = mass_of_sum(reduce_block(total, shared_mass, add_doubles), sums.heads);
  double entropy = 0.0;
  if (map || args.entropy)
    entropy = over_support(own, support, [&](int64_t key, float sum) {
      const float p = sum * mass.inverse;
      if (map) map[key] = from_float<T>(p);
      return -p * log(at_least(p, kFloor));
    });
  write(static_cast<float>(reduce_block(entropy, shared_entropy, add_doubles)), mass.mass);
}

// The policies of `range`, one or of each head, from what mean(sums) writes.
template <class Mean>
void launch_policies(const Device& device, const saccade_attention_policy_args& args,
                     const AttentionPolicyWorkspace& work, const PolicyRows& rows, const Mean& mean) {
  if (!args.entropy && !args.mass && !args.map) return;
  const auto kernel = args.map_dtype == SACCADE_BF16 ? policy_row_kernel<bf16> : policy_row_kernel<float>;
  // Whether the map itself can hold the sums, which are written in pairs.
  const bool in_place =
      args.map && args.map_dtype == SACCADE_F32 && !args.compact && (args.map % 8 | args.map_stride % 2) == 0;
  const HeadSpan range{args.head_begin, args.head_end};
  const int64_t policies = args.reduction == SACCADE_REDUCTION_MEAN ? 1 : range.count(), width = padded(args.max_keys);
  for (int64_t p = 0; p < policies; ++p) {
    const HeadSpan heads = policies == 1 ? range : HeadSpan{range.begin + p, range.begin + p + 1};
    for_row_batches(args.rows, in_place ? args.rows : work.sum_rows, [&](int64_t begin, int64_t end) {
      const PolicyMap sums = in_place ? PolicyMap{pointer<float>(args.map), args.map_stride, begin, end, heads}
                                      : PolicyMap{work.head_sums, width, begin, end, heads};
      mean(sums);
      launch(device, kernel, end - begin, kRowThreads, args, rows, sums, 1.0f / static_cast<float>(policies), p == 0);
    });
  }
}

}  // namespace saccade::cuda
