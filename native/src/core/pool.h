// The context's fork-join pool.
//
// run() calls body(task, worker) once for every task in [0, tasks) and returns when all are done.  Tasks are cut by
// the problem's size, never by the number of threads, and are handed out dynamically: which worker runs a task does
// not matter to the result.  `worker` is in [0, threads()) and tells tasks that run at the same time apart.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace saccade {

class Pool {
 public:
  explicit Pool(int threads);  // throws std::system_error where the system gives no more threads
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  template <class Body>
  void run(int64_t tasks, const Body& body) {
    run(
        tasks, [](const void* b, int64_t task, int worker) { (*static_cast<const Body*>(b))(task, worker); }, &body);
  }

 private:
  using Function = void (*)(const void* body, int64_t task, int worker);

  void run(int64_t tasks, Function function, const void* body);
  void stop();
  void work(int worker);
  void drain(int worker);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  // Written by run() under mutex_ before the generation moves on; read by workers that saw it move.
  Function function_ = nullptr;
  const void* body_ = nullptr;
  int64_t tasks_ = 0;
  bool stop_ = false;
  int busy_ = 0;  // workers still inside the current generation; guarded by mutex_
  std::atomic<uint64_t> generation_{0};
  std::atomic<int64_t> next_{0};
};

}  // namespace saccade
