// How rows of logits are cut into tasks.
#pragma once

#include <cstdint>

#include "core/pool.h"

namespace saccade {

// Rows of a task: one of a real vocabulary, otherwise enough logits to pay for handing the task out.
inline int64_t logit_rows_per_task(int64_t vocabulary) {
  constexpr int64_t kLogits = 1 << 15, kMost = 1 << 12;
  const int64_t rows = (kLogits + vocabulary - 1) / vocabulary;
  return rows < kMost ? rows : kMost;
}

inline int64_t logit_tasks(int64_t rows, int64_t vocabulary) {
  const int64_t step = logit_rows_per_task(vocabulary);
  return (rows + step - 1) / step;
}

// body(task, first row, end) for every task.
template <class Body>
void for_logit_tasks(Pool& pool, int64_t rows, int64_t vocabulary, const Body& body) {
  const int64_t step = logit_rows_per_task(vocabulary);
  pool.run(logit_tasks(rows, vocabulary), [&](int64_t task, int) {
    const int64_t begin = task * step;
    body(task, begin, rows - begin < step ? rows : begin + step);
  });
}

// body(row) for every row.
template <class Body>
void for_logit_rows(Pool& pool, int64_t rows, int64_t vocabulary, const Body& body) {
  for_logit_tasks(pool, rows, vocabulary, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) body(r);
  });
}

}  // namespace saccade
