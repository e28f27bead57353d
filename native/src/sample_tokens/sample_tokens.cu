#include "core/softmax_row.cuh"
#include "sample_tokens/philox.h"
#include "sample_tokens/sample_tokens.h"

namespace saccade::cuda {
namespace {

constexpr int32_t kNoToken = -1;
constexpr float kMasked = -INFINITY;

// Threads of a block: 1024, or as many as short rows keep busy.
constexpr int kShortThreads = 128, kShort = 1024;

// Bits of a key that a read of the row resolves: a thread for each value.
template <int kThreads>
constexpr int kDigit = kThreads == 1024 ? 10 : 7;

// Bits of an f32 key that tell logits of a type apart: those behind them follow from the sign.
template <class T>
constexpr int kKeyBits = std::is_same_v<T, float>  ? 32
                         : std::is_same_v<T, bf16> ? 16
                                                   : 19;

// Unsigned keys in the order of the logits, of which -0 and 0 are equal.
__device__ uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits ^ (bits >> 31 ? ~0u : 1u << 31);
}

// Where a cumulative sum over the block's threads, in their order, reaches something.
template <class V>
struct Place {
  int thread;  // the first that reaches it with a value above 0, else the last with such a value; -1: none
  bool reached;
  V before;  // the sum before that thread
  V total;
};

template <class V>
struct PlaceShared {
  V totals[32];
  int first[32], last[32];
  V before;
};

// The cumulative sum begins at `start`; reached(sum, total of all threads).  `shared` may be used again at once.
template <int kThreads, class V, class Reached>
__device__ Place<V> find_place(V value, V start, PlaceShared<V>& shared, const Reached& reached) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto inclusive = [&](V sum) {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const V other = __shfl_up_sync(~0u, sum, distance);
      if (lane >= distance) sum = other + sum;
    }
    return sum;
  };
  const V own = inclusive(value);
  __syncthreads();  // until all have read what an earlier call left
  if (lane == 31) shared.totals[warp] = own;
  __syncthreads();
  const bool is_warp = lane < kThreads / 32;
  const V totals = inclusive(is_warp ? shared.totals[lane] : V(0));
  const V total = start + __shfl_sync(~0u, totals, 31), of_warps = __shfl_sync(~0u, totals, warp == 0 ? 0 : warp - 1);
  const V base = warp == 0 ? start : start + of_warps, sum = base + own;
  const V others = __shfl_up_sync(~0u, own, 1), before = lane == 0 ? base : base + others;
  const bool some = value > V(0), enough = reached(sum, total);
  const uint32_t there = __ballot_sync(~0u, some && enough), any = __ballot_sync(~0u, some);
  if (lane == 0) {
    shared.first[warp] = __ffs(static_cast<int>(there)) - 1;
    shared.last[warp] = 31 - __clz(static_cast<int>(any));
  }
  __syncthreads();
  const uint32_t firsts = __ballot_sync(~0u, is_warp && shared.first[lane] >= 0);
  const uint32_t lasts = __ballot_sync(~0u, is_warp && shared.last[lane] >= 0);
  Place<V> place{-1, firsts != 0, start, total};
  if (firsts) {
    const int w = __ffs(static_cast<int>(firsts)) - 1;
    place.thread = w * 32 + shared.first[w];
  } else if (lasts) {
    const int w = 31 - __clz(static_cast<int>(lasts));
    place.thread = w * 32 + shared.last[w];
  }
  if (static_cast<int>(threadIdx.x) == place.thread) shared.before = before;
  __syncthreads();
  if (place.thread >= 0) place.before = shared.before;
  return place;
}

template <int kThreads>
struct Shared {
  static_assert(1 << kDigit<kThreads> == kThreads);
  uint32_t low[kThreads], high[kThreads];  // weight of each digit, in fixed point
  double tiles[kThreads];
  PlaceShared<unsigned long long> digits;
  PlaceShared<double> sums;
  int64_t indices[32];
  float maxima[32];
};

// A row of logits.
template <class T>
struct Row {
  const T* x;
  int64_t n;
  Groups<T> groups;
  float maximum, scale;  // scale: log2(e) / temperature

