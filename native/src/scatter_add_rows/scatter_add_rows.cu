#include <algorithm>

#include "core/rows.cuh"
#include "scatter_add_rows/scatter_add_rows.h"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kItems = 8, kRound = kItems * kThreads;  // indices of a thread, and of the block, that are read at once
constexpr int kMost = 2 * kRound;                      // rows of x in the list
constexpr int kAhead = 8;                              // of them on their way at once

// What a block adds to its rows of y next, in order.
struct List {
  int32_t from[kMost], to[kMost];  // rows of x and y
};

// Adds columns of a thread.  Of rows to the same one, a later takes over the sum of the one before.
template <int kWide>
__device__ __forceinline__ void add(const List& list, int count, const float* __restrict__ x, int64_t x_stride,
                                    float* y, int64_t y_stride) {
  for (int n = 0; n < count; n += kAhead) {
    Floats<kWide> next[kAhead], sum[kAhead];
    int32_t to[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      to[a] = n + a < count ? list.to[n + a] : -1;
      if (to[a] < 0) continue;
      next[a] = load_floats<kWide>(x + list.from[n + a] * x_stride);
      sum[a] = load_floats<kWide>(y + to[a] * y_stride);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
#pragma unroll
      for (int b = 0; b < a; ++b)
        if (to[b] == to[a]) sum[a] = sum[b];
#pragma unroll
      for (int e = 0; e < kWide; ++e) sum[a].x[e] += next[a].x[e];
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a)
      if (to[a] >= 0) store_floats(y + to[a] * y_stride, sum[a]);
  }
}

// No atomics: of `owners` blocks, each has every owners-th row of y, and kThreads * kWide columns of them.  It reads
// the whole index, in rounds, and lists what is for its rows.  Where the list might not hold another round, and at the
// end, every thread adds what is listed to its columns.
template <int kWide>
__global__ void __launch_bounds__(kThreads) scatter_kernel(saccade_scatter_add_rows_args args, uint32_t owners) {
  __shared__ List list;
  __shared__ int counts[2][kWarps];
  const uint32_t own = blockIdx.x % owners, y_rows = static_cast<uint32_t>(args.y_rows);
  const int64_t column = (static_cast<int64_t>(blockIdx.x / owners) * kThreads + threadIdx.x) * kWide;
  const int32_t* index = pointer<const int32_t>(args.index);
  const float* x = pointer<const float>(args.x) + column;
  float* y = pointer<float>(args.y) + column;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  int listed = 0, turn = 0;
  for (int64_t first = 0; first < args.count; first += kRound, turn ^= 1) {
    const int64_t begin = first + warp * kItems * 32 + lane;
    uint32_t rows[kItems], mine[kItems];
    int count = 0;
#pragma unroll
    for (int k = 0; k < kItems; ++k)
      rows[k] = begin + 32 * k < args.count ? static_cast<uint32_t>(index[begin + 32 * k]) : UINT32_MAX;
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      mine[k] = __ballot_sync(~0u, rows[k] < y_rows && rows[k] % owners == own);
      count += __popc(mine[k]);
    }
    if (lane == 0) counts[turn][warp] = count;
    __syncthreads();  // also: what was listed before has been added where it is to be overwritten
    int at = listed;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) at += counts[turn][w];
      listed += counts[turn][w];
    }
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      if (mine[k] >> lane & 1u) {
        const int place = at + __popc(mine[k] & ((1u << lane) - 1u));
        list.from[place] = static_cast<int32_t>(begin + 32 * k);
        list.to[place] = static_cast<int32_t>(rows[k]);
      }
      at += __popc(mine[k]);
    }
    if (listed <= kMost - kRound && first + kRound < args.count) continue;
    __syncthreads();
    if (column < args.columns) add<kWide>(list, listed, x, args.x_stride, y, args.y_stride);
    listed = 0;
  }
}

}  // namespace

void scatter_add_rows(const Device& device, const saccade_scatter_add_rows_args& args) {
  if (args.count == 0 || args.y_rows == 0) return;
  with_width(args.columns, {{args.x, args.x_stride}, {args.y, args.y_stride}}, [&](auto wide) {
    // Enough blocks to fill the GPU a few times; beyond that the fewer they are, the less often the index is read.
    const int64_t parts = divide_up(args.columns, kThreads * wide);
    const int64_t owners = std::clamp<int64_t>(8 * device.processors / std::max<int64_t>(parts, 1), 1, args.y_rows);
    launch(device, scatter_kernel<wide>, owners * parts, kThreads, args, static_cast<uint32_t>(owners));
  });
}

}  // namespace saccade::cuda
