// Runs engines through functions that Python registered with ctypes (python_runtime.py). Python.h
// is not needed: ctypes takes the interpreter lock before it enters a Python function.
//
// Invariants:
//   * Nothing waits for the interpreter lock but a load, a run and the end of an engine.
//   * Once the interpreter begins to end, nothing enters it any more (TfOptClearPythonFunctions).

#include "python_runtime.h"

#include <atomic>
#include <chrono>
#include <mutex>
#include <shared_mutex>

#include "runtime_registry.h"

namespace {

using tf_opt::Code;
using tf_opt::PythonFunctions;
using tf_opt::Status;
using tf_opt::TensorView;

// What the functions return. Zero is none of them: ctypes returns it where Python raised outside of
// every `try`, which only a signal handler does.
constexpr int32_t kDone = 1;
constexpr int32_t kUnsupportedShape = 2;
constexpr int32_t kFailed = 3;
constexpr int32_t kDoneButInterrupted = 4;

// TensorFlow has as many threads as cores, unless a program makes Sessions with threads of their
// own over and over, each of which leaves a thread state and its stack behind.
constexpr int kMaximumKeptThreadStates = 256;

// Python's functions. `gate` is held shared during each call into Python; whoever holds it alone
// knows that no thread is in there, so that the functions can be taken away before the interpreter
// ends.
struct Gate {
  std::shared_timed_mutex gate;
  PythonFunctions functions;  // All null before they are set and after they are taken away.
  bool open() const { return functions.run != nullptr; }
};

Gate& TheGate() {
  static Gate* gate = new Gate;
  return *gate;
}

// Owners of adopted memory that TensorFlow has no use for any more. A thread without the
// interpreter lock does not wait for it here, where TensorFlow may hold locks of its own: it leaves
// the owner's number for the next thread that enters Python.
struct Released {
  std::mutex mutex;
  std::vector<int64_t> owners;
};

Released& TheReleased() {
  static Released* released = new Released;
  return *released;
}

std::vector<int64_t> TakeReleased() {
  std::vector<int64_t> owners;
  Released& released = TheReleased();
  std::lock_guard<std::mutex> lock(released.mutex);
  owners.swap(released.owners);
  return owners;
}

// Makes this thread known to the interpreter for good. ctypes would do so at the beginning of each
// call and undo it at its end, which takes longer than all else that a crossing does. The state
// stays when the thread ends, since nobody may wait for the interpreter lock there: who joins the
// thread may hold it. Therefore the number of states is bounded; beyond it calls are slower.
void KeepThreadState(const PythonFunctions& functions) {
  static std::atomic<int> kept{0};
  thread_local bool asked = false;
  if (asked) return;
  asked = true;
  // Python's own threads have one. So has a thread in which someone else's native code has entered
  // Python further up.
  if (functions.thread_state() != nullptr) return;
  if (kept.fetch_add(1) >= kMaximumKeptThreadStates) return;
  functions.acquire_interpreter_lock();
  functions.release_interpreter_lock();
}

// The Python object that owns adopted memory. Destroyed when TensorFlow releases the tensor.
class Owner {
 public:
  explicit Owner(int64_t id) : id_(id) {}
  ~Owner() {
    if (id_ == 0) return;
    Gate& gate = TheGate();
    std::shared_lock<std::shared_timed_mutex> lock(gate.gate);
    if (!gate.open()) return;  // Python's memory stays as it is until the process is gone.
    if (gate.functions.holds_interpreter_lock() != 0) {
      gate.functions.release(id_);
      return;
    }
    Released& released = TheReleased();
    std::lock_guard<std::mutex> released_lock(released.mutex);
    released.owners.push_back(id_);
  }

  void Forget() { id_ = 0; }

