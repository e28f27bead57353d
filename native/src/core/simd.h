// Vectors of the instruction set that a file is compiled for, by the compilers' vector extension.
//
// Files named *_cpu.cpp are compiled once per instruction set, in the namespace saccade::SACCADE_ISA; everything here
// lives in that namespace, so that no code of a wider instruction set can be linked in for a narrower one.
// They use no standard-library template that might be emitted out of line, for the same reason.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "saccade.h"

#if defined(SACCADE_X86)
#include <immintrin.h>
#endif

namespace saccade::SACCADE_ISA {

#if defined(__AVX512F__)
#define SACCADE_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define SACCADE_VECTOR_BYTES 32
#else
#define SACCADE_VECTOR_BYTES 16
#endif

#define SACCADE_INLINE inline __attribute__((always_inline))

constexpr int kLanes = SACCADE_VECTOR_BYTES / 4;
constexpr int64_t kMaxPartial = 1 << 12;  // terms that one f32 partial sum may hold (docs/spec.md §0)

typedef float vfloat __attribute__((vector_size(SACCADE_VECTOR_BYTES)));
typedef int32_t vint __attribute__((vector_size(SACCADE_VECTOR_BYTES)));
typedef uint32_t vuint __attribute__((vector_size(SACCADE_VECTOR_BYTES)));
typedef uint16_t vu16 __attribute__((vector_size(SACCADE_VECTOR_BYTES / 2)));

SACCADE_INLINE vfloat splat(float x) {
  vfloat v;
  for (int i = 0; i < kLanes; ++i) v[i] = x;
  return v;
}

SACCADE_INLINE vfloat as_float(vint x) {
  vfloat v;
  std::memcpy(&v, &x, sizeof v);
  return v;
}

SACCADE_INLINE vint as_int(vfloat x) {
  vint v;
  std::memcpy(&v, &x, sizeof v);
  return v;
}

SACCADE_INLINE vint lane_index() {
  vint v;
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

// a where the mask is set (all ones), b elsewhere.  Selects; never multiplies.
SACCADE_INLINE vfloat select(vint mask, vfloat a, vfloat b) { return mask ? a : b; }

// Whether x is farther than `bound` from 0, or nearer; NaN is neither.
SACCADE_INLINE vint beyond(vfloat x, float bound) { return (x > bound) | (x < -bound); }
SACCADE_INLINE vint within(vfloat x, float bound) { return (x < bound) & (x > -bound); }

// Whether any lane of a mask is set.
SACCADE_INLINE bool any(vint mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#elif defined(SACCADE_X86)
  return _mm_movemask_ps((__m128)mask) != 0;
#else
  int32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= mask[i];
  return bits != 0;
#endif
}

// The larger of the two; b where either is NaN (the rule of the processors' max instruction).
SACCADE_INLINE vfloat max(vfloat a, vfloat b) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (vfloat)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return select(a > b, a, b);
#endif
}

// The smaller of the two; b where either is NaN.
SACCADE_INLINE vfloat min(vfloat a, vfloat b) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (vfloat)_mm256_min_ps((__m256)a, (__m256)b);
#else
  return select(a < b, a, b);
#endif
}

// Bounds that keep NaN in x.
SACCADE_INLINE vfloat at_least(vfloat x, float low) { return max(splat(low), x); }
SACCADE_INLINE vfloat at_most(vfloat x, float high) { return min(splat(high), x); }

// Between two bounds; NaN stays.
SACCADE_INLINE vfloat clamp(vfloat x, float low, float high) { return at_most(at_least(x, low), high); }

// The larger; NaN where either is NaN.
SACCADE_INLINE vfloat max_nan(vfloat a, vfloat b) { return select((a > b) | (a != a), a, b); }

// Between two bounds; the lower one for NaN.
SACCADE_INLINE vfloat bounded(vfloat x, float low, float high) { return at_most(max(x, splat(low)), high); }

SACCADE_INLINE float max_of(vfloat v) {
  float m = v[0];
  for (int i = 1; i < kLanes; ++i) m = v[i] > m ? v[i] : m;
  return m;
}

