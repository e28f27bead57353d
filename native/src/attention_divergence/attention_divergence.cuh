// What the kernels of attention_divergence for any GPU and for Hopper share.
#pragma once

#include "attention_divergence/attention_divergence.h"
#include "attention_divergence/element.h"
#include "attention_policy/policy.cuh"

namespace saccade::cuda {

constexpr int kRowThreads = 256, kLossThreads = 1024;

// A call, and what it says of a row.
struct Arguments {
  saccade_attention_divergence_args args;
  AttentionDivergenceWorkspace work;
  PolicyRows rows;
  HeadSpan heads, ref_heads;  // whose policy is compared
  float share;                // of the row's weight that they carry
  bool first, gradient;       // whether no heads were compared before

  __device__ const Sequences& sequences() const { return rows.sequences; }
  __device__ float weight(int64_t row) const { return args.weight ? pointer<const float>(args.weight)[row] : 0.0f; }
  __device__ float entropy_weight(int64_t row) const {
    return args.entropy_weight ? pointer<const float>(args.entropy_weight)[row] : 0.0f;
  }
  __device__ bool active(int64_t row) const { return weight(row) != 0.0f || entropy_weight(row) != 0.0f; }
  // What a row's dP is kept in multiples of: at weights of at most 1 and without the given gradient, r / p is within
  // f32 wherever p is.
  __device__ float unit(int64_t row) const {
    const float w = fabsf(weight(row)), ew = fabsf(entropy_weight(row)), most = w > ew ? w : ew;
    return most > 1.0f ? most : 1.0f;
  }
  // What makes a row's dS of its dP.
  __device__ float factor(int64_t row) const {
    return unit(row) * (args.grad_output ? *pointer<const float>(args.grad_output) : 1.0f);
  }
  // What these heads give to a row's results.
  __device__ void add_row(int64_t row, float divergence, float entropy, float mass) const {
    const auto add = [&](float* sums, float value) { sums[row] = (first ? 0.0f : sums[row]) + value * share; };
    add(work.divergence, divergence);
    add(work.entropy, entropy);
    add(work.mass, mass);
  }
  __device__ int64_t width() const { return padded(args.max_keys); }
  __device__ float* map(int64_t row) const { return work.map + row * width(); }
};

// The reference of a row.
struct Reference {
  const void* map;  // at the sequence's first key; null without one
  int64_t columns;  // keys that it has, from first_key on
  int64_t first_key;
  int32_t dtype;
  float inverse;  // of a policy, 0 where there is none
  int64_t index;  // -1: none
  bool given, lost;

  __device__ float of(int64_t key, float policy) const {
    if (lost) return kNan;
    if (map) return at(key);
    return index >= 0 ? (key == index ? 1.0f : 0.0f) : policy * inverse;
  }
  __device__ float at(int64_t key) const {
    const int64_t column = key - first_key;
    if (column < 0 || column >= columns) return kNan;
    return dtype == SACCADE_BF16 ? to_float(static_cast<const bf16*>(map)[column])
                                 : static_cast<const float*>(map)[column];
  }
};

// Of a row with a support.  Whether a map or a policy is given there remains to be seen.
__device__ inline Reference reference_of(const Arguments& call, int64_t s, int64_t row, const Support& support) {
  const saccade_attention_divergence_args& args = call.args;
  Reference reference{
      nullptr, args.ref_stride, args.compact ? call.rows.first_key(s) : 0, args.ref_dtype, 0.0f, -1, false, false};
  if (args.ref_index) {
    const int32_t index = pointer<const int32_t>(args.ref_index)[row];
    reference.index = index;
    reference.lost = index < -1 || index >= call.sequences().keys(s);
    reference.given = support.has(index) || reference.lost;
  } else if (args.ref) {
    const uint64_t size = args.ref_dtype == SACCADE_BF16 ? 2 : 4;
    reference.map = pointer<const void>(args.ref + static_cast<uint64_t>(row * args.ref_stride) * size);
  }
  return reference;
}

template <class T>
PolicySide<T> reference_side(const saccade_attention_divergence_args& args) {
  return {heads_of<const T>(args.ref_q, args.ref_q_row_stride, args.ref_q_head_stride),
          heads_of<const T>(args.ref_k, args.ref_k_row_stride, args.ref_k_head_stride),
          args.rows,
          args.ref_heads,
          args.ref_kv_heads,
          args.ref_head_dim,
          args.ref_scale};
}

// One block: the loss, and the rows' results.
static __global__ void __launch_bounds__(kLossThreads) loss_kernel(const __grid_constant__ Arguments call) {
  __shared__ double shared[32];
  wait_for_last();
  const saccade_attention_divergence_args& args = call.args;
  double loss = 0.0;
  for (int64_t row = threadIdx.x; row < args.rows; row += kLossThreads) {
    const float divergence = call.work.divergence[row], entropy = call.work.entropy[row];
    const float w = call.weight(row), ew = call.entropy_weight(row);
    if (w != 0.0f) loss += static_cast<double>(w) * static_cast<double>(divergence);
    if (ew != 0.0f) loss -= static_cast<double>(ew) * static_cast<double>(entropy);
    if (args.divergence) pointer<float>(args.divergence)[row] = divergence;
    if (args.entropy) pointer<float>(args.entropy)[row] = entropy;
    if (args.mass) pointer<float>(args.mass)[row] = call.work.mass[row];
  }
  loss = reduce_block(loss, shared, add_doubles);
  if (args.loss && threadIdx.x == 0) *pointer<float>(args.loss) = static_cast<float>(loss);
}

// One block a row: zeros where no policy has the head.
template <class T>
__global__ void __launch_bounds__(kRowThreads) clear_kernel(const __grid_constant__ Arguments call) {
  const saccade_attention_divergence_args& args = call.args;
  const int64_t row = blockIdx.x;
  const float value = call.sequences().bad[sequence_of_row(call.sequences(), row)] ? kNan : 0.0f;
  for (int64_t h = 0; h < args.heads; ++h) {
    if (h >= args.head_begin && h < args.head_end) continue;
    if (args.grad_dtype == SACCADE_F32)
      fill_heads(heads_of<float>(args.dq, args.dq_row_stride, args.dq_head_stride), row, row + 1, h, args.head_dim,
                 value);
    else
      fill_heads(heads_of<T>(args.dq, args.dq_row_stride, args.dq_head_stride), row, row + 1, h, args.head_dim, value);
    if (args.dscore_sq && threadIdx.x == 0) pointer<float>(args.dscore_sq)[h * args.rows + row] = value;
  }
}

// One block a key: dk from d_keys.
template <class T>
__global__ void __launch_bounds__(kRowThreads) d_keys_kernel(const __grid_constant__ Arguments call) {
  const saccade_attention_divergence_args& args = call.args;
  const int64_t key = blockIdx.x;
  const float* from = call.work.d_keys + key * args.kv_heads * args.head_dim;
  for (int64_t e = threadIdx.x; e < args.kv_heads * args.head_dim; e += kRowThreads) {
    const int64_t h = e / args.head_dim, d = e % args.head_dim;
    const float value = from[e] * args.scale;
    if (args.grad_dtype == SACCADE_F32)
      heads_of<float>(args.dk, args.dk_row_stride, args.dk_head_stride).at(key, h)[d] = value;
    else
      heads_of<T>(args.dk, args.dk_row_stride, args.dk_head_stride).at(key, h)[d] = from_float<T>(value);
  }
}

}  // namespace saccade::cuda
