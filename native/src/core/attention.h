// What the attention operations share on the CPU: keys transposed once to f32, and three small products on them.
//
// Transposed layout.  For every sequence and key head blocks [head_dim, kColumnBlock] of columns, one column a key, so
// that scores are computed along the keys whatever the head dimension is, from a block that stays in the L1 cache.
// Sequences start on a multiple of kColumnBlock columns and are padded with zeros: no vector load reaches into a
// neighbour, whose values may be NaN.
#pragma once

#include "core/attention_layout.h"
#include "core/simd.h"

namespace saccade::SACCADE_ISA {

constexpr int kTile = 4;  // rows whose sums a product keeps in registers

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

template <class Args>
Packing packing_of(const Args& args, saccade_address lengths_k) {
  return {pointer<const int32_t>(args.offsets_q), pointer<const int32_t>(args.offsets_k),
          pointer<const int32_t>(lengths_k), args.sequences, args.max_keys};
}

// Calls body(sequence, first row within it, rows, worker) for every block of kRows rows.
template <class Body>
void for_row_blocks(Pool& pool, const Packing& packing, const Body& body) {
  const int64_t blocks = (packing.max_queries() + kRows - 1) / kRows;
  pool.run(packing.sequences * blocks, [&](int64_t task, int worker) {
    const int64_t s = task / blocks, i = task % blocks * kRows, left = packing.queries(s) - i;
    if (left > 0) body(s, i, left < kRows ? left : kRows, worker);
  });
}

struct Transposed {
  float* data;
  int64_t heads;
  int64_t dim;

