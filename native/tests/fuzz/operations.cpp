// What the header says of every operation's arguments, in a form that cases are drawn from.
#include <algorithm>
#include <cmath>

#include "case.h"

namespace fuzz {

void exercise_context(Choices& choices, Tally& tally);
void exercise_memory(Choices& choices, Tally& tally);

namespace {

constexpr int32_t kF32 = SACCADE_F32, kF64 = SACCADE_F64, kI32 = SACCADE_I32, kI64 = SACCADE_I64, kU8 = SACCADE_U8;
constexpr float kLargest = 3.4e38f, kSmallest = 1.2e-38f;

Flags flags(int64_t count, const std::function<bool(size_t)>& is) {
  Flags result(static_cast<size_t>(Case::real(count)));
  for (size_t i = 0; i < result.size(); ++i) result[i] = is(i);
  return result;
}

void float_dtype(Case& c, const char* name, int32_t& field) {
  c.dtype(name, field, {SACCADE_F32, SACCADE_BF16, SACCADE_F16});
}

// The dtype of a gradient: that of its tensor, or f32.
void gradient_dtype(Case& c, const char* name, int32_t& field, int32_t dtype) {
  c.dtype(name, field, {dtype, SACCADE_F32});
}

void temperature(Case& c, float& field) {
  c.number("temperature", field, {1.0f, 0.5f, 3.0f, 100.0f, 0.01f}, {0.0f, -1.0f});
}

// ------------------------------------------------------------------------------------------------ §1 to §4

void describe(Case& c, saccade_group_advantage_args& a) {
  const int64_t size = c.size("size", a.size), groups = c.sequences("groups", a.groups, size);
  const Owners of_group = Case::by_sequence(c.offsets("offsets", a.offsets, groups, size), size);
  c.choice("estimator", a.estimator, 5);
  a.ddof = c.choices().of({1, 0, 3, INT32_MAX});
  if (c.fault()) {
    a.ddof = c.choices().of({-1, INT32_MIN});
    c.refused("ddof");
  }
  c.number("eps", a.eps, {1e-4f, 0.0f, 1.0f}, {-1.0f});
  const auto valid = c.mask(size);
  Tensor& mask = c.optional_input("valid", a.valid, kU8, Case::line(size)).holds(valid);
  const Flags invalid = flags(size, [&](size_t i) { return !valid[i]; });
  Tensor& rewards = c.input("rewards", a.rewards, kF32, Case::line(size)).per(of_group);
  if (mask.present()) rewards.ignored(invalid);
  Tensor& advantage = c.output("advantage", a.advantage, kF32, Case::line(size)).sealed().may_be_nan();
  const bool of_batch = a.estimator >= SACCADE_ADVANTAGE_BATCH_STD;
  if (!of_batch) advantage.per(of_group);
  const Owners group = Case::every(groups);
  c.optional_output("mean", a.mean, kF32, Case::line(groups)).per(group).sealed();
  c.optional_output("std", a.std, kF32, Case::line(groups)).per(group).sealed();
  c.optional_output("degenerate", a.degenerate, kU8, Case::line(groups)).per(group).sealed().bounded(0, 1);
  c.units(groups);
}

// Targets of rows of logits: which rows are ignored, which are bad.
struct Targets {
  std::vector<int32_t> values;
  Flags ignored, bad;
};

Targets draw_targets(Case& c, int64_t rows, int64_t vocabulary, int32_t& ignore_index) {
  ignore_index = c.choices().of({-100, 0, INT32_MIN, INT32_MAX, -1});
  Targets targets;
  targets.values = c.indices(rows, vocabulary, ignore_index);
  targets.ignored = flags(rows, [&](size_t r) { return targets.values[r] == ignore_index; });
  targets.bad = flags(rows, [&](size_t r) {
    return !targets.ignored[r] && (targets.values[r] < 0 || targets.values[r] >= vocabulary);
  });
  return targets;
}

void describe(Case& c, saccade_token_log_probs_args& a) {
  const int64_t rows = c.size("rows", a.rows), vocabulary = c.size("vocabulary", a.vocabulary, 1);
  const Owners row = Case::every(rows);
  float_dtype(c, "logits_dtype", a.logits_dtype);
  temperature(c, a.temperature);
  const Targets targets = draw_targets(c, rows, vocabulary, a.ignore_index);
  c.input("logits", a.logits, a.logits_dtype, c.table(rows, vocabulary, "logits_stride", a.logits_stride))
      .per(row)
      .ignored(targets.ignored);
  c.input("targets", a.targets, kI32, Case::line(rows)).holds(targets.values);
  c.output("log_prob", a.log_prob, kF32, Case::line(rows)).per(row).sealed().nan_where(targets.bad);
  c.optional_output("entropy", a.entropy, kF32, Case::line(rows)).per(row).sealed().nan_where(targets.bad);
  c.optional_output("lse", a.lse, kF32, Case::line(rows)).per(row);
  c.units(rows);
}

void describe(Case& c, saccade_token_log_probs_backward_args& a) {
  const int64_t rows = c.size("rows", a.rows), vocabulary = c.size("vocabulary", a.vocabulary, 1);
  const Owners row = Case::every(rows);
  float_dtype(c, "logits_dtype", a.logits_dtype);
  gradient_dtype(c, "d_logits_dtype", a.d_logits_dtype, a.logits_dtype);
  temperature(c, a.temperature);
  const Targets targets = draw_targets(c, rows, vocabulary, a.ignore_index);
  const Shape logits = c.table(rows, vocabulary, "logits_stride", a.logits_stride);
  c.input("logits", a.logits, a.logits_dtype, logits).per(row).ignored(targets.ignored);
  c.input("targets", a.targets, kI32, Case::line(rows)).holds(targets.values);
  c.optional_input("d_log_prob", a.d_log_prob, kF32, Case::line(rows)).per(row).ignored(targets.ignored);
  c.optional_input("d_entropy", a.d_entropy, kF32, Case::line(rows)).per(row).ignored(targets.ignored);
  c.output("d_logits", a.d_logits, a.d_logits_dtype, c.table(rows, vocabulary, "d_logits_stride", a.d_logits_stride))
      .per(row)
      .sealed()
      .nan_where(targets.bad)
      .in_place_of("logits");
  c.units(rows);
}

void describe(Case& c, saccade_sampled_kl_args& a) {
  const int64_t rows = c.size("rows", a.rows);
  const Owners row = Case::every(rows);
  c.choice("estimator", a.estimator, 6);
  c.choice("importance_corrected", a.importance_corrected, 2);
  c.input("log_prob", a.log_prob, kF32, Case::line(rows)).per(row);
  c.input("ref_log_prob", a.ref_log_prob, kF32, Case::line(rows)).per(row);
  if (a.importance_corrected) c.input("old_log_prob", a.old_log_prob, kF32, Case::line(rows)).per(row);
  c.output("kl", a.kl, kF32, Case::line(rows)).per(row);
  c.optional_output("d_log_prob", a.d_log_prob, kF32, Case::line(rows)).per(row);
  c.units(rows);
}

void describe_divergence(Case& c, int32_t& kind, float& beta) {
  c.choice("kind", kind, 3);
  if (kind == SACCADE_DIVERGENCE_JSD) c.number("beta", beta, {0.5f, 0.01f, 0.99f}, {0.0f, 1.0f, -0.5f, 2.0f});
}

// A weight for every row, 0 in some.
Tensor& weights(Case& c, const char* name, saccade_address& field, int64_t rows, Flags& zero) {
  const auto on = c.mask(rows);
  zero = flags(rows, [&](size_t r) { return !on[r]; });
  std::vector<float> values(on.size());
  for (size_t r = 0; r < on.size(); ++r) values[r] = on[r] ? 0.25f * static_cast<float>(on[r]) : 0.0f;
  Tensor& tensor = c.optional_input(name, field, kF32, Case::line(rows)).holds(values);
  return tensor;
}

void describe(Case& c, saccade_logit_divergence_args& a) {
  const int64_t rows = c.size("rows", a.rows), vocabulary = c.size("vocabulary", a.vocabulary, 1);
  const Owners row = Case::every(rows);
  float_dtype(c, "dtype", a.dtype);
  describe_divergence(c, a.kind, a.beta);
  temperature(c, a.temperature);
  Flags zero;
  const bool weighted = weights(c, "weight", a.weight, rows, zero).per(row).present();
  if (!weighted) zero.clear();
  c.input("logits", a.logits, a.dtype, c.table(rows, vocabulary, "logits_stride", a.logits_stride))
      .per(row)
      .ignored(zero);
  c.input("ref_logits", a.ref_logits, a.dtype, c.table(rows, vocabulary, "ref_logits_stride", a.ref_logits_stride))
      .per(row)
      .ignored(zero);
  c.optional_output("divergence", a.divergence, kF32, Case::line(rows)).per(row);
  if (c.usually()) {
    gradient_dtype(c, "d_logits_dtype", a.d_logits_dtype, a.dtype);
    c.output("d_logits", a.d_logits, a.d_logits_dtype, c.table(rows, vocabulary, "d_logits_stride", a.d_logits_stride))
        .optional()
        .per(row)
        .sealed()
        .in_place_of("logits");
    c.optional_input("grad_output", a.grad_output, kF32, Case::line(1));
  }
  c.units(rows);
}

// ------------------------------------------------------------------------------------------------ §5 to §7

// Returns whether there is a KL term.
bool describe_policy_options(Case& c, saccade_policy_loss_args& a) {
  c.choice("objective", a.objective, 6);
  c.choice("aggregation", a.aggregation, 4);
  c.choice("kl_estimator", a.kl_estimator, 6);
  c.choice("advantage_per_sequence", a.advantage_per_sequence, 2);
  c.choice("kl_importance_corrected", a.kl_importance_corrected, 2);
  c.number("clip_low", a.clip_low, {0.2f, 0.0f, 1.0f}, {-0.1f, 1.5f});
  c.number("clip_high", a.clip_high, {0.2f, 0.0f, 4.0f}, {-0.1f});
  if (a.objective >= 0 && a.objective <= SACCADE_OBJECTIVE_GSPO_TOKEN) {
    c.number("dual_clip", a.dual_clip, {0.0f, 3.0f}, {1.0f, 0.5f, -3.0f});
    c.number("delta", a.delta, {0.0f, 6.0f}, {0.5f, -6.0f});
  } else {
    c.number("dual_clip", a.dual_clip, {0.0f}, {3.0f});
    c.number("delta", a.delta, {0.0f}, {6.0f});
  }
  if (a.objective == SACCADE_OBJECTIVE_SAPO) {
    c.number("tau_pos", a.tau_pos, {1.0f, 0.1f}, {0.0f, -1.0f});
    c.number("tau_neg", a.tau_neg, {1.05f, 10.0f}, {0.0f, -1.0f});
  }
  c.number("normalizer", a.normalizer, {0.0f, 7.0f}, {-1.0f});
  if (a.aggregation == SACCADE_AGGREGATION_CONSTANT && a.normalizer == 0.0f)
    c.number("constant", a.constant, {100.0f, 0.5f}, {0.0f, -1.0f});
  c.optional_input("grad_output", a.grad_output, kF32, Case::line(1));
  if (c.optional_input("kl_coef_scalar", a.kl_coef_scalar, kF32, Case::line(1)).present()) return true;
  c.number("kl_coef", a.kl_coef, {0.0f, 0.04f}, {-0.1f});
  return a.kl_coef != 0.0f;
}

// The rows of a policy loss: their sequences, and which of them are inactive.
struct PolicyRows {
  Owners of_sequence;
  Flags inactive, masked;
};

// All of policy_loss but its log-probabilities.  With targets a row is inactive also where its target is ignored.
PolicyRows describe_policy(Case& c, saccade_policy_loss_args& a, const Targets* targets) {
  bool kl = describe_policy_options(c, a);
  PolicyRows rows;
  rows.of_sequence = Case::by_sequence(c.offsets("offsets", a.offsets, a.sequences, a.rows), a.rows);
  const auto mask = c.mask(a.rows);
  const bool masked = c.optional_input("mask", a.mask, kU8, Case::line(a.rows)).holds(mask).present();
  rows.masked = flags(a.rows, [&](size_t r) { return masked && !mask[r]; });
  rows.inactive = flags(a.rows, [&](size_t r) { return rows.masked[r] || (targets && targets->ignored[r]); });
  const auto per_row = [&](Tensor& tensor) { tensor.per(rows.of_sequence).ignored(rows.inactive); };
  per_row(c.input("old_log_prob", a.old_log_prob, kF32, Case::line(a.rows)));
  if (a.advantage_per_sequence)
    c.input("advantage", a.advantage, kF32, Case::line(a.sequences)).per(Case::every(a.sequences));
  else
    per_row(c.input("advantage", a.advantage, kF32, Case::line(a.rows)));
  per_row(c.optional_input("is_weight", a.is_weight, kF32, Case::line(a.rows)));
  c.output("loss", a.loss, kF32, Case::line(1)).sealed();
  c.optional_output("metrics", a.metrics, kF32, Case::line(SACCADE_POLICY_METRICS)).sealed();
  c.optional_output("token_loss", a.token_loss, kF32, Case::line(a.rows)).sealed().per(rows.of_sequence);
  kl |= c.optional_output("kl", a.kl, kF32, Case::line(a.rows)).sealed().per(rows.of_sequence).present();
  if (kl) per_row(c.input("ref_log_prob", a.ref_log_prob, kF32, Case::line(a.rows)));
  c.units(a.sequences);
  return rows;
}

void describe(Case& c, saccade_policy_loss_args& a) {
  c.size("rows", a.rows);
  c.sequences("sequences", a.sequences, a.rows);
  const PolicyRows rows = describe_policy(c, a, nullptr);
  c.input("log_prob", a.log_prob, kF32, Case::line(a.rows)).per(rows.of_sequence).ignored(rows.inactive);
  c.optional_output("d_log_prob", a.d_log_prob, kF32, Case::line(a.rows)).sealed().per(rows.of_sequence);
  c.workspace(a.workspace);
}

// What policy_loss_from_logits and linear_policy_loss share.  Both have drawn the vocabulary.
template <class Args>
PolicyRows describe_fused_policy(Case& c, Args& a, int64_t rows_usually, int64_t& rows) {
  auto& policy = *c.storage<saccade_policy_loss_args>(1, 1);
  c.nested("policy", &a.policy, &policy.struct_size, sizeof policy);
  rows = c.size("rows", policy.rows, 0, Case::kMaxRows, rows_usually);
  c.sequences("sequences", policy.sequences, rows);
  const Targets targets = draw_targets(c, rows, a.vocabulary, a.ignore_index);
  temperature(c, a.temperature);
  c.number("entropy_coef", a.entropy_coef, {0.0f, 0.01f, -0.01f}, {});
  const PolicyRows result = describe_policy(c, policy, &targets);
  const bool known = c.optional_input("policy.log_prob", policy.log_prob, kF32, Case::line(rows))
                         .per(result.of_sequence)
                         .ignored(result.inactive)
                         .present();
  if (c.fault()) {
    const bool gradient = c.maybe();
    (gradient ? policy.d_log_prob : policy.workspace) = 64;
    c.refused(gradient ? "policy.d_log_prob" : "policy.workspace");
  }
  c.input("targets", a.targets, kI32, Case::line(rows)).holds(targets.values).ignored(result.masked);
  const Flags bad = flags(rows, [&](size_t r) { return targets.bad[r] && !result.inactive[r]; });
  const auto out = [&](const char* name, saccade_address& field) -> Tensor& {
    return c.optional_output(name, field, kF32, Case::line(rows)).sealed().per(result.of_sequence);
  };
  Tensor& log_prob = out("log_prob", a.log_prob);
  if (!known) log_prob.nan_where(bad);
  out("entropy", a.entropy).nan_where(bad);
  out("lse", a.lse);
  // A bad target makes the loss NaN, and where the ratio is the sequence's, its sequence.
  if (std::count(bad.begin(), bad.end(), 1)) c.extreme();
  c.workspace(a.workspace);
  return result;
}

void describe(Case& c, saccade_policy_loss_from_logits_args& a) {
  int64_t rows;
  const int64_t vocabulary = c.size("vocabulary", a.vocabulary, 1);
  float_dtype(c, "logits_dtype", a.logits_dtype);
  const PolicyRows policy = describe_fused_policy(c, a, 50000, rows);
  c.input("logits", a.logits, a.logits_dtype, c.table(rows, vocabulary, "logits_stride", a.logits_stride))
      .per(policy.of_sequence)
      .ignored(policy.inactive);
  if (!c.usually()) return;
  gradient_dtype(c, "d_logits_dtype", a.d_logits_dtype, a.logits_dtype);
  c.output("d_logits", a.d_logits, a.d_logits_dtype, c.table(rows, vocabulary, "d_logits_stride", a.d_logits_stride))
      .optional()
      .sealed()
      .per(policy.of_sequence)
      .in_place_of("logits");
}

void describe(Case& c, saccade_linear_policy_loss_args& a) {
  int64_t rows;
  constexpr int64_t kUsual = 3000;
  const int64_t vocabulary = c.size("vocabulary", a.vocabulary, 1, Case::kMaxRows, kUsual);
  const int64_t width = c.size("hidden_size", a.hidden_size, 1, Case::kMaxRows, kUsual);
  c.integer("chunk_rows", a.chunk_rows, {3, 1, 16, 1000}, {0, -1, INT64_MIN});
  float_dtype(c, "dtype", a.dtype);
  c.needs_gemm();
  const PolicyRows policy = describe_fused_policy(c, a, kUsual, rows);
  c.input("hidden", a.hidden, a.dtype, c.table(rows, width, "hidden_stride", a.hidden_stride))
      .per(policy.of_sequence)
      .ignored(policy.inactive);
  c.input("weight", a.weight, a.dtype, c.table(vocabulary, width, "weight_stride", a.weight_stride));
  if (c.usually()) {
    gradient_dtype(c, "d_hidden_dtype", a.d_hidden_dtype, a.dtype);
    c.output("d_hidden", a.d_hidden, a.d_hidden_dtype, c.table(rows, width, "d_hidden_stride", a.d_hidden_stride))
        .optional()
        .sealed()
        .per(policy.of_sequence);
  }
  if (c.usually()) {
    gradient_dtype(c, "d_weight_dtype", a.d_weight_dtype, a.dtype);
    c.output("d_weight", a.d_weight, a.d_weight_dtype, c.table(vocabulary, width, "d_weight_stride", a.d_weight_stride))
        .optional()
        .sealed();
  }
}

// ------------------------------------------------------------------------------------------------------ §8

// Heads and packing of the attention operations.
struct AttentionRows {
  std::vector<int64_t> offsets_q, offsets_k;
  Owners of_query, of_key;
  int64_t longest;
};

constexpr int64_t kMostHeads = 1 << 16;

void head_counts(Case& c, const char* name, int64_t& heads, const char* kv_name, int64_t& kv_heads,
                 const char* dim_name, int64_t& dim) {
  const int64_t kv = std::clamp<int64_t>(c.size(kv_name, kv_heads, 1, kMostHeads, 4), 1, kMostHeads);
  heads = std::min(kv * c.choices().between(1, 3), kMostHeads / kv * kv);
  if (c.fault()) {
    heads = c.choices().of<int64_t>({0, -kv, kv + 1, INT64_MAX, 2 * kv + 1});
    if (heads < 1 || heads > kMostHeads || heads % kv) c.refused(name);
  }
  c.size(dim_name, dim, 1, 256, 256);
}

template <class Args>
AttentionRows describe_attention(Case& c, Args& a) {
  AttentionRows rows;
  c.size("rows", a.rows, 0, Case::kMaxRows, 20000);
  c.size("keys", a.keys, 0, Case::kMaxRows, 20000);
  head_counts(c, "heads", a.heads, "kv_heads", a.kv_heads, "head_dim", a.head_dim);
  c.sequences("sequences", a.sequences, std::max(a.rows, a.keys));
  rows.offsets_q = c.offsets("offsets_q", a.offsets_q, a.sequences, a.rows);
  rows.offsets_k = c.offsets("offsets_k", a.offsets_k, a.sequences, a.keys);
  rows.of_query = Case::by_sequence(rows.offsets_q, a.rows);
  rows.of_key = Case::by_sequence(rows.offsets_k, a.keys);
  rows.longest = 0;
  for (size_t s = 0; s + 1 < rows.offsets_k.size(); ++s)
    rows.longest = std::max(rows.longest, rows.offsets_k[s + 1] - rows.offsets_k[s]);
  c.number("scale", a.scale, {0.25f, 1.0f, 0.0f, -1.0f}, {});
  c.workspace(a.workspace);
  c.units(a.sequences);
  return rows;
}

void describe_max_keys(Case& c, int64_t& max_keys, int64_t longest) {
  max_keys = longest + (c.maybe() ? 0 : c.choices().between(1, 100));
  if (!c.fault()) return;
  max_keys = c.choices().of<int64_t>({longest - 1, -1, INT64_MIN, INT64_MAX, 0});
  if (max_keys < longest || max_keys > Case::kMaxRows) c.refused("max_keys");
}

template <class Args>
Tensor& queries(Case& c, Args& a, int32_t dtype, const AttentionRows& rows) {
  return c
      .input("q", a.q, dtype,
             c.heads(a.rows, a.heads, a.head_dim, "q_row_stride", a.q_row_stride, "q_head_stride", a.q_head_stride))
      .per(rows.of_query);
}

template <class Args>
Tensor& keys(Case& c, Args& a, int32_t dtype, const AttentionRows& rows) {
  return c
      .input("k", a.k, dtype,
             c.heads(a.keys, a.kv_heads, a.head_dim, "k_row_stride", a.k_row_stride, "k_head_stride", a.k_head_stride))
      .per(rows.of_key);
}

template <class Args>
Tensor& values(Case& c, Args& a, const AttentionRows& rows) {
  return c
      .input("v", a.v, kF32,
             c.heads(a.keys, a.kv_heads, a.head_dim, "v_row_stride", a.v_row_stride, "v_head_stride", a.v_head_stride))
      .per(rows.of_key);
}

void head_range(Case& c, const char* name, int32_t& begin, int32_t& end, int64_t heads) {
  const int64_t all = std::clamp<int64_t>(heads, 1, 64);
  begin = static_cast<int32_t>(c.choices().below(all));
  end = static_cast<int32_t>(c.choices().between(begin + 1, all));
  if (!c.fault()) return;
  switch (c.choices().below(4)) {
    case 0:
      begin = c.choices().of({-1, INT32_MIN});
      break;
    case 1:
      end = begin;
      break;
    case 2:
      end = INT32_MAX;
      break;
    default:
      std::swap(begin, end);
  }
  c.refused(name);
}

// Columns of a stored map: with fewer than `least` the longest row does not fit; `enough` are always enough.
struct MapColumns {
  int64_t least, enough;
};

// Options, packing, queries and keys of a policy.
template <class Args>
MapColumns describe_attention_policy(Case& c, Args& a, AttentionRows& rows) {
  rows = describe_attention(c, a);
  describe_max_keys(c, a.max_keys, rows.longest);
  float_dtype(c, "dtype", a.dtype);
  c.choice("support", a.support, 3);
  c.choice("reduction", a.reduction, 2);
  head_range(c, "head_begin, head_end", a.head_begin, a.head_end, a.heads);
  MapColumns columns{rows.longest, std::max<int64_t>(0, a.max_keys)};
  if (a.support == SACCADE_SUPPORT_RANGES) {
    std::vector<int32_t> ranges(2 * static_cast<size_t>(Case::real(a.sequences)));
    int64_t widest = 0;
    for (size_t s = 0; s < ranges.size() / 2; ++s) {
      const int64_t length = rows.offsets_k[s + 1] - rows.offsets_k[s];
      for (size_t i : {2 * s, 2 * s + 1})
        ranges[i] = c.choices().one_in(8) ? c.choices().of({-1, INT32_MIN, INT32_MAX, static_cast<int32_t>(length) + 1})
                                          : static_cast<int32_t>(c.choices().below(length + 1));
      widest = std::max(widest, std::min<int64_t>(ranges[2 * s + 1], length) - std::max<int64_t>(ranges[2 * s], 0));
    }
    c.input("support_ranges", a.support_ranges, kI32, Case::table(a.sequences, 2)).holds(ranges);
    c.choice("compact", a.compact, 2);
    if (a.compact == 1) columns = {widest, widest};
  } else if (c.fault()) {
    a.compact = c.choices().of({1, 2, -1});
    c.refused("compact");
  }
  queries(c, a, a.dtype, rows);
  keys(c, a, a.dtype, rows);
  return columns;
}

Shape map_shape(Case& c, int64_t rows, MapColumns columns, const char* stride_name, int64_t& stride) {
  stride = std::min(columns.enough, Case::kMost) + c.choices().between(columns.enough == 0, 8);
  if (c.fault()) {
    stride = c.choices().of<int64_t>({columns.least - 1, -1, INT64_MIN});
    if (stride == 0) stride = -1;
    c.refused(stride_name);
  }
  return Case::table(rows, std::max<int64_t>(stride, 1));
}

void describe(Case& c, saccade_attention_policy_args& a) {
  AttentionRows rows;
  const MapColumns columns = describe_attention_policy(c, a, rows);
  c.optional_output("entropy", a.entropy, kF32, Case::line(a.rows)).per(rows.of_query);
  c.optional_output("mass", a.mass, kF32, Case::line(a.rows)).per(rows.of_query);
  c.optional_output("lse", a.lse, kF32, Case::table(a.heads, a.rows)).per(rows.of_query, 2);
  if (a.reduction != SACCADE_REDUCTION_MEAN) {
    if (a.rows < 1 || !c.fault()) return;
    c.refused("map");
  } else if (c.maybe()) {
    return;
  }
  c.dtype("map_dtype", a.map_dtype, {SACCADE_F32, SACCADE_BF16});
  c.output("map", a.map, a.map_dtype, map_shape(c, a.rows, columns, "map_stride", a.map_stride))
      .optional()
      .per(rows.of_query);
}

void describe_reference(Case& c, saccade_attention_divergence_args& a, const AttentionRows& rows, MapColumns columns,
                        const Flags& inactive) {
  const bool both = a.rows > 0 && a.keys > 0, mean = a.reduction == SACCADE_REDUCTION_MEAN;
  if (!both) return;  // no reference is needed
  const auto row = [&](Tensor& tensor) { tensor.alternative().per(rows.of_query).ignored(inactive); };
  const auto map = [&] {
    c.dtype("ref_dtype", a.ref_dtype, {SACCADE_F32, SACCADE_BF16});
    row(c.input("ref", a.ref, a.ref_dtype, map_shape(c, a.rows, columns, "ref_stride", a.ref_stride)).fraction());
  };
  const auto index = [&] {
    std::vector<int32_t> keys = c.indices(a.rows, rows.longest, -1);
    row(c.input("ref_index", a.ref_index, kI32, Case::line(a.rows)).holds(keys));
    for (size_t r = 0; r < keys.size() && r < rows.of_query.size(); ++r) {
      const int32_t s = rows.of_query[r];
      const int64_t length =
          s < 0 ? 0 : rows.offsets_k[static_cast<size_t>(s) + 1] - rows.offsets_k[static_cast<size_t>(s)];
      if (keys[r] < -1 || keys[r] >= length) c.extreme();
    }
  };
  switch (c.choices().below(3)) {
    case 0: {
      const bool one = c.fault(), first = c.maybe();
      if (one) c.refused("ref_q, ref_k");
      head_counts(c, "ref_heads", a.ref_heads, "ref_kv_heads", a.ref_kv_heads, "ref_head_dim", a.ref_head_dim);
      c.number("ref_scale", a.ref_scale, {0.25f, 1.0f}, {});
      head_range(c, "ref_head_begin, ref_head_end", a.ref_head_begin, a.ref_head_end, a.ref_heads);
      if (a.reduction == SACCADE_REDUCTION_NONE && c.sound()) {
        // As many heads as the policy has.
        const bool fault = c.fault();
        const int32_t count = a.head_end - a.head_begin + fault;
        a.ref_kv_heads = std::min(a.ref_kv_heads, kMostHeads / count);
        a.ref_heads = a.ref_kv_heads * count;
        a.ref_head_begin = 0;
        a.ref_head_end = count;
        if (fault) c.refused("ref_head_begin, ref_head_end");
      }
      if (!one || first)
        row(c.input("ref_q", a.ref_q, a.dtype,
                    c.heads(a.rows, a.ref_heads, a.ref_head_dim, "ref_q_row_stride", a.ref_q_row_stride,
                            "ref_q_head_stride", a.ref_q_head_stride)));
      if (!one || !first)
        c.input("ref_k", a.ref_k, a.dtype,
                c.heads(a.keys, a.ref_kv_heads, a.ref_head_dim, "ref_k_row_stride", a.ref_k_row_stride,
                        "ref_k_head_stride", a.ref_k_head_stride))
            .alternative()
            .per(rows.of_key);
      if (c.optional_input("ref_lse", a.ref_lse, kF32, Case::table(a.ref_heads, a.rows))
              .per(rows.of_query, 2)
              .ignored(inactive)
              .present())
        c.extreme();
      break;
    }
    case 1:
      if (mean) {
        map();
        break;
      }
      index();
      if (c.fault()) {  // a stored map is for MEAN
        c.refused("ref");
        map();
      }
      break;
    default:
      if (c.fault()) {
        c.refused("ref, ref_q and ref_k, ref_index");  // none, or two
        if (c.maybe()) return;
        map();
      }
      index();
  }
}

void describe(Case& c, saccade_attention_divergence_args& a) {
  AttentionRows rows;
  const MapColumns columns = describe_attention_policy(c, a, rows);
  describe_divergence(c, a.kind, a.beta);
  Flags no_weight, no_entropy;
  const auto weight = [&](const char* name, saccade_address& field, Flags& zero) {
    if (!weights(c, name, field, a.rows, zero).per(rows.of_query).present()) zero.assign(zero.size(), 1);
  };
  weight("weight", a.weight, no_weight);
  weight("entropy_weight", a.entropy_weight, no_entropy);
  const Flags inactive = flags(a.rows, [&](size_t r) { return no_weight[r] && no_entropy[r]; });
  c.tensor("q").ignored(inactive);
  const Shape of_head = Case::table(a.heads, a.rows);
  if (c.optional_input("lse", a.lse, kF32, of_head).per(rows.of_query, 2).ignored(inactive).present()) c.extreme();
  describe_reference(c, a, rows, columns, inactive);

  c.optional_output("loss", a.loss, kF32, Case::line(1)).sealed();
  c.optional_output("divergence", a.divergence, kF32, Case::line(a.rows)).per(rows.of_query);
  c.optional_output("entropy", a.entropy, kF32, Case::line(a.rows)).per(rows.of_query);
  c.optional_output("mass", a.mass, kF32, Case::line(a.rows)).per(rows.of_query);
  const bool both = a.rows > 0 && a.keys > 0, gradient = c.usually();
  const bool one = gradient && both && c.fault(), first = c.maybe();
  if (one) c.refused("dq, dk");
  if (gradient) gradient_dtype(c, "grad_dtype", a.grad_dtype, a.dtype);
  if (gradient && (!one || first))
    c.output("dq", a.dq, a.grad_dtype,
             c.heads(a.rows, a.heads, a.head_dim, "dq_row_stride", a.dq_row_stride, "dq_head_stride", a.dq_head_stride))
        .alternative()
        .sealed()
        .per(rows.of_query);
  if (gradient && (!one || !first))
    c.output(
         "dk", a.dk, a.grad_dtype,
         c.heads(a.keys, a.kv_heads, a.head_dim, "dk_row_stride", a.dk_row_stride, "dk_head_stride", a.dk_head_stride))
        .alternative()
        .sealed()
        .per(rows.of_key);
  if (gradient || (both && c.fault())) {
    if (!gradient) c.refused("dscore_sq");
    c.output("dscore_sq", a.dscore_sq, kF32, of_head).optional().sealed().per(rows.of_query, 2);
  }
  c.optional_input("grad_output", a.grad_output, kF32, Case::line(1));
}

void describe(Case& c, saccade_attention_args& a) {
  const AttentionRows rows = describe_attention(c, a);
  int64_t longest = rows.longest;
  Flags unused(rows.of_key.size(), 0);
  if (c.maybe()) {
    longest = 0;
    std::vector<int32_t> lengths(static_cast<size_t>(Case::real(a.sequences)));
    for (size_t s = 0; s < lengths.size(); ++s) {
      const int64_t room = rows.offsets_k[s + 1] - rows.offsets_k[s];
      lengths[s] = static_cast<int32_t>(c.choices().below(room + 1));
      longest = std::max<int64_t>(longest, lengths[s]);
      for (int64_t k = rows.offsets_k[s] + lengths[s]; k < rows.offsets_k[s + 1]; ++k)
        unused[static_cast<size_t>(k)] = 1;
      if (c.fault()) {
        lengths[s] = c.choices().of({-1, INT32_MIN, INT32_MAX, static_cast<int32_t>(room) + 1});
        c.refused("lengths_k");
      }
    }
    c.input("lengths_k", a.lengths_k, kI32, Case::line(a.sequences)).optional().holds(lengths);
  }
  describe_max_keys(c, a.max_keys, longest);
  c.precision(a.precision);
  queries(c, a, kF32, rows);
  keys(c, a, kF32, rows).ignored(unused);
  values(c, a, rows).ignored(unused);
  c.output("o", a.o, kF32,
           c.heads(a.rows, a.heads, a.head_dim, "o_row_stride", a.o_row_stride, "o_head_stride", a.o_head_stride))
      .per(rows.of_query)
      .sealed();
  c.optional_output("lse", a.lse, kF32, Case::table(a.heads, a.rows)).per(rows.of_query, 2).sealed();
}

void describe(Case& c, saccade_attention_backward_args& a) {
  const AttentionRows rows = describe_attention(c, a);
  describe_max_keys(c, a.max_keys, rows.longest);
  c.precision(a.precision);
  queries(c, a, kF32, rows);
  keys(c, a, kF32, rows);
  values(c, a, rows);
  c.input("o", a.o, kF32,
          c.heads(a.rows, a.heads, a.head_dim, "o_row_stride", a.o_row_stride, "o_head_stride", a.o_head_stride))
      .per(rows.of_query);
  c.input("lse", a.lse, kF32, Case::table(a.heads, a.rows)).per(rows.of_query, 2);
  c.input(
       "d_o", a.d_o, kF32,
       c.heads(a.rows, a.heads, a.head_dim, "d_o_row_stride", a.d_o_row_stride, "d_o_head_stride", a.d_o_head_stride))
      .per(rows.of_query);
  c.output("dq", a.dq, kF32,
           c.heads(a.rows, a.heads, a.head_dim, "dq_row_stride", a.dq_row_stride, "dq_head_stride", a.dq_head_stride))
      .per(rows.of_query);
  c.output(
       "dk", a.dk, kF32,
       c.heads(a.keys, a.kv_heads, a.head_dim, "dk_row_stride", a.dk_row_stride, "dk_head_stride", a.dk_head_stride))
      .per(rows.of_key);
  c.output(
       "dv", a.dv, kF32,
       c.heads(a.keys, a.kv_heads, a.head_dim, "dv_row_stride", a.dv_row_stride, "dv_head_stride", a.dv_head_stride))
      .per(rows.of_key);
  c.extreme();  // the lse is not that of the scores
}

// ------------------------------------------------------------------------------------------------- §10, §11

std::string entry_name(int64_t entry, const char* field) { return "entries[" + std::to_string(entry) + "]." + field; }

// `count` entries in memory that stays where it is while the case is.
template <class Entry>
Entry* draw_entries(Case& c, int64_t& tensors, saccade_address& field) {
  c.size("tensors", tensors, 0, Case::kMaxRows, 8);
  const int64_t count = std::clamp<int64_t>(tensors, 0, 65);
  Entry* entries = c.storage<Entry>(count);
  c.input("entries", field, kI64,
          Case::line(tensors < 0 || tensors > count ? tensors : count * static_cast<int64_t>(sizeof(Entry)) / 8))
      .holds_addresses(entries);
  return entries;
}

void describe(Case& c, saccade_grad_norm_args& a) {
  auto* entries = draw_entries<saccade_grad_norm_tensor>(c, a.tensors, a.entries);
  for (int64_t t = 0; t < std::min<int64_t>(a.tensors, 65); ++t) {
    const int64_t n = c.size("count", entries[t].count, 0, INT64_MAX);
    c.input(entry_name(t, "grad"), entries[t].grad, kF32, Case::line(n)).group(static_cast<int>(t) + 1);
  }
  c.output("norm", a.norm, kF32, Case::line(1));
  if (c.optional_output("scale", a.scale, kF32, Case::line(1)).present())
    c.number("max_norm", a.max_norm, {1.0f, 1e-3f, 1e30f}, {0.0f, -1.0f});
  c.workspace(a.workspace);
}

void describe(Case& c, saccade_adamw_args& a) {
  auto* entries = draw_entries<saccade_adamw_tensor>(c, a.tensors, a.entries);
  const int64_t tensors = std::min<int64_t>(a.tensors, 65);
  for (int64_t t = 0; t < tensors; ++t) {
    saccade_adamw_tensor& entry = entries[t];
    const Shape shape = Case::line(c.size(("count"), entry.count, 0, INT64_MAX));
    const auto own = [&](Tensor& tensor) -> Tensor& {
      return tensor.group(static_cast<int>(t) + 1)
          .per(Owners(static_cast<size_t>(Case::real(entry.count)), static_cast<int32_t>(t)));
    };
    own(c.inout(entry_name(t, "param"), entry.param, kF32, shape));
    own(c.input(entry_name(t, "grad"), entry.grad, kF32, shape));
    own(c.inout(entry_name(t, "m"), entry.m, kF32, shape));
    own(c.inout(entry_name(t, "v"), entry.v, kF32, shape).positive());
    if (c.maybe()) own(c.output(entry_name(t, "param_bf16"), entry.param_bf16, SACCADE_BF16, shape).optional());
    c.number("weight_decay", entry.weight_decay, {0.0f, 0.01f}, {-0.1f});
    c.number("reserved", entry.reserved, {0.0f}, {1.0f});
  }
  c.number("beta1", a.beta1, {0.9f, 0.0f}, {1.0f, -0.1f});
  c.number("beta2", a.beta2, {0.999f, 0.0f}, {1.0f, -0.1f});
  c.number("eps", a.eps, {1e-8f, 1.0f}, {0.0f, -1.0f});
  if (!c.optional_input("lr_scalar", a.lr_scalar, kF32, Case::line(1)).present())
    c.number("lr", a.lr, {1e-3f, 0.0f}, {-1.0f});
  if (!c.optional_input("grad_scale_scalar", a.grad_scale_scalar, kF32, Case::line(1)).present())
    c.number("grad_scale", a.grad_scale, {1.0f, 0.0f, -0.5f}, {});
  if (c.maybe()) {
    const int64_t step = c.choices().of<int64_t>({1, 1000, INT64_MAX, 0, -1, INT64_MIN});
    c.input("step_scalar", a.step_scalar, kI64, Case::line(1)).optional().holds(std::vector<int64_t>{step});
    if (step < 1) c.extreme();
  } else {
    c.integer("step", a.step, {1, 2, 1000, INT64_MAX}, {0, -1, INT64_MIN});
  }
  if (c.maybe())
    c.inout("skipped", a.skipped, kI32, Case::line(1))
        .optional()
        .holds(std::vector<int32_t>{c.choices().of({0, 7, INT32_MAX})});
  c.units(tensors);
}

std::vector<int64_t> sample_count(Case& c) {
  const int64_t count = c.choices().of<int64_t>({3, 1, 2, 0, 1000000, -1, INT64_MAX, INT64_MIN});
  if (count < 0 || count > 1000000) c.extreme();
  return {count};
}

void describe(Case& c, saccade_gradient_moments_update_args& a) {
  const int64_t rows = c.size("rows", a.rows, 0, Case::kMaxRows, 20), size = c.size("size", a.size, 0, INT64_MAX);
  const Owners each = Case::every(size);
  float_dtype(c, "samples_dtype", a.samples_dtype);
  c.input("samples", a.samples, a.samples_dtype, c.table(rows, size, "samples_stride", a.samples_stride)).per(each, 2);
  c.inout("count", a.count, kI64, Case::line(1)).holds(sample_count(c));
  c.inout("mean", a.mean, kF32, Case::line(size)).per(each);
  c.inout("m2", a.m2, kF64, Case::line(size)).per(each).positive();
  c.optional_output("sum", a.sum, kF32, Case::line(size)).per(each);
  c.units(size);
}

void describe(Case& c, saccade_gradient_moments_merge_args& a) {
  const int64_t size = c.size("size", a.size, 0, INT64_MAX);
  const Owners each = Case::every(size);
  c.input("other_count", a.other_count, kI64, Case::line(1)).holds(sample_count(c));
  c.input("other_mean", a.other_mean, kF32, Case::line(size)).per(each);
  c.input("other_m2", a.other_m2, kF64, Case::line(size)).per(each).positive();
  c.inout("count", a.count, kI64, Case::line(1)).holds(sample_count(c));
  c.inout("mean", a.mean, kF32, Case::line(size)).per(each);
  c.inout("m2", a.m2, kF64, Case::line(size)).per(each).positive();
  c.units(size);
}

void describe(Case& c, saccade_gradient_moments_report_args& a) {
  const int64_t size = c.size("size", a.size, 0, INT64_MAX),
                segments = c.size("segments", a.segments, 0, INT64_MAX, 3000);
  const Owners of_segment = Case::by_sequence(c.offsets("offsets", a.offsets, segments, size, kI64, true), size);
  const Flags outside = flags(size, [&](size_t i) { return of_segment[i] < 0; });
  c.input("count", a.count, kI64, Case::line(1)).holds(sample_count(c));
  c.input("mean", a.mean, kF32, Case::line(size)).per(of_segment).ignored(outside);
  c.input("m2", a.m2, kF64, Case::line(size)).per(of_segment).ignored(outside).positive();
  const Owners segment = Case::every(segments);
  const auto out = [&](const char* name, saccade_address& field) -> Tensor& {
    return c.optional_output(name, field, kF32, Case::line(segments)).per(segment).sealed();
  };
  out("mean_sq", a.mean_sq);
  out("trace", a.trace).may_be_nan();
  out("signal", a.signal).may_be_nan();
  out("snr", a.snr).may_be_nan();
  c.workspace(a.workspace);
  c.units(segments);
}

// ------------------------------------------------------------------------------- what a policy model needs besides

void describe(Case& c, saccade_gemm_args& a) {
  constexpr int64_t kMaxInt = INT32_MAX;
  c.needs_gemm();
  if (c.choices().one_in(64) && !c.fault()) {  // a product that is cut into blocks, or into slices of k
    a.m = c.choices().between(30, 70), a.n = c.choices().between(30, 70), a.k = c.choices().between(1100, 2300);
    if (c.maybe()) std::swap(a.m, a.k);
  } else {
    c.size("m", a.m, 0, kMaxInt), c.size("n", a.n, 0, kMaxInt), c.size("k", a.k, 0, kMaxInt);
  }
  c.choice("trans_a", a.trans_a, 2);
  c.choice("trans_b", a.trans_b, 2);
  c.precision(a.precision);
  a.alpha = c.choices().of({1.0f, 0.0f, -0.5f});
  a.beta = c.choices().of({0.0f, 1.0f, 0.5f});
  const Owners row = Case::every(a.m);
  const Shape shape_a = c.table(a.trans_a == 1 ? a.k : a.m, a.trans_a == 1 ? a.m : a.k, "a_stride", a.a_stride);
  c.input("a", a.a, kF32, shape_a).per(row, a.trans_a == 1 ? 2 : 0);
  c.input("b", a.b, kF32, c.table(a.trans_b == 1 ? a.n : a.k, a.trans_b == 1 ? a.k : a.n, "b_stride", a.b_stride));
  const Shape shape_c = c.table(a.m, a.n, "c_stride", a.c_stride);
  (a.beta == 0.0f ? c.output("c", a.c, kF32, shape_c) : c.inout("c", a.c, kF32, shape_c)).per(row);
  c.workspace(a.workspace);
  c.units(a.m);
}

void describe(Case& c, saccade_rms_norm_args& a) {
  const int64_t rows = c.size("rows", a.rows), columns = c.size("columns", a.columns, 1);
  const Owners row = Case::every(rows);
  c.number("eps", a.eps, {1e-5f, 1.0f}, {-1.0f});
  const Shape added = c.table(rows, columns, "residual_stride", a.residual_stride);
  const bool adds = c.optional_input("residual", a.residual, kF32, added).per(row).present();
  const Shape x = c.table(rows, columns, "x_stride", a.x_stride);
  (adds ? c.inout("x", a.x, kF32, x) : c.input("x", a.x, kF32, x)).per(row);
  c.input("weight", a.weight, kF32, Case::line(columns));
  c.output("y", a.y, kF32, c.table(rows, columns, "y_stride", a.y_stride)).per(row);
  c.output("rstd", a.rstd, kF32, Case::line(rows)).per(row);
  c.units(rows);
}

void describe(Case& c, saccade_rms_norm_backward_args& a) {
  const int64_t rows = c.size("rows", a.rows), columns = c.size("columns", a.columns, 1);
  const Owners row = Case::every(rows);
  c.input("x", a.x, kF32, c.table(rows, columns, "x_stride", a.x_stride)).per(row);
  c.input("weight", a.weight, kF32, Case::line(columns));
  c.input("rstd", a.rstd, kF32, Case::line(rows)).per(row);
  c.input("dy", a.dy, kF32, c.table(rows, columns, "dy_stride", a.dy_stride)).per(row);
  c.input("residual", a.residual, kF32, c.table(rows, columns, "residual_stride", a.residual_stride))
      .per(row)
      .optional();
  c.output("dx", a.dx, kF32, c.table(rows, columns, "dx_stride", a.dx_stride)).per(row).in_place_of("residual");
  c.inout("d_weight", a.d_weight, kF32, Case::line(columns));
  c.workspace(a.workspace);
  c.units(rows);
}

void describe(Case& c, saccade_swiglu_args& a) {
  const int64_t rows = c.size("rows", a.rows), columns = c.size("columns", a.columns);
  const Owners row = Case::every(rows);
  c.input("x", a.x, kF32, Case::table(rows, Case::twice(columns))).per(row);
  c.output("y", a.y, kF32, Case::table(rows, columns)).per(row);
  c.units(rows);
}

void describe(Case& c, saccade_swiglu_backward_args& a) {
  const int64_t rows = c.size("rows", a.rows), columns = c.size("columns", a.columns);
  const Owners row = Case::every(rows);
  c.input("x", a.x, kF32, Case::table(rows, Case::twice(columns))).per(row);
  c.input("dy", a.dy, kF32, Case::table(rows, columns)).per(row);
  c.output("dx", a.dx, kF32, Case::table(rows, Case::twice(columns))).per(row).in_place_of("x");
  c.units(rows);
}

// Row indices of y that occur once each, some of them bad.
std::vector<int32_t> distinct_indices(Case& c, int64_t count, int64_t range) {
  std::vector<int32_t> values = c.indices(count, range, -1);
  Flags taken(static_cast<size_t>(Case::real(range)), 0);
  for (int32_t& value : values) {
    if (value < 0 || value >= static_cast<int64_t>(taken.size())) continue;
    if (taken[static_cast<size_t>(value)])
      value = -1;
    else
      taken[static_cast<size_t>(value)] = 1;
  }
  return values;
}

void describe(Case& c, saccade_gather_rows_args& a) {
  c.size("x_rows", a.x_rows), c.size("y_rows", a.y_rows), c.size("count", a.count);
  c.size("columns", a.columns);
  c.choice("accumulate", a.accumulate, 2);
  const bool possible = a.count <= Case::kMost, indexed = possible && c.usually(), out_indexed = possible && c.maybe();
  // Without an index there is a row for every i.
  const int64_t most = std::min(indexed ? INT64_MAX : a.x_rows, out_indexed ? INT64_MAX : a.y_rows);
  if (a.count > most && most >= 0 && possible) a.count = most;
  if (c.fault() && most >= 0 && most < Case::kMost) a.count = most + 1;
  if (a.count > most) c.refused("count");
  const std::vector<int32_t> index = c.indices(a.count, a.x_rows, -1), out = distinct_indices(c, a.count, a.y_rows);
  if (indexed) c.input("index", a.index, kI32, Case::line(a.count)).optional().holds(index);
  if (out_indexed) c.input("out_index", a.out_index, kI32, Case::line(a.count)).optional().holds(out);
  Flags touched(static_cast<size_t>(Case::real(a.y_rows)), 0), bad = touched;
  Owners source(touched.size(), -1);
  for (size_t i = 0; i < static_cast<size_t>(Case::real(a.count)); ++i) {
    const int64_t to = out_indexed ? out[i] : static_cast<int64_t>(i),
                  from = indexed ? index[i] : static_cast<int64_t>(i);
    if (to < 0 || to >= static_cast<int64_t>(touched.size()) || (from == -1 && a.accumulate)) continue;
    touched[static_cast<size_t>(to)] = 1;
    source[static_cast<size_t>(to)] = from >= 0 && from < a.x_rows ? static_cast<int32_t>(from) : -1;
    bad[static_cast<size_t>(to)] = from != -1 && (from < 0 || from >= a.x_rows);
  }
  c.input("x", a.x, kF32, c.table(a.x_rows, a.columns, "x_stride", a.x_stride)).per(Case::every(a.x_rows));
  const Shape y = c.table(a.y_rows, a.columns, "y_stride", a.y_stride);
  (a.accumulate ? c.inout("y", a.y, kF32, y) : c.output("y", a.y, kF32, y)).touched(touched).nan_where(bad).per(source);
  c.units(a.x_rows);
}

void describe(Case& c, saccade_scatter_add_rows_args& a) {
  c.size("count", a.count), c.size("columns", a.columns), c.size("y_rows", a.y_rows);
  const std::vector<int32_t> index = c.indices(a.count, a.y_rows, -1);
  Flags touched(static_cast<size_t>(Case::real(a.y_rows)), 0), skipped(index.size(), 0);
  Owners target(index.size(), -1);
  for (size_t i = 0; i < index.size(); ++i) {
    if (index[i] < 0 || index[i] >= static_cast<int64_t>(touched.size())) {
      skipped[i] = 1;
      continue;
    }
    touched[static_cast<size_t>(index[i])] = 1;
    target[i] = index[i];
  }
  c.input("x", a.x, kF32, c.table(a.count, a.columns, "x_stride", a.x_stride)).per(target).ignored(skipped);
  c.input("index", a.index, kI32, Case::line(a.count)).holds(index);
  c.inout("y", a.y, kF32, c.table(a.y_rows, a.columns, "y_stride", a.y_stride))
      .touched(touched)
      .per(Case::every(a.y_rows))
      .sealed();
  c.units(a.y_rows);
}

void describe(Case& c, saccade_axpby_args& a) {
  const int64_t rows = c.size("rows", a.rows, 0, INT64_MAX), columns = c.size("columns", a.columns, 0, INT64_MAX);
  const Owners row = Case::every(rows);
  a.a = c.choices().of({1.0f, 0.0f, -0.5f});
  a.b = c.choices().of({0.0f, 1.0f, 0.5f});
  c.input("x", a.x, kF32, c.table(rows, columns, "x_stride", a.x_stride)).per(row);
  const Shape y = c.table(rows, columns, "y_stride", a.y_stride);
  (a.b == 0.0f ? c.output("y", a.y, kF32, y) : c.inout("y", a.y, kF32, y)).per(row);
  c.units(rows);
}

void describe(Case& c, saccade_sample_tokens_args& a) {
  const int64_t rows = c.size("rows", a.rows), vocabulary = c.size("vocabulary", a.vocabulary, 1);
  const Owners row = Case::every(rows);
  float_dtype(c, "logits_dtype", a.logits_dtype);
  c.number("temperature", a.temperature, {1.0f, 0.0f, 0.5f, 1e-40f, kLargest, kSmallest}, {-1.0f});
  c.number("top_p", a.top_p, {0.0f, 0.9f, 1.0f, kSmallest}, {-0.1f, 1.1f});
  a.seed = static_cast<int64_t>(c.choices().bytes(8));
  a.offset = static_cast<int64_t>(c.choices().bytes(8));
  c.input("logits", a.logits, a.logits_dtype, c.table(rows, vocabulary, "logits_stride", a.logits_stride)).per(row);
  if (c.maybe())
    c.input("offset_scalar", a.offset_scalar, kI64, Case::line(1)).optional().holds(std::vector<int64_t>{-1});
  if (c.maybe()) c.input("stream", a.stream, kI32, Case::line(rows)).optional().holds(c.indices(rows, INT32_MAX, -1));
  c.output("tokens", a.tokens, kI32, Case::line(rows)).per(row).bounded(-1, vocabulary > 0 ? vocabulary - 1 : 0);
  c.units(rows);
}

// --------------------------------------------------------------------------------------------------- the table

template <class Args, int32_t (*call)(saccade_context*, const Args*)>
Operation operation(const char* name) {
  static_assert(sizeof(Args) <= Case::kMostArgs, "an args struct that does not fit");
  Operation result{name};
  result.args_size = sizeof(Args);
  result.describe = [](Case& c, void* args) { describe(c, *static_cast<Args*>(args)); };
  result.call = [](saccade_context* context, const void* args) {
    return call(context, static_cast<const Args*>(args));
  };
  return result;
}

template <class Args, int32_t (*call)(saccade_context*, const Args*),
          int32_t (*workspace)(saccade_context*, const Args*, int64_t*)>
Operation operation(const char* name) {
  Operation result = operation<Args, call>(name);
  result.workspace = [](saccade_context* context, const void* args, int64_t* bytes) {
    return workspace(context, static_cast<const Args*>(args), bytes);
  };
  return result;
}

Operation functions(const char* name, void (*exercise)(Choices&, Tally&)) {
  Operation result{name};
  result.exercise = exercise;
  return result;
}

#define SACCADE_OPERATION(name) operation<saccade_##name##_args, saccade_##name>(#name)
#define SACCADE_OPERATION_WITH_WORKSPACE(name) \
  operation<saccade_##name##_args, saccade_##name, saccade_##name##_workspace>(#name)

}  // namespace

const Operation kOperations[] = {
    functions("context", exercise_context),
    functions("memory", exercise_memory),
    SACCADE_OPERATION(group_advantage),
    SACCADE_OPERATION(token_log_probs),
    SACCADE_OPERATION(token_log_probs_backward),
    SACCADE_OPERATION(sampled_kl),
    SACCADE_OPERATION(logit_divergence),
    SACCADE_OPERATION_WITH_WORKSPACE(policy_loss),
    SACCADE_OPERATION_WITH_WORKSPACE(policy_loss_from_logits),
    SACCADE_OPERATION_WITH_WORKSPACE(linear_policy_loss),
    SACCADE_OPERATION_WITH_WORKSPACE(attention_policy),
    SACCADE_OPERATION_WITH_WORKSPACE(attention_divergence),
    SACCADE_OPERATION_WITH_WORKSPACE(grad_norm),
    SACCADE_OPERATION(adamw),
    SACCADE_OPERATION(gradient_moments_update),
    SACCADE_OPERATION(gradient_moments_merge),
    SACCADE_OPERATION_WITH_WORKSPACE(gradient_moments_report),
    SACCADE_OPERATION_WITH_WORKSPACE(gemm),
    SACCADE_OPERATION(rms_norm),
    SACCADE_OPERATION_WITH_WORKSPACE(rms_norm_backward),
    SACCADE_OPERATION(swiglu),
    SACCADE_OPERATION(swiglu_backward),
    SACCADE_OPERATION(gather_rows),
    SACCADE_OPERATION(scatter_add_rows),
    SACCADE_OPERATION(axpby),
    SACCADE_OPERATION_WITH_WORKSPACE(attention),
    SACCADE_OPERATION_WITH_WORKSPACE(attention_backward),
    SACCADE_OPERATION(sample_tokens),
};
const int kOperationCount = static_cast<int>(sizeof kOperations / sizeof kOperations[0]);

}  // namespace fuzz
