// Memory between guards: bytes around it are checked after a call, and under AddressSanitizer not even read.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SACCADE_FUZZ_ASAN
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SACCADE_FUZZ_ASAN
#endif
#if defined(SACCADE_FUZZ_ASAN)
#include <sanitizer/asan_interface.h>
#endif

namespace fuzz {

inline void forbid(const void* address, size_t bytes) {
#if defined(SACCADE_FUZZ_ASAN)
  ASAN_POISON_MEMORY_REGION(address, bytes);
#else
  (void)address, (void)bytes;
#endif
}

inline void allow(const void* address, size_t bytes) {
#if defined(SACCADE_FUZZ_ASAN)
  ASAN_UNPOISON_MEMORY_REGION(address, bytes);
#else
  (void)address, (void)bytes;
#endif
}

class Memory {
 public:
  static constexpr size_t kAlignment = 64, kGuard = 64;
  static constexpr uint8_t kGuardByte = 0xc3;

  // `bytes` bytes at `shift` bytes (below kAlignment) past a multiple of kAlignment.
  Memory(size_t bytes, size_t shift) : bytes_(bytes) {
    const size_t front = kGuard + shift, whole = (front + bytes + kGuard + kAlignment - 1) / kAlignment * kAlignment;
    block_ = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, whole));
    if (!block_) std::abort();
    size_ = whole;
    data_ = block_ + front;
    std::memset(block_, kGuardByte, size_);
  }
  ~Memory() {
    allow(block_, size_);
    std::free(block_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

  void forbid_guards() const {
    forbid(block_, static_cast<size_t>(data_ - block_));
    forbid(data_ + bytes_, static_cast<size_t>(block_ + size_ - data_) - bytes_);
  }
  void allow_all() const { allow(block_, size_); }

  // Once all is allowed again.
  bool guards_hold() const {
    for (const uint8_t* p = block_; p < block_ + size_; ++p) {
      if (p == data_) p += bytes_;
      if (p < block_ + size_ && *p != kGuardByte) return false;
    }
    return true;
  }

 private:
  uint8_t* block_;
  uint8_t* data_;
  size_t bytes_, size_;
};

}  // namespace fuzz