 private:
  int64_t id_;
};

// One load or run: what Python tells through the functions at the end of this file.
struct Call {
  tf_opt::OutputAllocator* outputs = nullptr;
  Status refused;  // The first output that TensorFlow refused.
  std::string message;
  int64_t engine = 0;
  bool runs_on_device = false;
};

Status InterpreterGone() {
  return {Code::kUnavailable, "the Python interpreter that runs this engine is shutting down"};
}

Status Outcome(int32_t code, const Call& call) {
  // Whatever Python made of a refused output, the refusal is the cause.
  if (!call.refused.ok()) return call.refused;
  switch (code) {
    case kDone:
      return Status::Ok();
    case kUnsupportedShape:
      return {Code::kUnsupportedShape, call.message};
    case kFailed:
      return Status::Error(call.message);
    case kDoneButInterrupted:
      // Raised again where Python's main thread gets to it, which is after TensorFlow's call.
      TheGate().functions.interrupt();
      return Status::Ok();
    default:
      return {Code::kCancelled, "KeyboardInterrupt: the engine was interrupted"};
  }
}

// Python reads numbers faster than structures: for each tensor its address, dtype, rank and
// dimensions.
void Append(const std::vector<TensorView>& views, std::vector<int64_t>* words) {
  for (const TensorView& view : views) {
    words->push_back(reinterpret_cast<int64_t>(view.data));
    words->push_back(view.dtype);
    words->push_back(static_cast<int64_t>(view.dims.size()));
    words->insert(words->end(), view.dims.begin(), view.dims.end());
  }
}

// The words of a run begin with the released owners.
std::vector<int64_t> RunWords(const std::vector<TensorView>& inputs) {
  std::vector<int64_t> words = TakeReleased();
  words.insert(words.begin(), static_cast<int64_t>(words.size()));
  words.reserve(words.size() + inputs.size() * 8);
  Append(inputs, &words);
  return words;
}

class PythonEngine : public tf_opt::Engine {
 public:
  PythonEngine(int64_t id, bool runs_on_device) : id_(id), runs_on_device_(runs_on_device) {}

  ~PythonEngine() override {
    Gate& gate = TheGate();
    std::shared_lock<std::shared_timed_mutex> lock(gate.gate);
    if (!gate.open()) return;
    for (const int64_t owner : TakeReleased()) gate.functions.release(owner);
    gate.functions.destroy(id_);
  }

  Status Run(const std::vector<TensorView>& inputs, tf_opt::OutputAllocator* outputs) override {
    return CallPython(inputs, outputs, [this](const std::vector<int64_t>& words, Call* call) {
      return TheGate().functions.run(id_, words.data(), words.size(), call);
    });
  }

  bool runs_on_device() const override { return runs_on_device_; }

  Status RunOnDevice(const std::vector<TensorView>& inputs, tf_opt::OutputAllocator* outputs,
                     void* stream) override {
    return CallPython(
        inputs, outputs, [this, stream](const std::vector<int64_t>& words, Call* call) {
          return TheGate().functions.run_on_device(id_, words.data(), words.size(), call, stream);
        });
  }

 private:
  // Calls one of Python's functions for a run, while the gate is open.
  template <typename Function>
  static Status CallPython(const std::vector<TensorView>& inputs, tf_opt::OutputAllocator* outputs,
                           const Function& function) {
    Gate& gate = TheGate();
    std::shared_lock<std::shared_timed_mutex> lock(gate.gate);
    if (!gate.open()) return InterpreterGone();
    KeepThreadState(gate.functions);
    const std::vector<int64_t> words = RunWords(inputs);
    Call call;
    call.outputs = outputs;
    const int32_t code = function(words, &call);
    return Outcome(code, call);
  }

  const int64_t id_;
  const bool runs_on_device_;
};

class PythonRuntime : public tf_opt::Runtime {
 public:
  explicit PythonRuntime(std::string name) : name_(std::move(name)) {}

