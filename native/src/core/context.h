// The context: error message; instruction set and pool of the CPU, or a GPU; provider of matrix products.
#pragma once

#include <memory>
#include <string>

#include "core/device.h"
#include "core/pool.h"
#include "saccade.h"

namespace saccade {

// CPU instruction sets that kernels are compiled for, worst first.
enum class Isa { kBaseline, kAvx2, kAvx512 };

// What a failed call leaves behind.  Fixed size, so that reporting an error cannot itself fail.
struct ErrorState {
  char message[640] = "";
  char argument[64] = "";
  char expected[192] = "";
  char actual[192] = "";

  void clear() { message[0] = argument[0] = expected[0] = actual[0] = 0; }
};

}  // namespace saccade

struct saccade_context {
  saccade_context(int threads, saccade::Isa isa_) : isa(isa_), pool(threads) {}

  saccade::cuda::Device* gpu = nullptr;  // null: a CPU context
  const saccade::Isa isa;
  saccade::Pool pool;
  saccade_cblas_sgemm gemm = nullptr;
  saccade::ErrorState error;
};
