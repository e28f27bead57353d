// What every ABI function does around its kernel: copy the args struct, check it, pick the kernel for the context's
// backend and instruction set, and turn failures into a status and a message.
#pragma once

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

#include "core/context.h"

// Usable in kernels too.
#if defined(__CUDACC__)
#define SACCADE_BOTH __host__ __device__
#else
#define SACCADE_BOTH
#endif

// What only a build with the CUDA backend has.
#if defined(SACCADE_WITH_CUDA)
#define SACCADE_IF_CUDA(...) __VA_ARGS__
#else
#define SACCADE_IF_CUDA(...)
#endif

namespace saccade {

// Thrown by checks, caught in guarded(); never leaves the library.
struct Failure {
  int32_t status;
  const char* argument;
  char expected[192];
  char actual[192];
};

[[noreturn]] inline void fail(int32_t status, const char* argument, const char* expected, const char* actual) {
  Failure failure{status, argument, "", ""};
  std::snprintf(failure.expected, sizeof failure.expected, "%s", expected);
  std::snprintf(failure.actual, sizeof failure.actual, "%s", actual);
  throw failure;
}

[[noreturn]] __attribute__((format(printf, 3, 4))) inline void invalid(const char* argument, const char* expected,
                                                                       const char* format, ...) {
  char actual[192];
  va_list values;
  va_start(values, format);
  std::vsnprintf(actual, sizeof actual, format, values);
  va_end(values);
  fail(SACCADE_INVALID_ARGUMENT, argument, expected, actual);
}

template <class Body>
int32_t guarded(ErrorState& error, const char* operation, const Body& body) {
  error.clear();
  try {
    body();
    return SACCADE_OK;
  } catch (const Failure& failure) {
    std::snprintf(error.argument, sizeof error.argument, "%s", failure.argument);
    std::snprintf(error.expected, sizeof error.expected, "%s", failure.expected);
    std::snprintf(error.actual, sizeof error.actual, "%s", failure.actual);
    std::snprintf(error.message, sizeof error.message, "%s: %s: expected %s, got %s", operation, failure.argument,
                  failure.expected, failure.actual);
    return failure.status;
  } catch (const std::bad_alloc&) {
    std::snprintf(error.message, sizeof error.message, "%s: out of host memory", operation);
    return SACCADE_OUT_OF_MEMORY;
  } catch (const std::exception& exception) {
    std::snprintf(error.message, sizeof error.message, "%s: %s", operation, exception.what());
    return SACCADE_INTERNAL;
  }
}

template <class Body>
int32_t run(saccade_context* context, const char* operation, const Body& body) {
  if (!context) return SACCADE_INVALID_ARGUMENT;
  return guarded(context->error, operation, [&] {
    SACCADE_IF_CUDA(const cuda::Current current(context->gpu);)
    body();
  });
}

// The caller's struct in this library's size: fields that an older caller does not know are 0; fields that this
// library does not know must be 0.
template <class Args>
Args copy_args(const Args* caller, const char* argument = "args") {
  if (!caller) invalid(argument, "the address of an args struct", "null");
  uint64_t size;
  std::memcpy(&size, caller, sizeof size);
  if (size < sizeof size || size > (1u << 16) || size % alignof(Args))
    invalid("struct_size", "sizeof of the args struct", "%llu", static_cast<unsigned long long>(size));
  Args args;
  std::memset(static_cast<void*>(&args), 0, sizeof args);
  std::memcpy(static_cast<void*>(&args), caller, size < sizeof args ? size : sizeof args);
  for (uint64_t i = sizeof args; i < size; ++i)
    if (reinterpret_cast<const unsigned char*>(caller)[i])
      fail(SACCADE_UNSUPPORTED, "struct_size", "options that this version knows", "a newer struct with an option set");
  return args;
}

// ------------------------------------------------------------------------------------------------- checks

inline void require(bool ok, const char* argument, const char* expected, double actual) {
  if (!ok) invalid(argument, expected, "%g", actual);
}

inline bool positive(float x) { return x > 0.0f && x < INFINITY; }

inline void require_positive(const char* argument, float x) {
  require(positive(x), argument, "a finite number above 0", static_cast<double>(x));
}

inline void require_size(const char* argument, int64_t size, int64_t minimum = 0, int64_t maximum = INT64_MAX) {
  if (size >= minimum && size <= maximum) return;
  char expected[96];
  if (maximum == INT64_MAX)
    std::snprintf(expected, sizeof expected, "at least %lld", static_cast<long long>(minimum));
  else
    std::snprintf(expected, sizeof expected, "%lld to %lld", static_cast<long long>(minimum),
                  static_cast<long long>(maximum));
  invalid(argument, expected, "%lld", static_cast<long long>(size));
}

constexpr int64_t kMaxRows = (int64_t{1} << 31) - 1;  // R < 2^31; row indices cross as i32

inline void require_rows(const char* argument, int64_t rows) { require_size(argument, rows, 0, kMaxRows); }

// a * b, an error where the product does not fit.
inline int64_t checked_product(const char* argument, int64_t a, int64_t b) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product) || product > (int64_t{1} << 60))
    invalid(argument, "fewer than 2^60 elements", "%lld x %lld", static_cast<long long>(a), static_cast<long long>(b));
  return product;
}

