// Two sums over the keys of a row in one pass, around centres that follow the mean: README.md, "Queries".
#pragma once

#include "core/mma.cuh"

namespace saccade::cuda {

__device__ __forceinline__ float add_lanes(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

// Of the two rows of a lane, each of which has a fourth of a row's keys.
struct Centres {
  // Of a row, before it has a centre: the dP of a key that has next to no mass may be any number, and one of which the
  // sums keep no digits.
  static constexpr float kLeast = 0x1p-12f;

  float centre[2] = {}, mass[2] = {}, moment[2] = {};  // sums of P and of P (dP - centre)
  float watch[2] = {kLeast, kLeast};                   // mass of a lane's keys beyond which the centre moves

  // Whether centres of the warp's rows move before probabilities that come to w are counted.
  __device__ __forceinline__ bool due(const float (&w)[2]) const {
    return __any_sync(~0u, mass[0] + w[0] > watch[0] || mass[1] + w[1] > watch[1]);
  }

  // Centres become the means up to these probabilities x, which come to w; they fall by `change`.  dp(i, n): dP of row
  // i and the lane's two keys of the n-th eight.
  template <int kBlocks, class Dp>
  __device__ __forceinline__ void move(const float (&x)[kBlocks][4], const Dp& dp, const float (&w)[2],
                                       float (&change)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float part = 0.0f, at_top = NAN;  // dP of the key of which the head is all but certain
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        const float2 d = dp(i, n);
        const float a = x[n][2 * i], b = x[n][2 * i + 1];
        part = fmaf(a, d.x - centre[i], part);
        part = fmaf(b, d.y - centre[i], part);
        if (a > 0.5f) at_top = d.x;
        if (b > 0.5f) at_top = d.y;
      }
      const float own = mass[i] + w[i], whole = add_lanes(own), sum = add_lanes(moment[i] + part);
#pragma unroll
      for (int distance = 1; distance < 4; distance *= 2)
        at_top = fmaxf(at_top, __shfl_xor_sync(~0u, at_top, distance));
      // Differences around it keep their digits.
      const bool certain = at_top == at_top;
      float next = certain ? at_top : centre[i] + __fdividef(sum, whole);
      if (watch[i] == INFINITY || whole < kLeast)
        next = centre[i];
      else
        watch[i] = certain ? INFINITY : fmaxf(4.0f * own, whole);
      change[i] = centre[i] - next;
      centre[i] = next;
      moment[i] = fmaf(change[i], mass[i], moment[i]);
    }
  }

  // Probabilities become products with dP, and are counted.
  template <int kBlocks, class Dp>
  __device__ __forceinline__ void multiply(float (&x)[kBlocks][4], const Dp& dp) {
    float m[2] = {};
#pragma unroll
    for (int n = 0; n < kBlocks; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float2 d = dp(i, n);
        x[n][2 * i] *= d.x - centre[i];
        x[n][2 * i + 1] *= d.y - centre[i];
        m[i] += x[n][2 * i] + x[n][2 * i + 1];
      }
#pragma unroll
    for (int i = 0; i < 2; ++i) moment[i] += m[i];
  }
};

// Sum of P^2 (dP - centre - delta)^2, from those with (dP - centre)^k.  NaN stays what it is.
__device__ __forceinline__ double sum_of_squares(double zeroth, double first, double second, double delta) {
  const double sum = second - delta * (2.0 * first - delta * zeroth);
  return sum < 0.0 ? 0.0 : sum;
}

// Sums of P^2 (dP - centre)^k, k < 3, of the rows of eight warps: for dscore_sq.  A row's first lane has them.
struct Squares {
  double sums[3][8 * 16];

  __device__ static int row(int i) { return 16 * warp() + lane_row(2 * i); }
  __device__ static bool leads() { return threadIdx.x % 4 == 0; }

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int k = 0; k < 3; ++k)
        if (leads()) sums[k][row(i)] = 0.0;
  }
  // The centres fell by `change`.
  __device__ __forceinline__ void move(const float (&change)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (!leads()) continue;
      const int r = row(i);
      const double d = change[i];
      sums[2][r] += d * (2.0 * sums[1][r] + d * sums[0][r]);
      sums[1][r] += d * sums[0][r];
    }
  }
  // Probabilities, and dP as Centres::move() takes it.
  template <int kBlocks, class Dp>
  __device__ __forceinline__ void add(const float (&x)[kBlocks][4], const Dp& dp, const float (&centre)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float powers[3] = {};
      const auto add = [&](float p, float d) {
        const float y = p * (d - centre[i]);
        powers[0] = fmaf(p, p, powers[0]);
        powers[1] = fmaf(p, y, powers[1]);
        powers[2] = fmaf(y, y, powers[2]);
      };
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        const float2 d = dp(i, n);
        add(x[n][2 * i], d.x);
        add(x[n][2 * i + 1], d.y);
      }
#pragma unroll
      for (int k = 0; k < 3; ++k) {
        const float sum = add_lanes(powers[k]);
        if (leads()) sums[k][row(i)] += static_cast<double>(sum);
      }
    }
  }
  // Of row i around centre + delta, its first lane.
  __device__ double around(int i, double delta) const {
    const int r = row(i);
    return sum_of_squares(sums[0][r], sums[1][r], sums[2][r], delta);
  }
};

}  // namespace saccade::cuda