// Pairwise, in a fixed order.
SACCADE_INLINE double sum_of(vfloat v) {
#if defined(__AVX512F__)
  const __m256 low = _mm512_castps512_ps256((__m512)v), high = _mm512_extractf32x8_ps((__m512)v, 1);
  return _mm512_reduce_add_pd(_mm512_cvtps_pd(low) + _mm512_cvtps_pd(high));
#elif defined(__AVX2__)
  const __m128 low = _mm256_castps256_ps128((__m256)v), high = _mm256_extractf128_ps((__m256)v, 1);
  const __m256d s = _mm256_cvtps_pd(low) + _mm256_cvtps_pd(high);
  const __m128d t = _mm256_castpd256_pd128(s) + _mm256_extractf128_pd(s, 1);
  return t[0] + t[1];
#else
  double s[kLanes];
  for (int i = 0; i < kLanes; ++i) s[i] = static_cast<double>(v[i]);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) s[i] += s[i + width];
  return s[0];
#endif
}

// Pairwise in f32, in a fixed order.
SACCADE_INLINE float reduce_add(vfloat v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float s[kLanes];
  std::memcpy(s, &v, sizeof s);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) s[i] += s[i + width];
  return s[0];
#endif
}

// -------------------------------------------------------------------------------------- element types

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

SACCADE_INLINE vfloat load(const float* p) {
  vfloat v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

SACCADE_INLINE vfloat load(const bf16* p) {
  vu16 half;
  std::memcpy(&half, p, sizeof half);
#if defined(__AVX512F__)  // GCC widens vectors in halves
  return as_float((vint)_mm512_cvtepu16_epi32((__m256i)half) << 16);
#elif defined(__AVX2__)
  return as_float((vint)_mm256_cvtepu16_epi32((__m128i)half) << 16);
#else
  return as_float(__builtin_convertvector(half, vint) << 16);
#endif
}

SACCADE_INLINE float half_to_float(uint16_t h) {
  uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, rest = h & 0x7fffu;
  float magnitude;
  if (rest >= 0x7c00u) {
    uint32_t bits = 0x7f800000u | (rest & 0x3ffu) << 13;
    std::memcpy(&magnitude, &bits, 4);
  } else {
    uint32_t bits = rest << 13;  // exponent and mantissa in place, exponent too small by 112
    std::memcpy(&magnitude, &bits, 4);
    magnitude *= 0x1p112f;
  }
  uint32_t bits;
  std::memcpy(&bits, &magnitude, 4);
  bits |= sign;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// Round to nearest, ties to even; NaN stays NaN.
SACCADE_INLINE uint16_t float_to_half(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  uint32_t sign = bits >> 16 & 0x8000u;
  bits &= 0x7fffffffu;
  uint32_t half;
  if (bits > 0x7f800000u) {
    half = 0x7e00u;
  } else if (bits >= 0x477ff000u) {  // 65520 and more round to infinity
    half = 0x7c00u;
  } else if (bits < 0x38800000u) {  // below 2^-14: the sum with 0.5 leaves the rounded subnormal in the low bits
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;
    std::memcpy(&half, &magnitude, 4);
    half -= 0x3f000000u;
  } else {
    half = (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1u)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

SACCADE_INLINE vfloat load(const f16* p) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__) && SACCADE_VECTOR_BYTES == 32
  return (vfloat)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  vfloat v;
  for (int i = 0; i < kLanes; ++i) v[i] = half_to_float(p[i].bits);
  return v;
#endif
}

SACCADE_INLINE float to_float(float x) { return x; }
SACCADE_INLINE float to_float(bf16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
SACCADE_INLINE float to_float(f16 x) { return half_to_float(x.bits); }

SACCADE_INLINE void store(float* p, vfloat v) { std::memcpy(p, &v, sizeof v); }

SACCADE_INLINE void store(bf16* p, vfloat v) {
  vint bits = as_int(v);
  vint rounded = (vint)((vuint)bits + 0x7fffu + (((vuint)bits >> 16) & 1u));  // unsigned: NaN may wrap
  vint high = (v == v) ? rounded : (bits | 0x400000);
  // Arithmetic shift keeps the value in the range of i32; the narrowing keeps the low 16 bits.
  vu16 half = __builtin_convertvector(high >> 16, vu16);
  std::memcpy(p, &half, sizeof half);
}

SACCADE_INLINE void store(f16* p, vfloat v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__) && SACCADE_VECTOR_BYTES == 32
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes; ++i) p[i].bits = float_to_half(v[i]);
#endif
}

// The first n (0 < n < kLanes) lanes; the others are `fill`.
template <class T>
SACCADE_INLINE vfloat load_first(const T* p, int64_t n, float fill) {
  T padded[kLanes];
  std::memset(static_cast<void*>(padded), 0, sizeof padded);
  std::memcpy(static_cast<void*>(padded), p, static_cast<size_t>(n) * sizeof(T));
  vint inside = lane_index() < static_cast<int32_t>(n);
  return select(inside, load(padded), splat(fill));
}

template <class T>
SACCADE_INLINE void store_first(T* p, int64_t n, vfloat v) {
  T padded[kLanes];
  store(padded, v);
  std::memcpy(static_cast<void*>(p), padded, static_cast<size_t>(n) * sizeof(T));
}

template <class T>
SACCADE_INLINE void store_one(T* p, float x) {
  store_first(p, 1, splat(x));
}
SACCADE_INLINE void store_one(float* p, float x) { *p = x; }

// ------------------------------------------------------------------------------------------- doubles

typedef double vdouble __attribute__((vector_size(SACCADE_VECTOR_BYTES)));
typedef int64_t vlong __attribute__((vector_size(SACCADE_VECTOR_BYTES)));  // what a comparison of them gives
constexpr int kDoubles = kLanes / 2;

SACCADE_INLINE vdouble load_double(const float* p) {
#if defined(__AVX512F__)
  return (vdouble)_mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif defined(__AVX2__)
  return (vdouble)_mm256_cvtps_pd(_mm_loadu_ps(p));
#else
  vdouble v;
  for (int i = 0; i < kDoubles; ++i) v[i] = static_cast<double>(p[i]);
  return v;
#endif
}

SACCADE_INLINE vdouble load(const double* p) {
  vdouble v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

SACCADE_INLINE void store(double* p, vdouble v) { std::memcpy(p, &v, sizeof v); }

// Rounded to f32: the lanes of low, then those of high.
SACCADE_INLINE vfloat narrow(vdouble low, vdouble high) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps((__m512d)low)),
                                    _mm512_cvtpd_ps((__m512d)high), 1);
