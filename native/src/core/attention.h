// What the attention operations share on the CPU: keys transposed once to f32, and three small products on them.
//
// Transposed layout.  For every sequence and key head a matrix [head_dim, padded(keys)], so that products run along the
// keys whatever the head dimension is.  Sequences start on a multiple of kColumnBlock columns and are padded with
// zeros: no vector load reaches into a neighbour, whose values may be NaN.
#pragma once

#include "core/attention_layout.h"
#include "core/simd.h"

namespace saccade::SACCADE_ISA {

constexpr int kRows = 4;  // rows that the products take at once

// Rows and keys of the packed sequences.
struct Packing {
  const int32_t* offsets_q;
  const int32_t* offsets_k;
  const int32_t* lengths_k;  // null: all of each region
  int64_t sequences;
  int64_t max_keys;

  int64_t queries(int64_t s) const { return offsets_q[s + 1] - offsets_q[s]; }
  int64_t keys(int64_t s) const { return lengths_k ? lengths_k[s] : offsets_k[s + 1] - offsets_k[s]; }
  // Keys that row i of sequence s sees: the first ones (bottom-right alignment).
  int64_t visible(int64_t s, int64_t i) const {
    const int64_t n = keys(s) - queries(s) + i + 1;
    return n < 0 ? 0 : n;
  }
  int64_t max_queries() const {
    int64_t most = 0;
    for (int64_t s = 0; s < sequences; ++s) most = queries(s) > most ? queries(s) : most;
    return most;
  }
};

// Rows of one task of the passes over rows: its keys are read from memory once for all of them.
constexpr int64_t kTaskRows = 16;

template <class Args>
Packing packing_of(const Args& args, saccade_address lengths_k) {
  return {pointer<const int32_t>(args.offsets_q), pointer<const int32_t>(args.offsets_k),
          pointer<const int32_t>(lengths_k), args.sequences, args.max_keys};
}

// Calls body(sequence, first row within it, rows, worker) for every block of kRows rows.
template <class Body>
void for_row_blocks(Pool& pool, const Packing& packing, const Body& body) {
  const int64_t blocks = (packing.max_queries() + kTaskRows - 1) / kTaskRows;
  pool.run(packing.sequences * blocks, [&](int64_t task, int worker) {
    const int64_t s = task / blocks, rows = packing.queries(s), begin = task % blocks * kTaskRows;
    const int64_t end = begin + kTaskRows < rows ? begin + kTaskRows : rows;
    for (int64_t i = begin; i < end; i += kRows) body(s, i, end - i < kRows ? end - i : kRows, worker);
  });
}

struct Transposed {
  float* data;
  int64_t heads;
  int64_t dim;

  float* at(const Packing& packing, int64_t s, int64_t head) const {
    return data + first_column(packing.offsets_k[s], s) * heads * dim + head * dim * padded(packing.keys(s));
  }
};

// A [rows,heads,dim] tensor with row and head strides.
template <class T>
struct Heads {
  T* data;
  int64_t row_stride;
  int64_t head_stride;