  // The block of columns that begins with key `first`, a multiple of kColumnBlock; the next follows it.
  int64_t block(const Packing& packing, int64_t s, int64_t head, int64_t first) const {
    return (first_column(packing.offsets_k[s], s) * heads + head * padded(packing.keys(s)) + first) / kColumnBlock;
  }
  float* at(const Packing& packing, int64_t s, int64_t head, int64_t first) const {
    return data + block(packing, s, head, first) * kColumnBlock * dim;
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

// Calls body(sequence, head, first key, keys) for every block of columns.
template <class Body>
void for_column_blocks(Pool& pool, const Packing& packing, int64_t heads, const Body& body) {
  const int64_t blocks = padded(packing.max_keys) / kColumnBlock;
  pool.run(packing.sequences * blocks, [&](int64_t task, int) {
    const int64_t s = task / blocks, first = task % blocks * kColumnBlock, left = packing.keys(s) - first;
    if (left <= 0) return;
    for (int64_t h = 0; h < heads; ++h) body(s, h, first, left < kColumnBlock ? left : kColumnBlock);
  });
}

template <class T>
void transpose(Pool& pool, const Packing& packing, const Heads<const T>& x, const Transposed& out) {
  for_column_blocks(pool, packing, out.heads, [&](int64_t s, int64_t h, int64_t first, int64_t keys) {
    float* to = out.at(packing, s, h, first);
    std::memset(to, 0, static_cast<size_t>(out.dim * kColumnBlock) * sizeof(float));
    for (int64_t j = 0; j < keys; ++j) {
      const T* from = x.at(packing.offsets_k[s] + first + j, h);
      for (int64_t d = 0; d < out.dim; ++d) to[d * kColumnBlock + j] = to_float(from[d]);
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

// s[r][j] = scale * rows[r] . column j, summed in S = float or double, for r below count rounded up to kTile and j
// below n rounded up to two vectors.
template <class S>
SACCADE_INLINE void dot_columns(const RowBlock& row_block, int64_t count, int64_t dim, const float* columns, int64_t n,
                                float scale, S* s, int64_t s_stride) {
  using Vector = decltype(load_as(columns, S{}));
  constexpr int64_t kWidth = sizeof(Vector) / sizeof(S);
  S converted[kRows][kMaxHeadDim];
  const auto& rows = rows_as(row_block, dim, converted);
  for (int64_t j = 0; j < n; j += 2 * kWidth) {
    const float* block = columns + j / kColumnBlock * kColumnBlock * dim + j % kColumnBlock;
    for (int64_t r = 0; r < count; r += kTile) {
      Vector a[kTile][2] = {};
      for (int64_t d = 0; d < dim; ++d) {
        const Vector c0 = load_as(block + d * kColumnBlock, S{}), c1 = load_as(block + d * kColumnBlock + kWidth, S{});
        for (int e = 0; e < kTile; ++e) {
          a[e][0] += rows[r + e][d] * c0;
          a[e][1] += rows[r + e][d] * c1;
        }
      }
      for (int e = 0; e < kTile; ++e) {
        store(s + (r + e) * s_stride + j, a[e][0] * static_cast<S>(scale));
        store(s + (r + e) * s_stride + j + kWidth, a[e][1] * static_cast<S>(scale));
      }
    }
  }
}

// sum[r][d] += sum_j a[r][j] * x[j][d] for kTile rows, kMaxHeadDim apart in sum, and kVectors vectors of d, the last of
// which has `lanes` lanes.
template <int kVectors, class T>
SACCADE_INLINE void times_tile(const float* a, int64_t a_stride, const T* x, int64_t x_stride, int64_t keys,
                               int64_t lanes, double* sum) {
  vfloat tile[kTile][kVectors] = {};
  for (int64_t j = 0; j < keys; ++j) {
    vfloat v[kVectors];
    for (int e = 0; e < kVectors; ++e)
      v[e] = load(x + j * x_stride + e * kLanes, e == kVectors - 1 ? lanes : kLanes, 0.0f);
    for (int r = 0; r < kTile; ++r)
      for (int e = 0; e < kVectors; ++e) tile[r][e] += a[r * a_stride + j] * v[e];
  }
  for (int r = 0; r < kTile; ++r)
    for (int e = 0; e < kVectors; ++e) {
      float chunk[kLanes];
      store(chunk, tile[r][e]);
      double* to = sum + r * kMaxHeadDim + e * kLanes;
      store(to, load(to) + load_double(chunk));
      store(to + kDoubles, load(to + kDoubles) + load_double(chunk + kDoubles));
    }
}

// out[r][d] = scale * sum_j a[r][j] * x[j][d] for r below count and j below n, x being rows of one head.  f32 within a
// chunk of keys that stays in the L1 cache, f64 over the chunks.
template <class T>
SACCADE_INLINE void times_rows(const float* a, int64_t a_stride, int64_t count, const T* x, int64_t x_stride, int64_t n,
                               int64_t dim, float scale, RowBlock& out) {
  constexpr int64_t kKeys = 64;
  constexpr int kVectors = sizeof(vfloat) == 64 ? 4 : 2;  // kTile x kVectors sums and kVectors of x fit the registers
  double sum[kRows][kMaxHeadDim];
  for (int64_t r = 0; r < count; r += kTile)
    for (int e = 0; e < kTile; ++e)
      std::memset(sum[r + e], 0, static_cast<size_t>(kLanes + dim - 1) / kLanes * kLanes * sizeof(double));
  for (int64_t first = 0; first < n; first += kKeys) {
    const int64_t keys = n - first < kKeys ? n - first : kKeys;
    for (int64_t d = 0; d < dim;) {
      const bool wide = dim - d >= kVectors * kLanes;
      for (int64_t r = 0; r < count; r += kTile) {
        const float* from = a + r * a_stride + first;
        const T* rows = x + first * x_stride + d;
        double* to = sum[r] + d;
        if (wide)
          times_tile<kVectors>(from, a_stride, rows, x_stride, keys, kLanes, to);
        else
          times_tile<1>(from, a_stride, rows, x_stride, keys, dim - d < kLanes ? dim - d : kLanes, to);
      }
      d += wide ? kVectors * kLanes : kLanes;
    }
  }
  for (int64_t r = 0; r < count; ++r)
    for (int64_t d = 0; d < dim; ++d) out[r][d] = static_cast<float>(sum[r][d]) * scale;
}

// A block of kColumnBlock columns that gradients of keys or values gather in.
using ColumnBlock = float[kMaxHeadDim][kColumnBlock];

// block[d][j] += sum_r rows[r][d] * a[r][j] over count rows, rounded up to kTile, and kColumnBlock columns.
SACCADE_INLINE void add_outer(const RowBlock& rows, int64_t count, const float* a, int64_t a_stride, int64_t dim,
                              ColumnBlock& block) {
  constexpr int kVectors = 2;
  for (int64_t first = 0; first < count; first += kTile)
    for (int64_t j = 0; j < kColumnBlock; j += kVectors * kLanes) {
      vfloat v[kTile][kVectors];
      for (int r = 0; r < kTile; ++r)
        for (int e = 0; e < kVectors; ++e) v[r][e] = load(a + (first + r) * a_stride + j + e * kLanes);
      for (int64_t d = 0; d < dim; ++d)
        for (int e = 0; e < kVectors; ++e) {
          float* at = block[d] + j + e * kLanes;
          vfloat sum = load(at);
          for (int r = 0; r < kTile; ++r) sum += rows[first + r][d] * v[r][e];
          store(at, sum);
        }
    }
}

// The block of a transposed matrix at `out` += block, which becomes 0.
SACCADE_INLINE void flush(ColumnBlock& block, int64_t dim, float* out) {
  for (int64_t i = 0; i < dim * kColumnBlock; i += kLanes) {
    store(out + i, load(out + i) + load(block[0] + i));
    store(block[0] + i, splat(0.0f));
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
  for_column_blocks(pool, packing, from.heads, [&](int64_t s, int64_t h, int64_t first, int64_t keys) {
    const float* x = from.at(packing, s, h, first);
    for (int64_t j = 0; j < keys; ++j) {
      float row[kMaxHeadDim];
      for (int64_t d = 0; d < from.dim; ++d) row[d] = x[d * kColumnBlock + j] * scale;
      T* to = out.at(packing.offsets_k[s] + first + j, h);
      for_lanes(from.dim, [&](int64_t d, int64_t lanes) { store(to + d, lanes, load(row + d, lanes, 0.0f)); });
    }
  });
}

}  // namespace saccade::SACCADE_ISA
