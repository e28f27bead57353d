// How Hopper's copy engine sees a tensor, to load boxes of it into shared memory (core/bulk.cuh).
#pragma once

#include <cstdint>

namespace saccade::cuda {

// A CUtensorMap: a parameter of a kernel, or in constant or global memory.
struct alignas(128) TensorMap {
  uint64_t words[16];
};

// Rows and columns of a box of rows of bf16: a panel of core/mma.cuh's tiles, and permuted as those are.
constexpr int kBoxRows = 64, kBoxColumns = 64;

// Of [rows, heads, dim] bf16 with row and head strides: boxes begin at a column, a head and a row, have one head, and
// are zeros beyond the tensor.  false: the engine cannot read it: something is not at a multiple of 16 bytes, or
// strides are too long.
bool describe_rows(TensorMap& map, const void* data, int64_t rows, int64_t heads, int64_t dim, int64_t row_stride,
                   int64_t head_stride);

}  // namespace saccade::cuda
