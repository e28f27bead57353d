// The policy-gradient loss of packed rows on a GPU: the two kernels of policy_loss, which policy_loss_from_logits
// shares.
#pragma once

#include "core/rows.cuh"
#include "policy_loss/objective.h"
#include "policy_loss/policy_loss.h"

namespace saccade::cuda {

constexpr int kSequenceThreads = 128, kRowThreads = 1024;

struct CountAndSum {
  double sum;
  int64_t count;

  __device__ static CountAndSum add(const CountAndSum& a, const CountAndSum& b) {
    return {a.sum + b.sum, a.count + b.count};
  }
};

struct Rows {
  const saccade_policy_loss_args& args;
  const Objective objective;

  __device__ explicit Rows(const saccade_policy_loss_args& args_) : args(args_), objective(args_) {}

  __device__ bool active(int64_t r) const { return !args.mask || pointer<const uint8_t>(args.mask)[r]; }
  __device__ float log_prob(int64_t r) const { return pointer<const float>(args.log_prob)[r]; }
  __device__ float log_ratio(int64_t r) const { return log_prob(r) - pointer<const float>(args.old_log_prob)[r]; }

  // Loss and gradient of a row of sequence s, weighted by is_weight.
  __device__ Token token(int64_t r, int64_t s, float ratio, bool saturated) const {
    const float advantage = pointer<const float>(args.advantage)[args.advantage_per_sequence ? s : r];
    Token token = objective.token(log_prob(r), ratio, saturated, advantage);
    if (args.is_weight) {
      const float w = pointer<const float>(args.is_weight)[r];
      token.loss *= w;
      token.gradient *= w;
    }
    return token;
  }
};

// What sequence s owns; `bad` where its offsets are none, or reach into another's.
struct Bounds {
  int64_t begin, end;
  bool bad;

  __device__ Bounds(const saccade_policy_loss_args& args, int64_t s) {
    const int32_t* offsets = pointer<const int32_t>(args.offsets);
    begin = offsets[s];
    end = offsets[s + 1];
    bad = begin < 0 || end < begin || end > args.rows;
    if (bad) begin = end = 0;
  }
};

// One block a sequence.
static __global__ void __launch_bounds__(kSequenceThreads)
    sequence_kernel(saccade_policy_loss_args args, PolicyLossWorkspace workspace) {
  __shared__ CountAndSum shared[2][32];
  const int64_t s = blockIdx.x;
  const Bounds bounds(args, s);
  const Rows rows(args);
  const bool whole = needs_whole_sequences(args);
  const auto reduce = [&](int round, const auto& value) {
    CountAndSum own{0.0, 0};
    for (int64_t r = bounds.begin + threadIdx.x; r < bounds.end; r += kSequenceThreads)
      if (rows.active(r)) own = CountAndSum::add(own, {value(r), 1});
    return reduce_block(own, shared[round], CountAndSum::add);
  };
  const CountAndSum all = reduce(0, [&](int64_t r) { return whole ? static_cast<double>(rows.log_ratio(r)) : 0.0; });
  PolicySequence sequence{static_cast<int32_t>(all.count), 0.0f, 0.0f, false};
  if (whole && all.count > 0) {
    const double bound = static_cast<double>(kMaxLogRatio), mean = all.sum / static_cast<double>(all.count);
    sequence.saturated = mean > bound || mean < -bound;
    sequence.ratio = static_cast<float>(::exp(mean > bound ? bound : mean < -bound ? -bound : mean));
  }
  double gradient = 0.0;
  if (args.objective == SACCADE_OBJECTIVE_GSPO && args.d_log_prob)
    gradient = reduce(1, [&](int64_t r) {
                 return static_cast<double>(rows.token(r, s, sequence.ratio, sequence.saturated).gradient);
               }).sum;
  if (threadIdx.x != 0) return;
  workspace.sequences[s] = sequence;
  if (whole) workspace.piece_sum[s] = gradient;
  atomicAdd(workspace.counters, sequence.active);
}

__device__ inline PolicySums add(const PolicySums& a, const PolicySums& b) {
  return {a.loss + b.loss,
          a.token_loss + b.token_loss,
          a.ratio + b.ratio,
          a.kl + b.kl,
          a.clipped_low + b.clipped_low,
          a.clipped_high + b.clipped_high,
          max_or_nan(a.max_log_ratio, b.max_log_ratio)};
}

// The sequence that owns row r.
__device__ inline int64_t sequence_of(const saccade_policy_loss_args& args, int64_t r) {
  const int32_t* offsets = pointer<const int32_t>(args.offsets);
  int64_t low = 0, high = args.sequences;  // offsets[low] <= r < offsets[high]
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (offsets[middle] <= r ? low : high) = middle;
  }
  return low;
}

