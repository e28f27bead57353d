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

// A vector of what scores are summed in, from f32.
SACCADE_INLINE vfloat load_as(const float* p, float) { return load(p); }
SACCADE_INLINE vdouble load_as(const float* p, double) { return load_double(p); }

// The rows as what scores are summed in; `converted` is room for them.
SACCADE_INLINE const RowBlock& rows_as(const RowBlock& rows, int64_t, RowBlock&) { return rows; }
using DoubleRowBlock = double[kRows][kMaxHeadDim];
SACCADE_INLINE const DoubleRowBlock& rows_as(const RowBlock& rows, int64_t dim, DoubleRowBlock& converted) {
  for (int r = 0; r < kRows; ++r)
    for (int64_t d = 0; d < dim; ++d) converted[r][d] = static_cast<double>(rows[r][d]);
  return converted;
}

// s[r][j] = scale * rows[r] . column j, summed in S = float or double, for j below n rounded up to two vectors.
template <class S>
SACCADE_INLINE void dot_columns(const RowBlock& row_block, int64_t dim, const float* columns, int64_t stride, int64_t n,
                                float scale, S* s, int64_t s_stride) {
  using Vector = decltype(load_as(columns, S{}));
  constexpr int64_t kWidth = sizeof(Vector) / sizeof(S);
  S converted[kRows][kMaxHeadDim];
  const auto& rows = rows_as(row_block, dim, converted);
  for (int64_t j = 0; j < n; j += 2 * kWidth) {
    Vector a[kRows][2] = {};
    for (int64_t d = 0; d < dim; ++d) {
      const Vector c0 = load_as(columns + d * stride + j, S{}), c1 = load_as(columns + d * stride + j + kWidth, S{});
      for (int r = 0; r < kRows; ++r) {
        a[r][0] += rows[r][d] * c0;
        a[r][1] += rows[r][d] * c1;
      }
    }
    for (int r = 0; r < kRows; ++r) {
      store(s + r * s_stride + j, a[r][0] * static_cast<S>(scale));
      store(s + r * s_stride + j + kWidth, a[r][1] * static_cast<S>(scale));
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

// kLanes scores minus c; of f64 scores the difference is rounded.
SACCADE_INLINE vfloat minus(const float* s, double c) { return load(s) - static_cast<float>(c); }
SACCADE_INLINE vfloat minus(const double* s, double c) { return narrow(load(s) - c, load(s + kDoubles) - c); }

// The largest of n scores, rounded to f32; NaN is passed over; -inf where n is 0.
template <class S>
SACCADE_INLINE float largest(const S* s, int64_t n) {
  vfloat top = splat(-__builtin_inff());
  for (int64_t j = 0; j < n; j += kLanes) {
    const vint seen = lane_index() + static_cast<int32_t>(j) < static_cast<int32_t>(n);
    top = max(select(seen, minus(s + j, 0.0), splat(-__builtin_inff())), top);
  }
  return max_of(top);
}

// e = exp(s - shift) below n and 0 from there to n rounded up to kColumnBlock: probabilities where shift is the
// log-normaliser.  Returns the sum.  e may begin where s does.
template <class S>
SACCADE_INLINE double exponentials(const S* s, int64_t n, double shift, float* e) {
  return sum_lanes(0, padded(n), [&](int64_t j, int64_t) {
    const vint seen = lane_index() + static_cast<int32_t>(j) < static_cast<int32_t>(n);
    const vfloat x = select(seen, exp(minus(s + j, shift)), splat(0.0f));
    store(e + j, x);
    return x;
  });
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
