#include <cudaTypedefs.h>

#include "core/device.cuh"
#include "core/tensor_map.h"

namespace saccade::cuda {
namespace {

PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const auto encode = [] {
    void* address = nullptr;
    cudaDriverEntryPointQueryResult found;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &address, 12000, cudaEnableDefault, &found),
          "cuTensorMapEncodeTiled");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(address);
  }();
  return encode;
}

}  // namespace

bool describe_rows(TensorMap& map, const void* data, int64_t rows, int64_t heads, int64_t dim, int64_t row_stride,
                   int64_t head_stride) {
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= alignof(CUtensorMap));
  map = {};
  if (rows == 0 || heads == 0) return true;  // nothing of it is ever loaded
  if ((reinterpret_cast<uint64_t>(data) % 16 | static_cast<uint64_t>((dim | row_stride | head_stride) % 8)) != 0)
    return false;
  // A dimension of one has any stride.
  const auto stride = [&](int64_t elements, int64_t count) {
    return 2 * static_cast<cuuint64_t>(count > 1 ? elements : dim);
  };
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(dim), static_cast<cuuint64_t>(heads),
                              static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {stride(head_stride, heads), stride(row_stride, rows)};
  const cuuint32_t box[] = {kBoxColumns, 1, kBoxRows}, steps[] = {1, 1, 1};
  const auto encode = encoder();
  return encode &&
         encode(reinterpret_cast<CUtensorMap*>(&map), CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(data),
                sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace saccade::cuda