#elif defined(__AVX2__)
  return (vfloat)_mm256_set_m128(_mm256_cvtpd_ps((__m256d)high), _mm256_cvtpd_ps((__m256d)low));
#else
  vfloat v;
  for (int i = 0; i < kDoubles; ++i) {
    v[i] = static_cast<float>(low[i]);
    v[i + kDoubles] = static_cast<float>(high[i]);
  }
  return v;
#endif
}

// Pairwise, in a fixed order.
SACCADE_INLINE double sum_of(vdouble v) {
  for (int width = kDoubles / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) v[i] += v[i + width];
  return v[0];
}

// ------------------------------------------------------------------------------------------- loops

// Calls body(type) with a value of the element type that `dtype` names.
template <class Body>
SACCADE_INLINE void with_float_type(int32_t dtype, const Body& body) {
  if (dtype == SACCADE_BF16)
    body(bf16{});
  else if (dtype == SACCADE_F16)
    body(f16{});
  else
    body(float{});
}

// Calls body(index, lanes) for 0, kLanes, 2 kLanes ... below n: `lanes` is kLanes but for the last call.
template <class Body>
SACCADE_INLINE void for_lanes(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, static_cast<int64_t>(kLanes));
  if (i < n) body(i, n - i);
}

template <class T>
SACCADE_INLINE vfloat load(const T* p, int64_t lanes, float fill) {
  return lanes == kLanes ? load(p) : load_first(p, lanes, fill);
}

template <class T>
SACCADE_INLINE void store(T* p, int64_t lanes, vfloat v) {
  if (lanes == kLanes)
    store(p, v);
  else
    store_first(p, lanes, v);
}

// ------------------------------------------------------------------------------------------- functions

// x in [-87.3, 88] as n log 2 + r, |r| <= log(2)/2: e^x = 2^n (1 + r + tail).
struct ExpReduction {
  vfloat r, tail;
  vint power;  // the bits of 2^n
};

