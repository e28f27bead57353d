// What the passes of attention_divergence on the tensor cores share, whatever instructions they multiply by: README.md.
#pragma once

#include "attention_divergence/attention_divergence.cuh"
#include "attention_policy/policy_heads.cuh"

namespace saccade::cuda {

// Threads of a row: the longer it is, so that the rows at work stay in the L1.
constexpr int kComparing = 256;
inline int comparing_threads(int64_t keys) {
  return keys <= 2048 ? kComparing / 4 : keys <= 4096 ? kComparing / 2 : kComparing;
}

// As element_of(); kFast: within some 1e-6 of it, with one quotient and one logarithm of each pair that JSD compares.
template <int32_t kKind, bool kFast>
__device__ __forceinline__ Element compare_element(float beta, float p, float r, float policy) {
  if (kKind != SACCADE_DIVERGENCE_JSD || !kFast) return element_of(kKind, beta, p, r, policy);
  const float m = max_nan(beta * r + (1.0f - beta) * p, kFloor), inverse = __fdividef(1.0f, m);
  const float difference = (p - r) * inverse;
  const Log1pParts of_p = log1p_parts(beta * difference, max_nan(p * inverse, kFloor));
  const Log1pParts of_r = log1p_parts((beta - 1.0f) * difference, max_nan(r * inverse, kFloor));
  return {m * (beta * of_r.phi + (1.0f - beta) * of_p.phi), (1.0f - beta) * of_p.log1p};
}

// What one pass over a row's support gives.
struct RowSums {
  double mass, ref_mass;  // of the sums of all heads
  float top;              // the largest, and the first of four keys among which it is
  int32_t key;
  int32_t given;  // whether a stored reference has anything there
};

struct RowResults {
  double divergence, entropy, mean;
};

__device__ __forceinline__ void load_four(float (&x)[4], const float* at) {
  const float4 four = *reinterpret_cast<const float4*>(at);
  x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
}

__device__ __forceinline__ void load_four(float (&x)[4], const bf16* at) {
  const uint2 bits = *reinterpret_cast<const uint2*>(at);
  x[0] = __uint_as_float(bits.x << 16), x[1] = __uint_as_float(bits.x & 0xffff0000u);
  x[2] = __uint_as_float(bits.y << 16), x[3] = __uint_as_float(bits.y & 0xffff0000u);
}

// One block a row from `first` on: its results; and dP takes the place of its probabilities in the map.  A row without
// gradient is taken out of the tiles: its queries may hold anything.  A thread takes four keys at once, from a multiple
// of four on.
template <class Call, int32_t kKind>
__global__ void __launch_bounds__(kComparing, 4) row_kernel(const __grid_constant__ Call call, int64_t first) {
  __shared__ RowSums shared_sums[32];
  __shared__ RowResults shared_results[32];
  wait_for_last();
  const int step = 4 * static_cast<int>(blockDim.x);
  const saccade_attention_divergence_args& args = call.args;
  const int64_t row = first + blockIdx.x;
  if (row == 0 && threadIdx.x == 0 && call.work.turn) *call.work.turn = 0;
  const int64_t s = sequence_of_row(call.sequences(), row);
  if (call.sequences().bad[s]) {
    if (threadIdx.x == 0) call.add_row(row, kNan, kNan, kNan);
    return;
  }
  const int visible = static_cast<int>(visible_keys(call.sequences(), s, row));
  const Support support = call.rows.of(s, visible);
  Reference reference = reference_of(call, s, row, support);
  float* map = call.map(row);
  const float* ref_map = args.ref_q ? call.work.ref_map + blockIdx.x * call.width() : nullptr;
  const int begin = static_cast<int>(support.begin), end = static_cast<int>(support.end);
  const int own = static_cast<int>(threadIdx.x) * 4, start = begin / 4 * 4 + own;
  const auto within = [&](int key) { return key >= begin && key + 4 <= end; };

  // Off the support: 0.
  const auto load = [&](float(&x)[4], const float* values, int key) {
    load_four(x, values + key);
    if (within(key)) return;
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (key + e < begin || key + e >= end) x[e] = 0.0f;
  };
  // Where key 0 of a stored reference would be, and the keys before which vectors can be loaded there.
  const int ref_first = static_cast<int>(reference.first_key);
  const bool f32 = reference.dtype == SACCADE_F32;
  const auto* ref_f32 = static_cast<const float*>(reference.map) - ref_first;
  const auto* ref_bf16 = static_cast<const bf16*>(reference.map) - ref_first;
  const bool aligned = reference.map && (f32 ? reinterpret_cast<uint64_t>(ref_f32) % sizeof(float4)
                                             : reinterpret_cast<uint64_t>(ref_bf16) % sizeof(uint2)) == 0;
  const int64_t ref_end = reference.columns + ref_first;
  const int vectors = !aligned ? 0 : ref_end < end ? static_cast<int>(ref_end) : end;
  // The reference, before it is normalised; off the support: 0.
  const auto load_reference = [&](float(&r)[4], int key) {
    if (ref_map) {
      load(r, ref_map, key);
    } else if (reference.map && key >= begin && key + 4 <= vectors) {
      if (f32)
        load_four(r, ref_f32 + key);
      else
        load_four(r, ref_bf16 + key);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) r[e] = key + e >= begin && key + e < end ? reference.of(key + e, 0.0f) : 0.0f;
    }
  };

