// The interface between the TensorFlow op and the libraries that run engines.
//
// Invariants:
//   * No exception crosses this interface: every function returns a Status.
//   * Neither TensorFlow nor any engine is included here, so that a runtime library links without
//   TensorFlow
//     and the op library links without any engine.
//   * Both sides are compiled by the same compiler from the same sources (tf_opt/ops/build.py keys
//   its cache by
//     them), therefore C++ types may cross. kInterfaceVersion catches a library that was copied by
//     hand.

#ifndef TF_OPT_OPS_RUNTIME_H_
#define TF_OPT_OPS_RUNTIME_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tf_opt {

inline constexpr int kInterfaceVersion = 3;

// Name of the function that each runtime library exports: `Runtime* TfOptCreateRuntime(int
// interface_version)`.
inline constexpr char kCreateRuntimeSymbol[] = "TfOptCreateRuntime";

enum class Code {
  kOk,
  kUnsupportedShape,  // The engine cannot run these shapes; the original TensorFlow nodes can.
  kNotFound,          // A runtime that no one registered.
  kUnavailable,  // The runtime is known, but cannot be used here (package missing, library does not
                 // load).
  kCorrupt,      // The stored engine is damaged.
  kOtherVersion,  // The stored engine was written in a layout that this build does not read.
  kCancelled,     // The user interrupted the program.
  kError,
};

struct [[nodiscard]] Status {
  Code code = Code::kOk;
  std::string message;

  bool ok() const { return code == Code::kOk; }
  static Status Ok() { return {}; }
  static Status Error(std::string message) { return {Code::kError, std::move(message)}; }
};

using Dims = std::vector<int64_t>;

// A tensor that someone else owns: contiguous, row-major.
struct TensorView {
  const void* data = nullptr;
  int dtype = 0;  // tensorflow::DataType
  Dims dims;
  size_t bytes = 0;
};

// What happened to one segment; shared by all kernels of that segment in the process, written
// without a lock.
struct Statistics {
  std::atomic<int64_t> loads{0};
  std::atomic<int64_t> load_failures{0};
  std::atomic<int64_t> runs{0};  // Runs by the engine; runs by the fallback are not among them.
  std::atomic<int64_t> device_runs{0};  // Those of `runs` that worked on the GPU's memory.
  std::atomic<int64_t> fallback_runs{0};
  std::atomic<int64_t> copied_bytes{
      0};  // Bytes of inputs, outputs or weights copied between TensorFlow and engine.
  std::atomic<int64_t> concurrent_peak{0};
  std::atomic<int64_t> concurrent_runs{
      0};  // Runs served by the engine's variant for concurrent callers.
  std::atomic<int64_t> specialized_runs{0};
  std::atomic<int64_t> specialized_kept{0};
  std::atomic<int64_t> specialized_rejected{0};
  std::atomic<int64_t> specialized_evicted{0};
  std::atomic<int64_t> background_failures{0};  // Variants that could not be compiled.
};

// Where an engine puts its outputs. One object a call; used by one thread.
class OutputAllocator {
 public:
  virtual ~OutputAllocator() = default;

  // TensorFlow's own memory for output `index`, for an engine that knows the shape before it
  // writes.
  virtual Status Allocate(int index, int dtype, const Dims& dims, void** data) = 0;

  // Memory of the engine becomes output `index` as it is. `owner` is released once TensorFlow has
  // no use for the tensor any more, which may be long after the engine is gone; the memory may be
  // written to until then.
  virtual Status Adopt(int index, int dtype, const Dims& dims, void* data,
                       std::shared_ptr<void> owner) = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;

  // Called by many threads at once. `inputs` are valid until it returns.
  virtual Status Run(const std::vector<TensorView>& inputs, OutputAllocator* outputs) = 0;

  // Whether RunOnDevice works. The kernel on a GPU calls Run with copies in host memory otherwise.
  virtual bool runs_on_device() const { return false; }

  // As Run, with inputs in the memory of the GPU that the definition named, and outputs that are
  // allocated there. Puts its work on `stream` (a CUstream) and returns without waiting for it:
  // the memory is valid for everything that this stream does before it returns.
  virtual Status RunOnDevice(const std::vector<TensorView>& inputs, OutputAllocator* outputs,
                             void* stream) {
    static_cast<void>(inputs);
    static_cast<void>(outputs);
    static_cast<void>(stream);
    return Status::Error("this engine does not run in a GPU's memory");
  }
};

struct EngineDefinition {
  std::string segment_name;
  std::string_view header;          // JSON
  std::string_view payload;         // Valid during Runtime::Load only.
  std::vector<TensorView> weights;  // Valid as long as the engine lives.
  int output_count = 0;
  int threads = 1;
  int device = -1;  // CUDA's number of the GPU that the node is on; -1 for the CPU.
  int maximum_cached_engines = 16;
  int specialize_after = 0;
  // Shapes of all inputs, one entry an engine that the load compiles for just these shapes. A
  // runtime without such engines ignores them.
  std::vector<std::vector<Dims>> specialize_shapes;
  Statistics* statistics = nullptr;                    // Lives as long as the process.
  void (*warn)(const std::string& message) = nullptr;  // TensorFlow's log, from any thread.
};

class Runtime {
 public:
  virtual ~Runtime() = default;
  virtual Status Load(const EngineDefinition& definition, std::unique_ptr<Engine>* engine) = 0;
};

}  // namespace tf_opt

#define TF_OPT_EXPORT extern "C" __attribute__((visibility("default")))

#endif  // TF_OPT_OPS_RUNTIME_H_
