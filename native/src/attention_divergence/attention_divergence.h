// attention_divergence (docs/spec.md §8): divergence of a reference from the attention policy, its entropy term, and
// the gradient of both to q and k.
//
// CPU, three passes over the scores of one policy (MEAN: of all heads in range; NONE: head by head):
//   1 rows        the policy of eight rows at a time, the reference beside it; divergence, entropy, mass; what is
//                 kept is dP, the gradient with respect to the (summed) probabilities: one f32 map
//   2 rows        delta = P . dP and dq = scale dS k, dS = P (dP - delta)
//   3 key blocks  dk = scale dS^T q, rows and heads of a group in a fixed order
// Probabilities are recomputed from the log-normaliser.  Nothing of [heads x Tq x Tk] exists.  Large scores of f32
// inputs are summed and normalised in f64.
// CUDA, f32: four passes over the scores, the first two also over the reference's where that is a policy:
//   1 heads       log-normaliser, mass of the support and likeliest key of every head and row
//   2 tiles       the policy of 64 rows by 64 keys, in registers over the heads, and the reference's beside it; the
//                 map, and the part's divergence, entropy and moment, which are joined row by row
//   3 row blocks  delta, then dq, as on the CPU
//   4 key blocks  dk, rows and heads of a group in a fixed order; reduction NONE: head by head, added up in f32
// CUDA, 16-bit types: README.md.
#pragma once

#include "attention_policy/policy_layout.h"

namespace saccade {

// What dP of one row and head is compared with: delta = sum P dP, taken as pivot + sum P (dP - pivot) with the pivot at
// the head's likeliest key, so that dP - delta keeps its accuracy where the head is all but certain of that key.
struct AttentionCentre {
  float pivot, delta;
};

// CUDA, f32: what a part of the keys gives to a row.
struct RowPart {
  double divergence, entropy;
  double mass, moment;  // sum p and sum p g over the support, g = dD/dp
  float top, pivot;     // the largest p, and g there
};

// CUDA, f32: dP of a row is ((g - pivot) - mean) * inverse on its support.
struct RowGradient {
  float pivot, mean, inverse;
};

// Hopper: where few blocks of queries would leave most multiprocessors idle, each of their tiles of keys is some
// part's, and what the parts find is joined.  A part has the two sums of dq, of kDim columns each, and kNumbers of a
// head and row.
struct QueryParts {
  float* sums;  // [count, heads, rows, 2 kDim + kNumbers]; null: one part
  int count;

  static constexpr int kNumbers = 8;
};

template <class Args>
QueryParts carve_query_parts(Carver& carver, const Args& args) {
  constexpr int64_t kProcessors = 132, kBlockRows = 128, kLeast = 1024;  // of an H100; of a block; keys of a part
  const int64_t columns = args.head_dim <= 64 ? 64 : 128, size = 2 * columns + QueryParts::kNumbers;
  const int64_t blocks = pieces_of(args.rows * args.heads, args.sequences * args.kv_heads, kBlockRows);
  const int64_t all = checked_product("workspace", checked_product("workspace", args.heads, args.rows), size);
  // No more memory than is allowed for dk.
  const int64_t most =
      std::min({kProcessors / blocks, args.max_keys / kLeast, 2 * args.keys * args.kv_heads * columns / all});
  if (most < 2) return {nullptr, 1};
  return {carver.take<float>(checked_product("workspace", all, most)), static_cast<int>(most)};
}

struct AttentionDivergenceWorkspace {
  float* divergence;  // [rows]
  float* entropy;     // [rows]
  float* mass;        // [rows]
  // For the gradient:
  float* map;               // [rows, padded(max_keys)]: dP; CUDA, f32: g
  AttentionCentre* centre;  // [heads, rows]
  float* d_keys;            // CPU: transposed; CUDA, for NONE: [keys, kv_heads, head_dim]
  // CPU:
  float* keys;           // transposed [columns, kv_heads, head_dim]
  float* key_norms;      // [column_blocks, kv_heads]
  float* ref_keys;       // transposed [columns, ref_kv_heads, ref_head_dim], where ref_k is given
  float* ref_key_norms;  // [column_blocks, ref_kv_heads]
  float* scratch;        // [threads, kScratchRows, padded(max_keys)]
  double* lse;           // [heads, rows], for the gradient
  // CUDA:
  CleanPacking packing;
  // CUDA, f32:
  HeadStatistics statistics, ref_statistics;
  RowPart* parts;              // [parts of the keys, rows]
  RowGradient* row_gradients;  // [rows], for the gradient
  // CUDA, 16-bit types, with `map` for all calls:
  float* head_statistics;        // [kQueryStatistics, heads, rows]; Hopper: beside the tiles
  float* ref_head_statistics;    // [ref_heads, rows], log-sum-exps
  PolicyTiles tiles, ref_tiles;  // Hopper
  float* ref_map;                // [ref_rows, padded(max_keys)]: the reference's policy, of some rows at a time
  int64_t ref_rows;
  QueryParts query_parts;  // Hopper, for the gradient
  int32_t* turn;           // Hopper, for the gradient: how many of query_kernel's turns are taken
  int64_t bytes;

  static constexpr int64_t kScratchRows = 4 * kRows;  // scores, which may be f64; policy; reference
};

// dq without rows and dk without keys may have no address.
inline bool wants_gradient(const saccade_attention_divergence_args& args) { return args.dq || args.dk; }

}  // namespace saccade

SACCADE_DECLARE(attention_divergence, const saccade_attention_divergence_args& args,
                const AttentionDivergenceWorkspace& workspace)
