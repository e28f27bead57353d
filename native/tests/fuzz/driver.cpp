// Without libFuzzer: inputs grown from a seed, or replayed from files.
//
//   fuzz [--seed N] [--count N | --seconds N] [--operation NAME] [--failure FILE]
//   fuzz FILE...
//
// A seed gives the same inputs everywhere.  What fails is written to FILE and stops the run; the table at the end says
// what became of the calls, and an operation that never succeeded or was never refused fails the run as well.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "case.h"
#include "fuzz.h"

namespace {

constexpr size_t kBytes = 1024;      // more choices than a case has
constexpr unsigned kPatience = 300;  // seconds for one input

std::vector<uint8_t> input;
uint64_t seed = 0;
int64_t iteration = 0;
const char* failure_file = "fuzz-failure";
bool replaying = false;

// Runs in a signal handler.
void report_failure() {
  if (replaying) return;
  char text[512];
  const int file = open(failure_file, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  const bool written = file >= 0 && write(file, input.data(), input.size()) == static_cast<ssize_t>(input.size());
  if (file >= 0) close(file);
  const int length =
      std::snprintf(text, sizeof text, "\nseed %llu, iteration %lld; %s: %s\n", static_cast<unsigned long long>(seed),
                    static_cast<long long>(iteration), written ? "replay with" : "could not write", failure_file);
  if (write(STDERR_FILENO, text, static_cast<size_t>(length)) < 0) return;
}

void on_signal(int signal) {
  if (signal == SIGALRM) {
    const char text[] = "\nthe input takes too long\n";
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0) _exit(3);
  }
  report_failure();
  std::signal(signal, SIG_DFL);
  raise(signal);
}

// A sanitizer's own handler stays: it reports, and aborts.
void watch() {
  for (int signal : {SIGALRM, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
    struct sigaction before;
    if (!sigaction(signal, nullptr, &before) && before.sa_handler == SIG_DFL) std::signal(signal, on_signal);
  }
}

[[noreturn]] void usage(const char* problem) {
  std::fprintf(stderr,
               "%s\nfuzz [--seed N] [--count N | --seconds N] [--operation NAME] [--failure FILE]\nfuzz FILE...\n",
               problem);
  std::exit(2);
}

int replay(int count, char** files) {
  replaying = true;
  for (int i = 0; i < count; ++i) {
    std::ifstream stream(files[i], std::ios::binary);
    if (!stream) usage(files[i]);
    input.assign(std::istreambuf_iterator<char>(stream), {});
    LLVMFuzzerTestOneInput(input.data(), input.size());
    std::printf("%s: nothing found\n", files[i]);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && argv[1][0] != '-') return replay(argc - 1, argv + 1);
  int64_t count = -1, seconds = -1;
  int only = -1;
  seed = std::random_device{}();
  for (int i = 1; i < argc; i += 2) {
    const std::string option = argv[i];
    if (i + 1 == argc) usage("an option without a value");
    const char* value = argv[i + 1];
    if (option == "--seed")
      seed = std::strtoull(value, nullptr, 10);
    else if (option == "--count")
      count = std::strtoll(value, nullptr, 10);
    else if (option == "--seconds")
      seconds = std::strtoll(value, nullptr, 10);
    else if (option == "--failure")
      failure_file = value;
    else if (option == "--operation") {
      for (int k = 0; k < fuzz::kOperationCount; ++k)
        if (!std::strcmp(fuzz::kOperations[k].name, value)) only = k;
      if (only < 0) usage("no such operation");
    } else {
      usage(argv[i]);
    }
  }
  if (count < 0 && seconds < 0) count = 20000;

  watch();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  input.resize(kBytes);
  for (; count < 0 || iteration < count; ++iteration) {
    if (seconds >= 0 && Clock::now() - begin >= std::chrono::seconds(seconds)) break;
    fuzz::Random random(seed + static_cast<uint64_t>(iteration) * 0x9e3779b97f4a7c15u);
    for (size_t b = 0; b < kBytes; b += 8) {
      const uint64_t word = random.next();
      std::memcpy(&input[b], &word, 8);
    }
    // Operations in turn, so that a short run tries all of them.
    input[0] = static_cast<uint8_t>(only >= 0 ? only : iteration % fuzz::kOperationCount);
    alarm(kPatience);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  alarm(0);
  const double took = std::chrono::duration<double>(Clock::now() - begin).count();
  const bool complete = fuzz::print_tallies(only);
  std::printf("seed %llu: %lld inputs in %.1f s, nothing found\n", static_cast<unsigned long long>(seed),
              static_cast<long long>(iteration), took);
  return complete ? 0 : 1;
}
