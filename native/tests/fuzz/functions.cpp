// The functions that no args struct describes: contexts and memory.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "case.h"

namespace fuzz {
namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "\n%s\n", what);
  std::abort();
}

void count(Tally& tally, int32_t status, bool sound, const std::string& message) {
  ++tally.calls;
  if (sound) {
    require(status == SACCADE_OK, "a sound call fails");
    require(message.empty(), "a message after success");
    ++tally.succeeded;
    return;
  }
  require(status == SACCADE_INVALID_ARGUMENT || status == SACCADE_UNSUPPORTED || status == SACCADE_OUT_OF_MEMORY,
          "the status of a wrong call");
  require(!message.empty(), "a refusal without a message");
  ++tally.refused;
}

}  // namespace

void exercise_context(Choices& choices, Tally& tally) {
  saccade_context_args args = {};
  bool sound = true;
  const auto fault = [&] { return choices.below(16) == 15 && (sound = false, true); };
  args.struct_size = sizeof args;
  args.threads = choices.of({1, 2, 3, 4});
  args.instruction_set = choices.of<const char*>({nullptr, "", "baseline"});
  if (fault()) args.struct_size = choices.of<uint64_t>({0, 1, 7, 9, sizeof args - 1, 1u << 20, UINT64_MAX});
  if (fault()) args.device = choices.of({1, 2, -1, INT32_MIN, INT32_MAX});
  if (fault()) args.device_index = choices.of({1, -1, INT32_MIN, INT32_MAX});
  if (fault()) args.threads = choices.of({-1, 1025, INT32_MIN, INT32_MAX});
  const std::string long_name(5000, '%');
  if (fault())
    args.instruction_set = choices.of<const char*>({"avx", "AVX2", "%s%s%n", long_name.c_str(), "baseline "});
  const bool null_args = fault();

  // The message is cut to the room that there is, and never beyond.
  const int64_t room = choices.of<int64_t>({256, 0, 1, 2, 7, -1, INT64_MIN});
  std::vector<char> error(room > 0 ? static_cast<size_t>(room) : 0, 'x');
  saccade_context* context = reinterpret_cast<saccade_context*>(&args);
  const int32_t status =
      saccade_context_create(null_args ? nullptr : &args, &context, error.empty() ? nullptr : error.data(), room);
  require((status == SACCADE_OK) == (context != nullptr), "a context exactly where creation succeeds");
  require(error.empty() || std::find(error.begin(), error.end(), '\0') != error.end(), "a message without its end");
  count(tally, status, sound, sound || room < 2 ? std::string(sound ? "" : "-") : std::string(error.data()));
  require(saccade_context_create(&args, nullptr, nullptr, 0) == SACCADE_INVALID_ARGUMENT, "no place for the context");
  if (context) {
    require(saccade_context_threads(context) == args.threads, "as many threads as asked for");
    require(saccade_context_instruction_set(context)[0] != 0, "an instruction set");
    require(saccade_error_message(context)[0] == 0, "a new context without an error");
  }
  saccade_context_destroy(context);
  require(saccade_context_threads(nullptr) == 0, "threads of no context");
  for (const char* text :
       {saccade_error_message(nullptr), saccade_error_argument(nullptr), saccade_error_expected(nullptr),
        saccade_error_actual(nullptr), saccade_context_instruction_set(nullptr)})
    require(text && !text[0], "what no context says");
  require(saccade_context_set_gemm(nullptr, 0) == SACCADE_INVALID_ARGUMENT, "a provider for no context");
}

void exercise_memory(Choices& choices, Tally& tally) {
  static saccade_context* context = [] {
    saccade_context_args args = {};
    args.struct_size = sizeof args;
    args.threads = 1;
    saccade_context* created = nullptr;
    require(saccade_context_create(&args, &created, nullptr, 0) == SACCADE_OK, "a context");
    return created;
  }();
  const auto note = [&](int32_t status, bool sound) { count(tally, status, sound, saccade_error_message(context)); };

  saccade_address address = 7;
  const int64_t bytes = choices.of<int64_t>({1, 0, 64, 65, 4096, 100000});
  note(saccade_memory_allocate(context, bytes, &address), true);
  require((address == 0) == (bytes == 0), "an address for any bytes");
  require(address % 64 == 0, "aligned memory");
  saccade_address none = 7;
  // More than there is: rarely, since AddressSanitizer comments on each.
  const int64_t wrong = choices.one_in(64)
                            ? choices.of<int64_t>({INT64_MAX, INT64_MAX - 64, INT64_MAX - 63, int64_t{1} << 60})
                            : choices.of<int64_t>({-1, INT64_MIN});
  note(saccade_memory_allocate(context, wrong, &none), false);
  require(none == 0, "no address where there is no memory");
  note(saccade_memory_allocate(context, bytes, nullptr), false);

  note(saccade_memory_zero(context, address, bytes), true);
  std::vector<uint8_t> other(static_cast<size_t>(bytes), 0x5a);
  const saccade_address host = reinterpret_cast<saccade_address>(other.data());
  note(saccade_memory_copy(context, host, address, bytes), true);
  require(std::count(other.begin(), other.end(), 0) == bytes, "zeroed memory");
  other.assign(other.size(), 0x5a);
  note(saccade_memory_copy(context, address, host, bytes), true);
  note(saccade_memory_copy(context, address, address, bytes), true);
  require(std::equal(other.begin(), other.end(), reinterpret_cast<const uint8_t*>(address)), "copied memory");
  note(saccade_memory_zero(context, address, choices.of<int64_t>({-1, INT64_MIN})), false);
  note(saccade_memory_copy(context, address, host, choices.of<int64_t>({-1, INT64_MIN})), false);
  note(saccade_memory_zero(context, 0, 1), false);
  note(saccade_memory_copy(context, 0, address, 1), false);
  note(saccade_memory_copy(context, address, 0, 1), false);
  note(saccade_memory_free(context, address), true);
  note(saccade_memory_free(context, 0), true);

  saccade_context* const no = nullptr;
  require(saccade_memory_allocate(no, 1, &none) == SACCADE_INVALID_ARGUMENT &&
              saccade_memory_free(no, 0) == SACCADE_INVALID_ARGUMENT &&
              saccade_memory_copy(no, 0, 0, 0) == SACCADE_INVALID_ARGUMENT &&
              saccade_memory_zero(no, 0, 0) == SACCADE_INVALID_ARGUMENT,
          "memory of no context");
}

}  // namespace fuzz
