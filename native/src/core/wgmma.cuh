// Products of tiles by warpgroups of four warps, on Hopper: wgmma over bf16 with f32 accumulation.  The tiles are those
// of core/mma.cuh with one part; the tensor cores read them where they lie, and a left factor from registers too.  A
// warp's share of a product is what core/mma.cuh gives it.  Code for other GPUs may name these functions, but not call
// them.
#pragma once

#include "core/mma.cuh"

namespace saccade::cuda {

#if defined(SACCADE_HOPPER)
constexpr bool kHopper = true;
#else
constexpr bool kHopper = false;
#endif

// Before the first product, and where other instructions wrote what products add to or read from registers.
__device__ __forceinline__ void wgmma_fence() {
#if defined(SACCADE_HOPPER)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// Waits until all but the newest kLeft committed groups of products are done.
template <int kLeft>
__device__ __forceinline__ void wgmma_wait() {
#if defined(SACCADE_HOPPER)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
#endif
}

__device__ __forceinline__ void wgmma_commit() {
#if defined(SACCADE_HOPPER)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Where a factor lies in shared memory, 128 bytes a row of a panel, eight rows 1024 bytes apart, panels `panel` bytes.
// What is `offset` bytes further has another low half only: the rest is made once.
struct WgmmaFactor {
  uint32_t low, high;

  __device__ __forceinline__ WgmmaFactor(uint32_t address, uint32_t panel)
      : low(panel / 16 << 16 | (address & 0x3ffff) / 16), high(1u << 30 | 1024 / 16) {}
  __device__ __forceinline__ uint64_t at(uint32_t offset) const {
    return static_cast<uint64_t>(high) << 32 | (low + offset / 16);
  }
};

#define SACCADE_SUMS(c) "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])

// The registers of a product are read no sooner than here.
template <int kBlocks>
__device__ __forceinline__ void wgmma_settle(float (&c)[kBlocks][4]) {
#pragma unroll
  for (int n = 0; n < kBlocks; ++n) asm volatile("" : SACCADE_SUMS(c[n])::"memory");
}

// c = a b^T, or c += a b^T, over 16 columns of both, of 64 rows and 64 or 128 columns.
__device__ __forceinline__ void wgmma_transposed(float (&c)[8][4], uint64_t a, uint64_t b, bool add) {
#if defined(SACCADE_HOPPER)
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, "
      "1, 0, 0;\n}"
      : SACCADE_SUMS(c[0]), SACCADE_SUMS(c[1]), SACCADE_SUMS(c[2]), SACCADE_SUMS(c[3]), SACCADE_SUMS(c[4]),
        SACCADE_SUMS(c[5]), SACCADE_SUMS(c[6]), SACCADE_SUMS(c[7])
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
#endif
}

__device__ __forceinline__ void wgmma_transposed(float (&c)[16][4], uint64_t a, uint64_t b, bool add) {
#if defined(SACCADE_HOPPER)
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, "
      "%35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, "
      "%57, %58, %59, %60, %61, %62, %63}, %64, %65, p, 1, 1, 0, 0;\n}"
      : SACCADE_SUMS(c[0]), SACCADE_SUMS(c[1]), SACCADE_SUMS(c[2]), SACCADE_SUMS(c[3]), SACCADE_SUMS(c[4]),
        SACCADE_SUMS(c[5]), SACCADE_SUMS(c[6]), SACCADE_SUMS(c[7]), SACCADE_SUMS(c[8]), SACCADE_SUMS(c[9]),
        SACCADE_SUMS(c[10]), SACCADE_SUMS(c[11]), SACCADE_SUMS(c[12]), SACCADE_SUMS(c[13]), SACCADE_SUMS(c[14]),
        SACCADE_SUMS(c[15])
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
#endif
}

// As before with a's rows in registers.
__device__ __forceinline__ void wgmma_transposed(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
#if defined(SACCADE_HOPPER)
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, "
      "%35}, %36, p, 1, 1, 0;\n}"
      : SACCADE_SUMS(c[0]), SACCADE_SUMS(c[1]), SACCADE_SUMS(c[2]), SACCADE_SUMS(c[3]), SACCADE_SUMS(c[4]),
        SACCADE_SUMS(c[5]), SACCADE_SUMS(c[6]), SACCADE_SUMS(c[7])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
#endif
}

__device__ __forceinline__ void wgmma_transposed(float (&c)[16][4], const uint32_t (&a)[4], uint64_t b, bool add) {
#if defined(SACCADE_HOPPER)
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, "
      "%35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, "
      "%57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}"
      : SACCADE_SUMS(c[0]), SACCADE_SUMS(c[1]), SACCADE_SUMS(c[2]), SACCADE_SUMS(c[3]), SACCADE_SUMS(c[4]),
        SACCADE_SUMS(c[5]), SACCADE_SUMS(c[6]), SACCADE_SUMS(c[7]), SACCADE_SUMS(c[8]), SACCADE_SUMS(c[9]),
        SACCADE_SUMS(c[10]), SACCADE_SUMS(c[11]), SACCADE_SUMS(c[12]), SACCADE_SUMS(c[13]), SACCADE_SUMS(c[14]),
        SACCADE_SUMS(c[15])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
#endif
}

// c += a b, of 64 x 16 and 16 x 64 or 128; a is in registers.
__device__ __forceinline__ void wgmma_add(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b) {
#if defined(SACCADE_HOPPER)
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, "
      "%35}, %36, p, 1, 1, 1;\n}"
      : SACCADE_SUMS(c[0]), SACCADE_SUMS(c[1]), SACCADE_SUMS(c[2]), SACCADE_SUMS(c[3]), SACCADE_SUMS(c[4]),
        SACCADE_SUMS(c[5]), SACCADE_SUMS(c[6]), SACCADE_SUMS(c[7])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#endif
}

__device__ __forceinline__ void wgmma_add(float (&c)[16][4], const uint32_t (&a)[4], uint64_t b) {
#if defined(SACCADE_HOPPER)
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, "
      "%35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, "
      "%57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
      : SACCADE_SUMS(c[0]), SACCADE_SUMS(c[1]), SACCADE_SUMS(c[2]), SACCADE_SUMS(c[3]), SACCADE_SUMS(c[4]),
        SACCADE_SUMS(c[5]), SACCADE_SUMS(c[6]), SACCADE_SUMS(c[7]), SACCADE_SUMS(c[8]), SACCADE_SUMS(c[9]),
        SACCADE_SUMS(c[10]), SACCADE_SUMS(c[11]), SACCADE_SUMS(c[12]), SACCADE_SUMS(c[13]), SACCADE_SUMS(c[14]),
        SACCADE_SUMS(c[15])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#endif
}

#undef SACCADE_SUMS

// Begins s = a(the 64 rows from `row` on) b^T over the columns of both; done after a wait and wgmma_settle().
template <class A, class B>
__device__ __forceinline__ void wgmma_multiply_transposed(float (&s)[B::kRows / 8][4], const A& a, int row,
                                                          const B& b) {
  static_assert(A::kDim == B::kDim && A::kParts == 1 && B::kParts == 1);
  const WgmmaFactor left(a.base + row * A::kRow, 16), right(b.base, 16);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < A::kDim / 16; ++k)
    wgmma_transposed(s, left.at(k / 4 * A::kPanel + k % 4 * 32), right.at(k / 4 * B::kPanel + k % 4 * 32), k > 0);
  wgmma_commit();
}

// As before with a's 64 rows in registers, as its left() loads them.
template <int kSteps, class B>
__device__ __forceinline__ void wgmma_multiply_transposed(float (&s)[B::kRows / 8][4], const uint32_t (&a)[kSteps][4],
                                                          const B& b) {
  static_assert(B::kDim == 16 * kSteps && B::kParts == 1);
  const WgmmaFactor right(b.base, 16);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < kSteps; ++k) wgmma_transposed(s, a[k], right.at(k / 4 * B::kPanel + k % 4 * 32), k > 0);
  wgmma_commit();
}

// The left factor of wgmma_multiply_add(): w in bf16.  The tensor cores read its registers until the products are done,
// which the compiler does not know: it would give them to others.  hold() after the wait names them in stores that
// never happen; `never` is false, and not known to be so.
template <int kRows>
struct WgmmaWeights {
  uint32_t x[kRows / 16][4];

