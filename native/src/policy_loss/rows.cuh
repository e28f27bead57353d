// The policy-gradient loss of packed rows on a GPU: the two kernels of policy_loss, which policy_loss_from_logits
// shares.
#pragma once

#include "core/rows.cuh"
#include "policy_loss/objective.h"
#include "policy_loss/policy_loss.h"

namespace saccade::cuda {

constexpr int kSequenceThreads = 256, kRowThreads = 512;
constexpr int kAtOnce = 2;     // rows of a thread whose inputs are under way together
constexpr int kLaneRows = 64;  // more rows of a sequence than these a lane are a block's work

// What is given of a row, read whether it is active or not.
struct RowInput {
  float log_prob, old_log_prob, reference, advantage, is_weight;
  bool active;

  RowInput() = default;
  __device__ RowInput(const saccade_policy_loss_args& args, int64_t r) {
    const auto value = [&](saccade_address x, float otherwise) { return x ? pointer<const float>(x)[r] : otherwise; };
    log_prob = value(args.log_prob, 0.0f);
    old_log_prob = value(args.old_log_prob, 0.0f);
    reference = value(args.ref_log_prob, 0.0f);
    advantage = value(args.advantage_per_sequence ? 0 : args.advantage, 0.0f);
    is_weight = value(args.is_weight, 1.0f);
    active = !args.mask || pointer<const uint8_t>(args.mask)[r];
  }

  __device__ float log_ratio() const { return log_prob - old_log_prob; }

