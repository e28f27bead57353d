#include "attention_divergence/attention_divergence.cuh"
#include "attention_divergence/attention_divergence_hopper.h"
#include "attention_policy/policy_hopper.cuh"

namespace saccade::cuda {
namespace {

// What is the same for all blocks of a launch.
struct Call : Arguments {
  TiledPolicy policy;

  __device__ float grad_output() const { return args.grad_output ? *pointer<const float>(args.grad_output) : 1.0f; }
};

// ---------------------------------------------------------------------------------------------------- rows

// Threads of a row: of a long one, which few rows may be, more.
constexpr int kComparing = 256, kLongRow = 4096;
inline int comparing_threads(int64_t keys) { return keys > kLongRow ? kComparing : kComparing / 2; }

// As element_of(), within some 1e-6 of it, with one quotient and one logarithm of each pair that JSD compares.
template <int32_t kKind>
__device__ __forceinline__ Element fast_element_of(float beta, float p, float r, float policy) {
  if (kKind != SACCADE_DIVERGENCE_JSD) return element_of(kKind, beta, p, r, policy);
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
template <int kDim, int32_t kKind>
__global__ void __launch_bounds__(kComparing, 3) row_kernel(const __grid_constant__ Call call, int64_t first) {
  __shared__ RowSums shared_sums[32];
  __shared__ RowResults shared_results[32];
  wait_for_last();
  const int step = 4 * static_cast<int>(blockDim.x);
  const saccade_attention_divergence_args& args = call.args;
  const int64_t row = first + blockIdx.x;
  const int64_t s = sequence_of_row(call.sequences(), row);
  if (call.sequences().bad[s]) {
    if (threadIdx.x == 0) call.work.divergence[row] = call.work.entropy[row] = call.work.mass[row] = kNan;
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
  const float w = reference.given ? call.weight(row) / call.unit(row) : 0.0f,
              ew = call.entropy_weight(row) / call.unit(row);
  const bool wants_entropy = args.entropy || ew != 0.0f;

  // g of four keys; adds up what they give to the divergence and the entropy.
  const auto compare = [&](float(&g)[4], const float(&p)[4], const float(&r)[4], float& divergence, float& entropy) {
    float part[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) part[e] = p[e] * mass.inverse, g[e] = 0.0f;
    if (wants_entropy) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float log_p = log2_fast(max_nan(part[e], kFloor)) * kLog2;
        entropy -= part[e] * log_p;
        if (ew != 0.0f) g[e] = ew * log_p;
      }
    }
    if (reference.given) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const Element element = fast_element_of<kKind>(args.beta, part[e], r[e] * ref_inverse, p[e]);
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
  if (threadIdx.x == 0) {
    call.work.divergence[row] = static_cast<float>(results.divergence);
    call.work.entropy[row] = static_cast<float>(results.entropy);
    call.work.mass[row] = mass.mass;
  }
  if (!call.gradient) return;

  // Between the writing of g and this lie the barriers of the reduction.
  const float mean = static_cast<float>(results.mean);
  // As far as tiles reach that other rows see.
  const int64_t reach = (visible + kStay - 1 + kKeyTile - 1) / kKeyTile * kKeyTile;
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
  const int64_t in_sequence = row - call.sequences().first_row(s);
  const int r = static_cast<int>(in_sequence % kQueryTile);
  for (int64_t i = threadIdx.x; i < call.heads.count() * (kDim / 8); i += blockDim.x) {
    const int chunk = static_cast<int>(i % (kDim / 8));
    const int64_t h = call.heads.begin + i / (kDim / 8);
    uint8_t* tile = call.policy.query_tile<kDim>(call.policy.first_query_tile(s) + in_sequence / kQueryTile, h);
    *reinterpret_cast<uint4*>(tile + QueryTile<kDim>{0}.address(0, r, chunk)) = {};
    if (chunk == 0) set_statistics(call.policy.statistics<kDim>(s, in_sequence, h), INFINITY, 0.0f, 0.0f);
  }
}

// -------------------------------------------------------------------------------------------------- queries

// dP rows beside a tile of keys: rows of eight lanes' pairs lie in different banks.
template <int kKeys>
constexpr int kGradientStride = 4 * kKeys + 32;

// Threads that copy rows of dP.
constexpr int kCopiers = 96;

// Keys of a tile, and queries of a block at most.
constexpr int kFewQueries = 32;
template <int kKeys>
constexpr int kQueriesMost = kKeys == kKeyTile ? kFewQueries : kStay;

template <int kDim, int kKeys>
using GradientRing =
    Ring<MmaTile<1, kKeys, kDim>::kBytes + (kQueriesMost<kKeys> * kGradientStride<kKeys> + 1023) / 1024 * 1024, 32, 4,
         kGroups, kCopiers, true>;

// Copies `rows` rows of f32 to shared memory, the first 4 * kColumns bytes of each `stride` bytes apart: those of the
// map before `left` columns, then zeros.  The threads that copy do so together.
template <int kColumns>
__device__ __forceinline__ void copy_rows(unsigned char* to, int stride, const float* map, int64_t width, int rows,
                                          int left) {
  constexpr int kThreads = kColumns / 4, kAtOnce = kCopiers / kThreads;
  static_assert(kCopiers % kThreads == 0);
  const int thread = static_cast<int>(threadIdx.x) - (kBlockThreads - kCopiers);
  const int first = thread / kThreads, column = thread % kThreads * 4;
  const float* from = map + first * width + column;
  to += first * stride + 4 * column;
  const uint32_t bytes = column < left ? 16 : 0;
#pragma unroll 4
  for (int r = first; r < rows; r += kAtOnce, from += kAtOnce * width, to += kAtOnce * stride) copy_16(to, from, bytes);
}

__device__ __forceinline__ float2 load_pair(const unsigned char* at) { return *reinterpret_cast<const float2*>(at); }

// As before, where what was loaded has not been kept in registers.
__device__ __forceinline__ float2 load_pair_again(const unsigned char* at) {
  float2 pair;
  asm volatile("ld.volatile.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(shared_address(at)));
  return pair;
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

// dq, and what dk takes of the rows.  Tiles of kKeys keys move by, and the queries' rows of dP with them: once for
// delta, where there are several heads, and once for dS.
template <int kDim, int kKeys>
__global__ void __launch_bounds__(kBlockThreads, 1)
    query_kernel(const __grid_constant__ Call call, const __grid_constant__ HeadedGrid grid) {
  if constexpr (!kHopper) return;
  wait_for_last();
  using Stay = MmaTile<1, kStay, kDim>;
  using Keys = MmaTile<1, kKeys, kDim>;
  constexpr int kBlocks = kKeys / 8, kHalves = kKeyTile / kKeys;
  extern __shared__ __align__(1024) unsigned char shared[];
  // Where the ring will be lie the queries, until they are in registers.
  const Stay q{shared_address(shared)};
  const GradientRing<kDim, kKeys> ring(shared);
  static_assert(Stay::kBytes <= GradientRing<kDim, kKeys>::kBytes * 4);
  const saccade_attention_divergence_args& args = call.args;
  const TiledPolicy& policy = call.policy;
  const HeadedRows block(policy, grid);
  if (block.empty()) return;
  const int64_t s = block.s;
  const bool bad = call.sequences().bad[s];
  float* dscore_sq = pointer<float>(args.dscore_sq);
  const auto with_gradient = [&](const auto& body) {
    if (args.grad_dtype == SACCADE_F32)
      body(heads_of<float>(args.dq, args.dq_row_stride, args.dq_head_stride));
    else
      body(heads_of<bf16>(args.dq, args.dq_row_stride, args.dq_head_stride));
  };
  // The last key that the first query sees may be before the first one.
  const int least = static_cast<int>(call.sequences().keys(s) - call.sequences().rows(s) + block.begin -
                                     call.sequences().first_row(s) + 1);
  const int most = least + block.queries - 1, tiles = uniform(most > 0 ? (most + kKeys - 1) / kKeys : 0);
  const int deltas = call.heads.count() > 1 ? tiles : 0;
  const bool live_row = !bad && threadIdx.x < block.queries && call.active(block.begin + threadIdx.x);
  if (!__syncthreads_or(live_row) || tiles == 0) {
    const float value = bad ? kNan : 0.0f;
    for (int h = 0; h < block.heads; ++h) {
      const int64_t head = block.first_head + h;
      with_gradient([&](const auto& dq) {
        fill_heads(dq, block.begin, block.begin + block.queries, head, args.head_dim, value);
      });
      if (dscore_sq && threadIdx.x < block.queries) dscore_sq[head * args.rows + block.begin + threadIdx.x] = value;
    }
    return;
  }
  if (threadIdx.x == 0) ring.init();
  __syncthreads();

  if (uniform(group()) == kGroups) {
    few_registers();
    if (threadIdx.x >= kBlockThreads - kCopiers) {
      const float* map = call.map(block.begin);
      const int width = static_cast<int>(call.width());
      int j = 0;
      for (int i = 0; i < deltas + tiles; ++i, j = j + 1 == tiles ? 0 : j + 1) {
        ring.wait_empty(i);
        copy_rows<kKeys>(ring.slot(i) + Keys::kBytes, kGradientStride<kKeys>, map + j * kKeys, width, block.queries,
                         width - j * kKeys);
        ring.arrive_copied(i);
      }
    } else if (threadIdx.x == kConsumers) {
      int j = 0;
      for (int i = 0; i < deltas + tiles; ++i, j = j + 1 == tiles ? 0 : j + 1) {
        ring.wait_empty(i);
        ring.expect(i, Keys::kBytes);
        const uint8_t* tile = policy.key_tile<kDim>(policy.first_key_tile(s) + j / kHalves, block.kv) +
                              j % kHalves * (kKeys * Keys::kRow);
        for (int panel = 0; panel < kDim / 64; ++panel)
          ring.copy(i, panel * Keys::kPanel, tile + panel * KeyTile<kDim>::kPanel, Keys::kPanel);
      }
    }
  } else {
    many_registers();
    block.load(q, policy);
    uint32_t rows[kDim / 16][4];
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) q.left(rows[step], 0, 16 * warp(), step);
    ring.release_all();
    float lse[2], centre[2] = {}, delta[2] = {};
    bool live[2];
    int seen[2], row_offset[2];  // keys beyond those that the first query sees
    const auto statistics = [&](int r) {
      return policy.statistics<kDim>(s, block.begin + block.query(r) - call.sequences().first_row(s), block.head(r));
    };
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = 16 * warp() + lane_row(2 * i);
      const bool there = r < block.count();
      seen[i] = there ? block.query(r) : 0;
      row_offset[i] = Keys::kBytes + seen[i] * kGradientStride<kKeys> + 4 * lane_column(0);
      lse[i] = there ? statistics(r)[kLse * kQueryTile] : INFINITY;
      live[i] = lse[i] != INFINITY;
    }
    // Scores of tile j as powers of two.
    const auto exponents = [&](float(&x)[kBlocks][4], int j) {
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) x[n][e] = fmaf(x[n][e], policy.unit, -lse[e / 2]);
      if ((j + 1) * kKeys <= least) return;
      // Some row does not see some key.
      const int first = j * kKeys - least + lane_column(0);
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (first + 8 * n + e % 2 >= seen[e / 2]) x[n][e] = -INFINITY;
    };
    const auto begin = [&](float(&x)[kBlocks][4], int i) {
      ring.wait(i);
      wgmma_multiply_transposed(x, rows, Keys{shared_address(ring.slot(i))});
    };

    if (deltas > 0) {
      Sum moment[2] = {}, mass[2] = {};
      in_turn<kKeys>(deltas, begin, [&](float(&x)[kBlocks][4], int j) {
        const unsigned char* slot = ring.slot(j);
        exponents(x, j);
        float m[2] = {}, w[2] = {};
#pragma unroll
        for (int n = 0; n < kBlocks; ++n)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const float2 dp = load_pair(slot + row_offset[i] + 32 * n);
            const float a = x[n][2 * i] = exp2_fast(x[n][2 * i]), b = x[n][2 * i + 1] = exp2_fast(x[n][2 * i + 1]);
            m[i] = fmaf(a, dp.x - centre[i], m[i]);
            m[i] = fmaf(b, dp.y - centre[i], m[i]);
            w[i] += a + b;
          }
        if (__any_sync(~0u, fmaxf(w[0], w[1]) > 0.5f)) {
          // A head that is all but certain of a key: sums around dP there keep their digits.
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float there = centre[i];
            bool found = false;
#pragma unroll
            for (int n = 0; n < kBlocks; ++n) {
              const float2 dp = load_pair_again(slot + row_offset[i] + 32 * n);
              if (x[n][2 * i] > 0.5f) there = dp.x, found = true;
              if (x[n][2 * i + 1] > 0.5f) there = dp.y, found = true;
            }
#pragma unroll
            for (int distance = 1; distance < 4; distance *= 2) {
              const float other = __shfl_xor_sync(~0u, there, distance);
              const bool has = __shfl_xor_sync(~0u, found, distance);
              if (has && (!found || (threadIdx.x & distance))) there = other, found = true;
            }
            moment[i] = Sum(moment[i].value() +
                            (static_cast<double>(centre[i]) - static_cast<double>(there)) * mass[i].value());
            centre[i] = there;
            m[i] = 0.0f;
#pragma unroll
            for (int n = 0; n < kBlocks; ++n) {
              const float2 dp = load_pair_again(slot + row_offset[i] + 32 * n);
              const float a = x[n][2 * i], b = x[n][2 * i + 1];
              m[i] = fmaf(a, dp.x - there, m[i]);
              m[i] = fmaf(b, dp.y - there, m[i]);
            }
          }
        }
        ring.release(j);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          moment[i].add(m[i]);
          mass[i].add(w[i]);
        }
      });
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        double first_moment = moment[i].value(), whole = mass[i].value();
#pragma unroll
        for (int distance = 1; distance < 4; distance *= 2) {
          first_moment += __shfl_xor_sync(~0u, first_moment, distance);
          whole += __shfl_xor_sync(~0u, whole, distance);
        }
        if (!live[i]) continue;
        delta[i] = static_cast<float>(first_moment / whole);
        lse[i] += static_cast<float>(::log2(whole));
      }
    }
    __syncwarp();  // all lanes of a row have read what is overwritten now
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = 16 * warp() + lane_row(2 * i);
      if (!live[i]) continue;
      lse[i] -= log2f(call.unit(block.begin + block.query(r)));
      if (threadIdx.x % 4 == 0) set_statistics(statistics(r), lse[i], centre[i], delta[i]);
    }

    double squares[2] = {};
    const auto gradients = [&](float(&x)[kBlocks][4], int j) {
      const unsigned char* slot = ring.slot(deltas + j);
      exponents(x, j);
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float2 dp = load_pair(slot + row_offset[i] + 32 * n);
          x[n][2 * i] = exp2_fast(x[n][2 * i]) * ((dp.x - centre[i]) - delta[i]);
          x[n][2 * i + 1] = exp2_fast(x[n][2 * i + 1]) * ((dp.y - centre[i]) - delta[i]);
        }
      if (!dscore_sq) return;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < kBlocks; ++n) {
          sum = fmaf(x[n][2 * i], x[n][2 * i], sum);
          sum = fmaf(x[n][2 * i + 1], x[n][2 * i + 1], sum);
        }
        squares[i] += static_cast<double>(sum);
      }
    };
    float out[kDim / 8][4];
    clear(out);
    multiply_in_turn<Keys>(
        out, tiles, [&](float(&x)[kBlocks][4], int j) { begin(x, deltas + j); }, gradients,
        [&](int j) { return Keys{shared_address(ring.slot(deltas + j))}; }, [&](int j) { ring.release(deltas + j); });

    const float grad_output = call.grad_output();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      double all = squares[i] + __shfl_xor_sync(~0u, squares[i], 1);
      all += __shfl_xor_sync(~0u, all, 2);
      const int r = 16 * warp() + lane_row(2 * i);
      if (r >= block.count()) continue;
      const int64_t row = block.begin + block.query(r), head = block.head(r);
      if (dscore_sq && threadIdx.x % 4 == 0)
        dscore_sq[head * args.rows + row] = live[i] ? static_cast<float>(all) * (grad_output * grad_output) : 0.0f;
      // A row without weight gets 0 whatever the keys hold.
      const float scale = args.scale * grad_output;
      with_gradient([&](const auto& dq) {
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n)
          store_pair(dq.at(row, head), 8 * n + lane_column(0), args.head_dim, live[i] ? out[n][2 * i] * scale : 0.0f,
                     live[i] ? out[n][2 * i + 1] * scale : 0.0f);
      });
    }
  }
}

