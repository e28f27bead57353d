// What the freeing of memory has to know of tensors that other libraries were given.
#pragma once

#include "saccade.h"

namespace saccade {

// Whether managed tensors hold the block: then the last of their deleters frees it, and its owner does not.
bool let_holders_free(saccade_address block);

}  // namespace saccade
