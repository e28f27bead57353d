#include "gemm/gemm.h"

namespace saccade {
namespace {

constexpr int64_t kMaxInt = INT32_MAX;  // CBLAS takes sizes and strides as int

// Every block packs its operands anew, which costs in proportion to 1/rows + 1/columns.  Measured with OpenBLAS on
// AVX-512 cores, blocks of 512 x 512 reach 80 to 95 % of the speed of the uncut product, of 256 x 512 75 to 90 %, of
// 128 x 256 70 to 80 %: blocks shrink, to occupy a machine, only as far as the middle one.
constexpr int64_t kLargeRows = 512, kSmallRows = 256;
constexpr int64_t kColumns = 512;
constexpr int64_t kFewBlocks = 8;
constexpr int64_t kSlice = 512;                  // the shortest slice of k
constexpr int64_t kSliceTasks = 16;              // k is cut only as far as this many tasks need
constexpr int64_t kGemmTask = int64_t{1} << 20;  // multiply-adds that pay for handing a task out

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Cuts `size` into equal blocks of at most `limit`, each a multiple of 16 (whole tiles of the provider's kernels) but
// for the last.
void cut(int64_t size, int64_t limit, int64_t& block, int64_t& blocks) {
  const int64_t equal = ceil_div(size, ceil_div(size, limit));
  block = ceil_div(equal, 16) * 16;
  blocks = ceil_div(size, block);
}

}  // namespace

GemmPlan gemm_plan(int64_t m, int64_t n, int64_t k) {
  GemmPlan plan{m, 1, n, 1, k, 1};
  // Each factor is below 2^31: the product of all three is exact enough as a floating-point number.
  const double work = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  if (work <= static_cast<double>(kGemmTask)) return plan;
  // A block of C is long enough, in the dimension that is cut, for a task's worth of work.
  const auto at_least_a_task = [&](int64_t limit, int64_t other) {
    const int64_t enough = kGemmTask / (other * k);
    return enough > limit ? enough : limit;
  };
  cut(n, at_least_a_task(kColumns, m < kLargeRows ? m : kLargeRows), plan.column_block, plan.column_blocks);
  const bool few = ceil_div(m, kLargeRows) * plan.column_blocks < kFewBlocks;
  cut(m, at_least_a_task(few ? kSmallRows : kLargeRows, plan.column_block), plan.row_block, plan.row_blocks);
  // A power of two of slices: the usual thread counts share them evenly.
  const int64_t blocks = plan.row_blocks * plan.column_blocks;
  int64_t slices = 1;
  while (2 * slices * blocks <= kSliceTasks && 2 * slices * kSlice <= k) slices *= 2;
  if (slices > 1 && blocks < kFewBlocks) cut(k, ceil_div(k, slices), plan.slice, plan.slices);
  return plan;
}

int64_t gemm_most_partials(int64_t m, int64_t n, int64_t k) {
  if (k < 2 * kSlice) return 0;
  // Slices and blocks are at most kSliceTasks together.  A block has at most kLargeRows x kColumns elements, or, where
  // m or n is so small that at_least_a_task makes it longer, kGemmTask / (2 * kSlice); both rounded up to multiples
  // of 16.
  const int64_t rows = m < kLargeRows ? m : kLargeRows, columns = n < kColumns ? n : kColumns;
  return kSliceTasks * (rows * columns + 2 * kGemmTask / kSlice);
}

void require_gemm(const saccade_context* context) {
  SACCADE_IF_CUDA(if (context->gpu && cuda::has_cublas(*context->gpu)) return;)
  if (!context->gemm)
    fail(SACCADE_UNSUPPORTED, "context",
         context->gpu ? "a provider of matrix products (saccade_context_set_cublas; in Java, CuBlas of saccade-train)"
                      : "a provider of matrix products (saccade_context_set_gemm; in Java, OpenBlas of saccade-train)",
         "a context without one");
}

}  // namespace saccade

using namespace saccade;

namespace {

saccade_gemm_args checked(const saccade_context* context, const saccade_gemm_args* caller) {
  auto args = copy_args(caller);
  require_size("m", args.m, 0, kMaxInt);
  require_size("n", args.n, 0, kMaxInt);
  require_size("k", args.k, 0, kMaxInt);
  require_precision(context, args.precision);
  return args;
}

int64_t checked_leading(const char* argument, int64_t stride, int64_t rows, int64_t width) {
  stride = checked_stride(argument, stride, rows, width);
  require_size(argument, stride, 0, kMaxInt);
  return stride;
}

}  // namespace

int32_t saccade_gemm_workspace(saccade_context* context, const saccade_gemm_args* caller, int64_t* bytes) {
  return run(context, "gemm", [&] {
    const auto args = checked(context, caller);
    require_result(bytes);
    Carver carver(0);
    if (!context->gpu) carver.take<float>(gemm_plan(args.m, args.n, args.k).partials(args.m, args.n));
    *bytes = carver.bytes();
  });
}

int32_t saccade_gemm(saccade_context* context, const saccade_gemm_args* caller) {
  return run(context, "gemm", [&] {
    auto args = checked(context, caller);
    require_choice("trans_a", args.trans_a, 2, "0 or 1");
    require_choice("trans_b", args.trans_b, 2, "0 or 1");
    const int64_t a_rows = args.trans_a ? args.k : args.m, a_width = args.trans_a ? args.m : args.k;
    const int64_t b_rows = args.trans_b ? args.n : args.k, b_width = args.trans_b ? args.k : args.n;
    args.a_stride = checked_leading("a_stride", args.a_stride, a_rows, a_width);
    args.b_stride = checked_leading("b_stride", args.b_stride, b_rows, b_width);
    args.c_stride = checked_leading("c_stride", args.c_stride, args.m, args.n);
    Operands operands(context);
    operands.input("a", args.a, span(a_rows, args.a_stride, a_width), 4);
    operands.input("b", args.b, span(b_rows, args.b_stride, b_width), 4);
    operands.output("c", args.c, span(args.m, args.c_stride, args.n), 4);
    const GemmPlan plan = gemm_plan(args.m, args.n, args.k);
    operands.workspace(args.workspace, context->gpu ? 0 : plan.partials(args.m, args.n) * 4);
    operands.require_disjoint();
    require_gemm(context);
    SACCADE_IF_CUDA(if (context->gpu) return cuda::multiply(*context->gpu, args, SACCADE_F32);)
    SACCADE_CALL_CPU(context, gemm(context->pool, context->gemm, args, plan));
  });
}
