#include "attention/attention_rows.h"

// A warp has a row and head (or a key and key head), and goes through what that meets a few at a time: eight lanes a
// key, which share its numbers.  Nothing but registers; every load of k, v, q and d_o is of whole sectors, and most hit
// the caches, since the warps of a block are neighbours.
namespace saccade::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kShare = 8, kGroups = 32 / kShare;  // lanes of a key; keys of a step

__device__ __forceinline__ int group() { return static_cast<int>(threadIdx.x % 32) / kShare; }

// A lane's share of a row of a head: elements lane % kShare, kShare more, and so on.
template <int kDim>
struct Share {
  static constexpr int kOwn = kDim / kShare;
  float x[kOwn];

  __device__ __forceinline__ static int column(int i) { return static_cast<int>(threadIdx.x) % kShare + kShare * i; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) x[i] = 0.0f;
  }

  // `data`: of the lane's first element.  Zeros where there is no row.
  __device__ __forceinline__ void load(const float* data, int dim, bool exists) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) x[i] = exists && column(i) < dim ? data[kShare * i] : 0.0f;
  }

  __device__ __forceinline__ void add(float factor, const Share& other) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) x[i] = fmaf(factor, other.x[i], x[i]);
  }

  // The sums of all groups go to `to`.
  __device__ __forceinline__ void write(const Heads<float>& to, int64_t row, int64_t head, int dim, float scale) {
    float* data = to.at(row, head);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
#pragma unroll
      for (int distance = kShare; distance < 32; distance *= 2) x[i] += __shfl_xor_sync(~0u, x[i], distance);
      if (i % kGroups == group() && column(i) < dim) data[column(i)] = x[i] * scale;
    }
  }
};

__device__ __forceinline__ const float* lane_of(const Heads<const float>& from, int64_t row, int64_t head) {
  return from.at(row, head) + threadIdx.x % kShare;
}

// Rows of a head that go by, kGroups a step, each group's own.
struct Passing {
  const float* data;
  int64_t stride;  // of a step

  __device__ Passing(const Heads<const float>& from, int64_t first, int64_t head)
      : data(lane_of(from, first + group(), head)), stride(kGroups * from.row_stride) {}

  template <int kDim>
  __device__ __forceinline__ void load(Share<kDim>& to, int step, int dim, bool exists) const {
    to.load(data + step * stride, dim, exists);
  }
  __device__ __forceinline__ void advance(int steps) { data += steps * stride; }
};

// In every lane of a key the product of its two rows.
template <int kDim>
__device__ __forceinline__ float dot(const Share<kDim>& a, const Share<kDim>& b) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < Share<kDim>::kOwn; ++i) sum = fmaf(a.x[i], b.x[i], sum);
#pragma unroll
  for (int distance = 1; distance < kShare; distance *= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  return sum;
}

__device__ __forceinline__ void fill(const Heads<float>& to, int64_t row, int64_t head, int dim, float value) {
  for (int d = static_cast<int>(threadIdx.x % 32); d < dim; d += 32) to.at(row, head)[d] = value;
}

template <class T, class Reduce>
__device__ __forceinline__ T over_groups(T x, const Reduce& reduce) {
#pragma unroll
  for (int distance = kShare; distance < 32; distance *= 2) x = reduce(x, __shfl_xor_sync(~0u, x, distance));
  return x;
}

// Steps whose loads are on their way at once, `rows` for each.
template <int kDim, int kRows>
constexpr int kSteps = kDim* kRows < 256 ? 256 / (kDim * kRows) : 1;

// On a multiprocessor at once.
template <int kDim>
constexpr int kBlocks = kDim <= 32 ? 5 : kDim <= 64 ? 4 : 2;

// What a warp has of a grid over rows (or keys) and heads; heads next to each other.
struct Place {
  int64_t row, head;
  bool exists;

  __device__ Place(int64_t rows, int64_t heads) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
    row = at / heads;
    head = at % heads;
    exists = row < rows;
  }
};

