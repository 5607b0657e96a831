// One background thread in the process that compiles engines, one at a time: compiling beside live
// calls costs them enough already. A process that was forked has no such thread and compiles
// nothing.

#ifndef TF_OPT_OPS_COMPILE_QUEUE_H_
#define TF_OPT_OPS_COMPILE_QUEUE_H_

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

namespace tf_opt {

class CompileQueue {
 public:
  static CompileQueue& Get() {
    static CompileQueue* queue =
        new CompileQueue;  // Never destroyed: threads may still submit while exiting.
    return *queue;
  }

  // Runs `task` later. `owner` names whom it belongs to, for Cancel(). A task must not throw.
  // Throws std::system_error where the system gives no thread.
  void Submit(const void* owner, std::function<void()> task) {
    if (IsForked()) return;
    std::lock_guard<std::mutex> lock(mutex_);
    if (stopped_) return;
    if (!thread_.joinable()) {
      thread_ = std::thread([this] { Work(); });
      process_ = getpid();
      // The exit of a process that never closed its session must not tear the engine's library down
      // under a running compilation. Registered after that library was loaded, therefore called
      // before its own destructors.
      std::atexit([] { Get().Stop(); });
    }
    tasks_.emplace_back(owner, std::move(task));
    changed_.notify_all();
  }

  // Drops the owner's waiting tasks and waits for its running one.
  void Cancel(const void* owner) {
    if (IsForked()) return;
    std::unique_lock<std::mutex> lock(mutex_);
    for (auto task = tasks_.begin(); task != tasks_.end();) {
      task = task->first == owner ? tasks_.erase(task) : task + 1;
    }
    changed_.wait(lock, [&] { return running_owner_ != owner; });
  }

 private:
  CompileQueue() = default;

  // The thread is the parent's: here nobody will ever finish what it was at, or unlock what it
  // held.
  bool IsForked() const {
    const pid_t process = process_;
    return process != 0 && process != getpid();
  }

  void Stop() {
    if (IsForked()) return;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopped_ = true;
      tasks_.clear();
      changed_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
  }

  void Work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopped_ || !tasks_.empty(); });
      if (stopped_) return;
      auto [owner, task] = std::move(tasks_.front());
      tasks_.pop_front();
      running_owner_ = owner;
      lock.unlock();
      task();
      task = nullptr;  // What it holds goes before its owner hears that it is done.
      lock.lock();
      running_owner_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<const void*, std::function<void()>>> tasks_;
  const void* running_owner_ = nullptr;
  bool stopped_ = false;
  std::thread thread_;
  std::atomic<pid_t> process_{0};  // The one with the thread.
};

}  // namespace tf_opt

#endif  // TF_OPT_OPS_COMPILE_QUEUE_H_
