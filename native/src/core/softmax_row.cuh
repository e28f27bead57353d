// One row of logits on a GPU: its statistics, joined from any parts of it.
#pragma once

#include "core/lane.cuh"
#include "core/rows.cuh"

namespace saccade::cuda {

constexpr float kFaint = -200.0f;  // 2^-200 is 0

// Of z = x / temperature, in units of log 2, with scale = log2(e) / temperature: max = the largest x, so that
// differences from it are exact; sum = sum 2^u and moment = sum 2^u u with u = (x - max) scale.  Masked tokens (-inf)
// count nothing.  NaN or +inf make sum and moment NaN; nothing but masked tokens leaves sum 0.
struct SoftmaxRow {
  float max, sum, moment;

  static __device__ SoftmaxRow none() { return {-__FLT_MAX__, 0.0f, 0.0f}; }

  template <class T>
  __device__ __forceinline__ void add(const Pack<T>& pack, float scale) {
    float x[kPack<T>];
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) x[i] = to_float(pack.x[i]);
    float top = x[0];
#pragma unroll
    for (int i = 1; i < kPack<T>; ++i) top = fmaxf(top, x[i]);
    if (top > max) raise(top, scale);
    float s = 0.0f, t = 0.0f;
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) {
      const float u = max_nan((x[i] - max) * scale, kFaint), e = exp2_fast(u);
      s += e;
      t = fmaf(e, u, t);
    }
    sum += s;
    moment += t;
  }

  // Several packs at once, of -inf where there are none.  Without kMoment the moment stays what it is.
  template <class T, bool kMoment, int kCount>
  __device__ __forceinline__ void add(const uint4 (&packs)[kCount], float scale) {
    uint4 tops = packs[0];
#pragma unroll
    for (int n = 1; n < kCount; ++n) tops = max_pack<T>(tops, packs[n]);
    const float top = max_of_pack<T>(tops);
    if (top > max) raise(top, scale);
    float s[2] = {}, t[2] = {};
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      float x[kPack<T>];
      unpack<T>(packs[n], x);
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) {
        const float d = (x[i] - max) * scale, u = kMoment ? max_nan(d, kFaint) : d, e = exp2_fast(u);
        s[i % 2] += e;
        if (kMoment) t[i % 2] = fmaf(e, u, t[i % 2]);
      }
    }
    sum += s[0] + s[1];
    if (kMoment) moment += t[0] + t[1];
  }

  __device__ __forceinline__ void add(float x, float scale) {
    if (x > max) raise(x, scale);
    const float u = max_nan((x - max) * scale, kFaint), e = exp2_fast(u);
    sum += e;
    moment = fmaf(e, u, moment);
  }

  // Makes `top` the maximum.
  __device__ __forceinline__ void raise(float top, float scale) {
    const float u = max_nan((max - top) * scale, kFaint), e = exp2_fast(u);
    moment = e * fmaf(u, sum, moment);
    sum *= e;
    max = top;
  }

  __device__ static SoftmaxRow merge(SoftmaxRow a, SoftmaxRow b, float scale) {
    const float top = fmaxf(a.max, b.max);
    a.raise(top, scale);
    b.raise(top, scale);
    return {top, a.sum + b.sum, a.moment + b.moment};
  }

  // Of parts of one maximum.
  __device__ static SoftmaxRow join(const SoftmaxRow& a, const SoftmaxRow& b) {
    return {a.max, a.sum + b.sum, a.moment + b.moment};
  }

  // Natural logarithms.  A row of nothing but masked tokens has none.
  __device__ float log_sum() const { return sum == 0.0f ? __int_as_float(0x7fc00000) : logf(sum); }
  // Log-probability of a token of logit x, rounded once: log_sum() alone may be off by half a unit of a number of 12.
  __device__ float log_prob(float x, float temperature) const {
    const double distance = static_cast<double>(x) - static_cast<double>(max);
    return static_cast<float>(distance / static_cast<double>(temperature) -
                              ::log(static_cast<double>(sum == 0.0f ? __int_as_float(0x7fc00000) : sum)));
  }
  __device__ float entropy() const { return log_sum() - moment / sum * kLog2; }
};

struct SoftmaxShared {
  float tops[32];
  SoftmaxRow rows[32];
};