  __device__ Row(const T* x_, int64_t n_, float scale_) : x(x_), n(n_), groups(x_, n_), maximum(0.0f), scale(scale_) {}

  // Elements outside of the row are masked.
  __device__ __forceinline__ void load(int64_t group, float (&values)[kPack<T>]) const {
    load_group(x, n, groups.begin(group), kMasked, values);
  }

  // Unnormalised probability: 1 for the largest logit at any scale of the logits, exactly 0 for a masked token.
  __device__ __forceinline__ float weight(float logit) const { return exp2_fast((logit - maximum) * scale); }
};

// The largest logit; NaN where any is.
template <int kThreads, class T>
__device__ float largest(const Row<T>& row, Shared<kThreads>& shared) {
  float top = kMasked;
  for (int64_t g = threadIdx.x; g < row.groups.count; g += kThreads) {
    float v[kPack<T>];
    row.load(g, v);
#pragma unroll
    for (const float logit : v) top = max_nan(top, logit);
  }
  return reduce_block(top, shared.maxima, max_nan);
}

template <int kThreads, class T>
__device__ int32_t first_of(const Row<T>& row, float value, Shared<kThreads>& shared) {
  int64_t first = row.n;
  for (int64_t j = threadIdx.x; j < row.n && first == row.n; j += kThreads)
    if (to_float(row.x[j]) == value) first = j;
  return static_cast<int32_t>(reduce_block(first, shared.indices, [](int64_t a, int64_t b) { return a < b ? a : b; }));
}

// The smallest logit of the nucleus: no logit lies between it and the largest one that is left out.
template <int kThreads, class T>
__device__ float nucleus(const Row<T>& row, float top_p, Shared<kThreads>& shared) {
  // Weights are at most 1: the sum of all is below 2^63.
  const float unit = ldexpf(1.0f, __clzll(row.n) - 2);
  uint64_t target = 0;  // what the keys of the prefix known so far, from the largest, have to reach
  uint32_t prefix = 0;
  constexpr int kEnd = 32 - kKeyBits<T>;
  for (int shift = 32; shift > kEnd;) {
    const int next = shift - kDigit<kThreads> > kEnd ? shift - kDigit<kThreads> : kEnd;
    shared.low[threadIdx.x] = shared.high[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t g = threadIdx.x; g < row.groups.count; g += kThreads) {
      float v[kPack<T>];
      row.load(g, v);
#pragma unroll
      for (const float logit : v) {
        const uint32_t key = key_of(logit);
        if (static_cast<uint64_t>(key) >> shift != prefix) continue;
        const uint64_t w = static_cast<uint64_t>(row.weight(logit) * unit);
        if (w == 0) continue;
        const uint32_t digit = key >> next & ((1u << (shift - next)) - 1), low = static_cast<uint32_t>(w);
        const uint32_t high = static_cast<uint32_t>(w >> 32) + (atomicAdd(&shared.low[digit], low) > ~low ? 1u : 0u);
        if (high) atomicAdd(&shared.high[digit], high);
      }
    }
    __syncthreads();
    const int digit = kThreads - 1 - threadIdx.x;  // from the largest
    const unsigned long long mass = static_cast<unsigned long long>(shared.high[digit]) << 32 | shared.low[digit];
    const auto place =
        find_place<kThreads>(mass, 0ull, shared.digits, [&](unsigned long long sum, unsigned long long total) {
          if (shift == 32)
            target = static_cast<uint64_t>(ceil(static_cast<double>(top_p) * static_cast<double>(total)));
          return sum >= target;
        });
    target -= place.before;
    prefix = prefix << (shift - next) | static_cast<uint32_t>(kThreads - 1 - place.thread);
    shift = next;
  }
  const uint32_t key = prefix << kEnd;
  return __uint_as_float(key ^ (key >> 31 ? 1u << 31 : ~0u));
}

