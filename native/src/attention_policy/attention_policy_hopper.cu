#include "attention_policy/attention_policy_hopper.h"
#include "attention_policy/policy_hopper.cuh"

namespace saccade::cuda {
namespace {

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

// One block a row of `sums`, which may be the map itself: its policy.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    row_kernel(const __grid_constant__ saccade_attention_policy_args args, const __grid_constant__ PolicyRows rows,
               const __grid_constant__ PolicyMap sums) {
  __shared__ double shared_mass[32], shared_entropy[32];
  const int64_t row = sums.begin + blockIdx.x, s = sequence_of_row(rows.sequences, row);
  T* map = args.map ? pointer<T>(args.map) + row * args.map_stride : nullptr;
  const auto fill = [&](int64_t begin, int64_t end, float value) {
    for (int64_t c = begin + threadIdx.x; c < end; c += kRowThreads) map[c] = from_float<T>(value);
  };
  const auto write = [&](float entropy, float mass) {
    if (threadIdx.x != 0) return;
    if (args.entropy) pointer<float>(args.entropy)[row] = entropy;
    if (args.mass) pointer<float>(args.mass)[row] = mass;
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

}  // namespace

void attention_policy_hopper(const Device& device, const saccade_attention_policy_args& args,
                             const AttentionPolicyWorkspace& work) {
  const PolicyRows rows = policy_rows(clean_sequences(device, args, 0, work.packing), args);
  const PolicySide<bf16> side = policy_side<bf16>(args);
  const HeadSpan range{args.head_begin, args.head_end}, all{0, args.heads};
  const TiledPolicy policy(rows, side, args.lse ? all : range, work.tiles.queries, work.tiles.keys);
  const auto row_kernel_of_map = args.map_dtype == SACCADE_BF16 ? row_kernel<bf16> : row_kernel<float>;
  // Whether the map itself can hold the sums, which mean_kernel writes in pairs.
  const bool in_place =
      args.map && args.map_dtype == SACCADE_F32 && !args.compact && (args.map % 8 | args.map_stride % 2) == 0;
  with_dim(args.head_dim, [&](auto dim) {
    launch_tiling<dim>(device, policy, side, args.keys, args.sequences, nullptr, pointer<float>(args.lse));
    if (!args.entropy && !args.mass && !args.map) return;
    for_row_batches(args.rows, in_place ? args.rows : work.sum_rows, [&](int64_t begin, int64_t end) {
      const PolicyMap sums = in_place ? PolicyMap{pointer<float>(args.map), args.map_stride, begin, end, range}
                                      : PolicyMap{work.head_sums, padded(args.max_keys), begin, end, range};
      launch_mean<dim>(device, policy, sums, args.sequences);
      launch(device, row_kernel_of_map, end - begin, kRowThreads, args, rows, sums);
    });
  });
}

}  // namespace saccade::cuda
