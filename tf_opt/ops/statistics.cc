#include "statistics.h"

#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>

namespace tf_opt {
namespace {

struct Counter {
  const char* name;
  std::atomic<int64_t> Statistics::* value;
};

constexpr Counter kCounters[] = {
    {"loads", &Statistics::loads},
    {"load_failures", &Statistics::load_failures},
    {"runs", &Statistics::runs},
    {"device_runs", &Statistics::device_runs},
    {"fallback_runs", &Statistics::fallback_runs},
    {"copied_bytes", &Statistics::copied_bytes},
    {"concurrent_peak", &Statistics::concurrent_peak},
    {"concurrent_runs", &Statistics::concurrent_runs},
    {"specialized_runs", &Statistics::specialized_runs},
    {"specialized_kept", &Statistics::specialized_kept},
    {"specialized_rejected", &Statistics::specialized_rejected},
    {"specialized_evicted", &Statistics::specialized_evicted},
    {"background_failures", &Statistics::background_failures},
};

std::mutex& Mutex() {
  static std::mutex* mutex = new std::mutex;
  return *mutex;
}

std::map<std::string, Statistics>& Segments() {
  static auto* segments =
      new std::map<std::string, Statistics>;  // A map, because its nodes never move.
  return *segments;
}

std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char character : text) {
    if (character == '"' || character == '\\') {
      quoted += {'\\', character};
    } else if (static_cast<unsigned char>(character) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\u%04x", character);
      quoted += escape;
    } else {
      quoted += character;
    }
  }
  return quoted + '"';
}

}  // namespace

Statistics* StatisticsOf(const std::string& segment_name) {
  std::lock_guard<std::mutex> lock(Mutex());
  return &Segments()[segment_name];
}

void RaiseTo(std::atomic<int64_t>* maximum, int64_t value) {
  int64_t seen = maximum->load(std::memory_order_relaxed);
  while (seen < value && !maximum->compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

}  // namespace tf_opt

// Writes a JSON object {segment: {counter: value}} with a final zero byte; returns the bytes
// needed, and writes nothing where `size` is smaller than that.
TF_OPT_EXPORT uint64_t TfOptStatistics(char* buffer, uint64_t size) {
  std::string json = "{";
  {
    std::lock_guard<std::mutex> lock(tf_opt::Mutex());
    for (const auto& [name, statistics] : tf_opt::Segments()) {
      json += (json.size() == 1 ? "" : ",") + tf_opt::Quoted(name) + ":{";
      for (const auto& counter : tf_opt::kCounters) {
        json += (&counter == tf_opt::kCounters ? "\"" : ",\"") + std::string(counter.name) +
                "\":" + std::to_string((statistics.*counter.value).load());
      }
      json += "}";
    }
  }
  json += "}";
  if (json.size() + 1 <= size) std::memcpy(buffer, json.c_str(), json.size() + 1);
  return json.size() + 1;
}

TF_OPT_EXPORT void TfOptResetStatistics() {
  std::lock_guard<std::mutex> lock(tf_opt::Mutex());
  for (auto& entry : tf_opt::Segments()) {
    for (const auto& counter : tf_opt::kCounters) (entry.second.*counter.value) = 0;
  }
}
