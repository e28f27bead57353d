// A list of tensors as kernel parameters, cut into blocks of fixed size: many tensors share a launch, a huge one is
// spread over many blocks, and the cut depends on the list alone.
#pragma once

#include "core/device.cuh"

namespace saccade::cuda {

template <class Tensor, int kMost>
struct TensorList {
  int32_t tensors;
  int32_t first_block[kMost + 1];
  Tensor tensor[kMost];

  // The tensor of a block of the launch.
  __device__ int32_t of(int32_t block) const {
    int32_t low = 0, high = tensors;  // first_block[low] <= block < first_block[high]
    while (high - low > 1) {
      const int32_t middle = (low + high) / 2;
      (first_block[middle] <= block ? low : high) = middle;
    }
    return low;
  }
};

template <class Tensor>
int64_t blocks_of(const Tensor* tensors, int64_t count, int64_t block_size) {
  int64_t blocks = 0;
  for (int64_t t = 0; t < count; ++t) blocks += divide_up(tensors[t].count, block_size);
  return blocks;
}

// Calls body(list, blocks, blocks before) for lists of at most kMost tensors and 2^31 blocks that hold them all.
template <int kMost, class Tensor, class Body>
void for_tensor_lists(const Tensor* tensors, int64_t count, int64_t block_size, const Body& body) {
  constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;
  TensorList<Tensor, kMost> list;
  int64_t before = 0, blocks = 0;
  list.tensors = 0;
  const auto flush = [&] {
    list.first_block[list.tensors] = static_cast<int32_t>(blocks);
    if (blocks > 0) body(list, blocks, before);
    before += blocks;
    blocks = list.tensors = 0;
  };
  for (int64_t t = 0; t < count; ++t) {
    const int64_t own = divide_up(tensors[t].count, block_size);
    if (own == 0) continue;
    if (list.tensors == kMost || own > kMaxBlocks - blocks) flush();
    list.first_block[list.tensors] = static_cast<int32_t>(blocks);
    list.tensor[list.tensors++] = tensors[t];
    blocks += own;
  }
  flush();
}

}  // namespace saccade::cuda
