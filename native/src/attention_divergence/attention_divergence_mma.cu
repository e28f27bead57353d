#include "attention_divergence/attention_divergence_mma.h"
#include "attention_divergence/centres.cuh"
#include "attention_divergence/row_kernel.cuh"
#include "attention_policy/policy_mma.cuh"

namespace saccade::cuda {
namespace {

// What is the same for all blocks of a launch.
template <class T>
struct Call : Arguments {
  static constexpr bool kFast = std::is_same_v<T, bf16>;  // as compare_element()

  PlainPolicy<T> policy;

  // A row without gradient: none of its probabilities count, and its queries may hold anything.
  __device__ void take_out(int64_t, int64_t row) const {
    for (int64_t h = heads.begin + threadIdx.x; h < heads.end; h += blockDim.x)
      set_centre(row, h, INFINITY, 0.0f, 0.0f);
  }
  __device__ __forceinline__ void set_centre(int64_t row, int64_t head, float lse, float centre, float delta) const {
    *policy.statistic(kLse, row, head) = lse;
    *policy.statistic(kCentre, row, head) = centre;
    *policy.statistic(kDelta, row, head) = delta;
  }
  __device__ Heads<float> d_keys() const { return {work.d_keys, args.kv_heads * args.head_dim, args.head_dim}; }
  __device__ float grad_output() const { return args.grad_output ? *pointer<const float>(args.grad_output) : 1.0f; }

