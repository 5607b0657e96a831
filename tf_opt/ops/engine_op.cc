#include "engine_op.h"

#include <sched.h>

#include <algorithm>
#include <fstream>

#include "engine_blob.h"
#include "runtime_registry.h"
#include "statistics.h"
#include "tensorflow/core/framework/node_def_util.h"
#include "tensorflow/core/platform/logging.h"

namespace tf_opt {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::PartialTensorShape;
using tensorflow::Tensor;

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

// One call in the engine, counted while it lives.
class RunningCall {
 public:
  RunningCall(std::atomic<int64_t>* running, std::atomic<int64_t>* peak) : running_(running) {
    RaiseTo(peak, ++*running_);
  }
  ~RunningCall() { --*running_; }

 private:
  std::atomic<int64_t>* const running_;
};

}  // namespace

EngineOp::EngineOp(OpKernelConstruction* construction) : AsyncOpKernel(construction) {
  tensorflow::NameAttrList fallback;
  OP_REQUIRES_OK(construction, construction->GetAttr("segment_name", &segment_name_));
  OP_REQUIRES_OK(construction, construction->GetAttr("runtime", &runtime_name_));
  OP_REQUIRES_OK(construction, construction->GetAttr("fallback", &fallback));
  OP_REQUIRES_OK(construction, construction->GetAttr("output_shapes", &output_shapes_));
  OP_REQUIRES_OK(construction,
                 construction->GetAttr("maximum_cached_engines", &maximum_cached_engines_));
  OP_REQUIRES_OK(construction, construction->GetAttr("specialize_after", &specialize_after_));
  OP_REQUIRES_OK(construction, construction->GetAttr("specialize_shapes", &specialize_shapes_));
  int stored_engines = 0;
  OP_REQUIRES_OK(construction, construction->GetAttr("stored_engines", &stored_engines));
  OP_REQUIRES(
      construction,
      stored_engines == 0 || (stored_engines == 1 &&
                              tensorflow::GetNodeAttrString(construction->def(), "engine").empty()),
      absl::InvalidArgumentError(
          "stored_engines is " + std::to_string(stored_engines) +
          ": give the engine as an attribute and 0, or an empty attribute, one input and 1"));
  engine_is_input_ = stored_engines == 1;
  for (const char* attribute : {"OutT", "WeightT", "InT"}) {
    std::vector<tensorflow::DataType> types;
    OP_REQUIRES_OK(construction, construction->GetAttr(attribute, &types));
    for (const tensorflow::DataType type : types) {
      OP_REQUIRES(construction, tensorflow::DataTypeCanUseMemcpy(type),
                  absl::InvalidArgumentError("engines take numbers and booleans, " +
                                             std::string(attribute) + " has " +
                                             tensorflow::DataTypeString(type)));
    }
    weight_count_ = input_count_;
    input_count_ = static_cast<int>(types.size());  // WeightT, then InT come last.
  }
  OP_REQUIRES(construction, static_cast<int>(output_shapes_.size()) == construction->num_outputs(),
              absl::InvalidArgumentError("output_shapes must have one shape for each output"));
  OP_REQUIRES_OK(construction, CheckSpecializeShapes());
  fallback_.Name(std::move(fallback));
  statistics_ = StatisticsOf(segment_name_);
}