template <int kDim>
__global__ void __launch_bounds__(kThreads, kBlocks<kDim>)
    forward_kernel(const __grid_constant__ saccade_attention_args args, const __grid_constant__ Inputs in) {
  const Place place(args.rows, in.heads);
  if (!place.exists) return;
  const int64_t row = place.row, h = place.head, kv = h / in.group();
  const int64_t s = sequence_at(in.sequences.offsets_q, in.sequences.count, row);
  const auto o = heads_of<float>(args.o, args.o_row_stride, args.o_head_stride);
  float* lse = args.lse && threadIdx.x % 32 == 0 ? pointer<float>(args.lse) + h * args.rows + row : nullptr;
  if (in.sequences.bad[s]) {
    fill(o, row, h, in.dim, kNan);
    if (lse) *lse = kNan;
    return;
  }
  const int visible = static_cast<int>(visible_keys(in.sequences, s, row));
  const int64_t first_key = in.sequences.first_key(s);
  const float unit = in.scale * kLog2E;
  Passing keys(in.k.heads, first_key, kv), values(in.v.heads, first_key, kv);
  Share<kDim> q, out;
  q.load(lane_of(in.q.heads, row, h), in.dim, true);
  out.clear();
  float top = -INFINITY;  // the largest score, in units of log 2: the reference of the sums
  double sum = 0.0;       // of the group's keys
  constexpr int kAhead = kSteps<kDim, 1>;
  for (int left = visible - group(); left + group() > 0; left -= kAhead * kGroups) {
    float score[kAhead], highest = -INFINITY;
    Share<kDim> x[kAhead];
#pragma unroll
    for (int e = 0; e < kAhead; ++e) keys.load(x[e], e, in.dim, e * kGroups < left);
#pragma unroll
    for (int e = 0; e < kAhead; ++e) {
      score[e] = dot(q, x[e]) * unit;
      if (e * kGroups >= left) score[e] = -INFINITY;
      highest = fmaxf(highest, score[e]);
    }
#pragma unroll
    for (int e = 0; e < kAhead; ++e) values.load(x[e], e, in.dim, e * kGroups < left);
    keys.advance(kAhead);
    values.advance(kAhead);
    highest = fmaxf(top, over_groups(highest, [](float a, float b) { return fmaxf(a, b); }));
    const float reference = highest == -INFINITY ? 0.0f : highest, factor = exp2_fast(top - reference);
    top = highest;
    float part = 0.0f;
#pragma unroll
    for (int i = 0; i < Share<kDim>::kOwn; ++i) out.x[i] *= factor;
#pragma unroll
    for (int e = 0; e < kAhead; ++e) {
      const float p = exp2_fast(score[e] - reference);
      part += p;
      out.add(p, x[e]);
    }
    sum = sum * static_cast<double>(factor) + static_cast<double>(part);
  }
  sum = over_groups(sum, [](double a, double b) { return a + b; });
  out.write(o, row, h, in.dim, visible > 0 ? static_cast<float>(1.0 / sum) : 0.0f);
  if (lse) *lse = static_cast<float>(static_cast<double>(top) * 0.693147180559945309417 + ::log(sum));
}

// Also writes delta = d_o . o of every row and head.
template <int kDim>
__global__ void __launch_bounds__(kThreads, kBlocks<kDim>)
    query_kernel(const __grid_constant__ saccade_attention_backward_args args, const __grid_constant__ Inputs in,
                 const __grid_constant__ Operand d_o, float* deltas) {
  const Place place(args.rows, in.heads);
  if (!place.exists) return;
  const int64_t row = place.row, h = place.head, kv = h / in.group();
  const int64_t s = sequence_at(in.sequences.offsets_q, in.sequences.count, row);
  const auto dq = heads_of<float>(args.dq, args.dq_row_stride, args.dq_head_stride);
  if (in.sequences.bad[s]) return fill(dq, row, h, in.dim, kNan);
  const int visible = static_cast<int>(visible_keys(in.sequences, s, row));
  const int64_t first_key = in.sequences.first_key(s);
  Passing keys(in.k.heads, first_key, kv), values(in.v.heads, first_key, kv);
  Share<kDim> q, d_out, out;
  q.load(lane_of(in.q.heads, row, h), in.dim, true);
  d_out.load(lane_of(d_o.heads, row, h), in.dim, true);
  out.load(lane_of(heads_of<const float>(args.o, args.o_row_stride, args.o_head_stride), row, h), in.dim, true);
  const float lse = pointer<const float>(args.lse)[h * args.rows + row], delta = dot(d_out, out);
  if (threadIdx.x % 32 == 0) deltas[h * args.rows + row] = delta;
  out.clear();
  constexpr int kAhead = kSteps<kDim, 2>;
  for (int left = visible - group(); left + group() > 0; left -= kAhead * kGroups) {
    Share<kDim> k[kAhead], v[kAhead];
#pragma unroll
    for (int e = 0; e < kAhead; ++e) {
      keys.load(k[e], e, in.dim, e * kGroups < left);
      values.load(v[e], e, in.dim, e * kGroups < left);
    }
    keys.advance(kAhead);
    values.advance(kAhead);
#pragma unroll
    for (int e = 0; e < kAhead; ++e) {
      const float p = probability(dot(q, k[e]), in.scale, lse), ds = p * (dot(d_out, v[e]) - delta);
      out.add(e * kGroups < left ? ds : 0.0f, k[e]);
    }
  }
  out.write(dq, row, h, in.dim, in.scale);
}