// The first token whose cumulative probability among those of at least `cutoff` exceeds u.
template <int kThreads, class T>
__device__ int32_t draw(const Row<T>& row, float cutoff, double u, Shared<kThreads>& shared) {
  const auto weight = [&](float logit) { return logit >= cutoff ? row.weight(logit) : 0.0f; };
  // A warp sums a tile, a group a lane at a time.
  const int64_t tile_groups = (row.groups.count + 32 * kThreads - 1) / (32 * kThreads) * 32;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int64_t t = warp; t < kThreads; t += kThreads / 32) {
    const int64_t begin = t * tile_groups,
                  end = begin + tile_groups < row.groups.count ? begin + tile_groups : row.groups.count;
    if (begin >= end) {
      if (lane == 0) shared.tiles[t] = 0.0;
      continue;
    }
    double sum = 0.0;
    for (int64_t g = begin + lane; g < end; g += 32) {
      float v[kPack<T>], s = 0.0f;
      row.load(g, v);
#pragma unroll
      for (const float logit : v) s += weight(logit);
      sum += static_cast<double>(s);
    }
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) sum += __shfl_xor_sync(~0u, sum, distance);
    if (lane == 0) shared.tiles[t] = sum;
  }
  __syncthreads();
  double target = 0.0;
  const Place<double> tile =
      find_place<kThreads>(shared.tiles[threadIdx.x], 0.0, shared.sums, [&](double sum, double total) {
        target = u * total;
        return sum > target;
      });
  // Within the tile the sum is taken in another order: where rounding leaves it at the target, the last token of weight
  // above 0 stands.
  int64_t token = kNoToken;
  double before = tile.before;
  const int64_t first = row.groups.begin(tile.thread * tile_groups), size = tile_groups * kPack<T>;
  for (int64_t i = 0; i < size; i += kThreads) {
    const int64_t j = first + i + threadIdx.x;
    const float logit = i + threadIdx.x < size && j >= 0 && j < row.n ? to_float(row.x[j]) : kMasked;
    const Place<double> place = find_place<kThreads>(static_cast<double>(weight(logit)), before, shared.sums,
                                                     [&](double sum, double) { return sum > target; });
    if (place.thread >= 0) token = first + i + place.thread;
    if (place.reached) break;
    before = place.total;
  }
  return static_cast<int32_t>(token);
}

// One block a row, which stays in the L2 cache between its reads.
template <int kThreads, class T>
__global__ void __launch_bounds__(kThreads) rows_kernel(saccade_sample_tokens_args args) {
  __shared__ Shared<kThreads> shared;
  const int64_t r = blockIdx.x;
  // Bounded, so that a subnormal temperature keeps the weight of the largest logit at 1.
  const float inverse = args.temperature > 0x1p-126f ? 1.0f / args.temperature : 0x1p126f;
  Row<T> row(pointer<const T>(args.logits) + r * args.logits_stride, args.vocabulary, inverse * kLog2E);
  row.maximum = largest(row, shared);
  int32_t token;
  if (!(fabsf(row.maximum) < INFINITY)) {
    token = kNoToken;
  } else if (args.temperature == 0.0f) {
    token = first_of(row, row.maximum, shared);
  } else {
    const bool all = args.top_p == 0.0f || args.top_p == 1.0f;
    const float cutoff = all ? kMasked : nucleus(row, args.top_p, shared);
    const int64_t offset = args.offset_scalar ? *pointer<const int64_t>(args.offset_scalar) : args.offset;
    const int64_t stream = args.stream ? pointer<const int32_t>(args.stream)[r] : r;
    const Philox random =
        philox(static_cast<uint64_t>(args.seed), static_cast<uint64_t>(offset), static_cast<uint64_t>(stream));
    token = draw(row, cutoff, uniform(random), shared);
  }
  if (threadIdx.x == 0) pointer<int32_t>(args.tokens)[r] = token;
}

}  // namespace

void sample_tokens(const Device& device, const saccade_sample_tokens_args& args) {
  with_float_type(args.logits_dtype, [&](auto element) {
    const auto sample = [&](auto threads) {
      launch(device, rows_kernel<threads, decltype(element)>, args.rows, threads, args);
    };
    if (args.vocabulary <= kShort)
      sample(std::integral_constant<int, kShortThreads>{});
    else
      sample(std::integral_constant<int, 1024>{});
  });
}

}  // namespace saccade::cuda