  template <class Body>
  __device__ __forceinline__ void with_dq(const Body& body) const {
    if (args.grad_dtype == SACCADE_F32)
      body(heads_of<float>(args.dq, args.dq_row_stride, args.dq_head_stride));
    else
      body(heads_of<T>(args.dq, args.dq_row_stride, args.dq_head_stride));
  }
  template <class Body>
  __device__ __forceinline__ void with_dk(const Body& body) const {
    if (args.grad_dtype == SACCADE_F32)
      body(heads_of<float>(args.dk, args.dk_row_stride, args.dk_head_stride));
    else
      body(heads_of<T>(args.dk, args.dk_row_stride, args.dk_head_stride));
  }
};

constexpr int kBlocks = 4, kPart = 8 * kBlocks;  // columns of a product at a time

// dP of a lane's rows for kPart keys.
template <int kTiles>
using RowsOfMap = float2[2 * kTiles][kBlocks];

__device__ __forceinline__ void prefetch_near(const float* at) { asm volatile("prefetch.global.L1 [%0];" ::"l"(at)); }

// The sums of both halves of a block, in those of the first one.
template <int kDim, int kTiles>
__device__ __forceinline__ void add_halves(float (&sum)[kTiles][kDim / 8][4], uint32_t memory) {
  using Shape = StayShape<kDim>;
  constexpr int kRow = 4 * kDim + 32;  // rows of eight lanes' pairs lie in different banks
  static_assert(Shape::kStay * kRow <= Shape::kShared);
  __syncthreads();
#pragma unroll
  for (int half = 1; half >= 0; --half) {
    if (Shape::half() == half) {
#pragma unroll
      for (int i = 0; i < 2 * kTiles; ++i)
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          float &low = sum[i / 2][n][i % 2 * 2], &high = sum[i / 2][n][i % 2 * 2 + 1];
          const uint32_t at = memory + Shape::row(i) * kRow + 4 * (8 * n + lane_column(0));
          if (half == 1) {
            store_8(at, {low, high});
          } else {
            const float2 other = load_8(at);
            low += other.x, high += other.y;
          }
        }
    }
    if (half == 1) __syncthreads();
  }
}

// ------------------------------------------------------------------------------------------------- queries

// Keys that the first query of a block sees; the last of them may be before the first one.
template <class T>
__device__ int least_keys(const Call<T>& call, const HeadedRows& block) {
  const Sequences& sequences = call.sequences();
  return static_cast<int>(sequences.keys(block.s) - sequences.rows(block.s) + block.begin -
                          sequences.first_row(block.s) + 1);
}

// Writes the results of a block whose rows have no gradient, or see none of `most` keys; whether it is one.
template <class T>
__device__ bool fill_without_gradient(const Call<T>& call, const HeadedRows& block, int most) {
  const bool bad = call.sequences().bad[block.s];
  const bool live_row = !bad && threadIdx.x < block.queries && call.active(block.begin + threadIdx.x);
  if (__syncthreads_or(live_row) && most > 0) return false;
  float* dscore_sq = pointer<float>(call.args.dscore_sq);
  const float value = bad ? kNan : 0.0f;
  for (int h = 0; h < block.heads; ++h) {
    const int64_t head = block.first_head + h;
    call.with_dq([&](const auto& dq) {
      fill_heads(dq, block.begin, block.begin + block.queries, head, call.args.head_dim, value);
    });
    if (dscore_sq && threadIdx.x < block.queries) dscore_sq[head * call.args.rows + block.begin + threadIdx.x] = value;
  }
  return true;
}

// What half of a block has found of a row.
struct RowHalf {
  double moment, mass, squares;
  float centre, delta, lse;
};

// Whether query_sums_kernel has the queries of several heads.
template <class T, int kDim>
constexpr bool kInOnePass = kDim < 256 && std::is_same_v<T, bf16>;

// dq, and what dk takes of the rows.  Queries stay, keys move by: once for delta, where there are several heads, and
// once for dS.
template <class T, int kDim>
__global__ void __launch_bounds__(StayShape<kDim>::kThreads, 1)
    query_kernel(const __grid_constant__ Call<T> call, const __grid_constant__ HeadedGrid grid) {
  using Shape = StayShape<kDim>;
  constexpr int kTiles = Shape::kTiles, kRows = 2 * kTiles;
  constexpr int kHalves = Shape::kStay * static_cast<int>(sizeof(RowHalf));
  static_assert(Shape::kStay * (4 * kDim + 32) + kHalves <= Shape::kShared, "beside add_halves()");
  auto* halves = reinterpret_cast<RowHalf*>(tile_memory + Shape::kShared - kHalves);
  const saccade_attention_divergence_args& args = call.args;
  const PlainPolicy<T>& policy = call.policy;
  const HeadedRows block(policy, grid);
  if (block.empty()) return;
  float* dscore_sq = pointer<float>(args.dscore_sq);
  const int least = least_keys(call, block), most = least + block.queries - 1;
  if (fill_without_gradient(call, block, most)) return;
  const typename Shape::Stay q{shared_address(tile_memory)};
  const auto lse_of = [&](int r) { return *policy.statistic(kLse, block.begin + block.query(r), block.head(r)); };
  begin_rows<T, kDim>(policy, block, q.base, [&](int r) { return lse_of(r) != INFINITY; });

  const auto query = [&](int i) { return Shape::row(i) < block.count() ? block.query(Shape::row(i)) : 0; };
  const auto leads = [&](int half) { return Shape::half() == half && threadIdx.x % 4 == 0; };
  float lse[kRows], centre[kRows] = {}, delta[kRows] = {};
  const float* map = call.map(block.begin) + lane_column(0);
  uint32_t row_of_map[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    row_of_map[i] = static_cast<uint32_t>(query(i) * call.width());
    lse[i] = Shape::row(i) < block.count() ? lse_of(Shape::row(i)) : INFINITY;
  }
  // dP of a part is on its way while the part before is being computed: a line for each of the warp's rows.
  const int own_row = Shape::first_row() + static_cast<int>(threadIdx.x) % (16 * kTiles);
  const float* line = call.map(block.begin + (own_row < block.count() ? block.query(own_row) : 0));
  const auto prefetch = [&](int first) {
    if (first < most) prefetch_near(line + first);
  };
  const auto load_dp = [&](RowsOfMap<kTiles>& dp, int first) {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
        dp[i][n] = *reinterpret_cast<const float2*>(map + row_of_map[i] + first + 8 * n);
  };
  // Makes products with kPart keys from `first` on powers of two.
  const auto exponents = [&](float(&x)[kTiles][kBlocks][4], int first) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) x[t][n][e] = fmaf(x[t][n][e], policy.unit, -lse[2 * t + e / 2]);
    if (first + kPart <= least) return;
      // Some row does not see some key.
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int seen = least + query(i) - first - lane_column(0);
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        if (8 * n >= seen) x[i / 2][n][i % 2 * 2] = -INFINITY;
        if (8 * n + 1 >= seen) x[i / 2][n][i % 2 * 2 + 1] = -INFINITY;
      }
    }
  };
  // use(tile, first key, its row, first key of the part after this one).
  const auto pass = [&](const auto& use) {
    prefetch(Shape::half() * Shape::kHalf);
    pass_keys<T, kDim>(policy, block, q.base + Shape::Stay::kBytes, most,
                       [&](int first, int row, const typename Shape::Move& k, int next) {
#pragma unroll 1
                         for (int part = 0; part < Shape::kHalf && first + part < most; part += kPart)
                           use(k, first + part, row + part, part + kPart < Shape::kHalf ? first + part + kPart : next);
                       });
  };

  // A single head's delta is 0: dP is orthogonal to its own policy.
  if (!kInOnePass<T, kDim> && call.heads.count() > 1) {
    Sum moment[kRows], mass[kRows];
    pass([&](const typename Shape::Move& k, int first, int row, int next) {
      float x[kTiles][kBlocks][4];
      RowsOfMap<kTiles> dp;
      prefetch(next);
      multiply_rows<T, true>(x, q, Shape::first_row(), k, row);
      load_dp(dp, first);
      exponents(x, first);
      float m[kRows] = {}, w[kRows] = {}, most_of_a_row = 0.0f;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int n = 0; n < kBlocks; ++n) {
          float &a = x[i / 2][n][i % 2 * 2], &b = x[i / 2][n][i % 2 * 2 + 1];
          a = exp2_fast(a), b = exp2_fast(b);
          m[i] = fmaf(a, dp[i][n].x - centre[i], m[i]);
          m[i] = fmaf(b, dp[i][n].y - centre[i], m[i]);
          w[i] += a + b;
        }
        most_of_a_row = fmaxf(most_of_a_row, w[i]);
      }
      if (__any_sync(~0u, most_of_a_row > 0.5f)) {
        // A head that is all but certain of a key: sums around dP there keep their digits.
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          float there = centre[i];
          bool found = false;
#pragma unroll
          for (int n = 0; n < kBlocks; ++n) {
            if (x[i / 2][n][i % 2 * 2] > 0.5f) there = dp[i][n].x, found = true;
            if (x[i / 2][n][i % 2 * 2 + 1] > 0.5f) there = dp[i][n].y, found = true;
          }
#pragma unroll
          for (int distance = 1; distance < 4; distance *= 2) {
            const float other = __shfl_xor_sync(~0u, there, distance);
            const bool has = __shfl_xor_sync(~0u, found, distance);
            if (has && (!found || (threadIdx.x & distance))) there = other, found = true;
          }
          moment[i] =
              Sum(moment[i].value() + (static_cast<double>(centre[i]) - static_cast<double>(there)) * mass[i].value());
          centre[i] = there;
          m[i] = 0.0f;
#pragma unroll
          for (int n = 0; n < kBlocks; ++n) {
            m[i] = fmaf(x[i / 2][n][i % 2 * 2], dp[i][n].x - there, m[i]);
            m[i] = fmaf(x[i / 2][n][i % 2 * 2 + 1], dp[i][n].y - there, m[i]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        moment[i].add(m[i]);
        mass[i].add(w[i]);
      }
    });
    double row_moment[kRows], row_mass[kRows];
    __syncthreads();  // the tiles of keys are not in use
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      row_moment[i] = moment[i].value(), row_mass[i] = mass[i].value();
#pragma unroll
      for (int distance = 1; distance < 4; distance *= 2) {
        row_moment[i] += __shfl_xor_sync(~0u, row_moment[i], distance);
        row_mass[i] += __shfl_xor_sync(~0u, row_mass[i], distance);
      }
      if (leads(1)) halves[Shape::row(i)] = {row_moment[i], row_mass[i], 0.0, centre[i], 0.0f, 0.0f};
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (!leads(0)) continue;
      // Around the centre of the half that has more.
      RowHalf& other = halves[Shape::row(i)];
      const float there = other.mass > row_mass[i] ? other.centre : centre[i];
      const auto around = [&](double sum, double weight, float from) {
        return sum + (static_cast<double>(from) - static_cast<double>(there)) * weight;
      };
      const double sum = around(row_moment[i], row_mass[i], centre[i]) + around(other.moment, other.mass, other.centre);
      const double whole = row_mass[i] + other.mass;
      other.centre = there;
      other.delta = static_cast<float>(sum / whole);
      other.lse = lse[i] + static_cast<float>(::log2(whole));
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (lse[i] == INFINITY) continue;
      const RowHalf& row = halves[Shape::row(i)];
      centre[i] = row.centre, delta[i] = row.delta, lse[i] = row.lse;
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (lse[i] == INFINITY) continue;
    const int r = Shape::row(i);
    lse[i] -= log2f(call.unit(block.begin + block.query(r)));
    if (leads(0)) call.set_centre(block.begin + block.query(r), block.head(r), lse[i], centre[i], delta[i]);
  }

  float squares[kRows] = {}, out[kTiles][kDim / 8][4];
