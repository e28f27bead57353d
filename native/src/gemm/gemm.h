// gemm: C = alpha * op(A) * op(B) + beta * C through the context's provider.
//
// CPU.  The provider is single-threaded; this operation cuts the product into calls of it on the context's pool.  The
// cut depends on m, n and k only, so that the bits do not depend on the thread count:
//   blocks of C   tasks that share nothing; a block is large enough to pay for packing its operands once more.
//   slices of k   where C has too few blocks to occupy a machine and k is long (weight gradients: m, n ~ 100, k the
//                 tokens of a batch).  Every slice writes its own copy of the block into the workspace; the copies are
//                 then added in f64, in the order of k.
// A product below kGemmTask is one call on the calling thread.
// CUDA.  One call of cuBLAS, which is told the transpose of everything: its matrices are column-major.
#pragma once

#include "core/call.h"

namespace saccade {

// row_blocks x column_blocks blocks of C, each of row_block x column_block elements but for the last of a row or
// column of blocks; slices of k, of slice terms but for the last.
struct GemmPlan {
  int64_t row_block, row_blocks;
  int64_t column_block, column_blocks;
  int64_t slice, slices;

  // Floats of the partial products; 0 where k is not cut.
  int64_t partials(int64_t m, int64_t n) const { return slices > 1 ? slices * m * n : 0; }
};

// The cut of a product; every size below 2^31.
GemmPlan gemm_plan(int64_t m, int64_t n, int64_t k);

// At least the partials of every product of sizes up to m, n and k.
int64_t gemm_most_partials(int64_t m, int64_t n, int64_t k);

void require_gemm(const saccade_context* context);

namespace cuda {
// The product of A and B of `dtype` (f32, bf16 or f16) into C of f32, sizes and strides below 2^31; the precision is
// that of f32 factors.
void multiply(const Device& device, const saccade_gemm_args& args, int32_t dtype);
}  // namespace cuda

}  // namespace saccade

SACCADE_DECLARE_CPU(void gemm(Pool& pool, saccade_cblas_sgemm provider, const saccade_gemm_args& args,
                              const GemmPlan& plan))