// ----------------------------------------------------------------------------------------------------- keys

// dP of kQueryTile rows and kKeyTile keys: as columns of eight lanes, rows lie in different banks.
constexpr int kTransposedStride = 4 * kKeyTile + 16;
using TransposedRing = Ring<kQueryTile * kTransposedStride, 32, 2, kGroups, kCopiers>;
template <int kDim>
using RowRing = Ring<kQuerySlot<kDim>, 32, 8, kGroups, 0, true>;

// dk.  One block a tile of keys and key head: tiles of queries move by, of each the heads of the group in order.  The
// rows' dP stays in registers meanwhile.
template <int kDim>
__global__ void __launch_bounds__(kBlockThreads, 1) key_kernel(const __grid_constant__ Call call) {
  if constexpr (!kHopper) return;
  wait_for_last();
  using Queries = QueryTile<kDim>;
  constexpr int kBlocks = kQueryTile / 8;
  extern __shared__ __align__(1024) unsigned char shared[];
  const RowRing<kDim> rows(shared);
  const TransposedRing gradients(shared + RowRing<kDim>::kSpace);
  // Where queries will be lie the keys, until they are in registers.
  const KeyTile<kDim> keys{shared_address(shared)};
  // Tiles of queries whose dP is in a slot, and the number of all.
  int* tile_of = reinterpret_cast<int*>(shared + RowRing<kDim>::kSpace + TransposedRing::kShared);
  int* tiles = tile_of + 2;
  const saccade_attention_divergence_args& args = call.args;
  const TiledPolicy& policy = call.policy;
  const Sequences& sequences = call.sequences();
  const int64_t kv = blockIdx.x % args.kv_heads, number = blockIdx.x / args.kv_heads;
  const Piece piece = piece_of(sequences.offsets_k, sequences.count, number, kKeyTile);
  if (piece.empty()) return;
  const int64_t s = piece.s;
  const auto with_gradient = [&](const auto& body) {
    if (args.grad_dtype == SACCADE_F32)
      body(heads_of<float>(args.dk, args.dk_row_stride, args.dk_head_stride));
    else
      body(heads_of<bf16>(args.dk, args.dk_row_stride, args.dk_head_stride));
  };
  const bool bad = sequences.bad[s];
  if (bad || kv < policy.kv.begin || kv >= policy.kv.end)
    return with_gradient(
        [&](const auto& dk) { fill_heads(dk, piece.begin, piece.end, kv, args.head_dim, bad ? kNan : 0.0f); });
  const int64_t group_end = (kv + 1) * policy.group,
                head_begin = kv * policy.group > policy.heads.begin ? kv * policy.group : policy.heads.begin;
  const int heads =
      uniform(static_cast<int>((group_end < policy.heads.end ? group_end : policy.heads.end) - head_begin));
  // Row r of the sequence sees its key j where r >= j - hidden.
  const int key = static_cast<int>(piece.begin - sequences.first_key(s)), count = static_cast<int>(sequences.rows(s));
  const int hidden = static_cast<int>(sequences.keys(s)) - count;
  const int first = (key - hidden > 0 ? key - hidden : 0) / kQueryTile;
  if (threadIdx.x == 0) {
    rows.init();
    gradients.init();
    *tiles = 0;
  }
  __syncthreads();
  const auto rows_of = [&](int t) { return count - t * kQueryTile < kQueryTile ? count - t * kQueryTile : kQueryTile; };
  // One warp: whether some row of a tile of queries has a gradient.
  const auto active = [&](int t) {
    const int64_t row = sequences.first_row(s) + t * kQueryTile;
    const int r = static_cast<int>(threadIdx.x % 32), own = rows_of(t);
    return __any_sync(~0u, (r < own && call.active(row + r)) || (r + 32 < own && call.active(row + r + 32)));
  };
  for (int t = first + warp(); t * kQueryTile < count; t += kBlockThreads / 32)
    if (active(t) && threadIdx.x % 32 == 0) atomicAdd(tiles, 1);
  __syncthreads();
  const int items = uniform(*tiles * heads);
  if (items == 0)
    return with_gradient([&](const auto& dk) { fill_heads(dk, piece.begin, piece.end, kv, args.head_dim, 0.0f); });

  if (uniform(group()) == kGroups) {
    few_registers<40>();
    if (threadIdx.x >= kBlockThreads - kCopiers) {
      const bool first_copier = threadIdx.x == kBlockThreads - kCopiers;
      const int left = static_cast<int>(call.width()) - key;
      for (int t = first, turn = 0; t * kQueryTile < count; ++t) {
        if (!active(t)) continue;
        gradients.wait_empty(turn);
        copy_rows<kKeyTile>(gradients.slot(turn), kTransposedStride,
                            call.map(sequences.first_row(s) + t * kQueryTile) + key, call.width(), rows_of(t), left);
        if (first_copier) {
          tile_of[turn % 2] = t;
          gradients.expect(turn, 0);
        }
        gradients.arrive_copied(turn++);
      }
    } else if (threadIdx.x < kConsumers + 32) {
      const bool copies = threadIdx.x == kConsumers;
      for (int t = first, item = 0; t * kQueryTile < count; ++t) {
        if (!active(t)) continue;
        for (int h = 0; copies && h < heads; ++h)
          rows.fill(item++, policy.query_tile<kDim>(policy.first_query_tile(s) + t, head_begin + h),
                    kQueryTileBytes<kDim>);
        __syncwarp();
      }
    }
  } else {
    many_registers<232>();
    float out[kDim / 8][4];
    clear(out);
    uint32_t k[kDim / 16][4];
    const auto* tile_from = reinterpret_cast<const uint4*>(policy.key_tile<kDim>(number, kv));
    auto* tile_to = reinterpret_cast<uint4*>(shared);
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < KeyTile<kDim>::kBytes / 16; i += kConsumers)
      tile_to[i] = tile_from[i];
    bulk_fence();
    consumers_sync();
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) keys.left(k[step], 0, 16 * warp(), step);
    rows.release_all();
    int turn = 0;
    float dp[kBlocks][4];
    int seen = 0;         // keys of the block that the tile's first row sees
    bool partly = false;  // some keys are not seen
    const auto hides = [&](int n, int e) { return 16 * warp() + lane_row(e) >= seen + 8 * n + lane_column(e); };
    const auto next_tile = [&] {
      gradients.wait(turn);
      const int t = uniform(tile_of[turn % 2]);
      const unsigned char* slot = gradients.slot(turn);
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          dp[n][e] = *reinterpret_cast<const float*>(slot + (8 * n + lane_column(e)) * kTransposedStride +
                                                     4 * (16 * warp() + lane_row(e)));
      gradients.release(turn++);
      seen = t * kQueryTile + hidden + 1 - key;
      const int own = rows_of(t);
      partly = uniform(seen) < kKeyTile;
      if (partly || own < kQueryTile) {
#pragma unroll
        for (int n = 0; n < kBlocks; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (8 * n + lane_column(e) >= own || hides(n, e)) dp[n][e] = 0.0f;
      }
    };
    const auto tile = [&](int i) { return Queries{shared_address(rows.slot(i))}; };
    // dS of scores.  Rows that do not exist have an infinite log-sum-exp.
    const auto gradient = [&](float(&x)[kBlocks][4], int i) {
      const unsigned char* statistics = rows.slot(i) + Queries::kBytes + 4 * lane_column(0);
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        const float2 lse = load_pair(statistics + 32 * n + kLse * 4 * kQueryTile);
#pragma unroll
        for (int e = 0; e < 4; ++e) x[n][e] = fmaf(x[n][e], policy.unit, e % 2 == 0 ? -lse.x : -lse.y);
      }
      if (partly) {
#pragma unroll
        for (int n = 0; n < kBlocks; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (hides(n, e)) x[n][e] = -INFINITY;
      }
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        const float2 centre = load_pair(statistics + 32 * n + kCentre * 4 * kQueryTile),
                     delta = load_pair(statistics + 32 * n + kDelta * 4 * kQueryTile);
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          x[n][e] = exp2_fast(x[n][e]) * ((dp[n][e] - centre.x) - delta.x);
          x[n][e + 1] = exp2_fast(x[n][e + 1]) * ((dp[n][e + 1] - centre.y) - delta.y);
        }
      }
    };
    int h = heads - 1;
    multiply_in_turn<Queries>(
        out, items,
        [&](float(&x)[kBlocks][4], int i) {
          rows.wait(i);
          wgmma_multiply_transposed(x, k, tile(i));
        },
        [&](float(&x)[kBlocks][4], int i) {
          if (++h == heads) {
            h = 0;
            next_tile();
          }
          gradient(x, i);
        },
        tile, [&](int i) { rows.release(i); });
    const float scale = args.scale * call.grad_output();
    with_gradient([&](const auto& dk) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int r = 16 * warp() + lane_row(2 * i);
        if (r >= piece.count()) continue;
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n)
          store_pair(dk.at(piece.begin + r, kv), 8 * n + lane_column(0), args.head_dim, out[n][2 * i] * scale,
                     out[n][2 * i + 1] * scale);
      }
    });
  }
}

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