  // Loss and gradient where the row is one of sequence s, weighted by is_weight.
  __device__ Token token(const saccade_policy_loss_args& args, const Objective& objective, int64_t s, float ratio,
                         bool saturated) const {
    Token token = objective.token(log_prob, ratio, saturated,
                                  args.advantage_per_sequence ? pointer<const float>(args.advantage)[s] : advantage);
    token.loss *= is_weight;
    token.gradient *= is_weight;
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

// What kLanes lanes of a warp, or with kLanes = kSequenceThreads the threads of a block, find together.
template <int kLanes>
struct Team {
  double* shared;  // [32], of a block

  __device__ static int rank() { return threadIdx.x % kLanes; }

  template <class V>
  __device__ V sum(V value) const {
    if constexpr (kLanes > 32) {
      __syncthreads();
      value = reduce_block(value, reinterpret_cast<V*>(shared), [](V a, V b) { return a + b; });
    } else {
#pragma unroll
      for (int distance = 1; distance < kLanes; distance *= 2) value += __shfl_xor_sync(~0u, value, distance);
    }
    return value;
  }
};

// Writes what is known of sequence s before its rows are looked at one by one; returns its active rows to one member
// of the team, 0 to the others.
template <int kLanes>
__device__ __forceinline__ int32_t measure_sequence(const saccade_policy_loss_args& args,
                                                    const PolicyLossWorkspace& workspace, int64_t s,
                                                    const Bounds& bounds, bool write, const Team<kLanes>& team) {
  const auto for_active = [&](const auto& body) {
#pragma unroll 4
    for (int64_t r = bounds.begin + team.rank(); r < bounds.end; r += kLanes)
      if (!args.mask || pointer<const uint8_t>(args.mask)[r]) body(r);
  };
  const bool whole = needs_whole_sequences(args);
  PolicySequence sequence{static_cast<int32_t>(bounds.end - bounds.begin), 0.0f, 0.0f, false};
  double gradient = 0.0;
  if (args.mask || whole) {
    int32_t active = 0;
    double sum = 0.0;
    for_active([&](int64_t r) {
      ++active;
      if (whole) sum += static_cast<double>(RowInput(args, r).log_ratio());
    });
    sequence.active = team.sum(active);
    if (whole) {
      sum = team.sum(sum);
      if (sequence.active > 0) {
        const double bound = static_cast<double>(kMaxLogRatio), mean = sum / static_cast<double>(sequence.active);
        sequence.saturated = mean > bound || mean < -bound;
        sequence.ratio = static_cast<float>(::exp(mean > bound ? bound : mean < -bound ? -bound : mean));
      }
      if (args.objective == SACCADE_OBJECTIVE_GSPO && args.d_log_prob) {
        const Objective objective(args);
        for_active([&](int64_t r) {
          const Token token = RowInput(args, r).token(args, objective, s, sequence.ratio, sequence.saturated);
          gradient += static_cast<double>(token.gradient);
        });
        gradient = team.sum(gradient);
      }
    }
  }
  if (!write) return 0;
  for (int64_t block = divide_up(bounds.begin, kPolicyBlock) + team.rank(); block * kPolicyBlock < bounds.end;
       block += kLanes)
    workspace.block_sequences[block] = static_cast<int32_t>(s);
  if (team.rank() != 0) return 0;
  workspace.sequences[s] = sequence;
  if (whole) workspace.piece_sum[s] = gradient;
  return sequence.active;
}

// One block a slice of the sequences, kLanes lanes a sequence, or the block where it is long.
template <int kLanes>
static __global__ void __launch_bounds__(kSequenceThreads)
    sequence_kernel(saccade_policy_loss_args args, PolicyLossWorkspace workspace) {
  __shared__ double shared[32];
  wait_for_last();
  allow_next();
  const int64_t begin = args.sequences * blockIdx.x / gridDim.x, end = args.sequences * (blockIdx.x + 1) / gridDim.x;
  const auto is_long = [](const Bounds& bounds) { return bounds.end - bounds.begin > kLanes * kLaneRows; };
  int32_t active = 0;
  bool longer = false;
  for (int64_t first = begin; first < end; first += kSequenceThreads / kLanes) {
    const int64_t own = first + threadIdx.x / kLanes, s = own < end ? own : end - 1;
    Bounds bounds(args, s);
    const bool left = is_long(bounds);
    longer |= left;
    if (left) bounds.end = bounds.begin;
    active += measure_sequence(args, workspace, s, bounds, own < end && !left, Team<kLanes>{shared});
  }
  if (__syncthreads_or(longer))
    for (int64_t s = begin; s < end; ++s) {
      const Bounds bounds(args, s);
      if (is_long(bounds)) active += measure_sequence(args, workspace, s, bounds, true, Team<kSequenceThreads>{shared});
    }
  active = Team<kSequenceThreads>{shared}.sum(active);
  if (threadIdx.x != 0) return;
  workspace.slices[blockIdx.x] = active;
  if (blockIdx.x == 0) *workspace.done = 0;
}

inline __host__ __device__ int64_t slices_of(int64_t sequences) {
  return sequences < 1 ? 1 : sequences < kPolicySlices ? sequences : kPolicySlices;
}

// Active rows of all sequences, by all threads of a block; shared: [32].
__device__ inline int32_t active_rows(const saccade_policy_loss_args& args, const PolicyLossWorkspace& workspace,
                                      int32_t* shared) {
  int32_t own = 0;
  for (int64_t i = threadIdx.x; i < slices_of(args.sequences); i += blockDim.x) own += workspace.slices[i];
  return reduce_block(own, shared, [](int32_t a, int32_t b) { return a + b; });
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

// The sequence that owns row r, of those from `low` to before `high`.
__device__ inline int64_t sequence_of(const saccade_policy_loss_args& args, int64_t r, int64_t low, int64_t high) {
  const int32_t* offsets = pointer<const int32_t>(args.offsets);  // offsets[low] <= r < offsets[high]
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (offsets[middle] <= r ? low : high) = middle;
  }
  return low;
}

// One block every kPolicyBlock rows.  bonus(r) * a_t is taken from the loss.
template <class Bonus>
__global__ void __launch_bounds__(kRowThreads, 2)
    row_kernel(saccade_policy_loss_args args, PolicyLossWorkspace workspace, int64_t blocks, Bonus bonus) {
  __shared__ PolicySums shared[32];
  __shared__ int32_t counts[32];
  __shared__ bool last;
  const int64_t first = blockIdx.x * kPolicyBlock + threadIdx.x;
  // Of rows behind the last one that of the last one.
  const auto input = [&](int64_t r) { return RowInput(args, r < args.rows ? r : args.rows - 1); };
  RowInput inputs[kAtOnce];
  const auto load = [&](int64_t r) {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) inputs[i] = input(r + i * kRowThreads);
  };
  if (args.rows > 0) load(first);
  wait_for_last();
  const Objective objective(args);
  const float kl_coef = args.kl_coef_scalar ? *pointer<const float>(args.kl_coef_scalar) : args.kl_coef;
  const double grad_output = args.grad_output ? static_cast<double>(*pointer<const float>(args.grad_output)) : 1.0;
  const bool add_kl = kl_coef != 0.0f, whole = needs_whole_sequences(args);
  const bool spread = args.objective == SACCADE_OBJECTIVE_GSPO;
  const int64_t all_active = active_rows(args, workspace, counts);
  // The sequence of a block's first row, where sequence_kernel has found one.
  const auto found = [&](int64_t block, int64_t otherwise) {
    if (block >= blocks || args.rows == 0) return otherwise;
    const int64_t s = workspace.block_sequences[block];
    if (s < 0 || s >= args.sequences) return otherwise;
    const Bounds bounds(args, s);
    return bounds.begin <= block * kPolicyBlock && block * kPolicyBlock < bounds.end ? s : otherwise;
  };
  const bool by_sequence = args.aggregation == SACCADE_AGGREGATION_SEQ_MEAN_TOKEN_MEAN;
  const double common = row_weight(args, 1, all_active);
  int64_t s = found(blockIdx.x, 0);
  const int64_t end = found(blockIdx.x + 1, args.sequences - 1) + 1;
  double loss = 0.0;
  float token_losses = 0.0f, ratios = 0.0f, kls = 0.0f, most = 0.0f;
  int32_t clipped_low = 0, clipped_high = 0;
#pragma unroll 1
  for (int64_t k = 0; k < kPolicyBlock && first + k < args.rows; k += kAtOnce * kRowThreads) {
    if (k > 0) load(first + k);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t r = first + k + i * kRowThreads;
      if (r >= args.rows) break;
      s = sequence_of(args, r, s, end);
      const Bounds bounds(args, s);
      const bool lost = bounds.bad || r < bounds.begin || r >= bounds.end;
      float token_loss = 0.0f, gradient = 0.0f, kl_value = 0.0f;
      if (lost || inputs[i].active) {
        const RowInput& row = inputs[i];
        const PolicySequence sequence = workspace.sequences[s];
        const double a = by_sequence ? row_weight(args, sequence.active, all_active) : common;
        const float log_ratio = row.log_ratio(), ratio = whole ? sequence.ratio : exp(clamp_log_ratio(log_ratio));
        const Token token =
            row.token(args, objective, s, ratio, whole ? sequence.saturated : beyond_log_ratio(log_ratio));
        token_loss = token.loss;
        gradient = spread ? 0.0f : token.gradient;
        if (add_kl || args.kl) {
          const KlElement kl = args.kl_importance_corrected
                                   ? corrected_kl_element(args.kl_estimator, row.log_prob, row.reference, log_ratio)
                                   : sampled_kl_element(args.kl_estimator, row.log_prob, row.reference);
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
        loss += static_cast<double>(token_loss - bonus(r)) * a;
        token_losses += token_loss;
        ratios += ratio;
        kls += kl_value;
        clipped_low += token.clipped_low;
        clipped_high += token.clipped_high;
        most = max_or_nan(most, lost ? NAN : fabsf(log_ratio));
      }
      if (args.token_loss) pointer<float>(args.token_loss)[r] = token_loss;
      if (args.d_log_prob) pointer<float>(args.d_log_prob)[r] = gradient;
      if (args.kl) pointer<float>(args.kl)[r] = kl_value;
    }
  }
  const auto warp_sum = [](auto x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
    return static_cast<double>(x);
  };
  // Of numbers of at least 0, of which NaN has the largest bits.
  const auto warp_max = [](float x) { return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(fabsf(x)))); };
  const PolicySums own{warp_sum(loss),
                       warp_sum(token_losses),
                       warp_sum(ratios),
                       warp_sum(kls),
                       __reduce_add_sync(~0u, clipped_low),
                       __reduce_add_sync(~0u, clipped_high),
                       warp_max(most)};
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = own;
  __syncthreads();
  if (threadIdx.x == 0) {
    PolicySums sums = own;
    for (int warp = 1; warp < kRowThreads / 32; ++warp) sums = add(sums, shared[warp]);
    if (args.rows > 0) workspace.sums[blockIdx.x] = sums;
    __threadfence();
    last = atomicAdd(workspace.done, 1) == static_cast<int32_t>(blocks) - 1;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  PolicySums all{};
  if (args.rows > 0)
    for (int64_t b = threadIdx.x; b < blocks; b += kRowThreads) all = add(all, workspace.sums[b]);
  all = reduce_block(all, shared, add);
  if (threadIdx.x != 0) return;
  *workspace.done = 0;
  *pointer<float>(args.loss) = static_cast<float>(all.loss);
  float* metrics = pointer<float>(args.metrics);
  if (!metrics) return;
  const double n = static_cast<double>(all_active > 0 ? all_active : 1);
  metrics[SACCADE_METRIC_CLIPPED_LOW] = static_cast<float>(static_cast<double>(all.clipped_low) / n);
  metrics[SACCADE_METRIC_CLIPPED_HIGH] = static_cast<float>(static_cast<double>(all.clipped_high) / n);
  metrics[SACCADE_METRIC_RATIO] = static_cast<float>(all.ratio / n);
  metrics[SACCADE_METRIC_KL] = static_cast<float>(all.kl / n);
  metrics[SACCADE_METRIC_TOKEN_LOSS] = static_cast<float>(all.token_loss / n);
  metrics[SACCADE_METRIC_ACTIVE] = static_cast<float>(all_active);
  metrics[SACCADE_METRIC_MAX_LOG_RATIO] = all.max_log_ratio;
}

struct NoBonus {
  __device__ float operator()(int64_t) const { return 0.0f; }
};

// Counts of active rows, and what GSPO and GSPO_TOKEN need of whole sequences.
inline void launch_sequences(const Device& device, const saccade_policy_loss_args& args,
                             const PolicyLossWorkspace& workspace) {
  constexpr int kFew = 8;
  const bool few = args.rows <= args.sequences * kFew * 8;
  launch_overlapping(device, few ? sequence_kernel<kFew> : sequence_kernel<32>, slices_of(args.sequences),
                     kSequenceThreads, args, workspace);
}

// at_once: right after launch_sequences(), and what it reads but for that was there before.
template <class Bonus>
void launch_rows(const Device& device, const saccade_policy_loss_args& args, const PolicyLossWorkspace& workspace,
                 const Bonus& bonus, bool at_once) {
  const int64_t blocks = args.rows > 0 ? divide_up(args.rows, kPolicyBlock) : 1;
  if (at_once)
    launch_overlapping(device, row_kernel<Bonus>, blocks, kRowThreads, args, workspace, blocks, bonus);
  else
    launch(device, row_kernel<Bonus>, blocks, kRowThreads, args, workspace, blocks, bonus);
}

}  // namespace saccade::cuda
