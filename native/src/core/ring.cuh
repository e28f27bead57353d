// How blocks of Hopper's warpgroups work: a first pass lays what moves by out as tiles of bf16 in the order of shared
// memory, so that one bulk copy loads a tile, whatever strides, alignment and ragged ends the tensors have.  Then the
// warpgroups of a block multiply, while a warp of the last one copies tile after tile into a ring of slots.
#pragma once

#include "core/wgmma.cuh"

namespace saccade::cuda {

constexpr int kWriters = 256;  // threads of a block that writes tiles
constexpr int kGroups = 2, kConsumers = 128 * kGroups, kBlockThreads = kConsumers + 128;

// -------------------------------------------------------------------------------------------------- tiles

template <int kRows, int kDim>
constexpr int kTileBytes = 2 * kRows* kDim;

// Writes eight columns of a tile in global memory; they are lost.
template <int kRows, int kDim>
__device__ __forceinline__ void store_chunk(uint8_t* tile, int row, int chunk, float (&x)[8]) {
  uint4 bits;
  bits.x = take_part(x[0], x[1]);
  bits.y = take_part(x[2], x[3]);
  bits.z = take_part(x[4], x[5]);
  bits.w = take_part(x[6], x[7]);
  *reinterpret_cast<uint4*>(tile + MmaTile<1, kRows, kDim>{0}.address(0, row, chunk)) = bits;
}

// Calls body(columns of a tile), a compile-time constant, for heads of `dim`.
template <class Body>
void with_dim(int64_t dim, const Body& body) {
  if (dim <= 64)
    body(std::integral_constant<int, 64>{});
  else
    body(std::integral_constant<int, 128>{});
}

// --------------------------------------------------------------------------------------------------- ring

// Slots of shared memory that one thread fills in turn, with kCopiers others if any, and all warps of the consumers, of
// so many groups, empty.  kLanes of a warp say so: all, where they read the slot themselves, or one where only tensor
// cores do.  kHeld: the consumers have the slots first, for something else.
template <int kBytes_, int kLanes, int kSlots = 4, int kConsumerGroups = kGroups, int kCopiers = 0, bool kHeld = false>
struct Ring {
  static constexpr int kBytes = kBytes_;  // of a slot
  static constexpr int kShared = kSlots * kBytes + 2 * kSlots * static_cast<int>(sizeof(uint64_t));
  static constexpr int kSpace = (kShared + 1023) / 1024 * 1024;  // to the next ring
  static_assert(kBytes % 1024 == 0);

  unsigned char* slots;

  __device__ explicit Ring(unsigned char* at) : slots(at) {}

  __device__ void init() const {
    for (int i = 0; i < kSlots; ++i) {
      barrier_init(full(i), 1 + kCopiers);
      barrier_init(empty(i), 4 * kConsumerGroups * kLanes);
    }
    barrier_fence();
  }
  __device__ __forceinline__ unsigned char* slot(uint32_t i) const { return slots + i % kSlots * kBytes; }

  // Number i, once what was in its slot has been released: by one copy, or by several after wait_empty() and expect().
  __device__ __forceinline__ void fill(uint32_t i, const uint8_t* from, uint32_t bytes) const {
    wait_empty(i);
    bulk_load(slot(i), from, bytes, full(i));
  }
  __device__ __forceinline__ void wait_empty(uint32_t i) const {
    if (kHeld)
      barrier_wait(empty(i), i / kSlots & 1);
    else if (i >= kSlots)
      barrier_wait(empty(i), (i / kSlots - 1) & 1);
  }
  __device__ __forceinline__ void expect(uint32_t i, uint32_t bytes) const { barrier_expect(full(i), bytes); }
  // To `offset` of the slot; a multiple of 16, as the others.
  __device__ __forceinline__ void copy(uint32_t i, int offset, const void* from, uint32_t bytes) const {
    bulk_copy(slot(i) + offset, from, bytes, full(i));
  }

  // The consumers, where all slots are theirs at first.
  __device__ __forceinline__ void release_all() const {
    static_assert(kHeld);
    for (int i = 0; i < kSlots; ++i) release(i);
  }
  // One of the kCopiers, once all that it began to copy is there.
  __device__ __forceinline__ void arrive_copied(uint32_t i) const { barrier_arrive_copied(full(i)); }

  __device__ __forceinline__ void wait(uint32_t i) const { barrier_wait(full(i), i / kSlots & 1); }
  __device__ __forceinline__ void release(uint32_t i) const {
    if (kLanes == 1) __syncwarp();
    if (threadIdx.x % 32 < kLanes) barrier_arrive(empty(i));
  }

 private:
  __device__ __forceinline__ uint64_t* full(uint32_t i) const {
    return reinterpret_cast<uint64_t*>(slots + kSlots * kBytes) + i % kSlots;
  }
  __device__ __forceinline__ uint64_t* empty(uint32_t i) const { return full(i) + kSlots; }
};

// Registers of the threads of a warpgroup: of those that copy, and of those that multiply.  24 and 240, or 40 and 232;
// 24 and 160 where three groups multiply.
template <int kCount = 24>
__device__ __forceinline__ void few_registers() {
#if defined(SACCADE_HOPPER)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}
template <int kCount = 240>
__device__ __forceinline__ void many_registers() {
#if defined(SACCADE_HOPPER)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}

template <int kThreads = kConsumers>
__device__ __forceinline__ void consumers_sync() {
#if defined(SACCADE_HOPPER)
  asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
#endif
}

// What is the same for all threads of a warp, known as such to the compiler: addresses made of it need no vector
// registers.
__device__ __forceinline__ int uniform(int x) { return __shfl_sync(~0u, x, 0); }

__device__ __forceinline__ int group() { return static_cast<int>(threadIdx.x / 128); }

// The threads of one group.
__device__ __forceinline__ void group_sync() {
#if defined(SACCADE_HOPPER)
  asm volatile("bar.sync %0, 128;" ::"r"(2 + group()) : "memory");
#endif
}

}  // namespace saccade::cuda
