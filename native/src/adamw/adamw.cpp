#include "adamw/adamw.h"

#include <algorithm>
#include <vector>

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

// What an entry writes is nothing that another one reads or writes.
void require_disjoint_entries(const saccade_adamw_tensor* entries, int64_t tensors, char (&argument)[64]) {
  struct Range {
    saccade_address begin, end;
    int64_t entry;
    const char* name;
    bool written;
  };
  std::vector<Range> ranges;
  ranges.reserve(static_cast<size_t>(tensors) * 5);
  for (int64_t t = 0; t < tensors; ++t) {
    const saccade_adamw_tensor& entry = entries[t];
    const auto add = [&](const char* name, saccade_address address, uint64_t size, bool written) {
      if (address && entry.count > 0)
        ranges.push_back({address, address + static_cast<uint64_t>(entry.count) * size, t, name, written});
    };
    add("param", entry.param, 4, true);
    add("grad", entry.grad, 4, false);
    add("m", entry.m, 4, true);
    add("v", entry.v, 4, true);
    add("param_bf16", entry.param_bf16, 2, true);
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.begin != b.begin ? a.begin < b.begin : a.entry < b.entry; });
  // Those that reach furthest so far.  Ranges of one entry do not overlap where one is written.
  const Range *any = nullptr, *written = nullptr;
  for (const Range& range : ranges) {
    const Range* other = range.written ? any : written;
    if (other && range.begin < other->end && range.entry != other->entry) {
      std::snprintf(argument, sizeof argument, "entries[%lld].%s", static_cast<long long>(range.entry), range.name);
      invalid(argument, "memory that overlaps no other entry", "an overlap with entries[%lld].%s",
              static_cast<long long>(other->entry), other->name);
    }
    if (!any || range.end > any->end) any = &range;
    if (range.written && (!written || range.end > written->end)) written = &range;
  }
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
    require_disjoint_entries(entries, args.tensors, argument);
    SACCADE_CALL(context, adamw, args, elements);
  });
}
