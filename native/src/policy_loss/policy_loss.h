// policy_loss (docs/spec.md §5): clipped, sequence-level, soft and plain policy-gradient objectives over packed
// sequences, with the KL term of §3, their gradient by the log-probabilities, and metrics, in one call.
//
// CPU.  The rows are cut into blocks of fixed size, and a block into pieces where sequences meet; the piece of
// sequence s in block b has number b + s, which no other piece has.
//   1. Count the active rows of every piece (GSPO: and add up their log-ratios); reads the mask.
//   2. Join pieces to sequences: active rows, and the ratio of GSPO.
//   3. Token losses, gradients, sums of the block.  GSPO's gradient needs its sequence's sum: the sum of each piece.
//   4. GSPO only: join those sums, add them to the gradients of the sequence's active rows.
// CUDA, two launches.  The first counts active rows.  Where the weights or GSPO need them by sequence, some lanes, or a
// block for a long sequence, count its own, and for GSPO add up log-ratios, then gradients.  In the second, whose first
// rows are on their way while the first still counts, a thread makes token losses and gradients of four rows at a time,
// a block sums of its rows, and the last block to end adds those up in order.
// Sums are f32 within a block's vector lanes (CUDA: a thread's rows, those of metrics a warp's), f64 beyond.  Bytes:
// 4*R for every input read and output written, and R twice for the mask; GSPO: the log-probabilities and the gradient
// twice, the mask three times.
//
// Where the spec leaves room:
//   clipped_low and clipped_high count the rows whose gradient the clipping takes away (PPO_CLIP, GSPO, GSPO_TOKEN;
//   dual_clip and delta bound the ratio from above) or whose ratio it replaces (CISPO), by the side of the ratio; SAPO
//   and REINFORCE clip nothing.  The ratio is the sequence's for GSPO and GSPO_TOKEN.  A ratio whose logarithm was
//   clamped passes no gradient; CISPO's is detached anyway.  Every metric is 0 when no row is active.
//   The importance correction of the KL term is by the token's own ratio, whatever the objective.
#pragma once

#include "core/call.h"

namespace saccade {

constexpr int64_t kPolicyBlock = 1 << 12;  // rows of a block; an f32 partial sum may hold no more terms
// CUDA:
constexpr int64_t kPolicySlices = 512;    // most slices whose active rows are counted apart
constexpr int64_t kPolicyTile = 1 << 10;  // rows that a block takes at once

// CUDA: tiles of a block: as many as make no more blocks than a GPU holds at once, up to 16.
inline int64_t policy_rounds(int64_t rows) {
  const int64_t rounds = (rows + kPolicyTile * 512 - 1) / (kPolicyTile * 512);
  return rounds < 1 ? 1 : rounds < 16 ? rounds : 16;
}

// Sums over the active rows of a part of the rows.
struct PolicySums {
  double loss;  // weighted by the aggregation
  double token_loss;
  double ratio;
  double kl;
  int64_t clipped_low;
  int64_t clipped_high;
  float max_log_ratio;
};

struct PolicySequence {
  int32_t active;
  float ratio;     // GSPO: the ratio of all its rows
  float gradient;  // GSPO: the gradient of each of its active rows, without the KL term
  bool saturated;  // GSPO: the logarithm of the ratio was clamped
};

struct PolicyLossWorkspace {
  PolicySums* sums;           // [parts], at least one for every block
  int32_t* piece_active;      // [blocks + sequences]
  double* piece_sum;          // [blocks + sequences], GSPO: log-ratios, then gradients
  PolicySequence* sequences;  // [sequences]
  // CUDA:
  double* block_sums;  // [SACCADE_POLICY_METRICS, blocks of its own]
  int32_t* slices;     // counts of slices
  int32_t* done;       // one: blocks of rows
};

// GSPO and GSPO_TOKEN: a token's ratio is known only when its sequence's log-probabilities are.
SACCADE_BOTH inline bool needs_whole_sequences(const saccade_policy_loss_args& args) {
  return args.objective == SACCADE_OBJECTIVE_GSPO || args.objective == SACCADE_OBJECTIVE_GSPO_TOKEN;
}

void require_policy_options(const saccade_policy_loss_args& args);
// Everything but log_prob and d_log_prob.
void require_policy_operands(const saccade_policy_loss_args& args, Operands& operands);
PolicyLossWorkspace carve_policy_loss(const saccade_policy_loss_args& args, int64_t parts, Carver& carver);

}  // namespace saccade

SACCADE_DECLARE(policy_loss, const saccade_policy_loss_args& args, const PolicyLossWorkspace& workspace)
