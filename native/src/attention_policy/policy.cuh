// What an attention policy is over, on a GPU: rows, supports, heads; whichever kernels compute it.
#pragma once

#include "core/attention.cuh"
#include "core/divergence.h"

namespace saccade::cuda {

constexpr float kDeadMass = 1e-20f;  // a policy whose support holds less is dead

extern __shared__ __align__(1024) unsigned char tile_memory[];

// Keys [begin, end) of a row's support.
struct Support {
  int64_t begin, end;

  __device__ bool has(int64_t key) const { return key >= begin && key < end; }
};

// Which keys a row sees, and which of them its policy is over.
struct PolicyRows {
  Sequences sequences;
  int32_t support;
  const int32_t* ranges;

  __device__ Support of(int64_t s, int64_t visible) const {
    if (support == SACCADE_SUPPORT_PREVIOUS) return {0, visible > 0 ? visible - 1 : 0};
    if (support == SACCADE_SUPPORT_ALL) return {0, visible};
    const int64_t begin = ranges[2 * s] < 0 ? 0 : ranges[2 * s];
    const int64_t end = ranges[2 * s + 1] < visible ? ranges[2 * s + 1] : visible;
    return {begin, end < begin ? begin : end};
  }

  // Key at column 0 of a compact map.
  __device__ int64_t first_key(int64_t s) const { return ranges[2 * s] < 0 ? 0 : ranges[2 * s]; }
};

// Queries and keys of a policy.
template <class T>
struct PolicySide {
  Heads<const T> q, k;
  int64_t rows, heads, kv_heads, dim;
  float scale;

  __host__ __device__ int64_t group() const { return heads / kv_heads; }
};

struct HeadSpan {
  int64_t begin, end;

  __host__ __device__ int64_t count() const { return end - begin; }
};

// Mass of a row's support, as a mean over heads; its factor 1 / (mass * heads), 0 where the policy is dead.
struct Mass {
  float mass, inverse;
  bool dead;
};

// Of the sum over heads.
__device__ inline Mass mass_of_sum(double sum, const HeadSpan& heads) {
  const double mass = sum / static_cast<double>(heads.count());
  if (mass < static_cast<double>(kDeadMass)) return {0.0f, 0.0f, true};
  return {static_cast<float>(mass), static_cast<float>(1.0 / sum), false};
}

// Calls body(columns of a result), a compile-time constant, for heads of `dim`.
template <class Body>
void with_columns(int64_t dim, const Body& body) {
  if (dim <= 64)
    body(std::integral_constant<int, 64>{});
  else if (dim <= 128)
    body(std::integral_constant<int, 128>{});
  else
    body(std::integral_constant<int, 256>{});
}

template <class Args>
PolicyRows policy_rows(const Sequences& sequences, const Args& args) {
  return {sequences, args.support, pointer<const int32_t>(args.support_ranges)};
}

template <class T, class Args>
PolicySide<T> policy_side(const Args& args) {
  return {heads_of<const T>(args.q, args.q_row_stride, args.q_head_stride),
          heads_of<const T>(args.k, args.k_row_stride, args.k_head_stride),
          args.rows,
          args.heads,
          args.kv_heads,
          args.head_dim,
          args.scale};
}

}  // namespace saccade::cuda
