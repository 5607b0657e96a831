// The op TfOptEngine: runs a segment of a graph by an engine, or by the segment's original nodes
// (the fallback).
//
// Invariants:
//   * The engine is loaded once, at the first call. A failed load is remembered: every call gets
//   the same error.
//   * No lock is held while an engine or the fallback runs.
//   * `weights` are read at the load and for the fallback only; the loaded engine keeps references
//   on them.
//   * The engine's memory may become TensorFlow's tensors and outlive this kernel (see
//   OutputAllocator::Adopt).

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>

#include "engine_blob.h"
#include "runtime_registry.h"
#include "statistics.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/node_def_util.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/platform/logging.h"
#include "tensors.h"

namespace tf_opt {
namespace {

using tensorflow::AsyncOpKernel;
using tensorflow::FunctionLibraryRuntime;
using tensorflow::NameAttrList;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::PartialTensorShape;
using tensorflow::Tensor;

// Part of the name of a function that stands for "no fallback". An empty name does as well, but
// TensorFlow cannot load a SavedModel with one; and it renames the functions of a SavedModel,
// keeping the name inside.
constexpr char kNoFallback[] = "tf_opt_no_fallback";

constexpr char kOnFailureVariable[] = "TF_OPT_ON_ENGINE_FAILURE";

// The CPUs this process may use: its affinity mask, and the share that its control group (a
// container) grants.
int UsableCpus() {
  cpu_set_t mask;
  int cpus = sched_getaffinity(0, sizeof(mask), &mask) == 0 ? CPU_COUNT(&mask) : 1;
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  int64_t quota = 0, period = 0;
  if (file >> quota >> period &&
      period > 0) {  // "max 100000" where there is no limit: `quota` does not parse.
    cpus = std::min<int64_t>(cpus, std::max<int64_t>(1, (quota + period - 1) / period));
  }
  return std::max(1, cpus);
}

class EngineOp : public AsyncOpKernel {
 public:
  explicit EngineOp(OpKernelConstruction* construction) : AsyncOpKernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("segment_name", &segment_name_));
    OP_REQUIRES_OK(construction, construction->GetAttr("runtime", &runtime_name_));
    OP_REQUIRES_OK(construction, construction->GetAttr("fallback", &fallback_));
    OP_REQUIRES_OK(construction, construction->GetAttr("output_shapes", &output_shapes_));
    OP_REQUIRES_OK(construction,
                   construction->GetAttr("maximum_cached_engines", &maximum_cached_engines_));
    OP_REQUIRES_OK(construction, construction->GetAttr("specialize_after", &specialize_after_));
    OP_REQUIRES_OK(construction, construction->GetAttr("specialize_shapes", &specialize_shapes_));
    for (const char* attribute : {"OutT", "WeightT", "InT"}) {
      std::vector<tensorflow::DataType> types;
      OP_REQUIRES_OK(construction, construction->GetAttr(attribute, &types));
      for (const tensorflow::DataType type : types) {
        OP_REQUIRES(construction, tensorflow::DataTypeCanUseMemcpy(type),
                    absl::InvalidArgumentError("engines take numbers and booleans, " +
                                               std::string(attribute) + " has " +
                                               tensorflow::DataTypeString(type)));
      }
      input_count_ = static_cast<int>(types.size());  // InT comes last.
    }
    OP_REQUIRES(construction,
                static_cast<int>(output_shapes_.size()) == construction->num_outputs(),
                absl::InvalidArgumentError("output_shapes must have one shape for each output"));
    OP_REQUIRES_OK(construction, CheckSpecializeShapes());
    statistics_ = StatisticsOf(segment_name_);
  }

  void ComputeAsync(OpKernelContext* context, DoneCallback done) override {
    Engine* engine = nullptr;
    if (Status status = LoadOnce(context, &engine); !status.ok()) {
      if (run_fallback_on_failure_) {
        RunFallback(context, std::move(done));
      } else {
        Fail(context, done, status);
      }
      return;
    }
    Status status = RunEngine(context, engine);
    if (status.code == Code::kUnsupportedShape) {
      if (HasFallback()) {
        RunFallback(context, std::move(done));
        return;
      }
      status.message +=
          ". The node has no fallback function; optimize the model again with the fallback kept.";
    }
    if (!status.ok()) {
      Fail(context, done, status);
      return;
    }
    done();
  }

