#include "attention/attention_rows.h"

// A warp has a row and head (or a key and key head), and goes through what that meets a few at a time: some lanes a
// key, which share its numbers, eight each.  Nothing but registers; loads of k, v, q and d_o are of 16 bytes a lane,
// and most hit the caches, since the warps of a block are neighbours.
namespace saccade::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32, kBlocks = 4;  // on a multiprocessor at once
constexpr int kOwn = 8;                                             // elements of a lane of a row of a head
constexpr int kAhead = 4, kPairsAhead = 2;                          // steps whose loads are on their way at once

// The lanes that share a key, kShare of them, and the keys of a step.
template <int kShare>
constexpr int kGroups = 32 / kShare;

template <int kShare>
__device__ __forceinline__ int group() {
  return static_cast<int>(threadIdx.x % 32) / kShare;
}

template <int kShare>
__device__ __forceinline__ const float* lane_of(const Heads<const float>& from, int64_t row, int64_t head) {
  return from.at(row, head) + threadIdx.x % kShare * 4;
}

// A lane's share of a row of a head: four elements next to each other, and as many one half of the row on.
template <int kShare>
struct Share {
  static constexpr int kHalf = 4 * kShare;
  float x[kOwn];

  __device__ __forceinline__ static int column(int i) {
    return static_cast<int>(threadIdx.x) % kShare * 4 + i / 4 * kHalf + i % 4;
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) x[i] = 0.0f;
  }

  // `data`: of the lane's first element; whole where the operand is.  Zeros where there is no row.
  template <bool kWhole>
  __device__ __forceinline__ void load(const float* data, int dim, bool exists) {
#pragma unroll
    for (int i = 0; i < kOwn; i += 4) {
      const float* from = data + i / 4 * kHalf;
      if constexpr (kWhole) {
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (exists && column(i) < dim) v = *reinterpret_cast<const float4*>(from);
        x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) x[i + j] = exists && column(i + j) < dim ? from[j] : 0.0f;
      }
    }
  }

  __device__ __forceinline__ void add(float factor, const Share& other) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) x[i] = fmaf(factor, other.x[i], x[i]);
  }

  // The sums of all groups go to `to`: of two groups that exchange, each goes on with half of the elements.
  __device__ __forceinline__ void write(const Heads<float>& to, int64_t row, int64_t head, int dim, float scale) {
    int first = 0;
#pragma unroll
    for (int distance = kShare, half = kOwn / 2; distance < 32; distance *= 2, half /= 2) {
      const bool upper = threadIdx.x & distance;
#pragma unroll
      for (int i = 0; i < half; ++i) {
        const float other = __shfl_xor_sync(~0u, upper ? x[i] : x[i + half], distance);
        x[i] = (upper ? x[i + half] : x[i]) + other;
      }
      if (upper) first += half;
    }
    float* data = to.at(row, head);
#pragma unroll
    for (int i = 0; i < kOwn / kGroups<kShare>; ++i)
      if (column(first + i) < dim) data[column(first + i)] = x[i] * scale;
  }
};

// Rows of a head that go by, one a group and step.
template <int kShare>
struct Passing {
  const float* data;
  int64_t stride;  // of a step

  __device__ Passing(const Heads<const float>& from, int64_t first, int64_t head)
      : data(lane_of<kShare>(from, first + group<kShare>(), head)), stride(kGroups<kShare> * from.row_stride) {}

  template <bool kWhole>
  __device__ __forceinline__ void load(Share<kShare>& to, int step, int dim, bool exists) const {
    to.template load<kWhole>(data + step * stride, dim, exists);
  }
  __device__ __forceinline__ void advance(int steps) { data += steps * stride; }
};

// In every lane of a key the product of its two rows.
template <int kShare>
__device__ __forceinline__ float dot(const Share<kShare>& a, const Share<kShare>& b) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) sum = fmaf(a.x[i], b.x[i], sum);
#pragma unroll
  for (int distance = 1; distance < kShare; distance *= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  return sum;
}

__device__ __forceinline__ void fill(const Heads<float>& to, int64_t row, int64_t head, int dim, float value) {
  for (int d = static_cast<int>(threadIdx.x % 32); d < dim; d += 32) to.at(row, head)[d] = value;
}

template <int kShare, class T, class Reduce>
__device__ __forceinline__ T over_groups(T x, const Reduce& reduce) {
#pragma unroll
  for (int distance = kShare; distance < 32; distance *= 2) x = reduce(x, __shfl_xor_sync(~0u, x, distance));
  return x;
}

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

