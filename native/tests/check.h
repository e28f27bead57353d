/* What the tests in C share: the test ends with a failure where a condition does not hold. */
#ifndef SACCADE_TESTS_CHECK_H
#define SACCADE_TESTS_CHECK_H

#include <stdio.h>

#define CHECK(condition)                                      \
  do {                                                        \
    if (!(condition)) {                                       \
      fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
      return 1;                                               \
    }                                                         \
  } while (0)

#endif
