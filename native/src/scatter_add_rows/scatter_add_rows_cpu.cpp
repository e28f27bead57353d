#include "core/simd.h"
#include "scatter_add_rows/scatter_add_rows.h"

namespace saccade::SACCADE_ISA {

void scatter_add_rows(Pool& pool, const saccade_scatter_add_rows_args& args) {
  constexpr int64_t kElements = 1 << 15;  // pay for handing a task out
  constexpr int64_t kLine = 16;           // floats of a cache line, which two tasks should not share
  constexpr int64_t kNarrowest = 2 * kLine, kMaxTasks = 64;
  const int32_t* index = pointer<const int32_t>(args.index);
  if (args.columns == 0 || args.count == 0) return;
  int64_t tasks = args.count * args.columns / kElements;
  if (tasks > args.columns / kNarrowest) tasks = args.columns / kNarrowest;
  if (tasks > kMaxTasks) tasks = kMaxTasks;
  if (tasks < 1) tasks = 1;
  const int64_t width = ((args.columns + tasks - 1) / tasks + kLine - 1) / kLine * kLine;
  pool.run((args.columns + width - 1) / width, [&](int64_t task, int) {
    const int64_t begin = task * width, size = args.columns - begin < width ? args.columns - begin : width;
    for (int64_t i = 0; i < args.count; ++i) {
      const int64_t row = index[i];
      if (row < 0 || row >= args.y_rows) continue;
      const float* x = pointer<const float>(args.x) + i * args.x_stride + begin;
      float* y = pointer<float>(args.y) + row * args.y_stride + begin;
      for_lanes(size, [&](int64_t j, int64_t lanes) {
        store(y + j, lanes, load(y + j, lanes, 0.0f) + load(x + j, lanes, 0.0f));
      });
    }
  });
}

}  // namespace saccade::SACCADE_ISA