// The rows of the heads of the group go by in order.
template <int kDim>
__global__ void __launch_bounds__(kThreads, kBlocks<kDim>)
    key_kernel(const __grid_constant__ saccade_attention_backward_args args, const __grid_constant__ Inputs in,
               const __grid_constant__ Operand d_o, const float* deltas) {
  const Place place(args.keys, in.kv_heads);
  if (!place.exists) return;
  const int64_t key = place.row, kv = place.head;
  const int64_t s = sequence_at(in.sequences.offsets_k, in.sequences.count, key);
  const auto dk = heads_of<float>(args.dk, args.dk_row_stride, args.dk_head_stride);
  const auto dv = heads_of<float>(args.dv, args.dv_row_stride, args.dv_head_stride);
  if (in.sequences.bad[s]) {
    fill(dk, key, kv, in.dim, kNan);
    fill(dv, key, kv, in.dim, kNan);
    return;
  }
  // Row r of the sequence sees its key j where r >= j - hidden.
  const int64_t rows = in.sequences.rows(s), hidden = in.sequences.keys(s) - rows;
  const int64_t seeing = key - in.sequences.first_key(s) - hidden, begin = seeing > 0 ? seeing : 0;
  const int64_t first_row = in.sequences.first_row(s) + begin;
  Share<kDim> k, v, keys, values;
  k.load(lane_of(in.k.heads, key, kv), in.dim, true);
  v.load(lane_of(in.v.heads, key, kv), in.dim, true);
  keys.clear();
  values.clear();
  constexpr int kAhead = kSteps<kDim, 2>;
  for (int64_t h = kv * in.group(); h < (kv + 1) * in.group(); ++h) {
    Passing queries(in.q.heads, first_row, h), gradients(d_o.heads, first_row, h);
    const float* lse = pointer<const float>(args.lse) + h * args.rows + first_row + group();
    const float* delta = deltas + h * args.rows + first_row + group();
    for (int left = static_cast<int>(rows - begin) - group(); left + group() > 0; left -= kAhead * kGroups) {
      Share<kDim> q[kAhead], d_out[kAhead];
#pragma unroll
      for (int e = 0; e < kAhead; ++e) {
        queries.load(q[e], e, in.dim, e * kGroups < left);
        gradients.load(d_out[e], e, in.dim, e * kGroups < left);
      }
#pragma unroll
      for (int e = 0; e < kAhead; ++e) {
        const bool exists = e * kGroups < left;
        const float sum = exists ? lse[e * kGroups] : INFINITY;  // of no row: without weight
        const float p = probability(dot(k, q[e]), in.scale, sum), dp = dot(v, d_out[e]);
        values.add(p, d_out[e]);
        keys.add(p == 0.0f ? 0.0f : p * (dp - (exists ? delta[e * kGroups] : 0.0f)), q[e]);
      }
      queries.advance(kAhead);
      gradients.advance(kAhead);
      lse += kAhead * kGroups;
      delta += kAhead * kGroups;
    }
  }
  keys.write(dk, key, kv, in.dim, in.scale);
  values.write(dv, key, kv, in.dim, 1.0f);
}

// Calls body(columns of a head, a compile-time constant).
template <class Body>
void with_columns(int64_t dim, const Body& body) {
  if (dim <= 32)
    body(std::integral_constant<int, 32>{});
  else if (dim <= 64)
    body(std::integral_constant<int, 64>{});
  else if (dim <= 128)
    body(std::integral_constant<int, 128>{});
  else
    body(std::integral_constant<int, 256>{});
}

}  // namespace

void attention_rows(const Device& device, const saccade_attention_args& args, const Inputs& in) {
  with_columns(args.head_dim, [&](auto columns) {
    launch(device, forward_kernel<columns>, divide_up(args.rows * args.heads, kWarps), kThreads, args, in);
  });
}

void attention_backward_rows(const Device& device, const saccade_attention_backward_args& args, const Inputs& in,
                             const Operand& d_o, float* delta) {
  with_columns(args.head_dim, [&](auto columns) {
    launch(device, query_kernel<columns>, divide_up(args.rows * args.heads, kWarps), kThreads, args, in, d_o, delta);
    launch(device, key_kernel<columns>, divide_up(args.keys * args.kv_heads, kWarps), kThreads, args, in, d_o, delta);
  });
}

}  // namespace saccade::cuda
