// axpby: y = a*x + b*y over [rows,columns].
//
// One read of x, one write of y, and one read of y unless b is 0.
#pragma once

#include "core/call.h"

SACCADE_DECLARE(axpby, const saccade_axpby_args& args)
