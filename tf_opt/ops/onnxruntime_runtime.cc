// The runtime "onnxruntime" for ONNX Runtime's CPU provider, by its C interface. Engines for
// another provider, and all engines where the package has no library of its own, run through
// Python (tf_opt/engines/onnxruntime); both run what either stored.
//
// Invariants:
//   * Inputs are read where TensorFlow has them; weights are TensorFlow's memory, except for what
//   ONNX Runtime packs or folds.
//   * Outputs whose shape follows from the input shapes are written where TensorFlow wants them,
//   from the second run of these input shapes on. Of the others TensorFlow takes ONNX Runtime's
//   memory over, and may write to it: it is new in each run, for an output that is a constant too.
//   * A shape is never believed: ONNX Runtime refuses to write an output of another one.
//   * What ONNX Runtime does not run is for the original nodes: an invalid request so meets
//   TensorFlow's own error. Only an engine that does not fit its node is an error of its own.
//   * ONNX Runtime allows runs from several threads at once, and no lock is held during one.

#include <cstring>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "onnx_types.h"
#include "onnx_weights.h"
#include "onnxruntime_library.h"
#include "output_shapes.h"
#include "python_runtime.h"
#include "runtime_registry.h"
#include "texts.h"

namespace tf_opt {
namespace onnxruntime {
namespace {

// A session with what it reads, for the engine and for outputs that TensorFlow still holds.
struct OpenSession {
  OpenSession(const Library* library, size_t weight_count)
      : weights(library, weight_count), session(nullptr, library->api().ReleaseSession) {}

  Values weights;  // Declared before the session, which refers to them.
  Holder<Session> session;
};

// Memory that ONNX Runtime allocated, while TensorFlow has it.
struct GivenAway {
  std::shared_ptr<OpenSession> session;
  Values value;
  GivenAway(const Library* library, std::shared_ptr<OpenSession> kept, Value* given)
      : session(std::move(kept)), value(library, 1) {
    value[0] = given;
  }
};

class OnnxRuntimeEngine : public Engine {
 public:
  OnnxRuntimeEngine(const Library* library, std::shared_ptr<OpenSession> session)
      : library_(library), session_(std::move(session)) {
    const Api& api = library_->api();
    size_t inputs = 0, outputs = 0;
    library_->Check(api.SessionGetInputCount(session_->session.get(), &inputs));
    library_->Check(api.SessionGetOutputCount(session_->session.get(), &outputs));
    for (size_t i = 0; i < inputs; ++i) names_.push_back(Name(api.SessionGetInputName, i));
    for (size_t i = 0; i < outputs; ++i) names_.push_back(Name(api.SessionGetOutputName, i));
    for (const std::string& name : names_) name_pointers_.push_back(name.c_str());
    for (size_t i = 0; i < inputs; ++i)
      input_types_.push_back(Type(api.SessionGetInputTypeInfo, i));
    for (size_t i = 0; i < outputs; ++i)
      output_types_.push_back(Type(api.SessionGetOutputTypeInfo, i));
    shapes_ = std::make_unique<OutputShapes>(outputs);
    for (size_t i = 0; i < inputs; ++i) input_of_port_.push_back(IndexOf(names_[i], "input_"));
    for (size_t i = 0; i < outputs; ++i) {
      passed_.push_back(-1);
      for (size_t port = 0; port < inputs; ++port) {
        if (names_[port] == names_[inputs + i]) passed_[i] = input_of_port_[port];
      }
      if (passed_[i] >= 0) shapes_->NeverExpect(i);
    }
  }

  Status CheckPorts(int output_count) const {
    for (size_t port = 0; port < input_of_port_.size(); ++port) {
      if (input_of_port_[port] < 0) {
        return Misfit("the engine has an input '" + names_[port] +
                      "', expected input_<i> or weight_<j>");
      }
    }
    if (static_cast<int>(output_types_.size()) != output_count) {
      return Misfit("the engine has " + std::to_string(output_types_.size()) +
                    " outputs, the node has " + std::to_string(output_count));
    }
    for (size_t i = 0; i < output_types_.size(); ++i) {
      if (output_types_[i] == 0) {
        return Misfit("the engine's output " + std::to_string(i) +
                      " has an element type that TensorFlow does not exchange with ONNX Runtime");
      }
    }
    return Status::Ok();
  }

