// A list of tensors as one long vector, cut into blocks of fixed size: many small tensors share a block, a huge one
// is spread over many, and the cut depends on the list alone.
#pragma once

#include "core/simd.h"

namespace saccade::SACCADE_ISA {

// Calls body(tensor, begin, size) for the pieces of tensors within elements [begin, begin + size) of the list.
template <class Tensor, class Body>
SACCADE_INLINE void for_pieces(const Tensor* tensors, int64_t count, int64_t begin, int64_t size, const Body& body) {
  int64_t t = 0;
  for (; t < count && begin >= tensors[t].count; ++t) begin -= tensors[t].count;
  for (; t < count && size > 0; ++t, begin = 0) {
    const int64_t rest = tensors[t].count - begin, piece = rest < size ? rest : size;
    if (piece > 0) body(tensors[t], begin, piece);
    size -= piece;
  }
}

}  // namespace saccade::SACCADE_ISA
