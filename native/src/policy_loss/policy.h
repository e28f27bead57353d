// The policy-gradient loss of packed sequences (docs/spec.md §5) over ranges of rows: what policy_loss and the
// operations that compute the log-probabilities themselves share.
#pragma once

#include "core/simd.h"
#include "policy_loss/objective.h"
#include "policy_loss/policy_loss.h"

namespace saccade::SACCADE_ISA {

typedef uint8_t vu8 __attribute__((vector_size(kLanes)));

SACCADE_INLINE float max_or_nan_of(vfloat v) {
  float m = v[0];
  for (int i = 1; i < kLanes; ++i) m = v[i] > m || v[i] != v[i] ? v[i] : m;
  return m;
}

SACCADE_INLINE int64_t count_of(vint mask) {
  int64_t n = 0;
  for (int i = 0; i < kLanes; ++i) n -= mask[i];
  return n;
}

// All ones in the lanes below `lanes` whose row is active.
SACCADE_INLINE vint active_lanes(const uint8_t* mask, int64_t row, int64_t lanes) {
  const vint inside = lane_index() < static_cast<int32_t>(lanes);
  if (!mask) return inside;
  vu8 bytes = {};
  if (lanes == kLanes)
    std::memcpy(&bytes, mask + row, sizeof bytes);
  else
    std::memcpy(&bytes, mask + row, static_cast<size_t>(lanes));
  return inside & (__builtin_convertvector(bytes, vint) != 0);
}

// One call: its tensors, and the walk over sequences, blocks and pieces.
struct PolicyLoss {
  explicit PolicyLoss(const saccade_policy_loss_args& args_, const PolicyLossWorkspace& workspace_)
      : args(args_), workspace(workspace_) {}

  const saccade_policy_loss_args& args;
  const PolicyLossWorkspace& workspace;
  const int32_t* const offsets = pointer<const int32_t>(args.offsets);
  const uint8_t* const mask = pointer<const uint8_t>(args.mask);
  const float* const log_prob = pointer<const float>(args.log_prob);
  const float* const old_log_prob = pointer<const float>(args.old_log_prob);
  const float* const ref_log_prob = pointer<const float>(args.ref_log_prob);
  const float* const advantage = pointer<const float>(args.advantage);
  const float* const is_weight = pointer<const float>(args.is_weight);
  float* const token_loss = pointer<float>(args.token_loss);
  float* const d_log_prob = pointer<float>(args.d_log_prob);
  float* const kl_out = pointer<float>(args.kl);
  const float kl_coef = scalar(args.kl_coef_scalar, args.kl_coef);
  const double grad_output = static_cast<double>(scalar(args.grad_output, 1.0f));
  const int64_t blocks = (args.rows + kPolicyBlock - 1) / kPolicyBlock;
  const bool spread = args.objective == SACCADE_OBJECTIVE_GSPO;  // a row's gradient is its sequence's
  const bool by_sequence = needs_whole_sequences(args);
  int64_t active = 0;

  int64_t block_begin(int64_t block) const { return block * kPolicyBlock; }
  int64_t block_end(int64_t block) const {
    return args.rows - block_begin(block) < kPolicyBlock ? args.rows : block_begin(block + 1);
  }

  // The sequence that owns a row.
  int64_t sequence_of(int64_t row) const {
    int64_t low = 0, high = args.sequences;  // offsets[low] <= row < offsets[high]
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      (offsets[middle] <= row ? low : high) = middle;
    }
    return low;
  }

  // body(sequence, begin, end) for what each sequence has of the rows [row, stop).
  template <class Body>
  void for_sequences(int64_t row, int64_t stop, const Body& body) const {
    if (row >= stop) return;
    for (int64_t s = sequence_of(row); row < stop; ++s) {
      const int64_t end = offsets[s + 1] < stop ? offsets[s + 1] : stop;
      if (end > row) body(s, row, end);
      row = end > row ? end : row;
    }
  }

  // body(piece) for the pieces of a sequence, in order.
  template <class Body>
  void for_pieces_of(int64_t s, const Body& body) const {
    if (offsets[s] == offsets[s + 1]) return;
    const int64_t last = (offsets[s + 1] - 1) / kPolicyBlock;
    for (int64_t block = offsets[s] / kPolicyBlock; block <= last; ++block) body(block + s);
  }