template <int kDim, int kKeys>
void launch_queries(const Device& device, const Call& call, const HeadedGrid& grid) {
  launch_shared_overlapping(device, query_kernel<kDim, kKeys>, grid.blocks(call.policy, call.args.sequences),
                            kBlockThreads, GradientRing<kDim, kKeys>::kShared, call, grid);
}

}  // namespace

void attention_divergence_hopper(const Device& device, const saccade_attention_divergence_args& args,
                                 const AttentionDivergenceWorkspace& work) {
  const Sequences sequences = clean_sequences(device, args, 0, work.packing);
  const PolicyRows rows = policy_rows(sequences, args);
  const HeadSpan heads{args.head_begin, args.head_end}, ref_heads{args.ref_head_begin, args.ref_head_end};
  const PolicySide<bf16> side = policy_side<bf16>(args);
  const Call call{{args, work, rows, heads, ref_heads, wants_gradient(args)},
                  TiledPolicy(rows, side, heads, work.tiles.queries, work.tiles.keys)};
  const int64_t width = padded(args.max_keys);
  with_dim(args.head_dim, [&](auto dim) {
    launch_tiling<dim>(device, call.policy, side, args.keys, args.sequences, pointer<const float>(args.lse));
    const auto compare = [&](int64_t begin, int64_t end) {
      launch_mean<dim>(device, call.policy, {work.map + begin * width, width, begin, end, heads}, args.sequences);
      with_kind(args.kind, [&](auto kind) {
        launch_overlapping(device, row_kernel<dim, kind>, end - begin, comparing_threads(args.max_keys), call, begin);
      });
    };
    if (args.ref_q) {
      const PolicySide<bf16> ref_side = reference_side<bf16>(args);
      const TiledPolicy reference(rows, ref_side, ref_heads, work.ref_tiles.queries, work.ref_tiles.keys);
      with_dim(args.ref_head_dim, [&](auto ref_dim) {
        launch_tiling<ref_dim>(device, reference, ref_side, args.keys, args.sequences,
                               pointer<const float>(args.ref_lse));
        for_row_batches(args.rows, work.ref_rows, [&](int64_t begin, int64_t end) {
          launch_mean<ref_dim>(device, reference, {work.ref_map, width, begin, end, ref_heads}, args.sequences);
          compare(begin, end);
        });
      });
    } else {
      compare(0, args.rows);
    }
    if (call.gradient) {
      if (heads.count() < args.heads) launch(device, clear_kernel<bf16>, args.rows, kRowThreads, call);
      const HeadedGrid grid(call.policy);
      if (grid.queries <= kFewQueries)
        launch_queries<dim, kKeyTile>(device, call, grid);
      else
        launch_queries<dim, kKeyTile / 2>(device, call, grid);
      launch_shared_overlapping(device, key_kernel<dim>, pieces_of(args.keys, args.sequences, kKeyTile) * args.kv_heads,
                                kBlockThreads, RowRing<dim>::kSpace + TransposedRing::kShared + 16, call);
    }
  });
  launch_overlapping(device, loss_kernel, 1, kLossThreads, call);
}

}  // namespace saccade::cuda