  T* at(int64_t row, int64_t head) const { return data + row * row_stride + head * head_stride; }
};

template <class T>
SACCADE_INLINE Heads<T> heads_of(saccade_address address, int64_t row_stride, int64_t head_stride) {
  return {pointer<T>(address), row_stride, head_stride};
}

template <class T>
void transpose(Pool& pool, const Packing& packing, const Heads<const T>& x, const Transposed& out) {
  constexpr int64_t kKeys = 64;
  const int64_t blocks = (packing.max_keys + kKeys - 1) / kKeys;
  pool.run(packing.sequences * blocks, [&](int64_t task, int) {
    const int64_t s = task / blocks, begin = task % blocks * kKeys, keys = packing.keys(s);
    if (begin >= keys) return;
    const int64_t end = begin + kKeys < keys ? begin + kKeys : keys;
    const int64_t stride = padded(keys), filled = end == keys ? stride : end;
    for (int64_t h = 0; h < out.heads; ++h) {
      float* to = out.at(packing, s, h);
      for (int64_t d = 0; d < out.dim; ++d) {
        for (int64_t j = begin; j < end; ++j) to[d * stride + j] = to_float(x.at(packing.offsets_k[s] + j, h)[d]);
        for (int64_t j = end; j < filled; ++j) to[d * stride + j] = 0.0f;
      }
    }
  });
}

// kRows rows as f32; rows from `count` on are zeros.
using RowBlock = float[kRows][kMaxHeadDim];

template <class T>
SACCADE_INLINE void load_rows(const Heads<const T>& x, int64_t row, int64_t head, int64_t count, int64_t dim,
                              RowBlock& rows) {
  for (int r = 0; r < kRows; ++r) {
    if (r < count) {
      const T* from = x.at(row + r, head);
      for_lanes(dim, [&](int64_t d, int64_t lanes) { store(rows[r] + d, lanes, load(from + d, lanes, 0.0f)); });
    } else {
      std::memset(rows[r], 0, static_cast<size_t>(dim) * sizeof(float));
    }
  }
}

// s[r][j] = scale * rows[r] . column j, for j below n rounded up to two vectors.
SACCADE_INLINE void dot_columns(const RowBlock& rows, int64_t dim, const float* columns, int64_t stride, int64_t n,
                                float scale, float* s, int64_t s_stride) {
  for (int64_t j = 0; j < n; j += 2 * kLanes) {
    vfloat a[kRows][2];
    for (int r = 0; r < kRows; ++r) a[r][0] = a[r][1] = splat(0.0f);
    for (int64_t d = 0; d < dim; ++d) {
      const vfloat c0 = load(columns + d * stride + j), c1 = load(columns + d * stride + j + kLanes);
      for (int r = 0; r < kRows; ++r) {
        a[r][0] += rows[r][d] * c0;
        a[r][1] += rows[r][d] * c1;
      }
    }
    for (int r = 0; r < kRows; ++r) {
      store(s + r * s_stride + j, a[r][0] * scale);
      store(s + r * s_stride + j + kLanes, a[r][1] * scale);
    }
  }
}

// out[r][d] = scale * sum_j a[r][j] * columns[d][j], for j below n rounded up to a vector: a is 0 from its own n on.
SACCADE_INLINE void times_columns(const float* a, int64_t a_stride, const float* columns, int64_t stride, int64_t n,
                                  int64_t dim, float scale, RowBlock& out) {
  constexpr int kDims = 4;
  constexpr int64_t kBlock = kMaxPartial * kLanes;
  for (int64_t d = 0; d < dim; d += kDims) {
    const int64_t dims = dim - d < kDims ? dim - d : kDims;
    double total[kRows][kDims] = {};
    for (int64_t begin = 0; begin < n; begin += kBlock) {
      const int64_t end = begin + kBlock < n ? begin + kBlock : n;
      vfloat sum[kRows][kDims];
      for (int r = 0; r < kRows; ++r)
        for (int e = 0; e < kDims; ++e) sum[r][e] = splat(0.0f);
      for (int64_t j = begin; j < end; j += kLanes) {
        vfloat c[kDims];
        for (int e = 0; e < kDims; ++e) c[e] = load(columns + (d + (e < dims ? e : 0)) * stride + j);
        for (int r = 0; r < kRows; ++r) {
          const vfloat ar = load(a + r * a_stride + j);
          for (int e = 0; e < kDims; ++e) sum[r][e] += ar * c[e];
        }
      }
      for (int r = 0; r < kRows; ++r)
        for (int e = 0; e < kDims; ++e) total[r][e] += static_cast<double>(reduce_add(sum[r][e]));
    }
    for (int r = 0; r < kRows; ++r)
      for (int64_t e = 0; e < dims; ++e) out[r][d + e] = static_cast<float>(total[r][e]) * scale;
  }
}

// A block of kColumnBlock columns that gradients of keys or values gather in.
using ColumnBlock = float[kMaxHeadDim][kColumnBlock];

// block[d][j] += sum_r rows[r][d] * a[r][j] over kColumnBlock columns.
SACCADE_INLINE void add_outer(const RowBlock& rows, const float* a, int64_t a_stride, int64_t dim, ColumnBlock& block) {
  constexpr int kVectors = kColumnBlock / kLanes;
  for (int64_t d = 0; d < dim; ++d)
    for (int v = 0; v < kVectors; ++v) {
      vfloat sum = load(block[d] + v * kLanes);
      for (int r = 0; r < kRows; ++r) sum += rows[r][d] * load(a + r * a_stride + v * kLanes);
      store(block[d] + v * kLanes, sum);
    }
}

// out[d][j] += block[d][j]; the block becomes 0.
SACCADE_INLINE void flush(ColumnBlock& block, int64_t dim, float* out, int64_t stride) {
  for (int64_t d = 0; d < dim; ++d)
    for (int v = 0; v < kColumnBlock; v += kLanes) {
      store(out + d * stride + v, load(out + d * stride + v) + load(block[d] + v));
      store(block[d] + v, splat(0.0f));
    }
}

// Log-normaliser of n scores; -inf where n is 0.
SACCADE_INLINE float log_sum_exp(const float* s, int64_t n) {
  if (n == 0) return -__builtin_inff();
  vfloat top = splat(-__builtin_inff());
  for_lanes(n, [&](int64_t j, int64_t lanes) { top = max(load(s + j, lanes, -__builtin_inff()), top); });
  const float m = max_of(top);
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += kMaxPartial * kLanes) {
    const int64_t size = n - begin < kMaxPartial * kLanes ? n - begin : kMaxPartial * kLanes;
    vfloat sum = splat(0.0f);
    for_lanes(size, [&](int64_t j, int64_t lanes) { sum += exp(load(s + begin + j, lanes, -__builtin_inff()) - m); });
    total += sum_of(sum);
  }
  return static_cast<float>(static_cast<double>(m) + std::log(total));
}