  double weight(const PolicySequence& sequence) const { return row_weight(args, sequence.active, active); }

  void count(int64_t block) const {
    for_sequences(block_begin(block), block_end(block), [&](int64_t s, int64_t begin, int64_t end) {
      int32_t n = 0;
      if (mask)
        for (int64_t r = begin; r < end; ++r) n += mask[r] != 0;
      else
        n = static_cast<int32_t>(end - begin);
      workspace.piece_active[block + s] = n;
      if (!by_sequence) return;
      vfloat sum = splat(0.0f);
      for_lanes(end - begin, [&](int64_t i, int64_t lanes) {
        const int64_t r = begin + i;
        const vfloat x = load(log_prob + r, lanes, 0.0f) - load(old_log_prob + r, lanes, 0.0f);
        sum += select(active_lanes(mask, r, lanes), x, splat(0.0f));
      });
      workspace.piece_sum[block + s] = sum_of(sum);
    });
  }

  void join_counts() {
    for (int64_t s = 0; s < args.sequences; ++s) {
      PolicySequence& sequence = workspace.sequences[s];
      sequence = {0, 0.0f, 0.0f, false};
      double sum = 0.0;
      for_pieces_of(s, [&](int64_t piece) {
        sequence.active += workspace.piece_active[piece];
        if (by_sequence) sum += workspace.piece_sum[piece];
      });
      active += sequence.active;
      if (!by_sequence || sequence.active == 0) continue;
      const double bound = static_cast<double>(kMaxLogRatio), mean = sum / sequence.active;
      sequence.saturated = mean > bound || mean < -bound;
      sequence.ratio = static_cast<float>(std::exp(mean > bound ? bound : mean < -bound ? -bound : mean));
    }
  }

  // Token losses, gradients and sums of the rows [first, stop), at most kPolicyBlock of which are active; of a whole
  // block where the objective needs whole sequences.
  PolicySums evaluate(int64_t first, int64_t stop) const {
    const Objective objective(args);
    const vfloat zero = splat(0.0f);
    const bool add_kl = kl_coef != 0.0f, with_kl = add_kl || kl_out;
    vfloat loss = zero, tokens = zero, ratios = zero, kls = zero, largest = zero;
    vint low = {}, high = {};
    for_sequences(first, stop, [&](int64_t s, int64_t begin, int64_t end) {
      const PolicySequence& sequence = workspace.sequences[s];
      const vint saturated_sequence = vint{} - static_cast<int32_t>(sequence.saturated);
      const double a = weight(sequence);
      const float loss_weight = static_cast<float>(a), gradient_weight = static_cast<float>(a * grad_output);
      vfloat gradients = zero;
      for_lanes(end - begin, [&](int64_t i, int64_t lanes) {
        const int64_t r = begin + i;
        const vint on = active_lanes(mask, r, lanes);
        const vfloat l = load(log_prob + r, lanes, 0.0f);
        const vfloat log_ratio = l - load(old_log_prob + r, lanes, 0.0f);
        const vfloat advantages = args.advantage_per_sequence ? splat(advantage[s]) : load(advantage + r, lanes, 0.0f);
        const vfloat ratio = by_sequence ? splat(sequence.ratio) : exp(clamp_log_ratio(log_ratio));
        const vint saturated = by_sequence ? saturated_sequence : beyond_log_ratio(log_ratio);
        Token token = objective.token(l, ratio, saturated, advantages);
        if (is_weight) {
          const vfloat w = load(is_weight + r, lanes, 0.0f);
          token.loss *= w;
          token.gradient *= w;
        }
        vfloat gradient = token.gradient;
        if (spread) {
          gradients += select(on, gradient, zero);
          gradient = zero;
        }
        if (with_kl) {
          const vfloat reference = load(ref_log_prob + r, lanes, 0.0f);
          const KlElement kl = args.kl_importance_corrected
                                   ? corrected_kl_element(args.kl_estimator, l, reference, log_ratio)
                                   : sampled_kl_element(args.kl_estimator, l, reference);
          if (add_kl) {
            token.loss += kl_coef * kl.value;
            gradient += kl_coef * kl.gradient;
          }
          const vfloat value = select(on, kl.value, zero);
          kls += value;
          if (kl_out) store(kl_out + r, lanes, value);
        }
        token.loss = select(on, token.loss, zero);
        tokens += token.loss;
        loss += token.loss * loss_weight;
        ratios += select(on, ratio, zero);
        low += on & token.clipped_low;
        high += on & token.clipped_high;
        largest = max_nan(largest, select(on, select(log_ratio < 0.0f, -log_ratio, log_ratio), zero));
        if (token_loss) store(token_loss + r, lanes, token.loss);
        if (d_log_prob) store(d_log_prob + r, lanes, select(on, gradient * gradient_weight, zero));
      });
      if (spread) workspace.piece_sum[begin / kPolicyBlock + s] = sum_of(gradients);
    });
    return {sum_of(loss),  sum_of(tokens), sum_of(ratios),        sum_of(kls),
            count_of(low), count_of(high), max_or_nan_of(largest)};
  }

