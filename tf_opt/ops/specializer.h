// Decides which input shapes get an engine of their own: those that come often, and for which the
// engine compiled for just these shapes is measured to be faster than the one for all shapes.
//
// Each shape goes counting -> compiling -> measuring -> kept or rejected. One whose place goes to a
// shape that comes much more often starts again. A shape that was asked for begins with compiling.

#ifndef TF_OPT_OPS_SPECIALIZER_H_
#define TF_OPT_OPS_SPECIALIZER_H_

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime.h"

namespace tf_opt {

template <typename Variant>
class Specializer {
 public:
  using Key = std::vector<int64_t>;  // The dims of all inputs, one after another.

  struct Choice {
    std::shared_ptr<Variant> variant;  // Empty: use the engine for all shapes.
    bool compile = false;  // The caller has to start the compilation, then call Compiled().
    bool measure = false;  // The caller has to time the call, then call Measured().
  };

  Specializer(int specialize_after, int maximum_cached_engines, Statistics* statistics)
      : specialize_after_(specialize_after),
        maximum_(maximum_cached_engines),
        statistics_(statistics) {}

  bool enabled() const { return (specialize_after_ > 0 || asked_) && maximum_ > 0; }

  // For a shape that is compiled before any call: true where the caller has to compile, then call
  // Compiled(). False where this was asked for before, or all places are taken.
  bool Ask(const Key& key) {
    std::lock_guard<std::mutex> lock(mutex_);
    Entry& entry = EntryOf(key);
    if (entry.state != State::kCounting || taken_ >= maximum_) return false;
    ++taken_;
    entry.state = State::kCompiling;
    entry.last_use = ++clock_;
    asked_ = true;
    return true;
  }

  // For a call that runs alone; others would be measured wrongly.
  Choice Choose(const Key& key) {
    std::shared_ptr<Variant>
        evicted;  // Destroyed after the lock is released: freeing an engine takes milliseconds.
    std::lock_guard<std::mutex> lock(mutex_);
    // Without counting, a shape that was not asked for needs no entry.
    if (specialize_after_ <= 0 && entries_.find(key) == entries_.end()) return {};
    Entry& entry = EntryOf(key);
    entry.last_use = ++clock_;
    switch (entry.state) {
      case State::kCounting:
        if (!IsDue(&entry, &evicted)) return {};
        ++taken_;
        entry.state = State::kCompiling;
        return {nullptr, true, false};
      case State::kMeasuring:
        entry.turn = !entry.turn;  // Alternating, so that both see the same load of the machine.
        return {entry.turn ? entry.variant : nullptr, false, true};
      case State::kKept:
        return {entry.variant, false, false};
      case State::kCompiling:
      case State::kRejected:
        break;
    }
    return {};
  }

  // `variant` is empty where the compilation failed: the shape stays with the engine for all
  // shapes.
  void Compiled(const Key& key, std::shared_ptr<Variant> variant) {
    std::lock_guard<std::mutex> lock(mutex_);
    Entry& entry = EntryOf(key);
    entry.state = variant ? State::kMeasuring : State::kRejected;
    if (!variant) {
      --taken_;
      ++statistics_->specialized_rejected;
    }
    entry.variant = std::move(variant);
  }

  void Measured(const Key& key, bool specialized, double seconds) {
    std::shared_ptr<Variant> rejected;
    std::lock_guard<std::mutex> lock(mutex_);
    Entry& entry = EntryOf(key);
    if (entry.state != State::kMeasuring) return;
    (specialized ? entry.specialized_seconds : entry.general_seconds).push_back(seconds);
    if (entry.specialized_seconds.size() < kSamples || entry.general_seconds.size() < kSamples)
      return;
    if (Median(entry.specialized_seconds) < kKeepBelow * Median(entry.general_seconds)) {
      entry.state = State::kKept;
      ++statistics_->specialized_kept;
    } else {
      entry.state = State::kRejected;
      --taken_;
      ++statistics_->specialized_rejected;
      rejected = std::move(entry.variant);
    }
    entry.specialized_seconds = {};
    entry.general_seconds = {};
  }

 private:
  enum class State { kCounting, kCompiling, kMeasuring, kKept, kRejected };

  struct Entry {
    State state = State::kCounting;
    int64_t count = 0;
    uint64_t window = 0;  // The clock when the latest kUsesForAPlace calls began.
    uint64_t last_use = 0;
    bool turn = false;
    std::shared_ptr<Variant> variant;
    std::vector<double> specialized_seconds, general_seconds;
  };

  static constexpr size_t kSamples =
      11;  // The first of each warms up; the median takes care of it.
  static constexpr double kKeepBelow = 0.98;  // Less than 2% is noise, and not worth the memory.
  static constexpr size_t kMaximumEntries =
      4096;  // Bounds what a stream of ever new shapes leaves behind.
  // A shape takes the place of one that came not once during so many of its own calls. If the least
  // recently used one always went, more shapes than places that come in turn would compile for
  // ever.
  static constexpr int64_t kUsesForAPlace = 20;

  static double Median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
    return values[values.size() / 2];
  }

  Entry& EntryOf(const Key& key) {
    const auto found = entries_.find(key);
    if (found != entries_.end()) return found->second;
    if (entries_.size() >= kMaximumEntries) {
      // A shape in work keeps its entry: Compiled() and Measured() refer to it.
      auto oldest = LeastRecentlyUsed([](State state) { return state == State::kCounting; });
      if (oldest == entries_.end())
        oldest = LeastRecentlyUsed([](State state) { return state == State::kRejected; });
      if (oldest != entries_.end()) entries_.erase(oldest);
    }
    return entries_[key];
  }

  template <typename Predicate>
  typename std::map<Key, Entry>::iterator LeastRecentlyUsed(Predicate wanted) {
    auto oldest = entries_.end();
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
      if (!wanted(entry->second.state)) continue;
      if (oldest == entries_.end() || entry->second.last_use < oldest->second.last_use)
        oldest = entry;
    }
    return oldest;
  }

  // Counts a call; true where the shape has come often enough and there is a place for it.
  bool IsDue(Entry* entry, std::shared_ptr<Variant>* evicted) {
    if (specialize_after_ <= 0) return false;
    if (entry->count % kUsesForAPlace == 0) entry->window = clock_;
    if (++entry->count < specialize_after_) return false;
    if (taken_ < maximum_) return true;
    return entry->count % kUsesForAPlace == 0 && Evict(entry->window, evicted);
  }

  // Frees the place of the least recently used shape; false where even that has come since then.
  bool Evict(uint64_t since, std::shared_ptr<Variant>* evicted) {
    // One in measurement too: if it comes no more, or only while other calls run, it is never
    // decided.
    const auto oldest = LeastRecentlyUsed(
        [](State state) { return state == State::kKept || state == State::kMeasuring; });
    if (oldest == entries_.end() || oldest->second.last_use >= since) return false;
    *evicted = std::move(oldest->second.variant);
    oldest->second = Entry{};
    --taken_;
    ++statistics_->specialized_evicted;
    return true;
  }

  const int64_t specialize_after_;
  const int64_t maximum_;
  Statistics* const statistics_;
  std::mutex mutex_;
  std::atomic<bool> asked_{false};  // Read without the lock.
  uint64_t clock_ = 0;
  int64_t taken_ = 0;  // Places: entries that are compiling, measuring or kept.
  std::map<Key, Entry> entries_;
};

}  // namespace tf_opt

#endif  // TF_OPT_OPS_SPECIALIZER_H_