// One block every kPolicyBlock rows.  bonus(r) * a_t is taken from the loss.
template <class Bonus>
__global__ void __launch_bounds__(kRowThreads)
    row_kernel(saccade_policy_loss_args args, PolicyLossWorkspace workspace, int64_t blocks, Bonus bonus) {
  __shared__ PolicySums shared[32];
  __shared__ bool last;
  const Rows rows(args);
  const float kl_coef = args.kl_coef_scalar ? *pointer<const float>(args.kl_coef_scalar) : args.kl_coef;
  const double grad_output = args.grad_output ? static_cast<double>(*pointer<const float>(args.grad_output)) : 1.0;
  const bool add_kl = kl_coef != 0.0f, whole = needs_whole_sequences(args);
  const bool spread = args.objective == SACCADE_OBJECTIVE_GSPO;
  const int64_t active_rows = workspace.counters[0];
  PolicySums own{};
  for (int64_t k = threadIdx.x; k < kPolicyBlock; k += kRowThreads) {
    const int64_t r = blockIdx.x * kPolicyBlock + k;
    if (r >= args.rows) break;
    const int64_t s = sequence_of(args, r);
    const Bounds bounds(args, s);
    const bool lost = bounds.bad || r < bounds.begin || r >= bounds.end, on = lost || rows.active(r);
    float token_loss = 0.0f, gradient = 0.0f, kl_value = 0.0f;
    if (on) {
      const PolicySequence sequence = workspace.sequences[s];
      const double a = row_weight(args, sequence.active, active_rows);
      const float log_ratio = rows.log_ratio(r);
      const float ratio = whole ? sequence.ratio : exp(clamp_log_ratio(log_ratio));
      Token token = rows.token(r, s, ratio, whole ? sequence.saturated : beyond_log_ratio(log_ratio));
      token_loss = token.loss;
      gradient = spread ? 0.0f : token.gradient;
      if (add_kl || args.kl) {
        const float reference = pointer<const float>(args.ref_log_prob)[r];
        const KlElement kl = args.kl_importance_corrected
                                 ? corrected_kl_element(args.kl_estimator, rows.log_prob(r), reference, log_ratio)
                                 : sampled_kl_element(args.kl_estimator, rows.log_prob(r), reference);
        if (add_kl) {
          token_loss += kl_coef * kl.value;
          gradient += kl_coef * kl.gradient;
        }
        kl_value = kl.value;
      }
      gradient *= static_cast<float>(a * grad_output);
      if (spread && args.d_log_prob)
        gradient += static_cast<float>(workspace.piece_sum[s] * a * grad_output / sequence.active);
      if (lost) token_loss = gradient = kl_value = NAN;
      const double weighted = static_cast<double>(token_loss * static_cast<float>(a)) - a * bonus(r);
      own = add(own,
                {weighted, static_cast<double>(token_loss), static_cast<double>(ratio), static_cast<double>(kl_value),
                 token.clipped_low, token.clipped_high, lost ? NAN : fabsf(log_ratio)});
    }
    if (args.token_loss) pointer<float>(args.token_loss)[r] = token_loss;
    if (args.d_log_prob) pointer<float>(args.d_log_prob)[r] = gradient;
    if (args.kl) pointer<float>(args.kl)[r] = kl_value;
  }
  own = reduce_block(own, shared, add);
  if (threadIdx.x == 0) {
    if (args.rows > 0) workspace.sums[blockIdx.x] = own;
    __threadfence();
    last = atomicAdd(workspace.counters + 1, 1) == static_cast<int32_t>(blocks) - 1;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  PolicySums all{};
  if (args.rows > 0)
    for (int64_t b = threadIdx.x; b < blocks; b += kRowThreads) all = add(all, workspace.sums[b]);
  all = reduce_block(all, shared, add);
  if (threadIdx.x != 0) return;
  *pointer<float>(args.loss) = static_cast<float>(all.loss);
  float* metrics = pointer<float>(args.metrics);
  if (!metrics) return;
  const double n = static_cast<double>(active_rows > 0 ? active_rows : 1);
  metrics[SACCADE_METRIC_CLIPPED_LOW] = static_cast<float>(static_cast<double>(all.clipped_low) / n);
  metrics[SACCADE_METRIC_CLIPPED_HIGH] = static_cast<float>(static_cast<double>(all.clipped_high) / n);
  metrics[SACCADE_METRIC_RATIO] = static_cast<float>(all.ratio / n);
  metrics[SACCADE_METRIC_KL] = static_cast<float>(all.kl / n);
  metrics[SACCADE_METRIC_TOKEN_LOSS] = static_cast<float>(all.token_loss / n);
  metrics[SACCADE_METRIC_ACTIVE] = static_cast<float>(active_rows);
  metrics[SACCADE_METRIC_MAX_LOG_RATIO] = all.max_log_ratio;
}

struct NoBonus {
  __device__ double operator()(int64_t) const { return 0.0; }
};

// Counts of active rows, and what GSPO and GSPO_TOKEN need of whole sequences.
inline void launch_sequences(const Device& device, const saccade_policy_loss_args& args,
                             const PolicyLossWorkspace& workspace) {
  check(cudaMemsetAsync(workspace.counters, 0, sizeof(int32_t), device.stream), "zero");
  launch(device, sequence_kernel, args.sequences, kSequenceThreads, args, workspace);
}

template <class Bonus>
void launch_rows(const Device& device, const saccade_policy_loss_args& args, const PolicyLossWorkspace& workspace,
                 const Bonus& bonus) {
  const int64_t blocks = args.rows > 0 ? divide_up(args.rows, kPolicyBlock) : 1;
  check(cudaMemsetAsync(workspace.counters + 1, 0, sizeof(int32_t), device.stream), "zero");
  launch(device, row_kernel<Bonus>, blocks, kRowThreads, args, workspace, blocks, bonus);
}

}  // namespace saccade::cuda
