#include "core/simd.h"
#include "rms_norm/rms_norm.h"

namespace saccade::SACCADE_ISA {
namespace {

// Sum of term(j, lanes) over a row: f32 lanes within blocks of kMaxPartial, f64 across them.
template <class Term>
SACCADE_INLINE double sum_over_row(int64_t columns, const Term& term) {
  double total = 0.0;
  for (int64_t begin = 0; begin < columns; begin += kMaxPartial) {
    const int64_t size = columns - begin < kMaxPartial ? columns - begin : kMaxPartial;
    vfloat s0 = splat(0.0f), s1 = s0;
    int64_t i = 0;
    for (; i + 2 * kLanes <= size; i += 2 * kLanes) {
      s0 += term(begin + i, static_cast<int64_t>(kLanes));
      s1 += term(begin + i + kLanes, static_cast<int64_t>(kLanes));
    }
    for_lanes(size - i, [&](int64_t j, int64_t lanes) { s0 += term(begin + i + j, lanes); });
    total += sum_of(s0 + s1);
  }
  return total;
}

}  // namespace

void rms_norm(Pool& pool, const saccade_rms_norm_args& args) {
  constexpr int64_t kElements = 1 << 15;
  const float* weight = pointer<const float>(args.weight);
  float* rstd = pointer<float>(args.rstd);
  const int64_t columns = args.columns, step = (kElements + columns - 1) / columns;
  pool.run((args.rows + step - 1) / step, [&](int64_t task, int) {
    const int64_t end = (task + 1) * step < args.rows ? (task + 1) * step : args.rows;
    for (int64_t r = task * step; r < end; ++r) {
      float* x = pointer<float>(args.x) + r * args.x_stride;
      const float* residual = args.residual ? pointer<const float>(args.residual) + r * args.residual_stride : nullptr;
      float* y = pointer<float>(args.y) + r * args.y_stride;
      const double squares = sum_over_row(columns, [&](int64_t j, int64_t lanes) {
        vfloat v = load(x + j, lanes, 0.0f);
        if (residual) {
          v += load(residual + j, lanes, 0.0f);
          store(x + j, lanes, v);
        }
        return v * v;
      });
      const float scale =
          static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(columns) + static_cast<double>(args.eps)));
      rstd[r] = scale;
      for_lanes(columns, [&](int64_t j, int64_t lanes) {
        store(y + j, lanes, load(x + j, lanes, 0.0f) * scale * load(weight + j, lanes, 0.0f));
      });
    }
  });
}

void rms_norm_backward(Pool& pool, const saccade_rms_norm_backward_args& args) {
  if (args.rows == 0) return;
  const float* weight = pointer<const float>(args.weight);
  const float* rstd = pointer<const float>(args.rstd);
  float* d_weight = pointer<float>(args.d_weight);
  float* partials = pointer<float>(args.workspace);
  const int64_t columns = args.columns;
  const RmsNormBlocks cut(args.rows, columns, false);

  pool.run(cut.blocks, [&](int64_t task, int) {
    const int64_t begin = task * cut.block, end = begin + cut.block < args.rows ? begin + cut.block : args.rows;
    float* partial = partials + task * cut.stride;
    for_lanes(columns, [&](int64_t j, int64_t lanes) { store(partial + j, lanes, splat(0.0f)); });
    for (int64_t r = begin; r < end; ++r) {
      const float* x = pointer<const float>(args.x) + r * args.x_stride;
      const float* dy = pointer<const float>(args.dy) + r * args.dy_stride;
      float* dx = pointer<float>(args.dx) + r * args.dx_stride;
      const float* residual = args.residual ? pointer<const float>(args.residual) + r * args.residual_stride : nullptr;
      const float scale = rstd[r];
      const double dot = sum_over_row(columns, [&](int64_t j, int64_t lanes) {
        return load(dy + j, lanes, 0.0f) * load(weight + j, lanes, 0.0f) * load(x + j, lanes, 0.0f);
      });
      const double s = static_cast<double>(scale);
      const float pull = static_cast<float>(s * s * s * dot / static_cast<double>(columns));
      for_lanes(columns, [&](int64_t j, int64_t lanes) {
        const vfloat v = load(x + j, lanes, 0.0f), g = load(dy + j, lanes, 0.0f);
        vfloat gradient = g * load(weight + j, lanes, 0.0f) * scale - v * pull;
        if (residual) gradient += load(residual + j, lanes, 0.0f);
        store(dx + j, lanes, gradient);
        store(partial + j, lanes, load(partial + j, lanes, 0.0f) + g * (v * scale));
      });
    }
  });

  constexpr int64_t kChunk = 64;  // columns of a task: their sums stay in registers and the first-level cache
  pool.run((columns + kChunk - 1) / kChunk, [&](int64_t task, int) {
    const int64_t begin = task * kChunk, size = columns - begin < kChunk ? columns - begin : kChunk;
    double sum[kChunk];
    for (int64_t j = 0; j < size; ++j) sum[j] = static_cast<double>(d_weight[begin + j]);
    for (int64_t b = 0; b < cut.blocks; ++b)
      for (int64_t j = 0; j < size; ++j) sum[j] += static_cast<double>(partials[b * cut.stride + begin + j]);
    for (int64_t j = 0; j < size; ++j) d_weight[begin + j] = static_cast<float>(sum[j]);
  });
}

}  // namespace saccade::SACCADE_ISA