  Status Run(const std::vector<TensorView>& inputs, OutputAllocator* outputs) override {
    try {
      return RunOrThrow(inputs, outputs);
    } catch (const std::exception& exception) {
      return {TakesTypesOf(inputs) ? Code::kUnsupportedShape : Code::kError,
              "ONNX Runtime " + library_->version() + " does not run " + ShapesText(inputs) + ": " +
                  OneLine(exception.what())};
    }
  }

 private:
  using GetName = Failure* (*)(const Session*, size_t, Allocator*, char**);
  using GetType = Failure* (*)(const Session*, size_t, TypeInfo**);

  std::string Name(GetName get, size_t index) const {
    char* name = nullptr;
    library_->Check(get(session_->session.get(), index, library_->allocator(), &name));
    const std::string copy = name;
    library_->Check(library_->api().AllocatorFree(library_->allocator(), name));
    return copy;
  }

  // TensorFlow's number of the type; zero for what is no tensor, or of a type without number.
  int Type(GetType get, size_t index) const {
    const Api& api = library_->api();
    TypeInfo* type = nullptr;
    library_->Check(get(session_->session.get(), index, &type));
    const Holder<TypeInfo> held(type, api.ReleaseTypeInfo);
    const TensorInfo* tensor = nullptr;
    library_->Check(api.CastTypeInfoToTensorInfo(type, &tensor));
    int element = 0;
    if (tensor != nullptr) library_->Check(api.GetTensorElementType(tensor, &element));
    return DtypeOfOnnx(element);
  }

  bool TakesTypesOf(const std::vector<TensorView>& inputs) const {
    for (size_t port = 0; port < input_of_port_.size(); ++port) {
      const size_t index = input_of_port_[port];
      if (index >= inputs.size() || inputs[index].dtype != input_types_[port]) return false;
    }
    return true;
  }

  Status RunOrThrow(const std::vector<TensorView>& inputs, OutputAllocator* outputs) {
    Values read(library_, input_of_port_.size());
    for (size_t port = 0; port < input_of_port_.size(); ++port) {
      const size_t index = input_of_port_[port];
      if (index >= inputs.size()) {
        return Misfit("the engine reads input_" + std::to_string(index) + ", the node has " +
                      std::to_string(inputs.size()) + " inputs");
      }
      const TensorView& view = inputs[index];
      const int type = OnnxTypeOf(view.dtype);
      if (type == 0) {
        return Misfit("ONNX Runtime takes no tensors of TensorFlow's dtype number " +
                      std::to_string(view.dtype) + ", which input_" + std::to_string(index) +
                      " has");
      }
      read[port] = library_->TensorOver(const_cast<void*>(view.data), view.bytes, view.dims.data(),
                                        view.dims.size(), type);
    }
    const OutputShapes::Key key = OutputShapes::KeyOf(inputs);
    const std::vector<std::optional<Dims>> expected = shapes_->Expected(key);
    Values written(library_, output_types_.size());
    bool done = false;
    if (!expected.empty()) {
      Status status = RunInto(&read, expected, outputs, &written, &done);
      if (!status.ok()) return status;
    }
    if (!done) {
      library_->Check(Call(&read, &written));
      Learn(key, &written);
    }
    for (size_t i = 0; i < output_types_.size(); ++i) {
      Status status;
      if (passed_[i] >= 0) {
        status = CopyInput(i, inputs, outputs);
      } else if (!done || !expected[i]) {
        status = Give(i, &written[i], outputs);
      }
      if (!status.ok()) return status;
    }
    return Status::Ok();
  }

  Failure* Call(Values* read, Values* written) const {
    const size_t inputs = input_of_port_.size();
    return library_->api().Run(session_->session.get(), nullptr, name_pointers_.data(),
                               read->data(), inputs, name_pointers_.data() + inputs,
                               output_types_.size(), written->data());
  }