  WgmmaWeights() = default;
  __device__ __forceinline__ explicit WgmmaWeights(const float (&w)[kRows / 8][4]) { set(w); }
  __device__ __forceinline__ void set(const float (&w)[kRows / 8][4]) {
#pragma unroll
    for (int k = 0; k < kRows / 16; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) x[k][i] = pack_bf16(w[2 * k + i / 2][i % 2 * 2], w[2 * k + i / 2][i % 2 * 2 + 1]);
  }
  __device__ __forceinline__ void hold(bool never) const {
#if defined(SACCADE_HOPPER)
#pragma unroll
    for (int k = 0; k < kRows / 16; ++k)
      asm volatile(
          "{\n.reg .pred p;\nsetp.ne.b32 p, %4, 0;\n"
          "@p st.shared.v4.b32 [%5], {%0, %1, %2, %3};\n}" ::"r"(x[k][0]),
          "r"(x[k][1]), "r"(x[k][2]), "r"(x[k][3]), "r"(static_cast<int>(never)), "r"(0)
          : "memory");
#endif
  }
};

// Begins out += w b for the first columns of b; done after a wait and wgmma_settle().
template <class B, int kBlocks>
__device__ __forceinline__ void wgmma_multiply_add(float (&out)[kBlocks][4], const WgmmaWeights<B::kRows>& w,
                                                   const B& b) {
  const WgmmaFactor right(b.base, B::kPanel);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < B::kRows / 16; ++k) wgmma_add(out, w.x[k], right.at(16 * k * B::kRow));
  wgmma_commit();
}

}  // namespace saccade::cuda
