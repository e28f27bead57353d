#include "grad_norm/grad_norm.h"

using namespace saccade;

namespace {

constexpr int64_t kEntryWords = sizeof(saccade_grad_norm_tensor) / 8;

const saccade_grad_norm_tensor* checked_entries(const saccade_grad_norm_args& args) {
  require_rows("tensors", args.tensors);
  require_address("entries", args.entries, args.tensors * kEntryWords, 8);
  return pointer<const saccade_grad_norm_tensor>(args.entries);
}

// A CPU cuts the tensors as one long vector, a GPU every tensor by itself.
int64_t count_blocks(const saccade_context* context, const saccade_grad_norm_args& args) {
  const saccade_grad_norm_tensor* entries = checked_entries(args);
  int64_t elements = 0, blocks = 0;
  for (int64_t t = 0; t < args.tensors; ++t) {
    require_size("count", entries[t].count);
    checked_product("count", entries[t].count, 4);
    elements += entries[t].count;
    checked_product("count", elements, 4);
    blocks += (entries[t].count + kGradNormBlock - 1) / kGradNormBlock;
  }
  return context->gpu ? blocks : (elements + kGradNormBlock - 1) / kGradNormBlock;
}

GradNormWorkspace carve(int64_t blocks, Carver& carver) { return {blocks, carver.take<double>(blocks)}; }

}  // namespace

int32_t saccade_grad_norm_workspace(saccade_context* context, const saccade_grad_norm_args* caller, int64_t* bytes) {
  return run(context, "grad_norm", [&] {
    require_result(bytes);
    Carver carver(0);
    carve(count_blocks(context, copy_args(caller)), carver);
    *bytes = carver.bytes();
  });
}

int32_t saccade_grad_norm(saccade_context* context, const saccade_grad_norm_args* caller) {
  char argument[64];  // outlives the Failure that names it
  return run(context, "grad_norm", [&] {
    const auto args = copy_args(caller);
    Carver carver(args.workspace);
    const GradNormWorkspace workspace = carve(count_blocks(context, args), carver);
    if (args.scale) require_positive("max_norm", args.max_norm);
    // One tensor at a time beside what the call has once; none first.
    const auto require_disjoint = [&](const saccade_grad_norm_tensor* entry) {
      Operands operands(context);
      if (entry) operands.input("grad", entry->grad, entry->count, 4);
      operands.input("entries", args.entries, args.tensors * kEntryWords, 8);
      operands.output("norm", args.norm, 1, 4);
      operands.optional_output("scale", args.scale, 1, 4);
      operands.workspace(args.workspace, carver.bytes());
      operands.require_disjoint();
    };
    require_disjoint(nullptr);
    const saccade_grad_norm_tensor* entries = checked_entries(args);
    for (int64_t t = 0; t < args.tensors; ++t) {
      try {
        require_disjoint(&entries[t]);
      } catch (Failure& failure) {
        std::snprintf(argument, sizeof argument, "entries[%lld].%s", static_cast<long long>(t), failure.argument);
        if (!std::strcmp(failure.argument, "grad")) failure.argument = argument;
        throw;
      }
    }
    SACCADE_CALL(context, grad_norm, args, workspace);
  });
}