  RowSums sums{0.0, 0.0, -1.0f, INT32_MAX, 0};
  for (int key = start; key < end; key += step) {
    float p[4];
    load(p, map, key);
    sums.mass += static_cast<double>((p[0] + p[1]) + (p[2] + p[3]));
    const float top = fmaxf(fmaxf(p[0], p[1]), fmaxf(p[2], p[3]));
    if (top > sums.top) sums.top = top, sums.key = key;
    if (!ref_map && (!reference.map || sums.given)) continue;
    float r[4];
    load_reference(r, key);
    sums.ref_mass += static_cast<double>((r[0] + r[1]) + (r[2] + r[3]));
    sums.given |= r[0] != 0.0f || r[1] != 0.0f || r[2] != 0.0f || r[3] != 0.0f;
  }
  sums = reduce_block(sums, shared_sums, [](const RowSums& a, const RowSums& b) {
    const bool right = b.top > a.top || (b.top == a.top && b.key < a.key);
    return RowSums{a.mass + b.mass, a.ref_mass + b.ref_mass, right ? b.top : a.top, right ? b.key : a.key,
                   a.given | b.given};
  });
  const Mass mass = mass_of_sum(sums.mass, call.heads);
  float ref_inverse = 1.0f;
  if (ref_map) {
    const Mass ref_mass = mass_of_sum(sums.ref_mass, call.ref_heads);
    ref_inverse = ref_mass.inverse;
    reference.given = !ref_mass.dead;
  } else if (reference.map) {
    reference.given = sums.given != 0;
  }
  const bool live = !mass.dead && call.gradient && call.active(row);
  const float scale = call.share / call.unit(row), w = reference.given ? call.weight(row) * scale : 0.0f,
              ew = call.entropy_weight(row) * scale;
  const bool wants_entropy = args.entropy || ew != 0.0f;