  Status Load(const tf_opt::EngineDefinition& definition,
              std::unique_ptr<tf_opt::Engine>* engine) override {
    Gate& gate = TheGate();
    std::shared_lock<std::shared_timed_mutex> lock(gate.gate);
    if (!gate.open()) return InterpreterGone();
    std::vector<int64_t> weights;
    Append(definition.weights, &weights);
    const tf_opt::PythonDefinition crossing{name_.c_str(),
                                            definition.segment_name.c_str(),
                                            definition.header.data(),
                                            definition.header.size(),
                                            definition.payload.data(),
                                            definition.payload.size(),
                                            weights.data(),
                                            weights.size(),
                                            definition.threads,
                                            definition.device};
    Call call;
    Status status = Outcome(gate.functions.load(&crossing, &call), call);
    if (status.ok()) *engine = std::make_unique<PythonEngine>(call.engine, call.runs_on_device);
    return status;
  }

 private:
  const std::string name_;
};

void Refuse(Call* call, Status status) {
  if (call->refused.ok()) call->refused = std::move(status);
}

}  // namespace

std::shared_ptr<tf_opt::Runtime> tf_opt::MakePythonRuntime(const std::string& name) {
  return std::make_shared<PythonRuntime>(name);
}

TF_OPT_EXPORT void TfOptSetPythonFunctions(const PythonFunctions* functions) {
  Gate& gate = TheGate();
  std::lock_guard<std::shared_timed_mutex> lock(gate.gate);
  gate.functions = *functions;
}

TF_OPT_EXPORT void TfOptRegisterPythonRuntime(const char* name) {
  tf_opt::RegisterRuntime(name, tf_opt::MakePythonRuntime(name));
}

// Called before the interpreter ends: a thread that entered Python later would hang or crash there.
// A run that takes longer than the wait keeps the functions, for nothing better can be done about
// it. Returns 1 where none is left.
TF_OPT_EXPORT int32_t TfOptClearPythonFunctions(int64_t wait_milliseconds) {
  Gate& gate = TheGate();
  if (!gate.gate.try_lock_for(std::chrono::milliseconds(wait_milliseconds))) return 0;
  gate.functions = {};
  gate.gate.unlock();
  return 1;
}

// The rest is called by Python's functions while they run, with the `call` they were given.

// Returns the address of TensorFlow's memory (0 where there are no elements), or -1.
TF_OPT_EXPORT int64_t TfOptAllocateOutput(void* opaque, int32_t index, int32_t dtype, int32_t rank,
                                          const int64_t* dims) {
  auto* call = static_cast<Call*>(opaque);
  void* data = nullptr;
  Status status = call->outputs->Allocate(index, dtype, tf_opt::Dims(dims, dims + rank), &data);
  if (status.ok()) return reinterpret_cast<int64_t>(data);
  Refuse(call, std::move(status));
  return -1;
}

// Returns 1 where TensorFlow uses the memory from now on, and releases `owner` later; 0 where it
// made a copy; -1 where it refused the output.
TF_OPT_EXPORT int32_t TfOptAdoptOutput(void* opaque, int32_t index, int32_t dtype, int32_t rank,
                                       const int64_t* dims, void* data, int64_t owner_id) {
  auto* call = static_cast<Call*>(opaque);
  auto owner = std::make_shared<Owner>(owner_id);
  Status status = call->outputs->Adopt(index, dtype, tf_opt::Dims(dims, dims + rank), data, owner);
  if (status.ok() && owner.use_count() > 1) return 1;
  owner->Forget();
  if (status.ok()) return 0;
  Refuse(call, std::move(status));
  return -1;
}

TF_OPT_EXPORT void TfOptSetMessage(void* call, const char* message) {
  static_cast<Call*>(call)->message = message;
}

TF_OPT_EXPORT void TfOptEngineLoaded(void* opaque, int64_t engine, int32_t runs_on_device) {
  auto* call = static_cast<Call*>(opaque);
  call->engine = engine;
  call->runs_on_device = runs_on_device != 0;
}