template <int kShare, bool kWhole>
__global__ void __launch_bounds__(kThreads, kBlocks)
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
  Passing<kShare> keys(in.k.heads, first_key, kv), values(in.v.heads, first_key, kv);
  Share<kShare> q, out;
  q.template load<kWhole>(lane_of<kShare>(in.q.heads, row, h), in.dim, true);
  out.clear();
  float top = -INFINITY;  // the largest score, in units of log 2: the reference of the sums
  double sum = 0.0;       // of the group's keys
  for (int left = visible - group<kShare>(); left + group<kShare>() > 0; left -= kAhead * kGroups<kShare>) {
    float score[kAhead], highest = -INFINITY;
    Share<kShare> k[kAhead], v[kAhead];
#pragma unroll
    for (int e = 0; e < kAhead; ++e) keys.template load<kWhole>(k[e], e, in.dim, e * kGroups<kShare> < left);
#pragma unroll
    for (int e = 0; e < kAhead; ++e) values.template load<kWhole>(v[e], e, in.dim, e * kGroups<kShare> < left);
    keys.advance(kAhead);
    values.advance(kAhead);
#pragma unroll
    for (int e = 0; e < kAhead; ++e) {
      score[e] = dot(q, k[e]) * unit;
      if (e * kGroups<kShare> >= left) score[e] = -INFINITY;
      highest = fmaxf(highest, score[e]);
    }
    highest = fmaxf(top, over_groups<kShare>(highest, [](float a, float b) { return fmaxf(a, b); }));
    const float reference = highest == -INFINITY ? 0.0f : highest, factor = exp2_fast(top - reference);
    top = highest;
    float part = 0.0f;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) out.x[i] *= factor;
#pragma unroll
    for (int e = 0; e < kAhead; ++e) {
      const float p = exp2_fast(score[e] - reference);
      part += p;
      out.add(p, v[e]);
    }
    sum = sum * static_cast<double>(factor) + static_cast<double>(part);
  }
  sum = over_groups<kShare>(sum, [](double a, double b) { return a + b; });
  out.write(o, row, h, in.dim, visible > 0 ? static_cast<float>(1.0 / sum) : 0.0f);
  if (lse) *lse = static_cast<float>(static_cast<double>(top) * 0.693147180559945309417 + ::log(sum));
}

// Also writes delta = d_o . o of every row and head.
template <int kShare, bool kWhole>
__global__ void __launch_bounds__(kThreads, kBlocks)
    query_kernel(const __grid_constant__ saccade_attention_backward_args args, const __grid_constant__ Inputs in,
                 const __grid_constant__ Operand o, const __grid_constant__ Operand d_o, float* deltas) {
  const Place place(args.rows, in.heads);
  if (!place.exists) return;
  const int64_t row = place.row, h = place.head, kv = h / in.group();
  const int64_t s = sequence_at(in.sequences.offsets_q, in.sequences.count, row);
  const auto dq = heads_of<float>(args.dq, args.dq_row_stride, args.dq_head_stride);
  if (in.sequences.bad[s]) return fill(dq, row, h, in.dim, kNan);
  const int visible = static_cast<int>(visible_keys(in.sequences, s, row));
  const int64_t first_key = in.sequences.first_key(s);
  Passing<kShare> keys(in.k.heads, first_key, kv), values(in.v.heads, first_key, kv);
  Share<kShare> q, d_out, out;
  q.template load<kWhole>(lane_of<kShare>(in.q.heads, row, h), in.dim, true);
  d_out.template load<kWhole>(lane_of<kShare>(d_o.heads, row, h), in.dim, true);
  out.template load<kWhole>(lane_of<kShare>(o.heads, row, h), in.dim, true);
  const float lse = pointer<const float>(args.lse)[h * args.rows + row], delta = dot(d_out, out);
  if (threadIdx.x % 32 == 0) deltas[h * args.rows + row] = delta;
  out.clear();
  for (int left = visible - group<kShare>(); left + group<kShare>() > 0; left -= kPairsAhead * kGroups<kShare>) {
    Share<kShare> k[kPairsAhead], v[kPairsAhead];
#pragma unroll
    for (int e = 0; e < kPairsAhead; ++e) {
      keys.template load<kWhole>(k[e], e, in.dim, e * kGroups<kShare> < left);
      values.template load<kWhole>(v[e], e, in.dim, e * kGroups<kShare> < left);
    }
    keys.advance(kPairsAhead);
    values.advance(kPairsAhead);
#pragma unroll
    for (int e = 0; e < kPairsAhead; ++e) {
      const float p = probability(dot(q, k[e]), in.scale, lse), ds = p * (dot(d_out, v[e]) - delta);
      out.add(e * kGroups<kShare> < left ? ds : 0.0f, k[e]);
    }
  }
  out.write(dq, row, h, in.dim, in.scale);
}

