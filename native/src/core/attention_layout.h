// Sizes of the transposed layout of core/attention.h, which workspaces are made of.
#pragma once

#include "core/call.h"

namespace saccade {

constexpr int kRows = 16;             // rows that are scored at once
constexpr int64_t kColumnBlock = 32;  // at least two vectors of every instruction set
constexpr int64_t kMaxHeadDim = 256;

inline int64_t padded(int64_t keys) { return (keys + kColumnBlock - 1) / kColumnBlock * kColumnBlock; }

// Columns of all sequences together; first_column() of the next sequence is at least padded(length) further.
inline int64_t total_columns(int64_t keys, int64_t sequences) { return padded(keys) + sequences * kColumnBlock; }
inline int64_t first_column(int64_t offset, int64_t sequence) { return padded(offset) + sequence * kColumnBlock; }
inline int64_t column_blocks(int64_t keys, int64_t sequences) { return total_columns(keys, sequences) / kColumnBlock; }

}  // namespace saccade
