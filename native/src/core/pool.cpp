#include "core/pool.h"

namespace saccade {

namespace {

// A worker polls this often for the next run before it sleeps: operations of a training step follow each other within
// microseconds, and a wake-up costs more than most of them.
constexpr int kPolls = 2000;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

Pool::Pool(int threads) {
  try {
    for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { work(worker); });
  } catch (...) {  // the destructor does not run, and a thread that is not joined ends the process
    stop();
    throw;
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::drain(int worker) {
  for (int64_t task = next_.fetch_add(1); task < tasks_; task = next_.fetch_add(1)) function_(body_, task, worker);
}

void Pool::run(int64_t tasks, Function function, const void* body) {
  if (tasks <= 0) return;
  if (tasks == 1 || workers_.empty()) {
    for (int64_t task = 0; task < tasks; ++task) function(body, task, 0);
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    function_ = function;
    body_ = body;
    tasks_ = tasks;
    busy_ = static_cast<int>(workers_.size());
    next_.store(0);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  drain(0);
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [this] { return busy_ == 0; });
}

void Pool::work(int worker) {
  uint64_t seen = 0;
  for (;;) {
    for (int poll = 0; poll < kPolls && generation_.load() == seen; ++poll) pause();
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
      seen = generation_.load();
      if (stop_) return;
    }
    drain(worker);
    std::lock_guard<std::mutex> lock(mutex_);
    if (--busy_ == 0) done_.notify_one();
  }
}

}  // namespace saccade