inline void require_room(const char* argument, saccade_address address, int64_t bytes) {
  if (address > UINT64_MAX - static_cast<uint64_t>(bytes))
    invalid(argument, "memory within the address space", "%lld bytes from 0x%llx", static_cast<long long>(bytes),
            static_cast<unsigned long long>(address));
}

// Presence, element alignment and room of an address that stands for `elements` elements of `element_size` bytes.
inline void require_address(const char* argument, saccade_address address, int64_t elements, int64_t element_size) {
  if (elements > 0 && !address)
    invalid(argument, "an address", "null with %lld elements", static_cast<long long>(elements));
  if (address % static_cast<uint64_t>(element_size))
    invalid(argument, "an address aligned to its element", "0x%llx", static_cast<unsigned long long>(address));
  require_room(argument, address, checked_product(argument, elements < 0 ? 0 : elements, element_size));
}

// Where a query writes its answer.
inline void require_result(const void* result) {
  if (!result) invalid("bytes", "an address for the result", "null");
}

inline int64_t float_size(const char* argument, int32_t dtype) {
  if (dtype != SACCADE_F32 && dtype != SACCADE_BF16 && dtype != SACCADE_F16)
    invalid(argument, "SACCADE_F32 (0), SACCADE_BF16 (1) or SACCADE_F16 (2)", "%d", dtype);
  return dtype == SACCADE_F32 ? 4 : 2;
}

// The element size of a gradient: f32, or of the dtype of the tensor that it belongs to.
inline int64_t require_gradient_dtype(const char* argument, int32_t dtype, int32_t of, const char* expected) {
  const int64_t size = float_size(argument, dtype);
  if (dtype != of && dtype != SACCADE_F32) invalid(argument, expected, "%d", dtype);
  return size;
}

// A dense stride where it was left 0; otherwise at least `width`.  Returns the stride.
inline int64_t checked_stride(const char* argument, int64_t stride, int64_t rows, int64_t width) {
  if (stride == 0) stride = width;
  if (stride < width) {
    char expected[64];
    std::snprintf(expected, sizeof expected, "0 (dense) or at least %lld", static_cast<long long>(width));
    invalid(argument, expected, "%lld", static_cast<long long>(stride));
  }
  checked_product(argument, rows, stride);
  return stride;
}

inline void require_choice(const char* argument, int32_t value, int32_t choices, const char* expected) {
  if (value < 0 || value >= choices) invalid(argument, expected, "%d", value);
}

inline void require_precision(const saccade_context* context, int32_t precision) {
  require_choice("precision", precision, 3, "F32 (0), TF32 (1) or BF16 (2)");
  if (!context->gpu && precision != SACCADE_PRECISION_F32)
    fail(SACCADE_UNSUPPORTED, "precision", "F32 (0) on the CPU", precision == 1 ? "TF32 (1)" : "BF16 (2)");
}

// The elements of a tensor, from its first to its last; rows of `width` that begin every `stride`, where it has rows.
struct Extent {
  Extent(int64_t elements_) : elements(elements_), stride(0), width(0) {}  // NOLINT: a dense tensor is its elements
  Extent(int64_t elements_, int64_t stride_, int64_t width_) : elements(elements_), stride(stride_), width(width_) {}