// The rows of the heads of the group go by in order.
template <int kShare, bool kWhole>
__global__ void __launch_bounds__(kThreads, kBlocks)
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
  Share<kShare> k, v, keys, values;
  k.template load<kWhole>(lane_of<kShare>(in.k.heads, key, kv), in.dim, true);
  v.template load<kWhole>(lane_of<kShare>(in.v.heads, key, kv), in.dim, true);
  keys.clear();
  values.clear();
  for (int64_t h = kv * in.group(); h < (kv + 1) * in.group(); ++h) {
    Passing<kShare> queries(in.q.heads, first_row, h), gradients(d_o.heads, first_row, h);
    const float* lse = pointer<const float>(args.lse) + h * args.rows + first_row + group<kShare>();
    const float* delta = deltas + h * args.rows + first_row + group<kShare>();
    for (int left = static_cast<int>(rows - begin) - group<kShare>(); left + group<kShare>() > 0;
         left -= kPairsAhead * kGroups<kShare>) {
      Share<kShare> q[kPairsAhead], d_out[kPairsAhead];
#pragma unroll
      for (int e = 0; e < kPairsAhead; ++e) {
        queries.template load<kWhole>(q[e], e, in.dim, e * kGroups<kShare> < left);
        gradients.template load<kWhole>(d_out[e], e, in.dim, e * kGroups<kShare> < left);
      }
#pragma unroll
      for (int e = 0; e < kPairsAhead; ++e) {
        const bool exists = e * kGroups<kShare> < left;
        const float sum = exists ? lse[e * kGroups<kShare>] : INFINITY;  // of no row: without weight
        const float p = probability(dot(k, q[e]), in.scale, sum), dp = dot(v, d_out[e]);
        values.add(p, d_out[e]);
        keys.add(p == 0.0f ? 0.0f : p * (dp - (exists ? delta[e * kGroups<kShare>] : 0.0f)), q[e]);
      }
      queries.advance(kPairsAhead);
      gradients.advance(kPairsAhead);
      lse += kPairsAhead * kGroups<kShare>;
      delta += kPairsAhead * kGroups<kShare>;
    }
  }
  keys.write(dk, key, kv, in.dim, in.scale);
  values.write(dv, key, kv, in.dim, 1.0f);
}

// Calls body(lanes that share a row of a head, whether operands are whole), compile-time constants.
template <class Body>
void with_share(int64_t dim, bool whole, const Body& body) {
  const auto with_whole = [&](auto share) {
    if (whole)
      body(share, std::true_type{});
    else
      body(share, std::false_type{});
  };
  switch (row_groups(dim)) {
    case 8:
      return with_whole(std::integral_constant<int, 4>{});
    case 4:
      return with_whole(std::integral_constant<int, 8>{});
    case 2:
      return with_whole(std::integral_constant<int, 16>{});
    default:
      return with_whole(std::integral_constant<int, 32>{});
  }
}

}  // namespace

void attention_rows(const Device& device, const saccade_attention_args& args, const Inputs& in) {
  with_share(args.head_dim, in.q.whole && in.k.whole && in.v.whole, [&](auto share, auto whole) {
    launch(device, forward_kernel<share, whole>, divide_up(args.rows * args.heads, kWarps), kThreads, args, in);
  });
}

void attention_backward_rows(const Device& device, const saccade_attention_backward_args& args, const Inputs& in,
                             const Operand& d_o, float* delta) {
  const Operand o(args.o, args.o_row_stride, args.o_head_stride, args.head_dim);
  const bool all = in.q.whole && in.k.whole && in.v.whole && o.whole && d_o.whole;
  with_share(args.head_dim, all, [&](auto share, auto whole) {
    launch(device, query_kernel<share, whole>, divide_up(args.rows * args.heads, kWarps), kThreads, args, in, o, d_o,
           delta);
    launch(device, key_kernel<share, whole>, divide_up(args.keys * args.kv_heads, kWarps), kThreads, args, in, d_o,
           delta);
  });
}

}  // namespace saccade::cuda