// The statistics of a row that the block reads, 16 bytes a load and `kLoads` of them in flight a thread.  kOnce: it
// will not be read again.
template <int kThreads, bool kOnce, class T>
__device__ SoftmaxRow softmax_row(const T* x, int64_t n, float scale, SoftmaxShared& shared) {
  constexpr int kLoads = 4;
  constexpr int64_t kPartial = 1 << 12;  // terms of one f32 sum
  const Split<T> split(x, n);
  const auto* packs = reinterpret_cast<const Pack<T>*>(x + split.head);
  SoftmaxRow row = SoftmaxRow::none();
  if (threadIdx.x < split.head) row.add(to_float(x[threadIdx.x]), scale);
  if (threadIdx.x < split.tail) row.add(to_float(x[n - split.tail + threadIdx.x]), scale);
  constexpr int64_t kSegment = kThreads * (kPartial / kPack<T>);
  for (int64_t first = 0; first < split.packs; first += kSegment) {
    const int64_t end = first + kSegment < split.packs ? first + kSegment : split.packs;
    SoftmaxRow part = SoftmaxRow::none();
    int64_t i = first + threadIdx.x;
    for (; i + (kLoads - 1) * kThreads < end; i += kLoads * kThreads) {
      Pack<T> pack[kLoads];
#pragma unroll
      for (int j = 0; j < kLoads; ++j) pack[j] = load_pack<kOnce>(packs + i + j * kThreads);
#pragma unroll
      for (int j = 0; j < kLoads; ++j) part.add(pack[j], scale);
    }
    for (; i < end; i += kThreads) part.add(load_pack<kOnce>(packs + i), scale);
    row = SoftmaxRow::merge(row, part, scale);
  }
  // To the row's maximum first, once: every rescaling costs the sums an exponential's error.
  row.raise(reduce_block(row.max, shared.tops, [](float a, float b) { return fmaxf(a, b); }), scale);
  return reduce_block(row, shared.rows, SoftmaxRow::join);
}

// What the gradient of a row is made of: that of d_log_prob * log_prob[target] + d_entropy * entropy.
struct RowGradient {
  float d_log_prob, d_entropy;
  int32_t target;
};

// dx = gradient by x = logits, z = x / temperature; dx may be x.  The block's threads have the row's statistics; what x
// holds at the target was read before any of them calls this.
template <int kThreads, class T, class G>
__device__ void write_row_gradient(const T* x, G* dx, int64_t n, float inverse_temperature, const SoftmaxRow& row,
                                   float x_target, const RowGradient& gradient) {
  const float scale = inverse_temperature * kLog2E, log_sum = row.log_sum(), shift = log2f(row.sum);
  const float entropy = log_sum - row.moment / row.sum * kLog2;
  // -p (dl + de (log p + entropy)) / temperature with log p = u log 2: p (a + b u).
  const float a = -(gradient.d_log_prob + gradient.d_entropy * entropy) * inverse_temperature;
  const float b = -gradient.d_entropy * kLog2 * inverse_temperature;
  const auto element = [&](float value) {
    const float u = max_nan((value - row.max) * scale - shift, kFaint);
    return exp2_fast(u) * fmaf(b, u, a);
  };
  const float log_p = (x_target - row.max) * inverse_temperature - log_sum, p = expf(log_p);
  const float own =
      (gradient.d_log_prob * -expm1f(log_p) - (p > 0.0f ? gradient.d_entropy * p * (log_p + entropy) : 0.0f)) *
      inverse_temperature;
  const Split<T> split(x, n);
  const bool aligned = reinterpret_cast<uint64_t>(dx + split.head) % 16 == 0;
  if (aligned) {
    const auto* packs = reinterpret_cast<const Pack<T>*>(x + split.head);
    const int64_t target_pack = gradient.target < split.head ? -1 : (gradient.target - split.head) / kPack<T>;
    for (int64_t i = threadIdx.x; i < split.packs; i += kThreads) {
      const Pack<T> pack = load_pack<true>(packs + i);
      alignas(16) G g[kPack<T>];
#pragma unroll
      for (int e = 0; e < kPack<T>; ++e) g[e] = from_float<G>(element(to_float(pack.x[e])));
      if (i == target_pack) {
#pragma unroll
        for (int e = 0; e < kPack<T>; ++e)
          if (split.head + i * kPack<T> + e == gradient.target) g[e] = from_float<G>(own);
      }
      using Store = std::conditional_t<kPack<T> * sizeof(G) < 16, uint2, uint4>;
      constexpr int kStores = kPack<T> * sizeof(G) / sizeof(Store);
#pragma unroll
      for (int k = 0; k < kStores; ++k)
        __stcs(reinterpret_cast<Store*>(dx + split.head) + i * kStores + k, reinterpret_cast<const Store*>(g)[k]);
    }
  }
  const auto single = [&](int64_t j) { dx[j] = from_float<G>(j == gradient.target ? own : element(to_float(x[j]))); };
  const int64_t done = aligned ? split.packs * kPack<T> : 0;  // elements after the head
  for (int64_t j = threadIdx.x; j < n - done; j += kThreads) single(j < split.head ? j : j + done);
}

template <int kThreads, class G>
__device__ void fill_row(G* dx, int64_t n, float value) {
  const Split<G> split(dx, n);
  Pack<G> pack;
#pragma unroll
  for (G& x : pack.x) x = from_float<G>(value);
  uint4 bits;
  memcpy(&bits, &pack, sizeof bits);
  auto* packs = reinterpret_cast<uint4*>(dx + split.head);
  for (int64_t i = threadIdx.x; i < split.packs; i += kThreads) __stcs(packs + i, bits);
  if (threadIdx.x < split.head) dx[threadIdx.x] = from_float<G>(value);
  if (threadIdx.x < split.tail) dx[n - split.tail + threadIdx.x] = from_float<G>(value);
}

}  // namespace saccade::cuda
