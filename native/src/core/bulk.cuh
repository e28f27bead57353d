// Hopper's bulk copies between global and shared memory, and the barriers that loads arrive at.  Addresses and sizes
// are multiples of 16 bytes.  Code for other GPUs may name these functions, but not call them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace saccade::cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define SACCADE_HOPPER 1
#endif

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void barrier_init(uint64_t* barrier, uint32_t arrivals) {
#if defined(SACCADE_HOPPER)
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
#endif
}

__device__ __forceinline__ void barrier_arrive(uint32_t address) {
#if defined(SACCADE_HOPPER)
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address) : "memory");
#endif
}

__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) { barrier_arrive(shared_address(barrier)); }

// Makes initialised barriers visible to the copy engine and the other blocks of the cluster.
__device__ __forceinline__ void barrier_fence() {
#if defined(SACCADE_HOPPER)
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

__device__ __forceinline__ int cluster_rank() {
  uint32_t rank = 0;
#if defined(SACCADE_HOPPER)
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return static_cast<int>(rank);
}

// All threads of all blocks of the cluster; what they wrote to shared memory before is seen after.
__device__ __forceinline__ void cluster_sync() {
#if defined(SACCADE_HOPPER)
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#endif
}

// Writes to where `p` of this block is in the shared memory of block `rank`.
__device__ __forceinline__ void cluster_store(float* p, int rank, float value) {
#if defined(SACCADE_HOPPER)
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(p)), "r"(rank));
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(there), "f"(value) : "memory");
#endif
}

// Waits for the end of phase 0 or 1.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, uint32_t phase) {
#if defined(SACCADE_HOPPER)
  uint32_t done;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(phase)
        : "memory");
  } while (!done);
#endif
}

// Nanoseconds that a thread may sleep before it looks again.
constexpr uint32_t kLongestSleep = 10000000;

// As barrier_wait(); the thread sleeps until it is woken, and takes no issue slots from others.
__device__ __forceinline__ void barrier_sleep(uint32_t address, uint32_t phase) {
#if defined(SACCADE_HOPPER)
  uint32_t done;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2, %3;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(address), "r"(phase), "r"(kLongestSleep)
        : "memory");
  } while (!done);
#endif
}

__device__ __forceinline__ void barrier_sleep(uint64_t* barrier, uint32_t phase) {
  barrier_sleep(shared_address(barrier), phase);
}

// 16 bytes at an address of shared_address(), which costs fewer instructions than a pointer.
__device__ __forceinline__ uint4 load_shared(uint32_t address) {
  uint4 x = {};
#if defined(SACCADE_HOPPER)
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "r"(address));
#endif
  return x;
}

__device__ __forceinline__ void store_shared(uint32_t address, const uint4& x) {
#if defined(SACCADE_HOPPER)
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
               : "memory");
#endif
}

// As barrier_sleep(), for what threads of other blocks wrote before they came.
__device__ __forceinline__ void barrier_sleep_cluster(uint64_t* barrier, uint32_t phase) {
#if defined(SACCADE_HOPPER)
  uint32_t done;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2, %3;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(phase), "r"(kLongestSleep)
        : "memory");
  } while (!done);
#endif
}

// Where `p` of this block is in the shared memory of block `rank` of the cluster.
__device__ __forceinline__ uint32_t cluster_address(const void* p, int rank) {
  uint32_t there = 0;
#if defined(SACCADE_HOPPER)
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(p)), "r"(rank));
#endif
  return there;
}

// Writes 16 bytes to the shared memory of a block, where they count at a barrier that barrier_expect() tells how many
// to wait for; both by cluster_address().
__device__ __forceinline__ void cluster_send(uint32_t address, const uint4& x, uint32_t barrier) {
#if defined(SACCADE_HOPPER)
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.u32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(address),
      "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w), "r"(barrier)
      : "memory");
#endif
}

// Arrives at a barrier of this block; its phase ends when the bytes are there too.
__device__ __forceinline__ void barrier_expect(uint32_t address, uint32_t bytes) {
#if defined(SACCADE_HOPPER)
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes) : "memory");
#endif
}

__device__ __forceinline__ void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  barrier_expect(shared_address(barrier), bytes);
}

// Copies to shared memory bytes that the barrier expects.
__device__ __forceinline__ void bulk_copy(uint32_t destination, const void* source, uint32_t bytes, uint32_t barrier) {
#if defined(SACCADE_HOPPER)
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(destination),
      "l"(source), "r"(bytes), "r"(barrier)
      : "memory");
#endif
}

__device__ __forceinline__ void bulk_copy(void* destination, const void* source, uint32_t bytes, uint64_t* barrier) {
  bulk_copy(shared_address(destination), source, bytes, shared_address(barrier));
}

// Loads into shared memory; the barrier's phase ends when the bytes are there.
__device__ __forceinline__ void bulk_load(uint32_t destination, const void* source, uint32_t bytes, uint32_t barrier) {
  barrier_expect(barrier, bytes);
  bulk_copy(destination, source, bytes, barrier);
}

__device__ __forceinline__ void bulk_load(void* destination, const void* source, uint32_t bytes, uint64_t* barrier) {
  bulk_load(shared_address(destination), source, bytes, shared_address(barrier));
}

// For what is too short for bulk copies, which take some 60 cycles each however few bytes they have: copies 16 bytes to
// shared memory, the first `bytes` of them from the source and then zeros.
__device__ __forceinline__ void copy_16(uint32_t destination, const void* source, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_16(void* destination, const void* source, uint32_t bytes) {
  copy_16(shared_address(destination), source, bytes);
}

__device__ __forceinline__ void copy_4(uint32_t destination, const void* source) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(destination), "l"(source) : "memory");
}

// Ends a group of what the thread began to copy by copy_16() and copy_4().
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all groups of this thread but the newest `kLeft` are there.
template <int kLeft>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// Arrives at the barrier once all that the thread began to copy by copy_16() is there.
__device__ __forceinline__ void barrier_arrive_copied(uint64_t* barrier) {
#if defined(SACCADE_HOPPER)
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}

// Ordinary writes to shared memory before this are seen by bulk stores after it.
__device__ __forceinline__ void bulk_fence() {
#if defined(SACCADE_HOPPER)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Stores from shared memory, as a group of its own.
__device__ __forceinline__ void bulk_store(void* destination, uint32_t source, uint32_t bytes) {
#if defined(SACCADE_HOPPER)
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(destination), "r"(source), "r"(bytes)
               : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

__device__ __forceinline__ void bulk_store(void* destination, const void* source, uint32_t bytes) {
  bulk_store(destination, shared_address(source), bytes);
}

// Waits until all groups of this thread but the newest `kLeft` have been read from shared memory.
template <int kLeft>
__device__ __forceinline__ void bulk_wait_read() {
#if defined(SACCADE_HOPPER)
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kLeft) : "memory");
#endif
}

// Waits until all groups of this thread are written.
__device__ __forceinline__ void bulk_wait_all() {
#if defined(SACCADE_HOPPER)
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
#endif
}

}  // namespace saccade::cuda