// s becomes exp(s - lse) below n and 0 from there to n rounded up to kColumnBlock.
SACCADE_INLINE void to_probabilities(float* s, int64_t n, float lse) {
  const int64_t end = padded(n);
  for (int64_t j = 0; j < end; j += kLanes) {
    const vint seen = lane_index() + static_cast<int32_t>(j) < static_cast<int32_t>(n);
    store(s + j, select(seen, exp(load(s + j) - lse), splat(0.0f)));
  }
}

// Sum of f(j, lanes) over [begin, end), f32 within kMaxPartial terms a lane, f64 beyond.  Lanes past `lanes` must be 0.
template <class F>
SACCADE_INLINE double sum_lanes(int64_t begin, int64_t end, const F& f) {
  double total = 0.0;
  for (int64_t from = begin; from < end; from += kMaxPartial * kLanes) {
    const int64_t size = end - from < kMaxPartial * kLanes ? end - from : kMaxPartial * kLanes;
    vfloat sum = splat(0.0f);
    for_lanes(size, [&](int64_t j, int64_t lanes) { sum += f(from + j, lanes); });
    total += sum_of(sum);
  }
  return total;
}

// Writes gradients gathered in the transposed layout, times `scale`, to [keys,heads,dim].
template <class T>
void write_transposed(Pool& pool, const Packing& packing, const Transposed& from, const Heads<T>& out, float scale) {
  constexpr int64_t kKeys = 64;
  const int64_t blocks = (packing.max_keys + kKeys - 1) / kKeys;
  pool.run(packing.sequences * blocks, [&](int64_t task, int) {
    const int64_t s = task / blocks, begin = task % blocks * kKeys, keys = packing.keys(s);
    const int64_t end = begin + kKeys < keys ? begin + kKeys : keys, stride = padded(keys);
    for (int64_t h = 0; h < from.heads; ++h) {
      const float* x = from.at(packing, s, h);
      for (int64_t j = begin; j < end; ++j) {
        float row[kMaxHeadDim];
        for (int64_t d = 0; d < from.dim; ++d) row[d] = x[d * stride + j] * scale;
        T* to = out.at(packing.offsets_k[s] + j, h);
        for_lanes(from.dim, [&](int64_t d, int64_t lanes) { store(to + d, lanes, load(row + d, lanes, 0.0f)); });
      }
    }
  });
}

}  // namespace saccade::SACCADE_ISA
