// Long rows of f32, bf16 or f16 on a GPU: 16 bytes a load where the address allows, and sums over a block's threads.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <initializer_list>
#include <type_traits>

#include "core/device.cuh"

namespace saccade::cuda {

using bf16 = __nv_bfloat16;
using f16 = __half;

// Calls body(type) with a value of the element type that `dtype` names.
template <class Body>
void with_float_type(int32_t dtype, const Body& body) {
  if (dtype == SACCADE_BF16)
    body(bf16{});
  else if (dtype == SACCADE_F16)
    body(f16{});
  else
    body(float{});
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(f16 x) { return __half2float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ f16 from_float<f16>(float x) {
  return __float2half_rn(x);
}

// Elements of 16 bytes.
template <class T>
constexpr int kPack = 16 / sizeof(T);

template <class T>
struct alignas(16) Pack {
  T x[kPack<T>];
};

// kOnce: not to be read again, first to leave the L2.
template <bool kOnce, class T>
__device__ __forceinline__ Pack<T> load_pack(const Pack<T>* p) {
  const auto* from = reinterpret_cast<const uint4*>(p);
  const uint4 bits = kOnce ? __ldcs(from) : __ldcg(from);
  Pack<T> pack;
  memcpy(&pack, &bits, sizeof pack);
  return pack;
}

template <class T>
__device__ __forceinline__ void unpack(const uint4& bits, float (&x)[kPack<T>]) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      x[i] = __uint_as_float(words[i]);
    } else if constexpr (std::is_same_v<T, bf16>) {
      x[2 * i] = __uint_as_float(words[i] << 16);
      x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    } else {
      __half2 pair;
      memcpy(&pair, &words[i], 4);
      x[2 * i] = __low2float(pair);
      x[2 * i + 1] = __high2float(pair);
    }
  }
}

template <class T>
__device__ __forceinline__ uint4 pack(const float (&x)[kPack<T>]) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      words[i] = __float_as_uint(x[i]);
    } else if constexpr (std::is_same_v<T, bf16>) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
      memcpy(&words[i], &pair, 4);
    } else {
      const __half2 pair = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
      memcpy(&words[i], &pair, 4);
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// The larger, element by element; NaN only where both are.
template <class T>
__device__ __forceinline__ uint4 max_pack(const uint4& a, const uint4& b) {
  uint32_t x[4] = {a.x, a.y, a.z, a.w};
  const uint32_t y[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4)
      x[i] = __float_as_uint(fmaxf(__uint_as_float(x[i]), __uint_as_float(y[i])));
    else if constexpr (std::is_same_v<T, bf16>)
      asm("max.bf16x2 %0, %0, %1;" : "+r"(x[i]) : "r"(y[i]));
    else
      asm("max.f16x2 %0, %0, %1;" : "+r"(x[i]) : "r"(y[i]));
  }
  return make_uint4(x[0], x[1], x[2], x[3]);
}

// -inf.
template <class T>
__device__ __forceinline__ uint4 lowest_pack() {
  constexpr uint32_t kBits = sizeof(T) == 4 ? 0xff800000u : std::is_same_v<T, bf16> ? 0xff80ff80u : 0xfc00fc00u;
  return make_uint4(kBits, kBits, kBits, kBits);
}

template <class T>
__device__ __forceinline__ float max_of_pack(uint4 a) {
  a = max_pack<T>(a, make_uint4(a.z, a.w, a.z, a.w));
  a = max_pack<T>(a, make_uint4(a.y, a.y, a.z, a.w));
  if constexpr (sizeof(T) == 4) return __uint_as_float(a.x);
  float x[kPack<T>];
  unpack<T>(a, x);
  return fmaxf(x[0], x[1]);
}

// Columns of an f32 matrix that a thread takes at once: 16 bytes where kWide is 4.
template <int kWide>
struct alignas(sizeof(float) * kWide) Floats {
  float x[kWide];
};

template <int kWide>
__device__ __forceinline__ Floats<kWide> load_floats(const float* p) {
  return *reinterpret_cast<const Floats<kWide>*>(p);
}
template <int kWide>
__device__ __forceinline__ void store_floats(float* p, const Floats<kWide>& values) {
  *reinterpret_cast<Floats<kWide>*>(p) = values;
}

struct Rows {
  saccade_address base;
  int64_t stride;
};

// Calls body(kWide, a compile-time constant): 4 where every row of f32 begins and ends at a multiple of 16 bytes,
// else 1.
template <class Body>
void with_width(int64_t columns, std::initializer_list<Rows> matrices, const Body& body) {
  uint64_t bits = static_cast<uint64_t>(columns) * sizeof(float);
  for (const Rows& rows : matrices) bits |= rows.base | static_cast<uint64_t>(rows.stride) * sizeof(float);
  if (bits % 16 == 0)
    body(std::integral_constant<int, 4>{});
  else
    body(std::integral_constant<int, 1>{});
}

