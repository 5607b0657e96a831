// What the shapes of an engine's outputs will be, learned from the runs before; used by several
// threads at once. An output that once had another shape for the same input shapes depends on
// values, and is expected no more.

#ifndef TF_OPT_OPS_OUTPUT_SHAPES_H_
#define TF_OPT_OPS_OUTPUT_SHAPES_H_

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "runtime.h"

namespace tf_opt {

class OutputShapes {
 public:
  using Key = std::vector<int64_t>;

  // `maximum`: for how many sets of input shapes something is remembered; the one unused for
  // longest goes first.
  explicit OutputShapes(size_t outputs, size_t maximum = 1024)
      : varying_(outputs, false), maximum_(maximum) {}

  // No shape is to be expected of this output.
  void NeverExpect(size_t output) { varying_[output] = true; }

  static Key KeyOf(const std::vector<TensorView>& inputs) {
    Key key;
    key.reserve(5 * inputs.size());
    for (const TensorView& view : inputs) {
      key.push_back(static_cast<int64_t>(view.dims.size()));
      key.insert(key.end(), view.dims.begin(), view.dims.end());
    }
    return key;
  }

  // The shape of each output, none for one that depends on values; empty where nothing is known.
  std::vector<std::optional<Dims>> Expected(const Key& key) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = learned_.find(key);
    if (found == learned_.end()) return {};
    found->second.last_use = ++clock_;
    std::vector<std::optional<Dims>> expected(varying_.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      if (!varying_[i]) expected[i] = found->second.shapes[i];
    }
    return expected;
  }

  void Learn(const Key& key, std::vector<Dims> shapes) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = learned_.find(key);
    if (found != learned_.end()) {
      for (size_t i = 0; i < shapes.size(); ++i) {
        if (found->second.shapes[i] != shapes[i]) varying_[i] = true;
      }
    } else if (learned_.size() >= maximum_) {
      learned_.erase(std::min_element(
          learned_.begin(), learned_.end(),
          [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; }));
    }
    learned_[key] = {std::move(shapes), ++clock_};
  }

 private:
  struct Entry {
    std::vector<Dims> shapes;
    uint64_t last_use = 0;
  };

  std::mutex mutex_;
  std::vector<bool> varying_;
  const size_t maximum_;
  uint64_t clock_ = 0;
  std::map<Key, Entry> learned_;
};

}  // namespace tf_opt

#endif  // TF_OPT_OPS_OUTPUT_SHAPES_H_
