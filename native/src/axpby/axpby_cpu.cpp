#include "axpby/axpby.h"
#include "core/simd.h"

namespace saccade::SACCADE_ISA {

void axpby(Pool& pool, const saccade_axpby_args& args) {
  // A task is a tile of about this many elements: rows where they are short, a part of one row where they are long.
  constexpr int64_t kElements = 1 << 15;
  if (args.rows == 0 || args.columns == 0) return;
  const int64_t width = args.columns < kElements ? args.columns : kElements;
  const int64_t height = args.columns < kElements ? (kElements + width - 1) / width : 1;
  const int64_t across = (args.columns + width - 1) / width, down = (args.rows + height - 1) / height;
  pool.run(down * across, [&](int64_t task, int) {
    const int64_t begin = task % across * width, size = args.columns - begin < width ? args.columns - begin : width;
    const int64_t first = task / across * height, end = first + height < args.rows ? first + height : args.rows;
    for (int64_t r = first; r < end; ++r) {
      const float* x = pointer<const float>(args.x) + r * args.x_stride + begin;
      float* y = pointer<float>(args.y) + r * args.y_stride + begin;
      if (args.b == 0.0f)
        for_lanes(size, [&](int64_t j, int64_t lanes) { store(y + j, lanes, load(x + j, lanes, 0.0f) * args.a); });
      else
        for_lanes(size, [&](int64_t j, int64_t lanes) {
          store(y + j, lanes, load(x + j, lanes, 0.0f) * args.a + load(y + j, lanes, 0.0f) * args.b);
        });
    }
  });
}

}  // namespace saccade::SACCADE_ISA
