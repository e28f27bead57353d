// How blocks on the tensor cores share the rows and heads of an attention policy, whatever instructions they multiply
// by.
#pragma once

#include "attention_policy/policy.cuh"
#include "core/mma.cuh"

namespace saccade::cuda {

constexpr int kMostStay = 128;  // rows that stay in a block

// A policy of the heads in its range, and their key heads.
struct PolicyHeads {
  PolicyRows rows;
  HeadSpan heads, kv;
  int64_t group, total_rows;
  float unit;  // of scores in powers of two

  template <class T>
  PolicyHeads(const PolicyRows& rows_, const PolicySide<T>& side, const HeadSpan& heads_)
      : rows(rows_),
        heads(heads_),
        kv{heads_.begin / side.group(), (heads_.end - 1) / side.group() + 1},
        group(side.group()),
        total_rows(side.rows),
        unit(side.scale * kLog2E) {}

  __device__ const Sequences& sequences() const { return rows.sequences; }
};

// How rows are cut for blocks where queries stay: so many of them, with all heads that share their keys.
struct HeadedGrid {
  int rows, queries;
  int64_t chunks;  // of `rows` heads of a key head

  HeadedGrid(const PolicyHeads& policy, int rows_) : rows(rows_) {
    const int64_t most = policy.group < policy.heads.count() ? policy.group : policy.heads.count();
    queries = static_cast<int>(most < rows ? rows / most : 1);
    chunks = divide_up(most, rows);
  }
  int64_t blocks(const PolicyHeads& policy, int64_t sequences) const {
    return pieces_of(policy.total_rows, sequences, queries) * policy.kv.count() * chunks;
  }
};

// What stays in a block: row r is a query and a head, r = query * heads + head.
struct HeadedRows {
  int64_t s, begin, kv, first_head;  // begin: the first query's row
  int queries, heads;

  // Block number `number` of `blocks`.  The last queries, which see the most keys, come first.
  __device__ HeadedRows(const PolicyHeads& policy, const HeadedGrid& grid, int64_t number = blockIdx.x,
                        int64_t blocks = gridDim.x) {
    const int64_t slices = policy.kv.count() * grid.chunks, pieces = blocks / slices;
    const Piece piece =
        piece_of(policy.sequences().offsets_q, policy.sequences().count, pieces - 1 - number / slices, grid.queries);
    s = piece.s;
    begin = piece.begin;
    queries = piece.empty() ? 0 : piece.count();
    kv = policy.kv.begin + number % slices / grid.chunks;
    const int64_t group_begin = kv * policy.group, group_end = group_begin + policy.group;
    first_head =
        (group_begin > policy.heads.begin ? group_begin : policy.heads.begin) + number % grid.chunks * grid.rows;
    const int64_t left = (group_end < policy.heads.end ? group_end : policy.heads.end) - first_head;
    heads = static_cast<int>(left < 0 ? 0 : left < grid.rows ? left : grid.rows);
  }

  __device__ bool empty() const { return queries == 0 || heads == 0; }
  __device__ int count() const { return queries * heads; }
  __device__ int query(int r) const { return r / heads; }
  __device__ int64_t head(int r) const { return first_head + r % heads; }
};

// Tiles of keys in an order in which the first few are like all of them: every stride-th, from each offset in turn.
// Blocks of a sequence have one stride, so that they are at the same tiles at the same time.
struct Scattered {
  int index = 0, offset = 0, count, stride;

  __device__ __forceinline__ Scattered(int count_, int stride_) : count(count_), stride(stride_) {}
  __device__ static int stride_of(int count) {
    return count > 1 ? __float2int_rn(sqrtf(static_cast<float>(count))) : 1;
  }
  __device__ __forceinline__ void next() {
    index += stride;
    if (index >= count) index = ++offset;
  }
};

// A lane's part of a row's sum of exponentials, with respect to the largest score that the lane has seen, in powers of
// two: takes columns of row i of a block of products, the first `seen` of which the row sees; they become scores.
template <int kBlocks>
__device__ __forceinline__ void add_exponentials(float (&x)[kBlocks][4], int i, int seen, float unit, float& top,
                                                 double& sum) {
  float highest = top;
#pragma unroll
  for (int n = 0; n < kBlocks; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float& value = x[n][2 * i + e];
      value = 8 * n + lane_column(e) < seen ? value * unit : -INFINITY;
      highest = fmaxf(highest, value);
    }
  const float reference = highest == -INFINITY ? 0.0f : highest;
  float part = 0.0f;
#pragma unroll
  for (int n = 0; n < kBlocks; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) part += exp2_fast(x[n][2 * i + e] - reference);
  sum = sum * static_cast<double>(exp2_fast(top - reference)) + static_cast<double>(part);
  top = highest;
}

// The log-sum-exp, in powers of two, of what the four lanes of a row have.  some: the row sees something.
__device__ __forceinline__ double join_exponentials(float top, double sum, bool some) {
  float highest = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
  highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
  // A lane may have seen no keys.
  double all = sum == 0.0 ? 0.0 : sum * static_cast<double>(exp2_fast(top - highest));
  all += __shfl_xor_sync(~0u, all, 1);
  all += __shfl_xor_sync(~0u, all, 2);
  return some ? static_cast<double>(highest) + ::log2(all) : -INFINITY;
}

// Sums of probabilities of `heads`, which are among a policy's, for rows [begin, end), [end - begin, width].  Only
// those of keys in a row's support are something.  Pairs of columns are written at once.
struct PolicyMap {
  float* data;
  int64_t width, begin, end;
  HeadSpan heads;

  __device__ float* row(int64_t row) const { return data + (row - begin) * width; }
};

}  // namespace saccade::cuda
