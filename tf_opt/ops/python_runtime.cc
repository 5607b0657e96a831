// Runs engines through functions that Python registered with ctypes (python_runtime.py). Python.h
// is not needed: ctypes takes the interpreter lock before it enters a Python function.

#include <chrono>
#include <mutex>
#include <shared_mutex>

#include "runtime_registry.h"

namespace {

// Crosses the border to ctypes; python_runtime.py declares the same layout.
struct PythonTensor {
  const void* data;
  uint64_t bytes;
  const int64_t* dims;
  int32_t rank;
  int32_t dtype;
};

using AllocateFunction = void* (*)(void* call, int32_t index, int32_t dtype, int32_t rank,
                                   const int64_t* dims);
using LoadFunction = int64_t (*)(const char* runtime, const char* payload, uint64_t payload_bytes,
                                 const PythonTensor* weights, int32_t weight_count, char* message,
                                 uint64_t message_bytes);
using RunFunction = int32_t (*)(int64_t engine, const PythonTensor* inputs, int32_t input_count,
                                void* call, AllocateFunction allocate, char* message,
                                uint64_t message_bytes);
using DestroyFunction = void (*)(int64_t engine);

constexpr size_t kMessageBytes = 8192;
constexpr int32_t kRunOk = 0;
constexpr int32_t kRunUnsupportedShape = 1;

// Python's functions. `gate` is held shared during each call into Python; whoever holds it alone
// knows that no thread is in there, so that the functions can be taken away before the interpreter
// ends.
struct Functions {
  std::shared_timed_mutex gate;
  LoadFunction load = nullptr;
  RunFunction run = nullptr;
  DestroyFunction destroy = nullptr;
};

Functions& GetFunctions() {
  static Functions* functions = new Functions;
  return *functions;
}

tf_opt::Status InterpreterGone() {
  return {tf_opt::Code::kUnavailable,
          "the Python interpreter that runs this engine is shutting down"};
}

std::vector<PythonTensor> ToPython(const std::vector<tf_opt::TensorView>& views) {
  std::vector<PythonTensor> tensors;
  tensors.reserve(views.size());
  for (const auto& view : views) {
    tensors.push_back({view.data, view.bytes, view.dims.data(),
                       static_cast<int32_t>(view.dims.size()), view.dtype});
  }
  return tensors;
}

struct Call {
  tf_opt::OutputAllocator* outputs;
  tf_opt::Status status;
};

void* Allocate(void* opaque, int32_t index, int32_t dtype, int32_t rank, const int64_t* dims) {
  auto* call = static_cast<Call*>(opaque);
  void* data = nullptr;
  call->status = call->outputs->Allocate(index, dtype, tf_opt::Dims(dims, dims + rank), &data);
  return call->status.ok() ? data : nullptr;
}

class PythonEngine : public tf_opt::Engine {
 public:
  explicit PythonEngine(int64_t id) : id_(id) {}

  ~PythonEngine() override {
    std::shared_lock<std::shared_timed_mutex> lock(GetFunctions().gate);
    if (GetFunctions().destroy != nullptr) GetFunctions().destroy(id_);
  }

  tf_opt::Status Run(const std::vector<tf_opt::TensorView>& inputs,
                     tf_opt::OutputAllocator* outputs) override {
    std::shared_lock<std::shared_timed_mutex> lock(GetFunctions().gate);
    if (GetFunctions().run == nullptr) return InterpreterGone();
    const std::vector<PythonTensor> tensors = ToPython(inputs);
    Call call{outputs, {}};
    std::vector<char> message(kMessageBytes, '\0');
    const int32_t code =
        GetFunctions().run(id_, tensors.data(), static_cast<int32_t>(tensors.size()), &call,
                           &Allocate, message.data(), message.size());
    // An output that TensorFlow refused (wrong dtype or shape) is the cause of whatever Python made
    // of it.
    if (!call.status.ok()) return call.status;
    if (code == kRunOk) return tf_opt::Status::Ok();
    return {code == kRunUnsupportedShape ? tf_opt::Code::kUnsupportedShape : tf_opt::Code::kError,
            message.data()};
  }

 private:
  const int64_t id_;
};

class PythonRuntime : public tf_opt::Runtime {
 public:
  explicit PythonRuntime(std::string name) : name_(std::move(name)) {}

  tf_opt::Status Load(const tf_opt::EngineDefinition& definition,
                      std::unique_ptr<tf_opt::Engine>* engine) override {
    std::shared_lock<std::shared_timed_mutex> lock(GetFunctions().gate);
    if (GetFunctions().load == nullptr) return InterpreterGone();
    const std::vector<PythonTensor> weights = ToPython(definition.weights);
    std::vector<char> message(kMessageBytes, '\0');
    const int64_t id = GetFunctions().load(
        name_.c_str(), definition.payload.data(), definition.payload.size(), weights.data(),
        static_cast<int32_t>(weights.size()), message.data(), message.size());
    if (id < 0) return tf_opt::Status::Error(message.data());
    *engine = std::make_unique<PythonEngine>(id);
    return tf_opt::Status::Ok();
  }

 private:
  const std::string name_;
};

}  // namespace

TF_OPT_EXPORT void TfOptSetPythonFunctions(LoadFunction load, RunFunction run,
                                           DestroyFunction destroy) {
  Functions& functions = GetFunctions();
  std::lock_guard<std::shared_timed_mutex> lock(functions.gate);
  functions.load = load;
  functions.run = run;
  functions.destroy = destroy;
}

TF_OPT_EXPORT void TfOptRegisterPythonRuntime(const char* name) {
  tf_opt::RegisterRuntime(name, std::make_shared<PythonRuntime>(name));
}

// Called before the interpreter ends: a thread that entered Python later would hang or crash there.
// A run that takes longer than the wait keeps the functions, for nothing better can be done about
// it. Returns 1 where none is left.
TF_OPT_EXPORT int32_t TfOptClearPythonFunctions(int64_t wait_milliseconds) {
  Functions& functions = GetFunctions();
  if (!functions.gate.try_lock_for(std::chrono::milliseconds(wait_milliseconds))) return 0;
  functions.load = nullptr;
  functions.run = nullptr;
  functions.destroy = nullptr;
  functions.gate.unlock();
  return 1;
}