#pragma unroll
  for (int t = 0; t < kTiles; ++t) clear(out[t]);
  pass([&](const typename Shape::Move& k, int first, int row, int next) {
    float x[kTiles][kBlocks][4];
    RowsOfMap<kTiles> dp;
    prefetch(next);
    multiply_rows<T, false>(x, q, Shape::first_row(), k, row);
    load_dp(dp, first);
    exponents(x, first);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      float square = 0.0f;
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        float &a = x[i / 2][n][i % 2 * 2], &b = x[i / 2][n][i % 2 * 2 + 1];
        a = exp2_fast(a) * ((dp[i][n].x - centre[i]) - delta[i]);
        b = exp2_fast(b) * ((dp[i][n].y - centre[i]) - delta[i]);
        square = fmaf(a, a, fmaf(b, b, square));
      }
      squares[i] += square;
    }
    multiply_add_rows<T>(out, x, k, row);
  });

  add_halves<kDim>(out, q.base);
  const float grad_output = call.grad_output(), scale = args.scale * grad_output;
  double all[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    all[i] = static_cast<double>(squares[i]);
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) all[i] += __shfl_xor_sync(~0u, all[i], distance);
    if (leads(1)) halves[Shape::row(i)].squares = all[i];
  }
  __syncthreads();
  if (Shape::half() == 1) return;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int r = Shape::row(i);
    if (r >= block.count()) continue;
    const int64_t row = block.begin + block.query(r), head = block.head(r);
    const bool live = lse[i] != INFINITY;
    if (dscore_sq && threadIdx.x % 4 == 0)
      dscore_sq[head * args.rows + row] =
          live ? static_cast<float>(all[i] + halves[r].squares) * (grad_output * grad_output) : 0.0f;
    // A row without weight gets 0 whatever the keys hold.
    call.with_dq([&](const auto& dq) {
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n)
        store_pair(dq.at(row, head), 8 * n + lane_column(0), args.head_dim,
                   live ? out[i / 2][n][i % 2 * 2] * scale : 0.0f, live ? out[i / 2][n][i % 2 * 2 + 1] * scale : 0.0f);
    });
  }
}