SACCADE_INLINE ExpReduction reduce_exp(vfloat x) {
  vfloat shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer in the low bits
  // Unsigned: what NaN makes of it may wrap.
  vint power = (vint)(((vuint)as_int(shifted) << 23) + 0x3f800000u);
  vfloat rounded = shifted - 12582912.0f;
  vfloat r = x - rounded * 0.693145752f;
  r = r - rounded * 1.42860677e-6f;
  vfloat p = 1.98756915e-4f * r + 1.39819994e-3f;
  p = p * r + 8.33345212e-3f;
  p = p * r + 4.16657962e-2f;
  p = p * r + 1.66666657e-1f;
  p = p * r + 0.5f;
  return {r, p * (r * r), power};
}

// e^x for x in [-87.3, 88], 1 ulp; the value of the nearer bound outside; NaN stays.
SACCADE_INLINE vfloat exp_bounded(vfloat x) {
  const ExpReduction e = reduce_exp(at_most(at_least(x, -87.3365f), 88.0f));
  return (e.tail + e.r + 1.0f) * as_float(e.power);
}

// e^x, e^x - 1, K3(x) = e^x - 1 - x and G(x) = x e^x - (e^x - 1) for x in [-87.3, 88], each within a few ulp.  Below,
// e^x and G are those of the bound.
struct ExpParts {
  vfloat exp, expm1, k3, g;
};

SACCADE_INLINE ExpParts exp_parts(vfloat x) {
  const ExpReduction e = reduce_exp(at_most(at_least(x, -87.3365f), 88.0f));
  const vint near = e.power == 0x3f800000;  // r is x
  ExpParts parts;
  parts.exp = (e.tail + e.r + 1.0f) * as_float(e.power);
  parts.expm1 = select(near, e.tail + e.r, parts.exp - 1.0f);
  parts.k3 = select(near, e.tail, parts.expm1 - x);
  parts.g = select(near, x * parts.expm1 - e.tail, x * parts.exp - parts.expm1);
  return parts;
}

// e^x, 1 ulp; results below 2^-126 are 0, x above 88 gives e^88; NaN stays.
SACCADE_INLINE vfloat exp(vfloat x) { return select(x < splat(-87.3365f), splat(0.0f), exp_bounded(x)); }

// exp_scaled(kExpScale * x) is e^x: the unit of exponents that the backend's exponential takes.
constexpr float kExpScale = 1.0f;
SACCADE_INLINE vfloat exp_scaled(vfloat x) { return exp(x); }

// x >= 2^-126 as 2^k (1 + f), 1 + f in [sqrt(1/2), sqrt(2)).
struct LogReduction {
  vfloat f, k;
};

SACCADE_INLINE LogReduction reduce_log(vfloat x) {
  vint bits = as_int(x);
  vint e = (bits - 0x3f3504f3) >> 23;
  return {as_float((vint)((vuint)bits - ((vuint)e << 23))) - 1.0f, __builtin_convertvector(e, vfloat)};
}

// log(2^k (1 + f)) but for the terms f and k * 0.693359375.
SACCADE_INLINE vfloat log_tail(LogReduction x) {
  const vfloat f = x.f;
  vfloat z = f * f;
  vfloat p = 7.0376836292e-2f * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  vfloat y = f * z * p;
  return y + x.k * -2.12194440e-4f - 0.5f * z;
}

// log x for x >= 2^-126, 1 ulp; 0 and below, and infinity, are the caller's; NaN stays.
SACCADE_INLINE vfloat log(vfloat x) {
  const LogReduction reduced = reduce_log(x);
  vfloat result = reduced.f + log_tail(reduced) + reduced.k * 0.693359375f;
  return select(x != x, x, result);
}

// log(1 + x) and phi(x) = (1 + x) log(1 + x) - x, each within a few ulp; the caller gives 1 + x >= 2^-126 as precisely
// as it has it.
struct Log1pParts {
  vfloat log1p, phi;
};

SACCADE_INLINE Log1pParts log1p_parts(vfloat x, vfloat one_plus_x) {
  LogReduction reduced = reduce_log(one_plus_x);
  const vint near = reduced.k == 0.0f;
  reduced.f = select(near, x, reduced.f);  // with what the sum with 1 rounded away
  const vfloat tail = log_tail(reduced);
  Log1pParts parts;
  parts.log1p = reduced.f + tail + reduced.k * 0.693359375f;
  parts.phi = select(near, x * x + one_plus_x * tail, one_plus_x * parts.log1p - x);
  return parts;
}

}  // namespace saccade::SACCADE_ISA