  // Runs into memory of TensorFlow's. Not `done` where an output had another shape than expected,
  // or where something else failed, which the run into ONNX Runtime's memory meets again.
  Status RunInto(Values* read, const std::vector<std::optional<Dims>>& expected,
                 OutputAllocator* outputs, Values* written, bool* done) const {
    for (size_t i = 0; i < expected.size(); ++i) {
      if (!expected[i]) continue;
      const Dims& dims = *expected[i];
      void* data = nullptr;
      Status status = outputs->Allocate(static_cast<int>(i), output_types_[i], dims, &data);
      if (!status.ok()) return status;
      size_t bytes = BytesOf(output_types_[i]);
      for (const int64_t size : dims) bytes *= size;
      (*written)[i] =
          library_->TensorOver(data, bytes, dims.data(), dims.size(), OnnxTypeOf(output_types_[i]));
    }
    Failure* failure = Call(read, written);
    *done = failure == nullptr;
    if (failure != nullptr) {
      library_->api().ReleaseFailure(failure);
      written->Clear();
    }
    return Status::Ok();
  }

  void Learn(const OutputShapes::Key& key, Values* written) const {
    std::vector<Dims> shapes;
    shapes.reserve(output_types_.size());
    for (size_t i = 0; i < output_types_.size(); ++i) shapes.push_back(DimsOf((*written)[i]));
    shapes_->Learn(key, std::move(shapes));
  }

  Dims DimsOf(const Value* value) const {
    const Api& api = library_->api();
    TensorInfo* info = nullptr;
    library_->Check(api.GetTensorTypeAndShape(value, &info));
    const Holder<TensorInfo> held(info, api.ReleaseTensorInfo);
    size_t rank = 0;
    library_->Check(api.GetDimensionsCount(info, &rank));
    Dims dims(rank);
    library_->Check(api.GetDimensions(info, dims.data(), rank));
    return dims;
  }

  // Has TensorFlow take over the memory of an output.
  Status Give(size_t index, Value** value, OutputAllocator* outputs) const {
    const Dims dims = DimsOf(*value);
    void* data = nullptr;
    library_->Check(library_->api().GetTensorMutableData(*value, &data));
    auto owner = std::make_shared<GivenAway>(library_, session_, std::exchange(*value, nullptr));
    return outputs->Adopt(static_cast<int>(index), output_types_[index], dims, data, owner);
  }

  // ONNX Runtime gives out the input's own memory for an output that is an input.
  Status CopyInput(size_t index, const std::vector<TensorView>& inputs,
                   OutputAllocator* outputs) const {
    const TensorView& view = inputs[passed_[index]];
    void* data = nullptr;
    Status status = outputs->Allocate(static_cast<int>(index), view.dtype, view.dims, &data);
    if (status.ok() && view.bytes > 0) std::memcpy(data, view.data, view.bytes);
    return status;
  }

