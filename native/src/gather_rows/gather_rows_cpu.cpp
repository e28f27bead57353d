#include "core/simd.h"
#include "gather_rows/gather_rows.h"

namespace saccade::SACCADE_ISA {

void gather_rows(Pool& pool, const saccade_gather_rows_args& args) {
  constexpr int64_t kElements = 1 << 15;
  const int32_t* index = pointer<const int32_t>(args.index);
  const int32_t* out_index = pointer<const int32_t>(args.out_index);
  const int64_t columns = args.columns;
  if (columns == 0) return;
  const int64_t step = (kElements + columns - 1) / columns;
  pool.run((args.count + step - 1) / step, [&](int64_t task, int) {
    const int64_t end = (task + 1) * step < args.count ? (task + 1) * step : args.count;
    for (int64_t i = task * step; i < end; ++i) {
      const int64_t from = index ? index[i] : i, to = out_index ? out_index[i] : i;
      if (to < 0 || to >= args.y_rows) continue;
      float* y = pointer<float>(args.y) + to * args.y_stride;
      if (from >= 0 && from < args.x_rows) {
        const float* x = pointer<const float>(args.x) + from * args.x_stride;
        if (args.accumulate)
          for_lanes(columns, [&](int64_t j, int64_t lanes) {
            store(y + j, lanes, load(y + j, lanes, 0.0f) + load(x + j, lanes, 0.0f));
          });
        else
          std::memcpy(y, x, static_cast<size_t>(columns) * sizeof(float));
      } else if (from != -1 || !args.accumulate) {
        const vfloat fill = splat(from == -1 ? 0.0f : __builtin_nanf(""));
        for_lanes(columns, [&](int64_t j, int64_t lanes) { store(y + j, lanes, fill); });
      }
    }
  });
}

}  // namespace saccade::SACCADE_ISA
