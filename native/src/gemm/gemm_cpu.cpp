#include "core/simd.h"
#include "gemm/gemm.h"

namespace saccade::SACCADE_ISA {
namespace {

constexpr int32_t kRowMajor = 101, kNoTrans = 111, kTrans = 112;
constexpr int64_t kElements = 1 << 14;  // of C in a task that only reads and writes

// c = beta * c, without reading c where beta is 0.
void scale(Pool& pool, const saccade_gemm_args& args) {
  const int64_t step = (kElements + args.n - 1) / args.n;
  pool.run((args.m + step - 1) / step, [&](int64_t task, int) {
    const int64_t end = (task + 1) * step < args.m ? (task + 1) * step : args.m;
    for (int64_t i = task * step; i < end; ++i) {
      float* c = pointer<float>(args.c) + i * args.c_stride;
      for_lanes(args.n, [&](int64_t j, int64_t lanes) {
        store(c + j, lanes, args.beta == 0.0f ? splat(0.0f) : load(c + j, lanes, 0.0f) * args.beta);
      });
    }
  });
}

// c = sum of the slices' products + beta * c, in f64.
void add_slices(Pool& pool, const saccade_gemm_args& args, int64_t slices) {
  constexpr int64_t kChunk = 64;
  const float* partials = pointer<const float>(args.workspace);
  const int64_t work = args.n * slices, step = work < kElements ? kElements / work : 1;
  pool.run((args.m + step - 1) / step, [&](int64_t task, int) {
    const int64_t end = (task + 1) * step < args.m ? (task + 1) * step : args.m;
    for (int64_t i = task * step; i < end; ++i) {
      float* c = pointer<float>(args.c) + i * args.c_stride;
      const float* row = partials + i * args.n;
      for (int64_t begin = 0; begin < args.n; begin += kChunk) {
        const int64_t size = args.n - begin < kChunk ? args.n - begin : kChunk;
        double sum[kChunk];
        for (int64_t j = 0; j < size; ++j)
          sum[j] = args.beta == 0.0f ? 0.0 : static_cast<double>(args.beta) * static_cast<double>(c[begin + j]);
        for (int64_t s = 0; s < slices; ++s) {
          const float* part = row + s * args.m * args.n + begin;
          for (int64_t j = 0; j < size; ++j) sum[j] += static_cast<double>(part[j]);
        }
        for (int64_t j = 0; j < size; ++j) c[begin + j] = static_cast<float>(sum[j]);
      }
    }
  });
}

}  // namespace

void gemm(Pool& pool, saccade_cblas_sgemm provider, const saccade_gemm_args& args, const GemmPlan& plan) {
  if (args.m == 0 || args.n == 0) return;
  if (args.k == 0) return scale(pool, args);
  const float* a = pointer<const float>(args.a);
  const float* b = pointer<const float>(args.b);
  float* c = pointer<float>(args.c);
  float* partials = pointer<float>(args.workspace);
  const bool split = plan.slices > 1;
  const int64_t blocks = plan.row_blocks * plan.column_blocks;
  pool.run(blocks * plan.slices, [&](int64_t task, int) {
    const int64_t s = task / blocks, block = task % blocks;
    const int64_t i = block / plan.column_blocks * plan.row_block, j = block % plan.column_blocks * plan.column_block;
    const int64_t l = s * plan.slice;
    const int64_t m = args.m - i < plan.row_block ? args.m - i : plan.row_block;
    const int64_t n = args.n - j < plan.column_block ? args.n - j : plan.column_block;
    const int64_t k = args.k - l < plan.slice ? args.k - l : plan.slice;
    const float* block_a = a + (args.trans_a ? l * args.a_stride + i : i * args.a_stride + l);
    const float* block_b = b + (args.trans_b ? j * args.b_stride + l : l * args.b_stride + j);
    float* block_c = split ? partials + (s * args.m + i) * args.n + j : c + i * args.c_stride + j;
    provider(kRowMajor, args.trans_a ? kTrans : kNoTrans, args.trans_b ? kTrans : kNoTrans, static_cast<int32_t>(m),
             static_cast<int32_t>(n), static_cast<int32_t>(k), args.alpha, block_a, static_cast<int32_t>(args.a_stride),
             block_b, static_cast<int32_t>(args.b_stride), split ? 0.0f : args.beta, block_c,
             static_cast<int32_t>(split ? args.n : args.c_stride));
  });
  if (split) add_slices(pool, args, plan.slices);
}

}  // namespace saccade::SACCADE_ISA