  const Library* const library_;
  const std::shared_ptr<OpenSession> session_;
  std::vector<std::string> names_;  // Of the inputs, then of the outputs.
  std::vector<const char*> name_pointers_;
  std::vector<int> input_of_port_;  // The node's input that each of the session's reads.
  std::vector<int> input_types_;    // Of the session's inputs, as TensorFlow numbers them.
  std::vector<int> output_types_;
  std::vector<int> passed_;  // The node's input that an output is, or -1.
  std::unique_ptr<OutputShapes> shapes_;
};

// A session over a model whose weights are TensorFlow's memory.
std::shared_ptr<OpenSession> MakeSession(const Library* library, const std::string& model,
                                         const EngineDefinition& definition,
                                         const std::vector<int>& used) {
  const Api& api = library->api();
  auto session = std::make_shared<OpenSession>(library, used.size());
  SessionOptions* made = nullptr;
  library->Check(api.CreateSessionOptions(&made));
  const Holder<SessionOptions> options(made, api.ReleaseSessionOptions);
  library->Check(api.SetIntraOpNumThreads(made, definition.threads));
  library->Check(api.SetInterOpNumThreads(made, 1));
  // An output that turns out to have another shape than expected is no error, and errors are
  // reported anyway.
  library->Check(api.SetSessionLogSeverityLevel(made, kLogOnlyFatal));
  // Threads wait for more work by spinning; once no run is left they stop, so that TensorFlow's
  // get the cores.
  library->Check(api.AddSessionConfigEntry(made, "session.force_spinning_stop", "1"));
  // A Gemm with a bias has no kernel for quantized matrices and computes in floating point; apart,
  // the product is one of integers, and the bias goes into the Gelu or sum behind it.
  library->Check(api.AddSessionConfigEntry(made, "optimization.disable_specified_optimizers",
                                           "MatMulAddFusion"));
  std::vector<std::string> names;
  std::vector<const char*> name_pointers;
  for (size_t i = 0; i < used.size(); ++i) {
    const TensorView& weight = definition.weights[used[i]];
    names.push_back("weight_" + std::to_string(used[i]));
    session->weights[i] =
        library->TensorOver(const_cast<void*>(weight.data), weight.bytes, weight.dims.data(),
                            weight.dims.size(), OnnxTypeOf(weight.dtype));
  }
  for (const std::string& name : names) name_pointers.push_back(name.c_str());
  // Makes them known to the graph, whose optimization may read and replace them. This alone would
  // copy them.
  library->Check(api.AddExternalInitializers(made, name_pointers.data(), session->weights.data(),
                                             used.size()));
  // Has the session use this memory for those that are left.
  for (size_t i = 0; i < used.size(); ++i) {
    library->Check(api.AddInitializer(made, name_pointers[i], session->weights[i]));
  }
  Session* opened = nullptr;
  library->Check(api.CreateSessionFromArray(library->environment(), model.data(), model.size(),
                                            made, &opened));
  session->session.reset(opened);
  return session;
}

class OnnxRuntimeRuntime : public Runtime {
 public:
  OnnxRuntimeRuntime(std::string path, std::shared_ptr<Runtime> hosted)
      : path_(std::move(path)), hosted_(std::move(hosted)) {}

  Status Load(const EngineDefinition& definition, std::unique_ptr<Engine>* engine) override {
    if (HeaderString(definition.header, "provider", "cpu") != "cpu" || definition.device >= 0)
      return hosted_->Load(definition, engine);
    const Library* library = OpenOnce(definition);
    if (library == nullptr) return hosted_->Load(definition, engine);
    std::string model;
    std::vector<int> used;
    try {
      Status status = DeclareWeightsExternal(definition.payload, definition.weights, &model, &used);
      if (!status.ok()) return status;
      auto loaded = std::make_unique<OnnxRuntimeEngine>(
          library, MakeSession(library, model, definition, used));
      if (status = loaded->CheckPorts(definition.output_count); !status.ok()) return status;
      *engine = std::move(loaded);
      return Status::Ok();
    } catch (const std::exception& exception) {
      return Status::Error("ONNX Runtime " + library->version() +
                           " cannot load the engine: " + OneLine(exception.what()) +
                           ". Optimize the model again with this ONNX Runtime, or install the one "
                           "it was built with.");
    }
  }

 private:
  // Null where the library cannot be used, which is said once: Python runs these engines as well.
  const Library* OpenOnce(const EngineDefinition& definition) {
    std::call_once(opened_, [&] {
      try {
        library_ = Library::Open(path_);
      } catch (const std::exception& exception) {
        definition.warn("ONNX Runtime's engines run through Python, which takes a little longer: " +
                        OneLine(exception.what()));
      }
    });
    return library_;
  }

  const std::string path_;
  const std::shared_ptr<Runtime> hosted_;
  std::once_flag opened_;
  const Library* library_ = nullptr;
};

}  // namespace
}  // namespace onnxruntime
}  // namespace tf_opt

// Has engines for the CPU run by the library at `path`, and all others by Python.
TF_OPT_EXPORT void TfOptRegisterOnnxRuntime(const char* name, const char* path) {
  tf_opt::RegisterRuntime(name, std::make_shared<tf_opt::onnxruntime::OnnxRuntimeRuntime>(
                                    path, tf_opt::MakePythonRuntime(name)));
}