 private:
  absl::Status CheckSpecializeShapes() const {
    const size_t count = specialize_shapes_.size();
    if (count == 0) return absl::OkStatus();
    if (input_count_ == 0 || count % input_count_ != 0) {
      return absl::InvalidArgumentError(
          "specialize_shapes has " + std::to_string(count) + " shapes, the node has " +
          std::to_string(input_count_) +
          " inputs: give the shapes of all inputs, one engine after the other");
    }
    if (static_cast<int64_t>(count / input_count_) > maximum_cached_engines_) {
      return absl::InvalidArgumentError(
          "specialize_shapes asks for " + std::to_string(count / input_count_) +
          " engines, maximum_cached_engines allows " + std::to_string(maximum_cached_engines_));
    }
    for (const PartialTensorShape& shape : specialize_shapes_) {
      if (!shape.IsFullyDefined()) {
        return absl::InvalidArgumentError("specialize_shapes has the shape " + shape.DebugString() +
                                          ": an engine for one shape needs every dimension");
      }
    }
    return absl::OkStatus();
  }

  // One call in the engine, counted while it lives.
  class RunningCall {
   public:
    explicit RunningCall(EngineOp* op) : op_(op) {
      RaiseTo(&op_->statistics_->concurrent_peak, ++op_->running_);
    }
    ~RunningCall() { --op_->running_; }

   private:
    EngineOp* const op_;
  };

  Status RunEngine(OpKernelContext* context, Engine* engine) {
    std::vector<TensorView> inputs;
    inputs.reserve(input_count_);
    for (int i = 0; i < input_count_; ++i) {
      const Tensor& tensor = context->input(i);
      if (tensor.NumElements() == 0) {
        return {Code::kUnsupportedShape, "input_" + std::to_string(i) + " ('" + def().input(i) +
                                             "') has shape " + tensor.shape().DebugString() +
                                             ": engines do not run on tensors without elements"};
      }
      inputs.push_back(ViewOf(tensor));
    }
    EngineOutputs outputs(context, output_shapes_, statistics_);
    Status status;
    {
      RunningCall running(this);
      status = engine->Run(inputs, &outputs);
    }
    if (status.ok()) status = outputs.Publish();
    if (status.ok()) ++statistics_->runs;
    if (status.code == Code::kUnsupportedShape && !warned_of_shape_.exchange(true)) {
      LOG(WARNING)
          << Describe(status).message
          << ". Calls with such shapes run the segment's original TensorFlow nodes (said once).";
    }
    return status;
  }

  Status LoadOnce(OpKernelContext* context, Engine** engine) {
    if (!loaded_.load(std::memory_order_acquire)) {
      // Concurrent first calls wait here. The load needs no other node of the graph, so this cannot
      // deadlock.
      std::lock_guard<std::mutex> lock(load_mutex_);
      if (!loaded_.load(std::memory_order_relaxed)) {
        load_status_ = Load(context);
        if (load_status_.ok()) {
          ++statistics_->loads;
        } else {
          ++statistics_->load_failures;
          HandleLoadFailure();
        }
        loaded_.store(true, std::memory_order_release);
      }
    }
    *engine = engine_.get();
    return load_status_;
  }

