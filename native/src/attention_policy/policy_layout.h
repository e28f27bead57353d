// What attention_policy and attention_divergence keep of a policy of a 16-bit type on a GPU, and which calls Hopper
// computes with tiles.
#pragma once

#include <algorithm>

#include "core/attention_layout.h"
#include "core/device.h"

namespace saccade {

// Hopper: queries and keys of a policy as tiles.
struct PolicyTiles {
  uint8_t* queries;  // null: the call has none
  uint8_t* keys;
};

template <class Args>
PolicyTiles carve_policy(Carver& carver, const Args& args, int64_t heads, int64_t kv_heads, int64_t dim) {
  PolicyTiles tiles;
  tiles.queries = carve_tiles(carver, args.rows, args.sequences, kQueryTile, heads, dim, kQueryTileExtra);
  tiles.keys = carve_tiles(carver, args.keys, args.sequences, kKeyTile, kv_heads, dim);
  return tiles;
}

// Whether Hopper's warpgroups compute it: sequences have rows enough to fill tiles.
template <class Args>
bool has_policy_tiles([[maybe_unused]] const saccade_context* context, const Args& args) {
  if (args.dtype != SACCADE_BF16 || args.reduction != SACCADE_REDUCTION_MEAN || args.head_dim > 128 || args.rows == 0 ||
      args.rows < 32 * args.sequences)
    return false;
  SACCADE_IF_CUDA(if (context->gpu) return cuda::capability_of(*context->gpu) == 90;)
  return false;
}

// Rows at a time of an f32 map of padded(max_keys) columns that is not kept: as many as q has bytes for, in whole
// blocks of those that compute them.
template <class Args>
int64_t rows_at_a_time(const Args& args) {
  constexpr int64_t kBlock = 2 * kQueryTile;
  const int64_t width = std::max<int64_t>(padded(args.max_keys), 1);
  const int64_t blocks = args.rows * args.heads * args.head_dim / (2 * width * kBlock);
  return std::min(args.rows, std::max<int64_t>(blocks, 1) * kBlock);
}

// body(begin, end) for rows [0, rows), `most` at a time.
template <class Body>
void for_row_batches(int64_t rows, int64_t most, const Body& body) {
  for (int64_t begin = 0; begin < rows; begin += most) body(begin, std::min(begin + most, rows));
}

}  // namespace saccade
