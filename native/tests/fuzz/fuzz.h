// The fuzz target, for libFuzzer and for the seeded driver.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace fuzz {

// What became of the calls of every operation, or of one.  False if an operation never succeeded or was never refused.
bool print_tallies(int only);

}  // namespace fuzz