  int64_t elements, stride, width;
};

// Of a [rows,width] tensor with a row stride.
inline Extent span(int64_t rows, int64_t stride, int64_t width) {
  return rows == 0 || width == 0 ? Extent(0) : Extent((rows - 1) * stride + width, stride, width);
}

// The tensors of one call: presence, alignment and room of each, and that what is written overlaps nothing else (an
// output given at exactly the address of the input named by `in_place_of` is allowed).  Tensors of one stride may be
// columns of one matrix; otherwise strided tensors count as the range that they span.
class Operands {
 public:
  explicit Operands(const saccade_context* context) : on_host(!context->gpu) {}

  // Whether the data may be looked at; that of a GPU is the kernels' to defuse.
  const bool on_host;

  void input(const char* name, saccade_address address, Extent extent, int64_t element_size) {
    add(name, address, extent, element_size, inputs_, input_count_);
  }
  void optional_input(const char* name, saccade_address address, Extent extent, int64_t element_size) {
    if (address) input(name, address, extent, element_size);
  }
  void output(const char* name, saccade_address address, Extent extent, int64_t element_size,
              const char* in_place_of = nullptr) {
    outputs_[output_count_].in_place_of = in_place_of;
    add(name, address, extent, element_size, outputs_, output_count_);
  }
  void optional_output(const char* name, saccade_address address, Extent extent, int64_t element_size) {
    if (address) output(name, address, extent, element_size);
  }
  // offsets[count + 1]: from 0, non-decreasing, ending at `rows`.  Returns the longest sequence, 0 where the data is
  // not looked at.
  int64_t offsets(const char* argument, saccade_address address, int64_t count, int64_t rows) {
    input(argument, address, count + 1, 4);
    if (!on_host) {
      if (count == 0 && rows > 0)
        invalid(argument, "at least one sequence", "none, with %lld rows", static_cast<long long>(rows));
      return 0;
    }
    const int32_t* offsets = reinterpret_cast<const int32_t*>(address);
    int64_t longest = 0;
    if (offsets[0] != 0) invalid(argument, "offsets that begin at 0", "%d", offsets[0]);
    for (int64_t s = 0; s < count; ++s) {
      if (offsets[s + 1] < offsets[s])
        invalid(argument, "non-decreasing offsets", "%d after %d at %lld", offsets[s + 1], offsets[s],
                static_cast<long long>(s + 1));
      if (offsets[s + 1] - offsets[s] > longest) longest = offsets[s + 1] - offsets[s];
    }
    if (offsets[count] != rows) {
      char expected[64];
      std::snprintf(expected, sizeof expected, "offsets that end at %lld", static_cast<long long>(rows));
      invalid(argument, expected, "%d", offsets[count]);
    }
    return longest;
  }
  void workspace(saccade_address address, int64_t bytes) {
    if (bytes > 0 && !address)
      invalid("workspace", "an address", "null with %lld bytes", static_cast<long long>(bytes));
    if (address % 64)
      invalid("workspace", "an address aligned to 64 bytes", "0x%llx", static_cast<unsigned long long>(address));
    if (bytes > 0) output("workspace", address, bytes, 1);
  }

  void require_disjoint() const {
    for (int o = 0; o < output_count_; ++o) {
      const Operand& out = outputs_[o];
      for (int i = 0; i < input_count_; ++i) {
        const Operand& in = inputs_[i];
        const bool in_place = out.in_place_of && !std::strcmp(out.in_place_of, in.name) && out.begin == in.begin;
        if (!in_place && overlap(out, in))
          invalid(out.name, "memory that overlaps no input", "an overlap with %s", in.name);
      }
      for (int other = 0; other < o; ++other)
        if (overlap(out, outputs_[other]))
          invalid(out.name, "memory that overlaps no other output", "an overlap with %s", outputs_[other].name);
    }
  }

 private:
  static constexpr int kMax = 24;
  struct Operand {
    const char* name;
    saccade_address begin, end;
    uint64_t stride, width;  // bytes
    const char* in_place_of;
  };

  // Nothing overlaps an empty tensor, wherever its address is.
  static bool overlap(const Operand& a, const Operand& b) {
    const bool ranges = a.begin < a.end && b.begin < b.end && a.begin < b.end && b.begin < a.end;
    return ranges && !(a.begin <= b.begin ? interleave(a, b) : interleave(b, a));
  }

