#include <algorithm>

#include "core/rows.cuh"
#include "scatter_add_rows/scatter_add_rows.h"

namespace saccade::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kItems = 8, kRound = kItems * kThreads;  // indices of a thread, and of the block, that are read at once
constexpr int kMaxOwn = 32;                            // rows of a block
constexpr int kAhead = 8;                              // rows of x that are on their way at once

// No atomics: a block owns rows of y, and kThreads of their columns.  It reads the whole index, in rounds: what is for
// its rows goes to a list, in order; then every thread adds up its column of what is listed.
__global__ void __launch_bounds__(kThreads) scatter_kernel(saccade_scatter_add_rows_args args, int own) {
  extern __shared__ float sums[];   // [own, kThreads]
  __shared__ int32_t list[kRound];  // i from the first of the round on, and the row of y from the block's first on
  __shared__ int counts[2][kWarps];
  const int64_t parts = divide_up(args.columns, kThreads), first_row = blockIdx.x / parts * own;
  const int64_t column = blockIdx.x % parts * kThreads + threadIdx.x;
  const int32_t* index = pointer<const int32_t>(args.index);
  const float* x = pointer<const float>(args.x) + column;
  float* y = pointer<float>(args.y) + first_row * args.y_stride + column;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  uint32_t some = 0;  // rows that there is a sum of
  int turn = 0;
  for (int64_t first = 0; first < args.count; first += kRound, turn ^= 1) {
    const int64_t begin = first + warp * kItems * 32 + lane;
    int64_t rows[kItems];
    uint32_t mine[kItems];
    int count = 0;
#pragma unroll
    for (int k = 0; k < kItems; ++k)
      rows[k] = begin + 32 * k < args.count ? int64_t{index[begin + 32 * k]} - first_row : -1;
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      if (rows[k] >= own || first_row + rows[k] >= args.y_rows) rows[k] = -1;
      mine[k] = __ballot_sync(~0u, rows[k] >= 0);
      count += __popc(mine[k]);
    }
    if (lane == 0) counts[turn][warp] = count;
    __syncthreads();  // also: the list of the last round has been read
    int total = 0, at = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) at += counts[turn][w];
      total += counts[turn][w];
    }
    if (total == 0) continue;
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      if (rows[k] >= 0)
        list[at + __popc(mine[k] & ((1u << lane) - 1u))] =
            static_cast<int32_t>(begin - first) + 32 * k | static_cast<int32_t>(rows[k]) << 16;
      at += __popc(mine[k]);
    }
    __syncthreads();
    if (column >= args.columns) continue;
    for (int n = 0; n < total; n += kAhead) {
      float next[kAhead], begun[kAhead];
      uint32_t fresh = 0;  // those that are the first of their rows
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        if (n + a >= total) break;
        const int row = list[n + a] >> 16;
        next[a] = x[(first + (list[n + a] & 0xffff)) * args.x_stride];
        if (some >> row & 1u) continue;
        begun[a] = y[row * args.y_stride];
        fresh |= 1u << a;
        some |= 1u << row;
      }
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        if (n + a >= total) break;
        float& sum = sums[(list[n + a] >> 16) * kThreads + static_cast<int>(threadIdx.x)];
        sum = (fresh >> a & 1u ? begun[a] : sum) + next[a];
      }
    }
  }
#pragma unroll 4
  for (int row = 0; row < own; ++row)
    if (some >> row & 1u) y[row * args.y_stride] = sums[row * kThreads + static_cast<int>(threadIdx.x)];
}

}  // namespace

void scatter_add_rows(const Device& device, const saccade_scatter_add_rows_args& args) {
  // Enough blocks to fill the GPU a few times; beyond that the fewer they are, the less often the index is read.
  const int64_t parts = divide_up(args.columns, kThreads), most = args.y_rows * parts / (4 * device.processors);
  const int own = static_cast<int>(std::clamp<int64_t>(most, 1, kMaxOwn));
  const int64_t blocks = args.count > 0 ? divide_up(args.y_rows, own) * parts : 0;
  launch_some_shared(device, scatter_kernel, blocks, kThreads, own * kThreads * static_cast<int>(sizeof(float)), args,
                     own);
}

}  // namespace saccade::cuda
