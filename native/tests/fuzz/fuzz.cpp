#include "fuzz.h"

#include <cstdio>

#include "case.h"

namespace {

// Of all operations, in the order of the table.
fuzz::Tally* tallies() {
  static fuzz::Tally all[256] = {};
  return all;
}

}  // namespace

// Read by the sanitizers.  Sizes that no machine has are to be refused by the library; what is found aborts the
// process.
#pragma GCC visibility push(default)
extern "C" const char* __asan_default_options() {
  return "abort_on_error=1:allocator_may_return_null=1:quarantine_size_mb=64";
}
extern "C" const char* __tsan_default_options() {
  return "abort_on_error=1:allocator_may_return_null=1:halt_on_error=1";
}
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }
#pragma GCC visibility pop

// The first byte names the operation, the rest is choices.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const int which = data[0] % fuzz::kOperationCount;
  const fuzz::Operation& operation = fuzz::kOperations[which];
  fuzz::Choices choices(data + 1, size - 1);
  if (operation.exercise)
    operation.exercise(choices, tallies()[which]);
  else
    fuzz::Case(operation, choices, tallies()[which]).run();
  return 0;
}

bool fuzz::print_tallies(int only) {
  bool complete = true;
  std::printf("%-26s %10s %10s %10s %12s\n", "operation", "succeeded", "refused", "all calls", "");
  for (int k = 0; k < kOperationCount; ++k) {
    if (only >= 0 && only != k) continue;
    const Tally& tally = tallies()[k];
    const bool tried = tally.succeeded > 0 && tally.refused > 0;
    std::printf("%-26s %10lld %10lld %10lld %12s\n", kOperations[k].name, static_cast<long long>(tally.succeeded),
                static_cast<long long>(tally.refused), static_cast<long long>(tally.calls), tried ? "" : "NOT TRIED");
    complete &= tried;
  }
  return complete;
}
