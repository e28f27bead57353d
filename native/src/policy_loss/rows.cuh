// The policy-gradient loss of packed rows on a GPU: the two kernels of policy_loss, which policy_loss_from_logits
// shares.
#pragma once

#include "core/rows.cuh"
#include "policy_loss/objective.h"
#include "policy_loss/policy_loss.h"

namespace saccade::cuda {

constexpr int kTaken = kPack<float>;  // rows that a thread of row_kernel takes at once
constexpr int kSequenceThreads = 256, kRowThreads = kPolicyTile / kTaken;
constexpr int kRowBlocks = 4;       // of row_kernel on a multiprocessor
constexpr int kLaneRows = 64;       // more rows of a sequence than these a lane are a block's work
constexpr int kNearOffsets = 1024;  // so many offsets a block of row_kernel keeps at hand
constexpr int kRowSlices = 128;     // most slices of the rows

// What is given of a row, read whether it is active or not.
struct RowInput {
  float log_prob, old_log_prob, reference, advantage, is_weight;

  RowInput() = default;
  __device__ RowInput(const saccade_policy_loss_args& args, int64_t r) {
    const auto value = [&](saccade_address x, float otherwise) { return x ? pointer<const float>(x)[r] : otherwise; };
    log_prob = value(args.log_prob, 0.0f);
    old_log_prob = value(args.old_log_prob, 0.0f);
    reference = value(args.ref_log_prob, 0.0f);
    advantage = value(args.advantage_per_sequence ? 0 : args.advantage, 0.0f);
    is_weight = value(args.is_weight, 1.0f);
  }