  Status Load(OpKernelContext* context) {
    std::shared_ptr<Runtime> runtime;
    EngineBlob blob;
    // Read in place: the node's definition stays in memory anyway, and an engine may be large.
    const std::string& bytes = tensorflow::GetNodeAttrString(def(), "engine");
    if (Status status = ParseEngineBlob(bytes, &blob); !status.ok()) return status;
    if (Status status = FindRuntime(runtime_name_, &runtime); !status.ok()) return status;
    EngineDefinition definition;
    definition.segment_name = segment_name_;
    definition.header = blob.header;
    definition.payload = blob.payload;
    definition.output_count = context->num_outputs();
    for (int i = input_count_; i < context->num_inputs(); ++i) {
      weights_.push_back(
          context->input(i));  // A reference: the tensor's memory is shared, not copied.
      definition.weights.push_back(ViewOf(weights_.back()));
    }
    const auto* workers = context->device()->tensorflow_cpu_worker_threads();
    definition.threads =
        std::min(workers == nullptr ? 1 : std::max(1, workers->num_threads), UsableCpus());
    definition.maximum_cached_engines = maximum_cached_engines_;
    definition.specialize_after = specialize_after_;
    for (size_t i = 0; i < specialize_shapes_.size(); ++i) {
      if (i % input_count_ == 0) definition.specialize_shapes.emplace_back();
      const auto sizes = specialize_shapes_[i].dim_sizes();
      definition.specialize_shapes.back().emplace_back(sizes.begin(), sizes.end());
    }
    definition.statistics = statistics_;
    definition.warn = [](const std::string& message) { LOG(WARNING) << message; };
    return runtime->Load(definition, &engine_);
  }

  void HandleLoadFailure() {
    const char* wish = std::getenv(kOnFailureVariable);
    run_fallback_on_failure_ =
        HasFallback() && wish != nullptr && std::strcmp(wish, "fallback") == 0;
    if (run_fallback_on_failure_) {
      LOG(WARNING) << Describe(load_status_).message << " (" << kOnFailureVariable
                   << "=fallback: the original TensorFlow nodes run instead)";
    } else if (HasFallback()) {
      load_status_.message += std::string(" Or set the environment variable ") +
                              kOnFailureVariable +
                              "=fallback to run the original TensorFlow nodes instead.";
    }
  }

  bool HasFallback() const {
    return !fallback_.name().empty() && fallback_.name().find(kNoFallback) == std::string::npos;
  }

  void RunFallback(OpKernelContext* context, DoneCallback done) {
    FunctionLibraryRuntime* library = context->function_library();
    OP_REQUIRES_ASYNC(context, library != nullptr,
                      absl::InternalError("no function library for the fallback"), done);
    FunctionLibraryRuntime::Handle handle;
    OP_REQUIRES_OK_ASYNC(context, FallbackHandle(library, &handle), done);
    FunctionLibraryRuntime::Options options(context->step_id());
    options.rendezvous = context->rendezvous();
    options.cancellation_manager = context->cancellation_manager();
    options.collective_executor = context->collective_executor();
    options.stats_collector = context->stats_collector();
    options.step_container = context->step_container();
    options.runner = context->runner();
    options.run_all_kernels_inline = context->run_all_kernels_inline();
    std::vector<Tensor> arguments;
    arguments.reserve(context->num_inputs());
    for (int i = 0; i < context->num_inputs(); ++i) arguments.push_back(context->input(i));
    ++statistics_->fallback_runs;
    auto results = std::make_shared<std::vector<Tensor>>();
    library->Run(options, handle, arguments, results.get(),
                 [context, results, done = std::move(done)](const absl::Status& status) {
                   if (!status.ok()) {
                     context->SetStatus(status);
                   } else if (static_cast<int>(results->size()) != context->num_outputs()) {
                     context->SetStatus(absl::InternalError(
                         "the fallback function returns another number of outputs"));
                   } else {
                     for (size_t i = 0; i < results->size(); ++i) {
                       context->set_output(static_cast<int>(i), std::move((*results)[i]));
                     }
                   }
                   done();
                 });
  }

  // Handles by library: eager contexts may run one kernel from several.
  absl::Status FallbackHandle(FunctionLibraryRuntime* library,
                              FunctionLibraryRuntime::Handle* handle) {
    std::lock_guard<std::mutex> lock(fallback_mutex_);
    const auto found = fallback_handles_.find(library);
    if (found != fallback_handles_.end()) {
      *handle = found->second;
      return absl::OkStatus();
    }
    absl::Status status =
        library->Instantiate(fallback_.name(), tensorflow::AttrSlice(&fallback_.attr()), handle);
    if (status.ok()) fallback_handles_[library] = *handle;
    return status;
  }

  Status Describe(const Status& status) const {
    return {status.code,
            "Segment '" + segment_name_ + "' (runtime '" + runtime_name_ + "'): " + status.message};
  }