void EngineOp::ComputeAsync(OpKernelContext* context, DoneCallback done) {
  Engine* engine = nullptr;
  if (Status status = LoadOnce(context, &engine); !status.ok()) {
    if (run_fallback_on_failure_) {
      ++statistics_->fallback_runs;
      RunFallback(context, std::move(done));
    } else {
      Fail(context, done, status);
    }
    return;
  }
  Status status = CountedRun(context, engine);
  if (status.code == Code::kUnsupportedShape) {
    if (fallback_.exists()) {
      ++statistics_->fallback_runs;
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

int EngineOp::DeviceOrdinal(OpKernelContext* context) const {
  static_cast<void>(context);
  return -1;
}

Status EngineOp::RunEngine(OpKernelContext* context, Engine* engine,
                           const std::vector<TensorView>& inputs) {
  EngineOutputs outputs(context, output_shapes_, statistics_);
  Status status = engine->Run(inputs, &outputs);
  return status.ok() ? outputs.Publish() : status;
}

void EngineOp::RunFallback(OpKernelContext* context, DoneCallback done) {
  std::vector<Tensor> arguments;
  arguments.reserve(argument_count());
  for (int i = 0; i < argument_count(); ++i) arguments.push_back(context->input(i));
  fallback_.Run(context, arguments, std::move(done));
}

absl::Status EngineOp::CheckSpecializeShapes() const {
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

Status EngineOp::CountedRun(OpKernelContext* context, Engine* engine) {
  std::vector<TensorView> inputs;
  inputs.reserve(input_count_);
  for (int i = 0; i < input_count_; ++i) {
    const Tensor& tensor = context->input(i);
    if (tensor.NumElements() == 0) {
      // Within a function the node's own input has a name that only TensorFlow knows.
      const bool is_known = i < static_cast<int>(input_names_.size()) && !input_names_[i].empty();
      return {Code::kUnsupportedShape, "input_" + std::to_string(i) + " ('" +
                                           (is_known ? input_names_[i] : def().input(i)) +
                                           "') has shape " + tensor.shape().DebugString() +
                                           ": engines do not run on tensors without elements"};
    }
    inputs.push_back(ViewOf(tensor));
  }
  Status status;
  {
    RunningCall running(&running_, &statistics_->concurrent_peak);
    status = RunEngine(context, engine, inputs);
  }
  if (status.ok()) ++statistics_->runs;
  if (status.code == Code::kUnsupportedShape && !warned_of_shape_.exchange(true)) {
    LOG(WARNING) << Describe(status).message
                 << ". Such calls run the segment's original TensorFlow nodes (said once).";
  }
  return status;
}

Status EngineOp::LoadOnce(OpKernelContext* context, Engine** engine) {
  if (!loaded_.load(std::memory_order_acquire)) {
    // Concurrent first calls wait here. The load needs no other node of the graph, so this cannot
    // deadlock.
    std::lock_guard<std::mutex> lock(load_mutex_);
    if (!loaded_.load(std::memory_order_relaxed)) {
      load_status_ = Load(context);
      if (load_status_.code == Code::kCancelled) return load_status_;  // The next call loads again.
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

Status EngineOp::StoredEngine(OpKernelContext* context, std::string_view* bytes) const {
  // Read in place: the node's definition and the input stay in memory anyway, and an engine may be
  // large.
  if (!engine_is_input_) {
    *bytes = tensorflow::GetNodeAttrString(def(), "engine");
    return Status::Ok();
  }
  const Tensor& stored = context->input(argument_count());
  if (stored.NumElements() != 1) {
    return Status::Error("stored_engine has shape " + stored.shape().DebugString() +
                         ", expected one string");
  }
  *bytes = stored.flat<tensorflow::tstring>()(0);
  if (bytes->empty()) {  // See ReadEngineOp.
    return {Code::kUnavailable, "its file could not be read when the model was loaded."};
  }
  return Status::Ok();
}

Status EngineOp::Load(OpKernelContext* context) {
  std::shared_ptr<Runtime> runtime;
  EngineBlob blob;
  std::string_view bytes;
  if (Status status = StoredEngine(context, &bytes); !status.ok()) return status;
  if (Status status = ParseEngineBlob(bytes, &blob); !status.ok()) return status;
  if (Status status = FindRuntime(runtime_name_, &runtime); !status.ok()) return status;
  input_names_ = InputNames(blob.header);
  weights_.clear();  // Of a load that was interrupted.
  EngineDefinition definition;
  definition.segment_name = segment_name_;
  definition.header = blob.header;
  definition.payload = blob.payload;
  definition.output_count = context->num_outputs();
  for (int i = input_count_; i < argument_count(); ++i) {
    weights_.push_back(
        context->input(i));  // A reference: the tensor's memory is shared, not copied.
    definition.weights.push_back(ViewOf(weights_.back()));
  }
  const auto* workers = context->device()->tensorflow_cpu_worker_threads();
  definition.threads =
      std::min(workers == nullptr ? 1 : std::max(1, workers->num_threads), UsableCpus());
  definition.device = DeviceOrdinal(context);
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

void EngineOp::HandleLoadFailure() {
  run_fallback_on_failure_ = fallback_.exists() && FallbackIsWished();
  if (run_fallback_on_failure_) {
    LOG(WARNING) << Describe(load_status_).message << " (" << kOnFailureVariable
                 << "=fallback: the original TensorFlow nodes run instead)";
  } else if (fallback_.exists()) {
    load_status_.message += std::string(" Or set the environment variable ") + kOnFailureVariable +
                            "=fallback to run the original TensorFlow nodes instead.";
  }
}

Status EngineOp::Describe(const Status& status) const {
  return {status.code,
          "Segment '" + segment_name_ + "' (runtime '" + runtime_name_ + "'): " + status.message};
}

void EngineOp::Fail(OpKernelContext* context, const DoneCallback& done,
                    const Status& status) const {
  context->SetStatus(ToTensorFlow(Describe(status)));
  done();
}

REGISTER_KERNEL_BUILDER(Name("TfOptEngine").Device(tensorflow::DEVICE_CPU), EngineOp);

}  // namespace tf_opt
