#include "adamw/adamw.h"

using namespace saccade;

namespace {

constexpr int64_t kEntryWords = sizeof(saccade_adamw_tensor) / 8;

// One tensor beside what the call has once; no tensor first.
void require_disjoint(const saccade_context* context, const saccade_adamw_tensor* entry,
                      const saccade_adamw_args& args) {
  Operands operands(context);
  operands.input("entries", args.entries, args.tensors * kEntryWords, 8);
  operands.optional_input("lr_scalar", args.lr_scalar, 1, 4);
  operands.optional_input("grad_scale_scalar", args.grad_scale_scalar, 1, 4);
  operands.optional_input("step_scalar", args.step_scalar, 1, 8);
  operands.optional_output("skipped", args.skipped, 1, 4);
  if (entry) {
    operands.input("param", entry->param, entry->count, 4);
    operands.input("grad", entry->grad, entry->count, 4);
    operands.input("m", entry->m, entry->count, 4);
    operands.input("v", entry->v, entry->count, 4);
    operands.output("param", entry->param, entry->count, 4, "param");
    operands.output("m", entry->m, entry->count, 4, "m");
    operands.output("v", entry->v, entry->count, 4, "v");
    operands.optional_output("param_bf16", entry->param_bf16, entry->count, 2);
  }
  operands.require_disjoint();
}

void check_entry(const saccade_context* context, const saccade_adamw_tensor& entry, const saccade_adamw_args& args) {
  require_size("count", entry.count);
  require(entry.weight_decay >= 0.0f && entry.weight_decay < INFINITY, "weight_decay", "a finite number of at least 0",
          static_cast<double>(entry.weight_decay));
  require(entry.reserved == 0.0f, "reserved", "0", static_cast<double>(entry.reserved));
  require_disjoint(context, &entry, args);
}

}  // namespace

int32_t saccade_adamw(saccade_context* context, const saccade_adamw_args* caller) {
  char argument[64];  // outlives the Failure that names it
  return run(context, "adamw", [&] {
    const auto args = copy_args(caller);
    require_rows("tensors", args.tensors);
    require_address("entries", args.entries, args.tensors * kEntryWords, 8);
    const auto require_finite = [](const char* name, float x, bool in_range, const char* expected) {
      require(in_range && x - x == 0.0f, name, expected, static_cast<double>(x));
    };
    if (!args.lr_scalar) require_finite("lr", args.lr, args.lr >= 0.0f, "a finite number of at least 0");
    require_finite("beta1", args.beta1, args.beta1 >= 0.0f && args.beta1 < 1.0f, "at least 0 and below 1");
    require_finite("beta2", args.beta2, args.beta2 >= 0.0f && args.beta2 < 1.0f, "at least 0 and below 1");
    require_positive("eps", args.eps);
    if (!args.grad_scale_scalar) require_finite("grad_scale", args.grad_scale, true, "a finite number");
    if (!args.step_scalar) require_size("step", args.step, 1);
    require_disjoint(context, nullptr, args);
    const auto* entries = pointer<const saccade_adamw_tensor>(args.entries);
    int64_t elements = 0;
    for (int64_t t = 0; t < args.tensors; ++t) {
      try {
        check_entry(context, entries[t], args);
        elements += entries[t].count;
        checked_product("count", elements, 4);
      } catch (Failure& failure) {
        std::snprintf(argument, sizeof argument, "entries[%lld].%s", static_cast<long long>(t), failure.argument);
        failure.argument = argument;
        throw;
      }
    }
    SACCADE_CALL(context, adamw, args, elements);
  });
}
