#include "core/simd.h"
#include "swiglu/swiglu.h"

namespace saccade::SACCADE_ISA {
namespace {

// sigmoid(x) and 1 - sigmoid(x), each without cancellation.
struct Sigmoid {
  vfloat value, complement;
};

SACCADE_INLINE Sigmoid sigmoid(vfloat x) {
  const vfloat e = exp(as_float(as_int(x) | INT32_MIN));  // e^-|x|
  const vfloat near = 1.0f / (1.0f + e), far = e * near;
  const vint positive = x >= 0.0f;
  return {select(positive, near, far), select(positive, far, near)};
}

// Calls body(row) for all rows; a task holds enough elements to pay for handing it out.
template <class Body>
void for_rows(Pool& pool, int64_t rows, int64_t columns, const Body& body) {
  constexpr int64_t kElements = 1 << 13;
  if (columns == 0) return;
  const int64_t step = (kElements + columns - 1) / columns;
  pool.run((rows + step - 1) / step, [&](int64_t task, int) {
    const int64_t end = (task + 1) * step < rows ? (task + 1) * step : rows;
    for (int64_t r = task * step; r < end; ++r) body(r);
  });
}

}  // namespace

void swiglu(Pool& pool, const saccade_swiglu_args& args) {
  const int64_t columns = args.columns;
  for_rows(pool, args.rows, columns, [&](int64_t r) {
    const float* gate = pointer<const float>(args.x) + r * 2 * columns;
    const float* up = gate + columns;
    float* y = pointer<float>(args.y) + r * columns;
    for_lanes(columns, [&](int64_t j, int64_t lanes) {
      const vfloat g = load(gate + j, lanes, 0.0f);
      store(y + j, lanes, g * sigmoid(g).value * load(up + j, lanes, 0.0f));
    });
  });
}

void swiglu_backward(Pool& pool, const saccade_swiglu_backward_args& args) {
  const int64_t columns = args.columns;
  for_rows(pool, args.rows, columns, [&](int64_t r) {
    const float* gate = pointer<const float>(args.x) + r * 2 * columns;
    const float* up = gate + columns;
    const float* dy = pointer<const float>(args.dy) + r * columns;
    float* d_gate = pointer<float>(args.dx) + r * 2 * columns;
    float* d_up = d_gate + columns;
    // In place, the gate and up of these lanes are read before either is written.
    for_lanes(columns, [&](int64_t j, int64_t lanes) {
      const vfloat g = load(gate + j, lanes, 0.0f), u = load(up + j, lanes, 0.0f), d = load(dy + j, lanes, 0.0f);
      const Sigmoid s = sigmoid(g);
      store(d_gate + j, lanes, d * u * (s.value * (1.0f + g * s.complement)));
      store(d_up + j, lanes, d * (g * s.value));
    });
  });
}

}  // namespace saccade::SACCADE_ISA
