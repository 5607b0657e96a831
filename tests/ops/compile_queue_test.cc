// Unit test of tf_opt/ops/compile_queue.h, compiled and run by test_specialization.py. Prints the
// first check that fails.

#include "compile_queue.h"

#include <sys/resource.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdio>
#include <future>
#include <system_error>

#define CHECK(condition)                                  \
  do {                                                    \
    if (!(condition)) {                                   \
      std::printf("line %d: %s\n", __LINE__, #condition); \
      std::fflush(stdout);                                \
      std::_Exit(1);                                      \
    }                                                     \
  } while (false)

using tf_opt::CompileQueue;

void NoThreadIsAnError() {
  CompileQueue& queue = CompileQueue::Get();
  rlimit before;
  getrlimit(RLIMIT_AS, &before);
  rlimit none = before;
  none.rlim_cur = 0;  // No room for the stack of a thread.
  setrlimit(RLIMIT_AS, &none);
  bool thrown = false;
  try {
    queue.Submit(nullptr, [] {});
  } catch (const std::system_error&) {
    thrown = true;
  }
  setrlimit(RLIMIT_AS, &before);
  CHECK(thrown);
}

void TasksRunAndAreCancelled() {
  std::promise<void> started, go_on;
  int first = 0, second = 0;
  bool cancelled = false;
  CompileQueue::Get().Submit(&first, [&] {
    started.set_value();
    go_on.get_future().wait();
  });
  CompileQueue::Get().Submit(&second, [&] { cancelled = true; });
  started.get_future().wait();
  CompileQueue::Get().Cancel(&second);  // Of another owner: does not wait for the running task.
  go_on.set_value();
  CompileQueue::Get().Cancel(&first);
  CHECK(!cancelled);
}

// A child has no thread: it may neither wait for the parent's nor start to.
void AForkedProcessEnds() {
  std::promise<void> started, go_on;
  int owner = 0;
  CompileQueue::Get().Submit(&owner, [&] {
    started.set_value();
    go_on.get_future().wait();
  });
  started.get_future().wait();
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // Ends a child that hangs.
    CompileQueue::Get().Submit(&owner, [] {});
    CompileQueue::Get().Cancel(&owner);
    std::exit(0);  // Runs what was registered with atexit().
  }
  int status = 0;
  waitpid(child, &status, 0);
  go_on.set_value();
  CompileQueue::Get().Cancel(&owner);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main() {
  NoThreadIsAnError();
  TasksRunAndAreCancelled();
  AForkedProcessEnds();
}