  // g of four keys; adds up what they give to the divergence and the entropy.
  const auto compare = [&](float(&g)[4], const float(&p)[4], const float(&r)[4], float& divergence, float& entropy) {
    float part[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) part[e] = p[e] * mass.inverse, g[e] = 0.0f;
    if (wants_entropy) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float at_least_floor = max_nan(part[e], kFloor);
        const float log_p = Call::kFast ? log2_fast(at_least_floor) * kLog2 : log(at_least_floor);
        entropy -= part[e] * log_p;
        if (ew != 0.0f) g[e] = ew * log_p;
      }
    }
    if (reference.given) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const Element element = compare_element<kKind, Call::kFast>(args.beta, part[e], r[e] * ref_inverse, p[e]);
        divergence += element.value;
        if (w != 0.0f) g[e] += w * element.derivative;
      }
    }
  };
  // Around g of the likeliest key, so that differences keep their digits where the policy is all but certain.
  float pivot = 0.0f;
  if (live && sums.key != INT32_MAX) {
    float p[4], r[4], g[4], divergence, entropy;
    load(p, map, sums.key);
    load_reference(r, sums.key);
    compare(g, p, r, divergence, entropy);
#pragma unroll
    for (int e = 3; e >= 0; --e)
      if (p[e] == sums.top) pivot = g[e];
    __syncthreads();
  }
  RowResults results{0.0, 0.0, 0.0};
  for (int key = start; !mass.dead && key < end; key += step) {
    float p[4], r[4], g[4];
    load(p, map, key);
    load_reference(r, key);
    float divergence = 0.0f, entropy = 0.0f, mean = 0.0f;
    compare(g, p, r, divergence, entropy);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      g[e] -= pivot;
      mean += p[e] * mass.inverse * g[e];
    }
    if (live) *reinterpret_cast<float4*>(map + key) = {g[0], g[1], g[2], g[3]};
    results.divergence += static_cast<double>(divergence);
    results.entropy += static_cast<double>(entropy);
    results.mean += static_cast<double>(mean);
  }
  results = reduce_block(results, shared_results, [](const RowResults& a, const RowResults& b) {
    return RowResults{a.divergence + b.divergence, a.entropy + b.entropy, a.mean + b.mean};
  });
  if (threadIdx.x == 0)
    call.add_row(row, static_cast<float>(results.divergence), static_cast<float>(results.entropy), mass.mass);
  if (!call.gradient) return;

  // Between the writing of g and this lie the barriers of the reduction.
  const float mean = static_cast<float>(results.mean);
  // As far as tiles reach that other rows see.
  const int64_t reach = (visible + kMostStay - 1 + kKeyTile - 1) / kKeyTile * kKeyTile;
  const int written = static_cast<int>(reach < call.width() ? reach : call.width());
  for (int key = own; key < written; key += step) {
    float dp[4] = {};
    if (live && key + 4 > begin && key < end) {
      float g[4];
      load_four(g, map + key);
      const bool all = within(key);
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (all || (key + e >= begin && key + e < end)) dp[e] = (g[e] - mean) * mass.inverse;
    }
    *reinterpret_cast<float4*>(map + key) = {dp[0], dp[1], dp[2], dp[3]};
  }
  if (live) return;
  call.take_out(s, row);
}

// A sum of floats with what its additions round: f64 arithmetic would wait for the tensor cores.
struct Sum {
  float high = 0.0f, low = 0.0f;

  Sum() = default;
  __device__ __forceinline__ explicit Sum(double x)
      : high(static_cast<float>(x)), low(static_cast<float>(x - static_cast<double>(high))) {}
  __device__ __forceinline__ void add(float x) {
    const float sum = high + x, of_x = sum - high;
    low += (high - (sum - of_x)) + (x - of_x);
    high = sum;
  }
  __device__ __forceinline__ double value() const { return static_cast<double>(high) + static_cast<double>(low); }
};

// Calls body(a compile-time constant).
template <class Body>
void with_kind(int32_t kind, const Body& body) {
  if (kind == SACCADE_DIVERGENCE_JSD)
    body(std::integral_constant<int32_t, SACCADE_DIVERGENCE_JSD>{});
  else if (kind == SACCADE_DIVERGENCE_FORWARD_KL)
    body(std::integral_constant<int32_t, SACCADE_DIVERGENCE_FORWARD_KL>{});
  else
    body(std::integral_constant<int32_t, SACCADE_DIVERGENCE_REVERSE_KL>{});
}

}  // namespace saccade::cuda
