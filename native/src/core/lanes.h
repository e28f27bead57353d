// What a formula that both backends share is written in: vectors of an instruction set, or a thread's own lane.
#pragma once

#if defined(__CUDACC__)
#include "core/lane.cuh"
#else
#include "core/simd.h"
#endif