// As query_kernel, delta and dq in one pass over the keys (README.md: Hopper, "Queries").  A warp has 16 rows and all
// keys; P and P (dP - centre) are the two left factors that each right one serves.
template <int kDim>
__global__ void __launch_bounds__(StayShape<kDim>::kThreads, 1)
    query_sums_kernel(const __grid_constant__ Call<bf16> call, const __grid_constant__ HeadedGrid grid) {
  using Shape = StayShape<kDim>;
  static_assert(Shape::kStay == Shape::kThreads / 32 * 16 && Shape::kShared + sizeof(Squares) <= 99 << 10);
  auto& squares = *reinterpret_cast<Squares*>(tile_memory + Shape::kShared);
  const saccade_attention_divergence_args& args = call.args;
  const PlainPolicy<bf16>& policy = call.policy;
  const HeadedRows block(policy, grid);
  if (block.empty()) return;
  const int least = least_keys(call, block), most = least + block.queries - 1;
  if (fill_without_gradient(call, block, most)) return;
  float* dscore_sq = pointer<float>(args.dscore_sq);
  const typename Shape::Stay q{shared_address(tile_memory)};
  const auto lse_of = [&](int r) { return *policy.statistic(kLse, block.begin + block.query(r), block.head(r)); };
  begin_rows<bf16, kDim>(policy, block, q.base, [&](int r) { return lse_of(r) != INFINITY; });

  const int first_row = 16 * warp();
  float lse[2];
  int seen[2];  // keys
  Centres sums;
  if (dscore_sq) squares.clear();
  const float* map = call.map(block.begin) + lane_column(0);
  uint32_t row_of_map[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int r = first_row + lane_row(2 * i), query = r < block.count() ? block.query(r) : 0;
    seen[i] = least + query - lane_column(0);
    row_of_map[i] = static_cast<uint32_t>(query * call.width());
    lse[i] = r < block.count() ? lse_of(r) : INFINITY;
  }
  // dP of a part is on its way while the part before is being computed: a line for each of the warp's rows.
  const int own_row = first_row + static_cast<int>(threadIdx.x) % 16;
  const float* line = call.map(block.begin + (own_row < block.count() ? block.query(own_row) : 0));
  const auto prefetch = [&](int first) {
    if (first < most) prefetch_near(line + first);
  };
  float out[2][kDim / 8][4];  // sums of P (dP - centre) K, and of P K
  clear(out[0]);
  clear(out[1]);
  // kPart keys from `first` on, rows of a tile from `row` on.
  const auto add_part = [&](const typename Shape::Move& k, int first, int row) {
    float p[1][kBlocks][4], x[2][kBlocks][4];
    multiply_rows<bf16, true>(p, q, first_row, k, row);
    RowsOfMap<1> rows;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
        rows[i][n] = *reinterpret_cast<const float2*>(map + row_of_map[i] + first + 8 * n);
    const auto dp = [&](int i, int n) { return rows[i][n]; };
#pragma unroll
    for (int n = 0; n < kBlocks; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) p[0][n][e] = fmaf(p[0][n][e], policy.unit, -lse[e / 2]);
    if (first + kPart > least) {  // some row does not see some key
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (first + 8 * n + e % 2 >= seen[e / 2]) p[0][n][e] = -INFINITY;
    }
    float w[2] = {}, change[2];
#pragma unroll
    for (int n = 0; n < kBlocks; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) w[e / 2] += p[0][n][e] = exp2_fast(p[0][n][e]);
    if (sums.due(w)) {
      sums.move(p[0], dp, w, change);
      if (dscore_sq) squares.move(change);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) out[0][n][e] = fmaf(change[e / 2], out[1][n][e], out[0][n][e]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) sums.mass[i] += w[i];
    if (dscore_sq) squares.add(p[0], dp, sums.centre);
#pragma unroll
    for (int n = 0; n < kBlocks; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) x[0][n][e] = x[1][n][e] = p[0][n][e];
    sums.multiply(x[0], dp);
    multiply_add_rows<bf16>(out, x, k, row);
  };
  prefetch(0);
  const auto use = [&](int first, int row, const typename Shape::Move& k, int next) {
#pragma unroll 1
    for (int part = 0; part < Shape::kMove && first + part < most; part += kPart) {
      prefetch(part + kPart < Shape::kMove ? first + part + kPart : next);
      add_part(k, first + part, row + part);
    }
  };
  pass_keys<bf16, kDim, true>(policy, block, q.base + Shape::Stay::kBytes, most, use);

  const float grad_output = call.grad_output();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float whole = add_lanes(sums.mass[i]), delta = add_lanes(sums.moment[i]) / whole;
    const int r = first_row + lane_row(2 * i);
    if (r >= block.count()) continue;
    const int64_t row = block.begin + block.query(r), head = block.head(r);
    const float inverse = call.unit(row) / whole;
    const bool live = lse[i] != INFINITY;
    if (threadIdx.x % 4 == 0) {
      if (live) call.set_centre(row, head, lse[i] - log2f(inverse), sums.centre[i], delta);
      if (dscore_sq) {
        const float factor = inverse * grad_output;
        dscore_sq[head * args.rows + row] =
            live ? static_cast<float>(squares.around(i, delta)) * (factor * factor) : 0.0f;
      }
    }
    // A row without weight gets 0 whatever the keys hold.
    const float scale = args.scale * grad_output * inverse;
    const auto value = [&](int n, int e) { return live ? fmaf(-delta, out[1][n][e], out[0][n][e]) * scale : 0.0f; };
    call.with_dq([&](const auto& dq) {
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n)
        store_pair(dq.at(row, head), 8 * n + lane_column(0), args.head_dim, value(n, 2 * i), value(n, 2 * i + 1));
    });
  }
}