  // Rows r, r + 1 ...; returns their mask, a byte each, 0 for those behind the last one.  aligned: so are they all, for
  // loads of 16 bytes.
  __device__ __forceinline__ static uint32_t load(const saccade_policy_loss_args& args, uint32_t r, bool aligned,
                                                  RowInput (&rows)[kTaken]) {
    const uint8_t* mask = pointer<const uint8_t>(args.mask);
    if (aligned && r + kTaken <= static_cast<uint32_t>(args.rows)) {
      const auto values = [&](saccade_address x, bool there, float otherwise, float RowInput::*value) {
        float4 read = make_float4(otherwise, otherwise, otherwise, otherwise);
        if (there) read = __ldcg(reinterpret_cast<const float4*>(pointer<const float>(x) + r));
        rows[0].*value = read.x;
        rows[1].*value = read.y;
        rows[2].*value = read.z;
        rows[3].*value = read.w;
      };
      values(args.log_prob, true, 0.0f, &RowInput::log_prob);
      values(args.old_log_prob, true, 0.0f, &RowInput::old_log_prob);
      values(args.ref_log_prob, args.ref_log_prob != 0, 0.0f, &RowInput::reference);
      values(args.advantage, !args.advantage_per_sequence, 0.0f, &RowInput::advantage);
      values(args.is_weight, args.is_weight != 0, 1.0f, &RowInput::is_weight);
      return mask ? __ldcg(reinterpret_cast<const uint32_t*>(mask + r)) : ~0u;
    }
    uint32_t active = 0;
#pragma unroll
    for (int e = 0; e < kTaken; ++e) {
      if (r + e >= args.rows) break;
      rows[e] = RowInput(args, r + e);
      active |= (mask ? mask[r + e] : 1u) << 8 * e;
    }
    return active;
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

// Every input and output by the row may be taken 16 bytes at a time.
SACCADE_BOTH inline bool is_aligned(const saccade_policy_loss_args& args) {
  const saccade_address advantage = args.advantage_per_sequence ? 0 : args.advantage;
  const saccade_address inputs = args.log_prob | args.old_log_prob | args.ref_log_prob | advantage | args.is_weight;
  return (inputs | args.mask * kTaken | args.token_loss | args.d_log_prob | args.kl) % 16 == 0;
}

// What sequence s owns; `bad` where its offsets are none, or reach into another's.
struct Bounds {
  int64_t begin, end;
  bool bad;

  __device__ Bounds(const saccade_policy_loss_args& args, int64_t s)
      : Bounds(args, pointer<const int32_t>(args.offsets), s) {}

  __device__ Bounds(const saccade_policy_loss_args& args, const int32_t* offsets, int64_t s) {
    begin = offsets[s];
    end = offsets[s + 1];
    bad = begin < 0 || end < begin || end > args.rows;
    if (bad) begin = end = 0;
  }

  // Where it holds of every sequence, every row is one's.
  __device__ bool joins(const saccade_policy_loss_args& args, int64_t s) const {
    return !bad && (s > 0 || begin == 0) && (s + 1 < args.sequences || end == args.rows);
  }
};

// Of all rows, or of a slice of them and of the sequences: how many are active, and whether offsets leave none out.
struct PolicyCount {
  int32_t active;
  bool owned;

  // As a number of the workspace.
  __device__ int32_t encoded() const { return owned ? active : ~active; }
  __device__ static PolicyCount decoded(int32_t x) { return {x < 0 ? ~x : x, x >= 0}; }
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
  if (!write || team.rank() != 0) return 0;
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
  bool longer = false, owned = true;
  for (int64_t first = begin; first < end; first += kSequenceThreads / kLanes) {
    const int64_t own = first + threadIdx.x / kLanes, s = own < end ? own : end - 1;
    Bounds bounds(args, s);
    owned &= bounds.joins(args, s);
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
  owned = __syncthreads_and(owned);
  if (threadIdx.x != 0) return;
  workspace.slices[blockIdx.x] = PolicyCount{active, owned}.encoded();
  if (blockIdx.x == 0) *workspace.done = 0;
}

// What is asked of sequence_kernel; otherwise the active rows are counted, wherever they are.
SACCADE_BOTH inline bool counts_by_sequence(const saccade_policy_loss_args& args) {
  return needs_whole_sequences(args) || args.aggregation == SACCADE_AGGREGATION_SEQ_MEAN_TOKEN_MEAN;
}

// Slices of rows are few, each a pass of its block over the mask: every block of row_kernel adds up what they count.
inline __host__ __device__ int64_t slices_of(const saccade_policy_loss_args& args) {
  const bool by_sequence = counts_by_sequence(args);
  const int64_t parts = by_sequence ? args.sequences : divide_up(args.rows, kPolicyBlock);
  const int64_t most = by_sequence ? kPolicySlices : kRowSlices;
  return parts < 1 ? 1 : parts < most ? parts : most;
}

// One block a slice of the rows, and of the offsets.
static __global__ void __launch_bounds__(kSequenceThreads)
    count_kernel(saccade_policy_loss_args args, PolicyLossWorkspace workspace) {
  __shared__ int32_t shared[32];
  constexpr int kAtOnce = 4;
  // Multiples of 16 rows.
  const int64_t slice = divide_up(divide_up(args.rows, gridDim.x), 16) * 16, first = slice * blockIdx.x;
  const int64_t left = args.rows - first, n = left < 0 ? 0 : left < slice ? left : slice;
  const uint8_t* mask = pointer<const uint8_t>(args.mask) + first;
  if (args.mask && threadIdx.x * 128 < n) prefetch(mask + threadIdx.x * 128);
  wait_for_last();
  allow_next();
  bool owned = true;
  for (int64_t s = blockIdx.x * kSequenceThreads + threadIdx.x; s < args.sequences; s += gridDim.x * kSequenceThreads)
    owned &= Bounds(args, s).joins(args, s);
  int32_t active = 0;
  if (!args.mask) {
    if (threadIdx.x == 0) active = static_cast<int32_t>(n);
  } else {
    const Split<uint8_t> split(mask, n);
    const auto* packs = reinterpret_cast<const uint4*>(mask + split.head);
    for (int64_t i = threadIdx.x; i < split.packs; i += kAtOnce * kSequenceThreads) {
      uint4 read[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int64_t at = i + k * kSequenceThreads;
        read[k] = at < split.packs ? packs[at] : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (const uint4& x : read)
        active += __popc(__vsetne4(x.x, 0)) + __popc(__vsetne4(x.y, 0)) + __popc(__vsetne4(x.z, 0)) +
                  __popc(__vsetne4(x.w, 0));
    }
    if (threadIdx.x < split.head) active += mask[threadIdx.x] != 0;
    if (threadIdx.x < split.tail) active += mask[n - split.tail + threadIdx.x] != 0;
  }
  active = reduce_block(active, shared, [](int32_t a, int32_t b) { return a + b; });
  owned = __syncthreads_and(owned);
  if (threadIdx.x != 0) return;
  workspace.slices[blockIdx.x] = PolicyCount{active, owned}.encoded();
  if (blockIdx.x == 0) *workspace.done = 0;
}

// What the slices add up to, by the lanes of a warp.
__device__ inline PolicyCount count_rows(const saccade_policy_loss_args& args, const PolicyLossWorkspace& workspace) {
  PolicyCount own{0, true};
  const int slices = static_cast<int>(slices_of(args));
  for (int first = threadIdx.x % 32; first < slices; first += kRowSlices) {
    int32_t read[kRowSlices / 32];
#pragma unroll
    for (int k = 0; k < kRowSlices / 32; ++k) read[k] = first + 32 * k < slices ? workspace.slices[first + 32 * k] : 0;
#pragma unroll
    for (const int32_t slice : read) {
      const PolicyCount count = PolicyCount::decoded(slice);
      own.active += count.active;
      own.owned &= count.owned;
    }
  }
  return {__reduce_add_sync(~0u, own.active), __all_sync(~0u, own.owned) != 0};
}

// What is summed, by the place of its metric; the loss takes that of the active rows, which are counted before.
constexpr int kSums = SACCADE_POLICY_METRICS, kLossSum = SACCADE_METRIC_ACTIVE;

struct Sum {
  __device__ double operator()(double a, double b) const { return a + b; }
};
struct Largest {
  __device__ double operator()(double a, double b) const { return a > b || a != a ? a : b; }
};

// What merge makes of 0 and `count` numbers, by the lanes of a warp.
template <class Merge>
__device__ double merge_all(const double* values, int count, const Merge& merge) {
  constexpr int kAtOnce = 16;
  double all = 0.0;
  for (int first = threadIdx.x % 32; first < count; first += 32 * kAtOnce) {
    double read[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) read[k] = first + 32 * k < count ? values[first + 32 * k] : 0.0;
#pragma unroll
    for (const double value : read) all = merge(all, value);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) all = merge(all, __shfl_xor_sync(~0u, all, distance));
  return all;
}

// The sequence that owns row r, of those from `low` to before `high`.
__device__ inline int32_t sequence_of(const int32_t* offsets, int64_t r, int32_t low, int32_t high) {
  while (high - low > 1) {  // offsets[low] <= r < offsets[high]
    const int32_t middle = low + (high - low) / 2;
    (offsets[middle] <= r ? low : high) = middle;
  }
  return low;
}

// As that, of all sequences, by the lanes of a warp.
__device__ inline int32_t sequence_of(const saccade_policy_loss_args& args, int64_t r) {
  const int32_t* offsets = pointer<const int32_t>(args.offsets);
  int64_t low = 0, high = args.sequences;
  while (high - low > 1) {
    const int64_t step = divide_up(high - low, 32), s = low + threadIdx.x % 32 * step;
    const uint32_t behind = ~(__ballot_sync(~0u, s < high && offsets[s] <= r) | 1u);
    low += (behind ? __ffs(behind) - 2 : 31) * step;
    high = low + step < high ? low + step : high;
  }
  return static_cast<int32_t>(low);
}

// Calls body(objective) with what args ask for as constants: many rows, one choice.
template <class Body>
__device__ __forceinline__ void with_objective(saccade_policy_loss_args args, const Body& body) {
  switch (args.objective) {
    case SACCADE_OBJECTIVE_CISPO:
      args.objective = SACCADE_OBJECTIVE_CISPO;
      return body(Objective(args));
    case SACCADE_OBJECTIVE_SAPO:
      args.objective = SACCADE_OBJECTIVE_SAPO;
      return body(Objective(args));
    case SACCADE_OBJECTIVE_REINFORCE:
      args.objective = SACCADE_OBJECTIVE_REINFORCE;
      return body(Objective(args));
    default:
      args.objective = SACCADE_OBJECTIVE_PPO_CLIP;
      if (args.delta > 0.0f || args.dual_clip > 0.0f) return body(Objective(args));
      args.delta = args.dual_clip = 0.0f;
      return body(Objective(args));
  }
}

// Calls body(estimator, corrected) with what args ask for as constants.
template <class Body>
__device__ __forceinline__ void with_estimator(const saccade_policy_loss_args& args, const Body& body) {
  const auto with = [&](auto estimator) {
    if (args.kl_importance_corrected)
      body(estimator, std::true_type{});
    else
      body(estimator, std::false_type{});
  };
  switch (args.kl_estimator) {
    case SACCADE_KL_K1:
      return with(std::integral_constant<int32_t, SACCADE_KL_K1>{});
    case SACCADE_KL_ABS:
      return with(std::integral_constant<int32_t, SACCADE_KL_ABS>{});
    case SACCADE_KL_K2:
      return with(std::integral_constant<int32_t, SACCADE_KL_K2>{});
    case SACCADE_KL_K3:
      return with(std::integral_constant<int32_t, SACCADE_KL_K3>{});
    case SACCADE_KL_K1_ST:
      return with(std::integral_constant<int32_t, SACCADE_KL_K1_ST>{});
    default:
      return with(std::integral_constant<int32_t, SACCADE_KL_K3_ST>{});
  }
}

struct NoBonus {
  __device__ float operator()(int64_t) const { return 0.0f; }
};

// What row_kernel is compiled for: the usual call, whose choices are constants then; others whose rows have one weight;
// all others.
enum class RowKernel { kUsual, kOneWeight, kBySequence };

inline __host__ __device__ void make_usual(saccade_policy_loss_args& args) {
  args.objective = SACCADE_OBJECTIVE_PPO_CLIP;
  args.dual_clip = args.delta = 0.0f;
  args.kl_estimator = SACCADE_KL_K3;
  args.kl_importance_corrected = args.advantage_per_sequence = 0;
  args.is_weight = args.kl = 0;
}

inline RowKernel rows_of(const saccade_policy_loss_args& args) {
  if (counts_by_sequence(args)) return RowKernel::kBySequence;
  const bool plain = args.objective == SACCADE_OBJECTIVE_PPO_CLIP && args.dual_clip == 0.0f && args.delta == 0.0f;
  const bool k3 = args.kl_estimator == SACCADE_KL_K3 && !args.kl_importance_corrected && !args.kl;
  const bool usual = plain && k3 && !args.advantage_per_sequence && !args.is_weight && is_aligned(args);
  return usual ? RowKernel::kUsual : RowKernel::kOneWeight;
}

// One block every `rounds` tiles of rows.  bonus(r) * a_t is taken from the loss.
template <RowKernel kRows, class Bonus>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    row_kernel(saccade_policy_loss_args args, PolicyLossWorkspace workspace, int32_t rounds, Bonus bonus) {
  constexpr bool kUsual = kRows == RowKernel::kUsual, kBySequence = kRows == RowKernel::kBySequence;
  constexpr bool kSumsTokens = !kBySequence && std::is_same_v<Bonus, NoBonus>;  // the loss is of the token losses alone
  if (kUsual) make_usual(args);
  __shared__ double of_warps[kSums][kRowThreads / 32];
  __shared__ int32_t near_offsets[kNearOffsets], ends[2];
  __shared__ double common;  // a_t, where it is the same for all rows
  __shared__ PolicyCount counted;
  __shared__ bool last;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t span = rounds * kPolicyTile, first = blockIdx.x * span;
  const auto behind = static_cast<uint32_t>(first + span < args.rows ? first + span : args.rows);
  const auto begin = static_cast<uint32_t>(first) + kTaken * threadIdx.x;
  const bool aligned = kUsual || is_aligned(args);
  RowInput rows[kTaken];
  uint32_t mask = RowInput::load(args, begin, aligned, rows);
  // The sequences that own the block's rows, and their offsets, at hand if there is room.
  const int32_t* offsets = pointer<const int32_t>(args.offsets);
  int32_t low = 0, sequences = static_cast<int32_t>(args.sequences);
  if (kBySequence || args.advantage_per_sequence) {
    if (warp < 2) {
      const int32_t s = sequence_of(args, warp == 0 ? first : behind - 1);
      if (lane == 0) ends[warp] = s;
    }
    __syncthreads();
    low = ends[0];
    sequences = args.rows == 0 ? 0 : ends[1] < low ? 1 : ends[1] - low + 1;
    offsets += low;
    if (sequences < kNearOffsets) {
      for (int i = threadIdx.x; i <= sequences; i += kRowThreads) near_offsets[i] = offsets[i];
      offsets = near_offsets;
    }
  }
  const float kl_coef = args.kl_coef_scalar ? *pointer<const float>(args.kl_coef_scalar) : args.kl_coef;
  const double grad_output = args.grad_output ? static_cast<double>(*pointer<const float>(args.grad_output)) : 1.0;
  wait_for_last();
  allow_next();
  if (warp == 0) {
    const PolicyCount count = count_rows(args, workspace);
    const double a = row_weight(args, count.active, count.active);
    if (lane == 0) {
      counted = count;
      common = a;
    }
  }
  __syncthreads();
  const bool add_kl = kl_coef != 0.0f, metrics = args.metrics != 0;
  const bool whole = kBySequence && needs_whole_sequences(args);
  const bool spread = kBySequence && args.objective == SACCADE_OBJECTIVE_GSPO;
  const float common_weight = static_cast<float>(common * grad_output);
  float loss = 0.0f;  // without `common`
  float token_losses = 0.0f, ratios = 0.0f, kls = 0.0f;
  float most = 0.0f;
  uint32_t clipped = 0;  // rows from above in the upper half, from below in the lower one
#pragma unroll 1
  for (uint32_t r = begin; r < behind; r += kPolicyTile) {
    if (r > begin) mask = RowInput::load(args, r, aligned, rows);
    PolicySequence sequences_of[kTaken];
    float loss_weight[kTaken], gradient_weight[kTaken], spread_gradient[kTaken];
#pragma unroll
    for (int e = 0; e < kTaken; ++e) {
      loss_weight[e] = 1.0f;
      gradient_weight[e] = common_weight;
      spread_gradient[e] = 0.0f;
    }
    // What a row's own sequence gives it.
    if (kBySequence || !counted.owned || args.advantage_per_sequence) {
      int32_t owner = 0;
      uint32_t from = 0, to = 0;
#pragma unroll
      for (int e = 0; e < kTaken; ++e) {
        if (r + e < from || r + e >= to) {
          owner = sequence_of(offsets, r + e, 0, sequences);
          const Bounds bounds(args, offsets, owner);
          from = static_cast<uint32_t>(bounds.begin);
          to = static_cast<uint32_t>(bounds.end);
        }
        const bool lost = r + e < behind && (r + e < from || r + e >= to);
        if (lost) {
          rows[e].log_prob = NAN;
          mask |= 0xffu << 8 * e;
        }
        if (args.advantage_per_sequence) rows[e].advantage = pointer<const float>(args.advantage)[low + owner];
        if (!kBySequence) continue;
        PolicySequence sequence = workspace.sequences[low + owner];
        if (lost) sequence = {0, NAN, 0.0f, false};
        sequences_of[e] = sequence;
        const double a = row_weight(args, sequence.active, counted.active);
        loss_weight[e] = static_cast<float>(a);
        gradient_weight[e] = static_cast<float>(a * grad_output);
        if (spread && args.d_log_prob)
          spread_gradient[e] = static_cast<float>(workspace.piece_sum[low + owner] * a * grad_output / sequence.active);
      }
    }
    const auto on = [&](int e) { return (mask & 0xffu << 8 * e) != 0; };
    float log_ratio[kTaken], token_loss[kTaken], gradient[kTaken];
    with_objective(args, [&](const Objective& objective) {
#pragma unroll
      for (int e = 0; e < kTaken; ++e) {
        const RowInput& row = rows[e];
        log_ratio[e] = row.log_ratio();
        const float ratio = whole ? sequences_of[e].ratio : exp_bounded(clamp_log_ratio(log_ratio[e]));
        const Token token = objective.token(
            row.log_prob, ratio, whole ? sequences_of[e].saturated : beyond_log_ratio(log_ratio[e]), row.advantage);
        token_loss[e] = token.loss;
        gradient[e] = token.gradient;
        if (on(e)) {
          ratios += ratio;
          clipped += token.clipped_low ? 1u : token.clipped_high ? 1u << 16 : 0u;
          most = max_nan(most, fabsf(log_ratio[e]));
        }
      }
    });
    if (args.is_weight) {
#pragma unroll
      for (int e = 0; e < kTaken; ++e) {
        token_loss[e] *= rows[e].is_weight;
        gradient[e] *= rows[e].is_weight;
      }
    }
    if (spread) {
#pragma unroll
      for (float& own : gradient) own = 0.0f;
    }
    const auto store = [&](saccade_address x, const float(&values)[kTaken]) {
      if (!x) return;
      float* to = pointer<float>(x);
      if (aligned && r + kTaken <= static_cast<uint32_t>(args.rows))
        __stcs(reinterpret_cast<float4*>(to + r), make_float4(values[0], values[1], values[2], values[3]));
      else
        store_group(to, args.rows, r, values);
    };
    if (add_kl || args.kl) {
      float kl_value[kTaken], kl_gradient[kTaken];
      with_estimator(args, [&](auto estimator, auto corrected) {
#pragma unroll
        for (int e = 0; e < kTaken; ++e) {
          const RowInput& row = rows[e];
          const KlElement kl = corrected ? corrected_kl_element(estimator, row.log_prob, row.reference, log_ratio[e])
                                         : sampled_kl_element(estimator, row.log_prob, row.reference);
          kl_value[e] = kl.value;
          kl_gradient[e] = kl.gradient;
        }
      });
      if (add_kl) {
#pragma unroll
        for (int e = 0; e < kTaken; ++e) {
          token_loss[e] += kl_coef * kl_value[e];
          gradient[e] += kl_coef * kl_gradient[e];
        }
      }
#pragma unroll
      for (int e = 0; e < kTaken; ++e) {
        kl_value[e] = on(e) ? kl_value[e] : 0.0f;
        kls += kl_value[e];
      }
      store(args.kl, kl_value);
    }
#pragma unroll
    for (int e = 0; e < kTaken; ++e) {
      token_loss[e] = on(e) ? token_loss[e] : 0.0f;
      gradient[e] = on(e) ? gradient[e] * gradient_weight[e] + spread_gradient[e] : 0.0f;
      if (!kSumsTokens) loss += (token_loss[e] - (on(e) ? bonus(r + e) : 0.0f)) * loss_weight[e];
      token_losses += token_loss[e];
    }
    store(args.token_loss, token_loss);
    store(args.d_log_prob, gradient);
  }
  const auto keep = [&](int sum, auto of_warp) {
    if (lane == 0) of_warps[sum][warp] = static_cast<double>(of_warp);
  };
  const auto keep_sum = [&](int sum, auto x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
    keep(sum, x);
  };
  keep_sum(kLossSum, static_cast<double>(kSumsTokens ? token_losses : loss));
  if (metrics) {
    keep_sum(SACCADE_METRIC_TOKEN_LOSS, token_losses);
    keep_sum(SACCADE_METRIC_RATIO, ratios);
    keep_sum(SACCADE_METRIC_KL, kls);
    clipped = __reduce_add_sync(~0u, clipped);
    keep(SACCADE_METRIC_CLIPPED_LOW, clipped & 0xffffu);
    keep(SACCADE_METRIC_CLIPPED_HIGH, clipped >> 16);
    // Bits of numbers of at least 0, of which NaN has the largest.
    keep(SACCADE_METRIC_MAX_LOG_RATIO, __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(most))));
  }
  __syncthreads();
  if (warp == 0) {
    if (lane == kLossSum || (metrics && lane < kSums)) {
      double own = 0.0, most_of_block = 0.0;
#pragma unroll
      for (const double of_warp : of_warps[lane]) {
        own = Sum{}(own, of_warp);
        most_of_block = Largest{}(most_of_block, of_warp);
      }
      if (lane == SACCADE_METRIC_MAX_LOG_RATIO) own = most_of_block;
      workspace.block_sums[static_cast<int64_t>(lane) * gridDim.x + blockIdx.x] = own;
    }
    __syncwarp();
    if (lane == 0) last = arrive(workspace.done) == static_cast<int32_t>(gridDim.x) - 1;
  }
  __syncthreads();
  if (!last) return;
  // A warp a sum.
  if (threadIdx.x == 0) *workspace.done = 0;
  if (warp != kLossSum && (!metrics || warp >= kSums)) return;
  const int blocks = static_cast<int>(gridDim.x);
  const double* sums = workspace.block_sums + static_cast<int64_t>(warp) * blocks;
  const bool largest = warp == SACCADE_METRIC_MAX_LOG_RATIO;
  const double all = largest ? merge_all(sums, blocks, Largest{}) : merge_all(sums, blocks, Sum{});
  if (lane != 0) return;
  float* to = pointer<float>(args.metrics) + warp;
  if (largest) {
    *to = static_cast<float>(all);
  } else if (warp == kLossSum) {
    *pointer<float>(args.loss) = static_cast<float>(kBySequence ? all : all * common);
    if (metrics) *to = static_cast<float>(counted.active);
  } else {
    *to = static_cast<float>(all / static_cast<double>(counted.active > 0 ? counted.active : 1));
  }
}

// Counts of active rows, and what GSPO and GSPO_TOKEN need of whole sequences.
inline void launch_sequences(const Device& device, const saccade_policy_loss_args& args,
                             const PolicyLossWorkspace& workspace) {
  constexpr int kFew = 8;
  const bool few = args.rows <= args.sequences * kFew * 8;
  const auto kernel = !counts_by_sequence(args) ? count_kernel : few ? sequence_kernel<kFew> : sequence_kernel<32>;
  launch_overlapping(device, kernel, slices_of(args), kSequenceThreads, args, workspace);
}

// at_once: right after launch_sequences(), and what it reads but for that was there before.
template <class Bonus>
void launch_rows(const Device& device, const saccade_policy_loss_args& args, const PolicyLossWorkspace& workspace,
                 const Bonus& bonus, bool at_once) {
  const int32_t rounds = static_cast<int32_t>(policy_rounds(args.rows));
  const int64_t tiles = divide_up(args.rows, rounds * kPolicyTile), blocks = tiles > 0 ? tiles : 1;
  const auto kernel = [&] {
    switch (rows_of(args)) {
      case RowKernel::kUsual:
        return row_kernel<RowKernel::kUsual, Bonus>;
      case RowKernel::kOneWeight:
        return row_kernel<RowKernel::kOneWeight, Bonus>;
      default:
        return row_kernel<RowKernel::kBySequence, Bonus>;
    }
  }();
  if (at_once)
    launch_overlapping(device, kernel, blocks, kRowThreads, args, workspace, rounds, bonus);
  else
    launch(device, kernel, blocks, kRowThreads, args, workspace, rounds, bonus);
}

}  // namespace saccade::cuda