  // Whether the rows of b lie between those of a, which begins first.
  static bool interleave(const Operand& a, const Operand& b) {
    if (a.stride == 0 || a.stride != b.stride) return false;
    const uint64_t column = (b.begin - a.begin) % a.stride;
    return a.width <= column && column + b.width <= a.stride;
  }

  static void add(const char* name, saccade_address address, const Extent& extent, int64_t element_size, Operand* list,
                  int& count) {
    require_address(name, address, extent.elements, element_size);
    Operand& operand = list[count++];
    operand.name = name;
    operand.begin = address;
    operand.end = address + static_cast<uint64_t>((extent.elements < 0 ? 0 : extent.elements) * element_size);
    operand.stride = static_cast<uint64_t>(extent.stride * element_size);
    operand.width = static_cast<uint64_t>(extent.width * element_size);
  }

  Operand inputs_[kMax], outputs_[kMax];
  int input_count_ = 0, output_count_ = 0;
};

// --------------------------------------------------------------------------------------------- workspaces

// Hands out 64-byte aligned pieces of a workspace.  With base 0 it only adds up their sizes, so that one function
// describes the layout for both the query and the call.
class Carver {
 public:
  explicit Carver(saccade_address base) : base_(base) {}

  template <class T>
  T* take(int64_t count) {
    saccade_address here = base_ + static_cast<uint64_t>(used_);
    used_ += (checked_product("workspace", count, sizeof(T)) + 63) / 64 * 64;
    checked_product("workspace", used_, 1);
    return reinterpret_cast<T*>(here);
  }

  int64_t bytes() const { return used_; }

 private:
  saccade_address base_;
  int64_t used_ = 0;
};

template <class T>
SACCADE_BOTH T* pointer(saccade_address address) {
  return reinterpret_cast<T*>(address);
}

// A scalar that may be given as data.
template <class T>
T scalar(saccade_address address, T otherwise) {
  return address ? *pointer<const T>(address) : otherwise;
}

// ------------------------------------------------------------------------------------------------ dispatch

// Instruction sets beyond the baseline that the library was built for: SACCADE_WITH_<name>.
#if defined(SACCADE_WITH_AVX2)
#define SACCADE_IF_AVX2(...) __VA_ARGS__
#else
#define SACCADE_IF_AVX2(...)
#endif
#if defined(SACCADE_WITH_AVX512)
#define SACCADE_IF_AVX512(...) __VA_ARGS__
#else
#define SACCADE_IF_AVX512(...)
#endif

// Declares function(Pool&, ...) in every instruction set's namespace and function(const Device&, ...) in cuda's.
#define SACCADE_DECLARE(function, ...)                        \
  SACCADE_DECLARE_CPU(void function(Pool& pool, __VA_ARGS__)) \
  namespace saccade::cuda {                                   \
  void function(const Device& device, __VA_ARGS__);           \
  }

#define SACCADE_DECLARE_CPU(signature)               \
  namespace saccade {                                \
  namespace baseline {                               \
  signature;                                         \
  }                                                  \
  SACCADE_IF_AVX2(namespace avx2 { signature; })     \
  SACCADE_IF_AVX512(namespace avx512 { signature; }) \
  }

// Calls function(pool or device, ...) of the context's backend.
#define SACCADE_CALL(context, function, ...)                           \
  do {                                                                 \
    SACCADE_IF_CUDA(if ((context)->gpu) {                              \
      ::saccade::cuda::function(*(context)->gpu, __VA_ARGS__);         \
      break;                                                           \
    })                                                                 \
    SACCADE_CALL_CPU(context, function((context)->pool, __VA_ARGS__)); \
  } while (0)

#define SACCADE_CALL_CPU(context, call)                                                 \
  do {                                                                                  \
    switch ((context)->isa) {                                                           \
      SACCADE_IF_AVX512(case ::saccade::Isa::kAvx512 : ::saccade::avx512::call; break;) \
      SACCADE_IF_AVX2(case ::saccade::Isa::kAvx2 : ::saccade::avx2::call; break;)       \
      default:                                                                          \
        ::saccade::baseline::call;                                                      \
    }                                                                                   \
  } while (0)

}  // namespace saccade
