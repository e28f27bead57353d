// What the workspaces of the attention operations are made of: on the CPU the transposed layout of core/attention.h, on
// a GPU offsets that kernels may trust.
#pragma once

#include "core/call.h"

namespace saccade {

constexpr int kRows = 16;             // rows that are scored at once
constexpr int64_t kColumnBlock = 32;  // at least two vectors of every instruction set
constexpr int64_t kMaxHeadDim = 256;

SACCADE_BOTH inline int64_t padded(int64_t keys) { return (keys + kColumnBlock - 1) / kColumnBlock * kColumnBlock; }

// Columns of all sequences together; first_column() of the next sequence is at least padded(length) further.
inline int64_t total_columns(int64_t keys, int64_t sequences) { return padded(keys) + sequences * kColumnBlock; }
inline int64_t first_column(int64_t offset, int64_t sequence) { return padded(offset) + sequence * kColumnBlock; }
inline int64_t column_blocks(int64_t keys, int64_t sequences) { return total_columns(keys, sequences) / kColumnBlock; }

// CUDA: offsets from 0, non-decreasing, ending at the number of rows and keys, and which sequences were given others,
// or have more keys than they may.
struct CleanPacking {
  int32_t* offsets_q;  // [S+1]
  int32_t* offsets_k;  // [S+1]
  uint8_t* bad;        // [S]
};

inline CleanPacking carve_packing(int64_t sequences, Carver& carver) {
  CleanPacking packing;
  packing.offsets_q = carver.take<int32_t>(sequences + 1);
  packing.offsets_k = carver.take<int32_t>(sequences + 1);
  packing.bad = carver.take<uint8_t>(sequences);
  return packing;
}

// CUDA, f32: what is kept of every head and row, [heads, rows].
struct HeadStatistics {
  double* lse;   // of the scaled scores
  float* share;  // of the support in the head's probabilities
  int32_t* top;  // the likeliest key, -1 where nothing is visible
};

inline HeadStatistics carve_statistics(int64_t heads, int64_t rows, Carver& carver) {
  HeadStatistics statistics;
  statistics.lse = carver.take<double>(heads * rows);
  statistics.share = carver.take<float>(heads * rows);
  statistics.top = carver.take<int32_t>(heads * rows);
  return statistics;
}

// CUDA: sequences are cut into pieces of `tile` rows from their first row on; piece t of sequence s is number
// offsets[s] / tile + s + t, which no other piece is.  Some numbers are no piece.
constexpr int kTile = 64;

inline int64_t pieces_of(int64_t rows, int64_t sequences, int tile = kTile) {
  return rows == 0 ? 0 : (rows + tile - 1) / tile + sequences;
}

// CUDA, Hopper: tiles of core/ring.cuh, `tile` rows of a head each, with `extra` bytes beside every tile.
inline uint8_t* carve_tiles(Carver& carver, int64_t rows, int64_t sequences, int tile, int64_t heads, int64_t dim,
                            int64_t extra = 0) {
  const int64_t bytes = tile * (dim <= 64 ? 64 : 128) * 2 + extra;
  const int64_t tiles = checked_product("workspace", pieces_of(rows, sequences, tile), heads);
  return carver.take<uint8_t>(checked_product("workspace", tiles, bytes));
}

// CUDA, 16-bit types: what is kept of every head and row of an attention policy: the log-sum-exp in powers of two, and
// what attention_divergence compares its dP with.  Hopper: rows of tiles, and bytes beside a tile of queries, of all
// but the centre.
constexpr int kQueryTile = 64, kKeyTile = 128;
enum QueryStatistic { kLse, kDelta, kCentre, kQueryStatistics };
constexpr int kQueryTileExtra = kCentre * kQueryTile * static_cast<int>(sizeof(float));

// CUDA, f32: the keys of a row are cut into parts, each of a few tiles of kTile keys, for blocks of their own.
struct KeyParts {
  int64_t tiles, parts;

  explicit KeyParts(int64_t max_keys) {
    constexpr int64_t kParts = 32;
    const int64_t all = max_keys > kTile ? (max_keys + kTile - 1) / kTile : 1;
    tiles = (all + kParts - 1) / kParts;
    parts = (all + tiles - 1) / tiles;
  }
};

}  // namespace saccade