  void join_gradients() const {
    for (int64_t s = 0; s < args.sequences; ++s) {
      PolicySequence& sequence = workspace.sequences[s];
      if (sequence.active == 0) continue;
      double sum = 0.0;
      for_pieces_of(s, [&](int64_t piece) { sum += workspace.piece_sum[piece]; });
      sequence.gradient = static_cast<float>(sum * weight(sequence) * grad_output / sequence.active);
    }
  }

  void spread_gradients(int64_t block) const {
    for_sequences(block_begin(block), block_end(block), [&](int64_t s, int64_t begin, int64_t end) {
      const float gradient = workspace.sequences[s].gradient;
      for_lanes(end - begin, [&](int64_t i, int64_t lanes) {
        float* d = d_log_prob + begin + i;
        const vfloat own = load(d, lanes, 0.0f);
        store(d, lanes, select(active_lanes(mask, begin + i, lanes), own + gradient, own));
      });
    });
  }

  // Writes loss and metrics from the sums of all parts; `bonus` is taken from the loss.
  void report(int64_t parts, double bonus) const {
    PolicySums all = {};
    for (int64_t part = 0; part < parts; ++part) {
      const PolicySums& sums = workspace.sums[part];
      all.loss += sums.loss;
      all.token_loss += sums.token_loss;
      all.ratio += sums.ratio;
      all.kl += sums.kl;
      all.clipped_low += sums.clipped_low;
      all.clipped_high += sums.clipped_high;
      if (sums.max_log_ratio > all.max_log_ratio || sums.max_log_ratio != sums.max_log_ratio)
        all.max_log_ratio = sums.max_log_ratio;
    }
    *pointer<float>(args.loss) = static_cast<float>(all.loss - bonus);
    float* metrics = pointer<float>(args.metrics);
    if (!metrics) return;
    const double rows = static_cast<double>(active > 0 ? active : 1);
    metrics[SACCADE_METRIC_CLIPPED_LOW] = static_cast<float>(static_cast<double>(all.clipped_low) / rows);
    metrics[SACCADE_METRIC_CLIPPED_HIGH] = static_cast<float>(static_cast<double>(all.clipped_high) / rows);
    metrics[SACCADE_METRIC_RATIO] = static_cast<float>(all.ratio / rows);
    metrics[SACCADE_METRIC_KL] = static_cast<float>(all.kl / rows);
    metrics[SACCADE_METRIC_TOKEN_LOSS] = static_cast<float>(all.token_loss / rows);
    metrics[SACCADE_METRIC_ACTIVE] = static_cast<float>(active);
    metrics[SACCADE_METRIC_MAX_LOG_RATIO] = all.max_log_ratio;
  }

  // The sums of every block, and for GSPO the gradients of its rows.
  void evaluate_blocks(Pool& pool) const {
    pool.run(blocks,
             [&](int64_t block, int) { workspace.sums[block] = evaluate(block_begin(block), block_end(block)); });
    if (!spread || !d_log_prob) return;
    join_gradients();
    pool.run(blocks, [&](int64_t block, int) { spread_gradients(block); });
  }

  void count_blocks(Pool& pool) {
    pool.run(blocks, [&](int64_t block, int) { count(block); });
    join_counts();
  }
};

}  // namespace saccade::SACCADE_ISA