// ---------------------------------------------------------------------------------------------------- keys

// Queries that move by, kPart for each half of a block, beside them their statistics.
template <int kDim>
struct KeyShape : StayShape<kDim> {
  static constexpr int kQueries = 2 * kPart, kSlots = kDim < 256 ? 3 : 2;
  using Queries = MmaTile<1, kQueries, kDim>;
  static constexpr int kSlot = (Queries::kBytes + kQueryStatistics * kQueries * 4 + 1023) / 1024 * 1024;
  static constexpr int kShared = StayShape<kDim>::Stay::kBytes + kSlots * kSlot;
  static_assert(kShared <= 99 << 10, "of what every GPU has");
};

// dk of key heads from kv_begin on.  One block a piece of keys and key head: queries move by, of each tile the policy's
// heads of the group in order, while their dP stays in registers.  The result goes to dk, or is added to d_keys where
// more heads are to come.
template <class T, int kDim>
__global__ void __launch_bounds__(StayShape<kDim>::kThreads, 1)
    key_kernel(const __grid_constant__ Call<T> call, int64_t kv_begin, int64_t kv_heads, bool add) {
  using Shape = KeyShape<kDim>;
  using Queries = typename Shape::Queries;
  constexpr int kTiles = Shape::kTiles, kRows = 2 * kTiles, kQueries = Shape::kQueries;
  const saccade_attention_divergence_args& args = call.args;
  const PlainPolicy<T>& policy = call.policy;
  const Sequences& sequences = call.sequences();
  const int64_t kv = kv_begin + blockIdx.x % kv_heads;
  const Piece piece = piece_of(sequences.offsets_k, sequences.count, blockIdx.x / kv_heads, Shape::kStay);
  if (piece.empty()) return;
  const int64_t s = piece.s;
  const bool bad = sequences.bad[s];
  const auto fill = [&](float value) {
    if (!add)
      call.with_dk([&](const auto& dk) { fill_heads(dk, piece.begin, piece.end, kv, args.head_dim, value); });
    else if (value != 0.0f)
      fill_heads(call.d_keys(), piece.begin, piece.end, kv, args.head_dim, value);
  };
  if (bad || kv < policy.kv.begin || kv >= policy.kv.end) return fill(bad ? kNan : 0.0f);
  const int64_t group_end = (kv + 1) * policy.group,
                head_begin = kv * policy.group > policy.heads.begin ? kv * policy.group : policy.heads.begin;
  const int heads = static_cast<int>((group_end < policy.heads.end ? group_end : policy.heads.end) - head_begin);
  // Row r of the sequence sees its key j where r >= j - hidden.
  const int key = static_cast<int>(piece.begin - sequences.first_key(s)), count = static_cast<int>(sequences.rows(s));
  const int hidden = static_cast<int>(sequences.keys(s)) - count;
  const int64_t first_row = sequences.first_row(s);

  // Rows from `first` on, some of which have a gradient: those in the masks of each half.
  struct Rows {
    int first;
    uint32_t mask[2];

    __device__ bool has(int r) const { return (r < kPart ? mask[0] >> r : mask[1] >> (r - kPart)) & 1; }
  };
  const auto rows_from = [&](int first) {
    Rows rows{first, {0, 0}};
    for (; rows.first < count; rows.first += kQueries) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = rows.first + half * kPart + static_cast<int>(threadIdx.x % 32);
        rows.mask[half] = __ballot_sync(~0u, r < count && call.active(first_row + r));
      }
      if (rows.mask[0] | rows.mask[1]) break;
    }
    return rows;
  };
  const typename Shape::Stay k{shared_address(tile_memory)};
  const auto slot = [&](int i) { return Queries{k.base + Shape::Stay::kBytes + i % Shape::kSlots * Shape::kSlot}; };
  // What is loaded next: a head of some rows; and what is computed.
  Rows loads = rows_from((key - hidden > 0 ? key - hidden : 0) / kQueries * kQueries);
  int rows = loads.first, load_head = 0, number = 0;
  if (rows >= count) return fill(0.0f);
  const auto load = [&] {
    if (loads.first < count) {
      const Queries tile = slot(number++);
      const int64_t head = head_begin + load_head;
      begin_tile<Shape::kThreads>(tile, policy.q.at(first_row + loads.first, head), policy.q.row_stride, policy.dim,
                                  policy.whole, [&](int r) { return loads.has(r); });
      if (threadIdx.x < kQueryStatistics * kQueries) {
        const int r = static_cast<int>(threadIdx.x) % kQueries, which = static_cast<int>(threadIdx.x) / kQueries;
        const uint32_t to = tile.base + Queries::kBytes + 4 * threadIdx.x;
        if (loads.has(r))
          copy_4(to, policy.statistic(which, first_row + loads.first + r, head));
        else
          store_4(to, which == kLse ? INFINITY : 0.0f);
      }
      if (++load_head == heads) {
        load_head = 0;
        loads = rows_from(loads.first + kQueries);
      }
    }
    copies_commit();
  };
  begin_tile<Shape::kThreads>(k, policy.k.at(piece.begin, kv), policy.k.row_stride, policy.dim, policy.whole,
                              [&](int r) { return r < piece.count(); });
