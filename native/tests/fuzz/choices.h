// Decisions read from a stream of bytes.  Past the end every choice is its first, plainest one: a short input is a
// simple case, and a fuzzer that shortens an input simplifies it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace fuzz {

class Choices {
 public:
  Choices(const uint8_t* data, size_t size) : next_(data), end_(data + size) {}

  uint64_t bytes(int count) {
    uint64_t value = 0;
    for (int i = 0; i < count && next_ < end_; ++i) value |= uint64_t{*next_++} << 8 * i;
    return value;
  }

  // In [0, n), n >= 1.
  int64_t below(int64_t n) {
    const int count = n <= 256 ? 1 : n <= 65536 ? 2 : 8;
    return static_cast<int64_t>(bytes(count) % static_cast<uint64_t>(n));
  }

  // In [low, high].
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }

  bool one_in(int64_t n) { return below(n) == n - 1; }

  template <class T>
  T of(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<int64_t>(values.size()))];
  }

 private:
  const uint8_t* next_;
  const uint8_t* end_;
};

// Data is not worth a choice for every element: it grows from a seed (SplitMix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }

  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }

  // About normal: mean 0, variance 1.
  double normal() {
    double sum = 0.0;
    for (int i = 0; i < 3; ++i) sum += static_cast<double>(next() >> 11) * 0x1p-53 - 0.5;
    return 2.0 * sum;
  }

  template <class T>
  T of(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<int64_t>(values.size()))];
  }

 private:
  uint64_t state_;
};

}  // namespace fuzz
