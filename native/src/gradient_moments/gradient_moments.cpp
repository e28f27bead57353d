#include "gradient_moments/gradient_moments.h"

using namespace saccade;

namespace {

// The state that an operation changes.
template <class Args>
void add_state(const Args& args, Operands& operands) {
  require_size("size", args.size);
  operands.input("count", args.count, 1, 8);
  operands.input("mean", args.mean, args.size, 4);
  operands.input("m2", args.m2, args.size, 8);
  operands.output("count", args.count, 1, 8, "count");
  operands.output("mean", args.mean, args.size, 4, "mean");
  operands.output("m2", args.m2, args.size, 8, "m2");
}

// [blocks + segments]: sums[b + s] belongs to block b and segment s; along the elements b + s rises from one pair that
// shares elements to the next.
MomentSums* carve(const saccade_gradient_moments_report_args& args, Carver& carver) {
  require_size("size", args.size);
  require_size("segments", args.segments);
  checked_product("size", args.size, 8);
  checked_product("segments", args.segments, 8);
  return carver.take<MomentSums>((args.size + kMomentsBlock - 1) / kMomentsBlock + args.segments);
}

void require_segments(const saccade_gradient_moments_report_args& args) {
  const int64_t* offsets = pointer<const int64_t>(args.offsets);
  if (offsets[0] != 0) invalid("offsets", "offsets that begin at 0", "%lld", static_cast<long long>(offsets[0]));
  for (int64_t s = 0; s < args.segments; ++s)
    if (offsets[s + 1] < offsets[s])
      invalid("offsets", "non-decreasing offsets", "%lld after %lld at %lld", static_cast<long long>(offsets[s + 1]),
              static_cast<long long>(offsets[s]), static_cast<long long>(s + 1));
  if (offsets[args.segments] > args.size) {
    char expected[64];
    std::snprintf(expected, sizeof expected, "offsets within %lld elements", static_cast<long long>(args.size));
    invalid("offsets", expected, "%lld", static_cast<long long>(offsets[args.segments]));
  }
}

}  // namespace

int32_t saccade_gradient_moments_update(saccade_context* context, const saccade_gradient_moments_update_args* caller) {
  return run(context, "gradient_moments_update", [&] {
    auto args = copy_args(caller);
    Operands operands(context);
    require_rows("rows", args.rows);
    add_state(args, operands);
    args.samples_stride = checked_stride("samples_stride", args.samples_stride, args.rows, args.size);
    operands.input("samples", args.samples, span(args.rows, args.samples_stride, args.size),
                   float_size("samples_dtype", args.samples_dtype));
    operands.optional_output("sum", args.sum, args.size, 4);
    operands.require_disjoint();
    SACCADE_CALL(context, gradient_moments_update, args);
  });
}

int32_t saccade_gradient_moments_merge(saccade_context* context, const saccade_gradient_moments_merge_args* caller) {
  return run(context, "gradient_moments_merge", [&] {
    const auto args = copy_args(caller);
    Operands operands(context);
    add_state(args, operands);
    operands.input("other_count", args.other_count, 1, 8);
    operands.input("other_mean", args.other_mean, args.size, 4);
    operands.input("other_m2", args.other_m2, args.size, 8);
    operands.require_disjoint();
    SACCADE_CALL(context, gradient_moments_merge, args);
  });
}

int32_t saccade_gradient_moments_report_workspace(saccade_context* context,
                                                  const saccade_gradient_moments_report_args* caller, int64_t* bytes) {
  return run(context, "gradient_moments_report", [&] {
    require_result(bytes);
    Carver carver(0);
    carve(copy_args(caller), carver);
    *bytes = carver.bytes();
  });
}

int32_t saccade_gradient_moments_report(saccade_context* context, const saccade_gradient_moments_report_args* caller) {
  return run(context, "gradient_moments_report", [&] {
    const auto args = copy_args(caller);
    Carver carver(args.workspace);
    MomentSums* sums = carve(args, carver);
    Operands operands(context);
    operands.workspace(args.workspace, carver.bytes());
    operands.input("count", args.count, 1, 8);
    operands.input("mean", args.mean, args.size, 4);
    operands.input("m2", args.m2, args.size, 8);
    operands.input("offsets", args.offsets, args.segments + 1, 8);
    operands.optional_output("mean_sq", args.mean_sq, args.segments, 4);
    operands.optional_output("trace", args.trace, args.segments, 4);
    operands.optional_output("signal", args.signal, args.segments, 4);
    operands.optional_output("snr", args.snr, args.segments, 4);
    operands.require_disjoint();
    if (operands.on_host) require_segments(args);
    SACCADE_CALL(context, gradient_moments_report, args, sums);
  });
}