#pragma unroll
  for (int i = 0; i + 1 < Shape::kSlots; ++i) load();

  float out[kTiles][kDim / 8][4], dp[kTiles][kBlocks][4];
#pragma unroll
  for (int t = 0; t < kTiles; ++t) clear(out[t]);
  const int own_key = Shape::first_row() + lane_row(0), own_query = Shape::half() * kPart;
  const float* map = call.map(first_row) + key + own_key;
  const int64_t width = call.width();
  for (int i = 0; rows < count;) {
    // Columns of dP; 0 where a row does not exist, or does not see the key.
#pragma unroll
    for (int n = 0; n < kBlocks; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int r = rows + own_query + 8 * n + lane_column(e), visible = r + hidden + 1 - key - own_key;
        const float* from = map + r * width;
#pragma unroll
        for (int l = 0; l < kRows; ++l) dp[l / 2][n][l % 2 * 2 + e] = r < count && 8 * l < visible ? from[8 * l] : 0.0f;
      }
    const int seen = rows + own_query + hidden + 1 - key;  // keys of the block that the half's first row sees
    for (int h = 0; h < heads; ++h, ++i) {
      copies_wait<Shape::kSlots - 2>();
      __syncthreads();
      load();
      const Queries q = slot(i);
      float x[kTiles][kBlocks][4];
      multiply_rows<T, false>(x, k, Shape::first_row(), q, own_query);
      const auto statistic = [&](int which, int n) {
        return load_8(q.base + Queries::kBytes + 4 * (which * kQueries + own_query + 8 * n + lane_column(0)));
      };
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        const float2 lse = statistic(kLse, n);
#pragma unroll
        for (int l = 0; l < kRows; ++l) {
          float &a = x[l / 2][n][l % 2 * 2], &b = x[l / 2][n][l % 2 * 2 + 1];
          a = fmaf(a, policy.unit, -lse.x), b = fmaf(b, policy.unit, -lse.y);
        }
      }
      if (seen < Shape::kStay) {
#pragma unroll
        for (int n = 0; n < kBlocks; ++n)
#pragma unroll
          for (int l = 0; l < kRows; ++l) {
            const int visible = seen + 8 * n + lane_column(0) - own_key;
            if (8 * l >= visible) x[l / 2][n][l % 2 * 2] = -INFINITY;
            if (8 * l >= visible + 1) x[l / 2][n][l % 2 * 2 + 1] = -INFINITY;
          }
      }
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        const float2 centre = statistic(kCentre, n), delta = statistic(kDelta, n);
#pragma unroll
        for (int l = 0; l < kRows; ++l) {
          float &a = x[l / 2][n][l % 2 * 2], &b = x[l / 2][n][l % 2 * 2 + 1];
          a = exp2_fast(a) * ((dp[l / 2][n][l % 2 * 2] - centre.x) - delta.x);
          b = exp2_fast(b) * ((dp[l / 2][n][l % 2 * 2 + 1] - centre.y) - delta.y);
        }
      }
      multiply_add_rows<T>(out, x, q, own_query);
    }
    rows = rows_from(rows + kQueries).first;
  }
  add_halves<kDim>(out, k.base);
  if (Shape::half() == 1) return;
  const auto write = [&](const auto& dk, const auto& combine) {
#pragma unroll
    for (int l = 0; l < kRows; ++l) {
      const int r = own_key + 8 * l;
      if (r >= piece.count()) continue;
      auto* to = dk.at(piece.begin + r, kv);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n)
        combine(to, 8 * n + lane_column(0), out[l / 2][n][l % 2 * 2], out[l / 2][n][l % 2 * 2 + 1]);
    }
  };
  const float grad_output = call.grad_output();
  if (add)
    write(call.d_keys(), [&](float* to, int column, float low, float high) {
      if (column < args.head_dim) to[column] += low * grad_output;
      if (column + 1 < args.head_dim) to[column + 1] += high * grad_output;
    });
  else
    call.with_dk([&](const auto& dk) {
      write(dk, [&](auto* to, int column, float low, float high) {
        const float scale = args.scale * grad_output;
        store_pair(to, column, args.head_dim, low * scale, high * scale);
      });
    });
}

