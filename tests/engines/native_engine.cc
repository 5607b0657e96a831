// The runtime "onnxruntime" without TensorFlow: native_engine.py plays TensorFlow through these
// functions, and sees which memory an engine writes to and which it gives away.

#include <cstring>

// All of it in one unit: the standard library's headers take longer to compile than the sources.
#include "onnx_weights.cc"
#include "onnxruntime_runtime.cc"
#include "python_runtime.cc"
#include "runtime_registry.cc"

namespace {

using tf_opt::Dims;
using tf_opt::Status;
using tf_opt::TensorView;

using AllocateFunction = int64_t (*)(int index, int dtype, int rank, const int64_t* dims);
using AdoptFunction = void (*)(int index, int dtype, int rank, const int64_t* dims, void* data,
                               void* owner);

class Outputs : public tf_opt::OutputAllocator {
 public:
  Outputs(AllocateFunction allocate, AdoptFunction adopt) : allocate_(allocate), adopt_(adopt) {}

  Status Allocate(int index, int dtype, const Dims& dims, void** data) override {
    *data = reinterpret_cast<void*>(
        allocate_(index, dtype, static_cast<int>(dims.size()), dims.data()));
    return Status::Ok();
  }

  Status Adopt(int index, int dtype, const Dims& dims, void* data,
               std::shared_ptr<void> owner) override {
    adopt_(index, dtype, static_cast<int>(dims.size()), dims.data(), data,
           new std::shared_ptr<void>(std::move(owner)));
    return Status::Ok();
  }

 private:
  const AllocateFunction allocate_;
  const AdoptFunction adopt_;
};

// For each tensor its address, bytes, dtype, rank and dimensions.
std::vector<TensorView> Views(const int64_t* words, uint64_t count) {
  std::vector<TensorView> views;
  for (const int64_t* word = words; word < words + count;) {
    TensorView view;
    view.data = reinterpret_cast<const void*>(*word++);
    view.bytes = static_cast<size_t>(*word++);
    view.dtype = static_cast<int>(*word++);
    const int64_t rank = *word++;
    view.dims.assign(word, word + rank);
    word += rank;
    views.push_back(std::move(view));
  }
  return views;
}

// Returns whether it worked; writes the message otherwise.
int Outcome(const Status& status, char* message, uint64_t size) {
  std::strncpy(message, status.message.c_str(), size - 1);
  return status.ok() ? 1 : 0;
}

}  // namespace

TF_OPT_EXPORT int TestLoad(const char* payload, uint64_t bytes, const int64_t* words,
                           uint64_t count, int threads, int outputs, tf_opt::Engine** engine,
                           char* message, uint64_t size) {
  tf_opt::EngineDefinition definition;
  definition.header = "{\"provider\": \"cpu\"}";
  definition.payload = {payload, bytes};
  definition.weights = Views(words, count);
  definition.output_count = outputs;
  definition.threads = threads;
  std::shared_ptr<tf_opt::Runtime> runtime;
  std::unique_ptr<tf_opt::Engine> loaded;
  Status status = tf_opt::FindRuntime("onnxruntime", &runtime);
  if (status.ok()) status = runtime->Load(definition, &loaded);
  *engine = loaded.release();
  return Outcome(status, message, size);
}

TF_OPT_EXPORT int TestRun(tf_opt::Engine* engine, const int64_t* words, uint64_t count,
                          AllocateFunction allocate, AdoptFunction adopt, char* message,
                          uint64_t size) {
  Outputs outputs(allocate, adopt);
  return Outcome(engine->Run(Views(words, count), &outputs), message, size);
}

TF_OPT_EXPORT void TestClose(tf_opt::Engine* engine) { delete engine; }

TF_OPT_EXPORT void TestRelease(std::shared_ptr<void>* owner) { delete owner; }

// Writes the model with external initializers to `declared`, and its size to `used_bytes`.
TF_OPT_EXPORT int TestDeclare(const char* payload, uint64_t bytes, const int64_t* words,
                              uint64_t count, char* declared, uint64_t* used_bytes, char* message,
                              uint64_t size) {
  std::string model;
  std::vector<int> used;
  const Status status =
      tf_opt::DeclareWeightsExternal({payload, bytes}, Views(words, count), &model, &used);
  *used_bytes = model.size();
  std::memcpy(declared, model.data(), model.size());
  return Outcome(status, message, size);
}