// Elements before the first 16-byte boundary, whole packs from there, elements after them.
template <class T>
struct Split {
  int64_t head, packs, tail;

  __device__ Split(const T* x, int64_t n) {
    head = (16 - reinterpret_cast<uint64_t>(x) % 16) % 16 / sizeof(T);
    head = head < n ? head : n;
    packs = (n - head) / kPack<T>;
    tail = n - head - packs * kPack<T>;
  }
};

// A row in groups of 16 bytes, the first and the last of which it may fill in part.
template <class T>
struct Groups {
  int64_t lead, count;  // lead: elements of group 0 before the row

  __device__ Groups(const T* x, int64_t n) {
    lead = reinterpret_cast<uint64_t>(x) % 16 / sizeof(T);
    count = (lead + n + kPack<T> - 1) / kPack<T>;
  }

  // Index in the row of a group's first element; that of group 0 may be below 0.
  __device__ __forceinline__ int64_t begin(int64_t group) const { return group * kPack<T> - lead; }
};

// Elements j, j + 1 ... of a row of n; `fill` for those outside of it.  16 bytes at once where they are all inside and
// aligned.
template <class T, int kCount>
__device__ __forceinline__ void load_group(const T* x, int64_t n, int64_t j, float fill, float (&values)[kCount]) {
  if (j >= 0 && j + kCount <= n && reinterpret_cast<uint64_t>(x + j) % 16 == 0) {
    const Pack<T> pack = load_pack<false>(reinterpret_cast<const Pack<T>*>(x + j));
    static_assert(kCount == kPack<T>);
#pragma unroll
    for (int e = 0; e < kCount; ++e) values[e] = to_float(pack.x[e]);
  } else {
#pragma unroll
    for (int e = 0; e < kCount; ++e) values[e] = j + e >= 0 && j + e < n ? to_float(x[j + e]) : fill;
  }
}

// As load_group(); what lies outside is not written.
template <class G, int kCount>
__device__ __forceinline__ void store_group(G* x, int64_t n, int64_t j, const float (&values)[kCount]) {
  alignas(16) G rounded[kCount];
#pragma unroll
  for (int e = 0; e < kCount; ++e) rounded[e] = from_float<G>(values[e]);
  if (j >= 0 && j + kCount <= n && reinterpret_cast<uint64_t>(x + j) % 16 == 0) {
#pragma unroll
    for (int k = 0; k < kCount / kPack<G>; ++k)
      __stcs(reinterpret_cast<uint4*>(x + j) + k, reinterpret_cast<const uint4*>(rounded)[k]);
  } else {
#pragma unroll
    for (int e = 0; e < kCount; ++e)
      if (j + e >= 0 && j + e < n) x[j + e] = rounded[e];
  }
}

// Tree of a fixed shape over the block's threads, a multiple of 32 up to 1024; merge(a, b) joins two values.  Every
// thread gets the result.  `shared` holds 32 values and may be used again after the next barrier.
template <class V, class Merge>
__device__ V reduce_block(V value, V* shared, const Merge& merge) {
  const auto shuffled = [](const V& v, int distance) {
    static_assert(sizeof(V) % 4 == 0);
    uint32_t words[sizeof(V) / 4];
    memcpy(words, &v, sizeof v);
#pragma unroll
    for (uint32_t& word : words) word = __shfl_xor_sync(~0u, word, distance);
    V other;
    memcpy(&other, words, sizeof other);
    return other;
  };
  // Symmetric, so that all lanes end with the same bits.
  const auto join = [&](const V& v, int distance) {
    const V other = shuffled(v, distance);
    return threadIdx.x & distance ? merge(other, v) : merge(v, other);
  };
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) value = join(value, distance);
  const int warps = blockDim.x / 32;
  if (warps == 1) return value;
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = shared[threadIdx.x % 32 < warps ? threadIdx.x % 32 : 0];
  for (int distance = 1; distance < warps; distance *= 2) {
    const V other = shuffled(value, distance);
    const int lane = threadIdx.x % 32;
    // Lanes past the last warp take no part.
    if ((lane ^ distance) < warps && lane < warps) value = lane & distance ? merge(other, value) : merge(value, other);
  }
  const V result = [&] {
    uint32_t words[sizeof(V) / 4];
    memcpy(words, &value, sizeof value);
#pragma unroll
    for (uint32_t& word : words) word = __shfl_sync(~0u, word, 0);
    V first;
    memcpy(&first, words, sizeof first);
    return first;
  }();
  return result;
}

}  // namespace saccade::cuda