template <class T, int kDim>
void compute(const Device& device, const saccade_attention_divergence_args& args,
             const AttentionDivergenceWorkspace& work) {
  const Sequences sequences = clean_sequences(device, args, 0, work.packing);
  const PolicyRows rows = policy_rows(sequences, args);
  const PolicySide<T> side = policy_side<T>(args);
  const HeadSpan all{args.head_begin, args.head_end}, ref_all{args.ref_head_begin, args.ref_head_end};
  const int64_t width = padded(args.max_keys);
  launch_plain_lse<T, kDim>(device, PlainPolicy<T>(rows, side, all, work.head_statistics), args.sequences,
                            pointer<const float>(args.lse));
  const bool gradient = wants_gradient(args), mean = args.reduction == SACCADE_REDUCTION_MEAN;
  if (args.ref_q)
    with_columns(args.ref_head_dim, [&](auto dim) {
      const PlainPolicy<T> reference(rows, reference_side<T>(args), ref_all, work.ref_head_statistics);
      launch_plain_lse<T, dim>(device, reference, args.sequences, pointer<const float>(args.ref_lse));
    });
  const int64_t policies = mean ? 1 : all.count();
  for (int64_t p = 0; p < policies; ++p) {
    const HeadSpan heads = mean ? all : HeadSpan{all.begin + p, all.begin + p + 1};
    const HeadSpan ref_heads = mean ? ref_all : HeadSpan{ref_all.begin + p, ref_all.begin + p + 1};
    const Call<T> call{{args, work, rows, heads, ref_heads, 1.0f / static_cast<float>(policies), p == 0, gradient},
                       PlainPolicy<T>(rows, side, heads, work.head_statistics)};
    if (p == 0 && gradient) {
      if (all.count() < args.heads) launch(device, clear_kernel<T>, args.rows, kRowThreads, call);
      if (!mean)
        zero(device, reinterpret_cast<saccade_address>(work.d_keys), args.keys * args.kv_heads * args.head_dim * 4);
    }
    const auto compare = [&](int64_t begin, int64_t end) {
      launch_plain_mean<T, kDim>(device, call.policy, {work.map + begin * width, width, begin, end, heads},
                                 args.sequences);
      with_kind(args.kind, [&](auto kind) {
        launch(device, row_kernel<Call<T>, kind>, end - begin, comparing_threads(args.max_keys), call, begin);
      });
    };
    if (args.ref_q)
      with_columns(args.ref_head_dim, [&](auto dim) {
        const PlainPolicy<T> reference(rows, reference_side<T>(args), ref_heads, work.ref_head_statistics);
        for_row_batches(args.rows, work.ref_rows, [&](int64_t begin, int64_t end) {
          launch_plain_mean<T, dim>(device, reference, {work.ref_map, width, begin, end, ref_heads}, args.sequences);
          compare(begin, end);
        });
      });
    else
      compare(0, args.rows);
    if (gradient) {
      using Shape = StayShape<kDim>;
      const HeadedGrid grid(call.policy, Shape::kStay);
      const auto launch_queries = [&](const auto& kernel, int shared) {
        launch_shared(device, kernel, grid.blocks(call.policy, args.sequences), Shape::kThreads, shared, call, grid);
      };
      // A single head's delta is 0, which query_kernel knows.
      if (!kInOnePass<T, kDim> || heads.count() == 1) launch_queries(query_kernel<T, kDim>, Shape::kShared);
      if constexpr (kInOnePass<T, kDim>)
        if (heads.count() > 1)
          launch_queries(query_sums_kernel<kDim>, Shape::kShared + static_cast<int>(sizeof(Squares)));
      const int64_t kv_begin = mean ? 0 : call.policy.kv.begin, kv_heads = mean ? args.kv_heads : 1;
      launch_shared(device, key_kernel<T, kDim>, pieces_of(args.keys, args.sequences, Shape::kStay) * kv_heads,
                    Shape::kThreads, KeyShape<kDim>::kShared, call, kv_begin, kv_heads, !mean);
    }
    if (p + 1 < policies) continue;
    if (gradient && !mean) launch(device, d_keys_kernel<T>, args.keys, kRowThreads, call);
    launch(device, loss_kernel, 1, kLossThreads, call);
  }
}

}  // namespace

void attention_divergence_mma(const Device& device, const saccade_attention_divergence_args& args,
                              const AttentionDivergenceWorkspace& work) {
  const auto of_type = [&](auto element) {
    with_columns(args.head_dim, [&](auto dim) { compute<decltype(element), dim>(device, args, work); });
  };
  args.dtype == SACCADE_BF16 ? of_type(bf16{}) : of_type(f16{});
}

}  // namespace saccade::cuda