  void Fail(OpKernelContext* context, const DoneCallback& done, const Status& status) const {
    context->SetStatus(ToTensorFlow(Describe(status)));
    done();
  }

  std::string segment_name_;
  std::string runtime_name_;
  NameAttrList fallback_;
  std::vector<PartialTensorShape> output_shapes_;
  int maximum_cached_engines_ = 0;
  int specialize_after_ = 0;
  std::vector<PartialTensorShape> specialize_shapes_;
  int input_count_ = 0;
  Statistics* statistics_ = nullptr;
  std::atomic<int64_t> running_{0};
  std::atomic<bool> warned_of_shape_{false};

  std::mutex load_mutex_;
  std::atomic<bool> loaded_{
      false};  // Everything below up to `engine_` is constant once this is true.
  Status load_status_;
  bool run_fallback_on_failure_ = false;
  std::vector<Tensor>
      weights_;  // Declared before the engine, which reads their memory until it is destroyed.
  std::unique_ptr<Engine> engine_;

  std::mutex fallback_mutex_;
  std::map<FunctionLibraryRuntime*, FunctionLibraryRuntime::Handle> fallback_handles_;
};

absl::Status InferShapes(tensorflow::shape_inference::InferenceContext* context) {
  std::vector<PartialTensorShape> shapes;
  TF_RETURN_IF_ERROR(context->GetAttr("output_shapes", &shapes));
  if (static_cast<int>(shapes.size()) != context->num_outputs()) {
    return absl::InvalidArgumentError(
        "output_shapes has " + std::to_string(shapes.size()) + " shapes, the node has " +
        std::to_string(context->num_outputs()) +
        " outputs: give one shape for each (unknown ranks and dimensions are allowed)");
  }
  for (size_t i = 0; i < shapes.size(); ++i) {
    tensorflow::shape_inference::ShapeHandle handle;
    TF_RETURN_IF_ERROR(context->MakeShapeFromPartialTensorShape(shapes[i], &handle));
    context->set_output(static_cast<int>(i), handle);
  }
  return absl::OkStatus();
}

}  // namespace

REGISTER_OP("TfOptEngine")
    .Input("inputs: InT")
    .Input("weights: WeightT")
    .Output("outputs: OutT")
    .Attr("InT: list(type) >= 0")
    .Attr("WeightT: list(type) >= 0")
    .Attr("OutT: list(type) >= 1")
    .Attr("segment_name: string")
    .Attr("runtime: string")
    .Attr("engine: string")
    .Attr("fallback: func")
    .Attr("output_shapes: list(shape)")
    .Attr("maximum_cached_engines: int = 16")
    .Attr("specialize_after: int = 0")
    .Attr("specialize_shapes: list(shape) = []")
    .SetIsStateful()  // Keeps one kernel a session, and keeps constant folding from running
                      // engines.
    .SetShapeFn(InferShapes)
    .Doc(R"doc(
Runs a segment of a graph by an engine of tf_opt.

inputs: What the segment reads; in the engine and in the fallback "input_<i>".
weights: Constants of the segment, read once when the engine is loaded at the first call; "weight_<i>".
outputs: What the segment gives to the rest of the graph; "output_<i>".
segment_name: Name in statistics and messages.
runtime: Name of a runtime registered in this process, such as "openvino".
engine: The engine in the container of tf_opt/engines/blob.py.
fallback: Function of the inputs, then the weights, with the segment's original nodes; an empty name, or
  one that contains "tf_opt_no_fallback", for none.
output_shapes: Static shapes of the outputs, which every run is checked against.
maximum_cached_engines: How many engines for one shape are kept at most beside the one for all shapes.
specialize_after: After so many calls with the same shapes an engine for them is compiled in the background
  and tried; 0 for never.
specialize_shapes: Shapes of all inputs, one engine after the other: engines for these are compiled when the
  engine is loaded, so that the first call waits for them and no later one does; they are tried as the others.
)doc");

REGISTER_KERNEL_BUILDER(Name("TfOptEngine").Device(tensorflow::DEVICE_CPU), EngineOp);

}  // namespace tf_opt
