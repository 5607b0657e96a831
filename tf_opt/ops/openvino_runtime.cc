// The runtime "openvino": ONNX on the CPU. A library of its own, opened when the first such engine
// is loaded, so that the op works where OpenVINO is not installed.
//
// Invariants:
//   * Weights are Constants over TensorFlow's memory. What OpenVINO's kernels pack is their own
//   copy, one for each
//     compiled model.
//   * One dynamic model serves every shape. Everything else (concurrent, specialized) is compiled
//   in the background and
//     only ever an alternative to it; no call waits for a compilation, except the first one, whose
//     load compiles what was asked for.

#include <algorithm>
#include <chrono>
#include <functional>

#include "compile_queue.h"
#include "openvino/op/constant.hpp"
#include "openvino/runtime/intel_cpu/properties.hpp"
#include "openvino_variant.h"
#include "specializer.h"
#include "texts.h"

namespace tf_opt {
namespace {

// OpenVINO runs the infer requests of a compiled model with one stream one after another (a lock
// around its graph). A model with several streams runs them in parallel, but gives a lone caller
// only one stream's share of the threads. Therefore both: the one-stream model for lone callers
// and, once calls keep overlapping, a second one with a stream for each of the concurrent callers.
// Measured on 2 cores, 16 MatMuls of 768 x 3072, both in one process, taking turns: with 4 callers
// the streams give 1.12, 1.10 and 1.07 times the throughput at 1, 16 and 128 rows (1.1 to 1.5 while
// other work kept the machine busy), with 2 callers 1.01 to 1.08. More cores should gain more, as a
// small call cannot use them all. The price is memory: compiled models do not share packed weights
// (154 to 159 MB more for 151 MB of weights); the streams of one model do.
constexpr int kOverlapsBeforeStreams = 32;

// Never destroyed: OpenVINO's plugins are unloaded by it, and engines of a session that was never
// closed may still be there while the process exits.
ov::Core& Core() {
  static ov::Core* core = new ov::Core;
  return *core;
}

int ParameterIndex(const std::shared_ptr<ov::op::v0::Parameter>& parameter,
                   const std::string& prefix) {
  int index = IndexOf(parameter->get_friendly_name(), prefix);
  for (const std::string& name : parameter->output(0).get_names()) {
    if (index < 0) index = IndexOf(name, prefix);
  }
  return index;
}

class OpenVinoEngine : public Engine {
 public:
  OpenVinoEngine(std::shared_ptr<ov::Model> model, std::vector<int> input_of_port,
                 ov::element::Type precision, const EngineDefinition& definition)
      : model_(std::move(model)),
        input_of_port_(std::move(input_of_port)),
        precision_(precision),
        threads_(definition.threads),
        segment_name_(definition.segment_name),
        warn_(definition.warn),
        statistics_(definition.statistics),
        specializer_(model_->is_dynamic() ? definition.specialize_after : 0,
                     definition.maximum_cached_engines, definition.statistics) {
    general_ = Compile(model_, 1);
  }

  ~OpenVinoEngine() override { CompileQueue::Get().Cancel(this); }

  // Compiles an engine for these shapes of all inputs now. An error where they do not fit: unlike
  // the shapes of a call, they are part of the graph.
  Status SpecializeNow(const std::vector<Dims>& dims) {
    if (!model_->is_dynamic()) return Status::Ok();  // It is an engine for one shape already.
    std::vector<int64_t> key;
    for (const Dims& input : dims) key.insert(key.end(), input.begin(), input.end());
    if (!specializer_.Ask(key)) return Status::Ok();
    try {
      specializer_.Compiled(key, CompileFor(dims));
      return Status::Ok();
    } catch (const std::exception& exception) {
      std::string shapes;
      for (const Dims& input : dims) shapes += " " + ShapeText(input);
      return Status::Error("OpenVINO cannot compile an engine for the specialize_shapes" + shapes +
                           ": " + OneLine(exception.what()) +
                           ". Leave them out, or give shapes that the segment takes.");
    }
  }

  Status Run(const std::vector<TensorView>& inputs, OutputAllocator* outputs) override {
    const int64_t arrival = ++arrivals_;
    const int64_t running = ++running_;
    Status status =
        running > 1 ? RunOverlapping(running, inputs, outputs) : RunAlone(arrival, inputs, outputs);
    --running_;
    return status;
  }

 private:
  std::shared_ptr<Variant> Compile(const std::shared_ptr<ov::Model>& model, int streams) {
    ov::AnyMap properties{
        ov::hint::performance_mode(streams == 1 ? ov::hint::PerformanceMode::LATENCY
                                                : ov::hint::PerformanceMode::THROUGHPUT),
        ov::num_streams(streams),
        ov::inference_num_threads(threads_),
        // OpenVINO by itself picks bfloat16 where the CPU has it: other results than TensorFlow's.
        ov::hint::inference_precision(precision_),
        // The calling thread is TensorFlow's: its affinity is not ours to change.
        ov::hint::enable_cpu_pinning(false),
    };
    return std::make_shared<Variant>(Core().compile_model(model, "CPU", properties), input_of_port_,
                                     streams > 1);
  }

  // Runs `compile` in the background. Where it throws, or no thread can be had for it, the general
  // engine goes on: that is said, and `failed` is called.
  void InBackground(const std::string& what, std::function<void()> compile,
                    std::function<void()> failed) {
    const auto handle = [this, what, failed](const std::exception& exception) {
      ++statistics_->background_failures;
      warn_("Segment '" + segment_name_ + "': OpenVINO cannot compile " + what +
            "; the general engine goes on: " + OneLine(exception.what()));
      failed();
    };
    try {
      CompileQueue::Get().Submit(this, [compile, handle] {
        try {
          compile();
        } catch (const std::exception& exception) {
          handle(exception);
        }
      });
    } catch (const std::exception& exception) {
      handle(exception);
    }
  }

  Status RunOverlapping(int64_t running, const std::vector<TensorView>& inputs,
                        OutputAllocator* outputs) {
    RequestStreams(running);
    const std::shared_ptr<Variant> concurrent = std::atomic_load(&concurrent_);
    if (!concurrent) return general_->Run(inputs, outputs);
    ++statistics_->concurrent_runs;
    return concurrent->Run(inputs, outputs);
  }

  void RequestStreams(int64_t running) {
    if (threads_ == 1 || streams_requested_.load()) return;
    if (overlaps_.fetch_add(1) + 1 < kOverlapsBeforeStreams || streams_requested_.exchange(true))
      return;
    const int streams = static_cast<int>(std::clamp<int64_t>(running, 2, threads_));
    // After a failure `streams_requested_` stays set, so that this is not tried again and again.
    InBackground(
        "the engine for concurrent callers",
        [this, streams] { std::atomic_store(&concurrent_, Compile(model_, streams)); }, [] {});
  }

  Status RunAlone(int64_t arrival, const std::vector<TensorView>& inputs,
                  OutputAllocator* outputs) {
    // Overlaps that are rare among lone calls do not count as persistent.
    if (int64_t seen = overlaps_.load(); seen > 0)
      overlaps_.compare_exchange_strong(seen, seen - 1);
    if (!specializer_.enabled()) return general_->Run(inputs, outputs);
    std::vector<int64_t> key;
    for (const TensorView& view : inputs) key.insert(key.end(), view.dims.begin(), view.dims.end());
    const auto choice = specializer_.Choose(key);
    if (choice.compile) Specialize(key, inputs);
    if (choice.variant) ++statistics_->specialized_runs;
    const auto start = std::chrono::steady_clock::now();
    Status status = (choice.variant ? choice.variant : general_)->Run(inputs, outputs);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    // A call that others joined was slowed by them.
    if (choice.measure && status.ok() && arrivals_.load() == arrival) {
      specializer_.Measured(key, choice.variant != nullptr, elapsed.count());
    }
    return status;
  }

  // `dims` are those of all inputs of the node.
  std::shared_ptr<Variant> CompileFor(const std::vector<Dims>& dims) {
    const std::shared_ptr<ov::Model> model = model_->clone();  // The Constants' memory is shared.
    std::map<size_t, ov::PartialShape> by_port;
    for (size_t port = 0; port < input_of_port_.size(); ++port) {
      const Dims& input = dims.at(input_of_port_[port]);
      by_port[port] = ov::PartialShape(std::vector<ov::Dimension>(input.begin(), input.end()));
    }
    model->reshape(by_port);
    return Compile(model, 1);
  }

  void Specialize(const std::vector<int64_t>& key, const std::vector<TensorView>& inputs) {
    std::vector<Dims> dims;
    for (const TensorView& input : inputs) dims.push_back(input.dims);
    InBackground(
        "an engine for one shape",
        [this, key, dims] { specializer_.Compiled(key, CompileFor(dims)); },
        [this, key] { specializer_.Compiled(key, nullptr); });  // Remembered as rejected.
  }

  const std::shared_ptr<ov::Model> model_;
  const std::vector<int> input_of_port_;
  const ov::element::Type precision_;
  const int threads_;
  const std::string segment_name_;
  void (*const warn_)(const std::string& message);
  Statistics* const statistics_;
  std::atomic<int64_t> arrivals_{0};
  std::atomic<int64_t> running_{0};
  std::atomic<int64_t> overlaps_{0};
  std::atomic<bool> streams_requested_{false};
  std::shared_ptr<Variant> general_;
  std::shared_ptr<Variant> concurrent_;  // Read and written atomically; empty until compiled.
  Specializer<Variant> specializer_;
};

// Puts Constants over TensorFlow's memory in place of the parameters weight_<j>.
Status BindWeights(const EngineDefinition& definition, const std::shared_ptr<ov::Model>& model) {
  const ov::ParameterVector parameters =
      model->get_parameters();  // A copy: the model's own list changes below.
  for (const auto& parameter : parameters) {
    const int index = ParameterIndex(parameter, "weight_");
    if (index < 0) continue;
    const std::string name = "weight_" + std::to_string(index);
    if (index >= static_cast<int>(definition.weights.size())) {
      return Misfit("the engine reads " + name + ", the node has " +
                    std::to_string(definition.weights.size()) + " weights");
    }
    const TensorView& weight = definition.weights[index];
    const ov::element::Type type = ElementTypeOf(weight.dtype);
    const ov::Shape shape(weight.dims.begin(), weight.dims.end());
    if (type != parameter->get_element_type() ||
        !parameter->get_partial_shape().compatible(ov::PartialShape(shape))) {
      return Misfit("the engine's " + name + " is " +
                    parameter->get_element_type().get_type_name() +
                    parameter->get_partial_shape().to_string() + ", the node's is " +
                    type.get_type_name() + ShapeText(weight.dims));
    }
    if (!FitsInto32Bits(weight)) {
      return Status::Error(
          name + " holds integers beyond 32 bits, which OpenVINO does not compute with. " +
          "Leave the nodes that read it out of the segment.");
    }
    const auto constant =
        std::make_shared<ov::op::v0::Constant>(ov::Tensor(type, shape, weight.data));
    constant->set_friendly_name(parameter->get_friendly_name());
    ov::replace_node(parameter, constant);
    model->remove_parameter(parameter);
  }
  model->validate_nodes_and_infer_types();
  return Status::Ok();
}

Status CheckType(const ov::Output<ov::Node>& port, const std::string& kind) {
  if (DtypeOf(port.get_element_type()) != 0) return Status::Ok();
  return Status::Error(
      "the engine has an " + kind + " of type " + port.get_element_type().get_type_name() +
      ", which OpenVINO's CPU plugin does not compute with in full. Leave the nodes of this type "
      "out of the segment.");
}

class OpenVinoRuntime : public Runtime {
 public:
  Status Load(const EngineDefinition& definition, std::unique_ptr<Engine>* engine) override {
    try {
      const std::string precision = HeaderString(definition.header, "inference_precision", "f32");
      if (precision != "f32" && precision != "bf16" && precision != "f16") {
        return Status::Error("the engine's inference_precision is '" + precision +
                             "', expected f32, bf16 or f16");
      }
      const std::shared_ptr<ov::Model> model =
          Core().read_model(std::string(definition.payload), ov::Tensor());
      if (Status status = BindWeights(definition, model); !status.ok()) return status;
      std::vector<int> input_of_port;
      for (const auto& parameter : model->get_parameters()) {
        const int index = ParameterIndex(parameter, "input_");
        if (index < 0) {
          return Misfit("the engine has an input '" + parameter->get_friendly_name() +
                        "', expected input_<i> or weight_<j>");
        }
        input_of_port.push_back(index);
      }
      if (static_cast<int>(model->outputs().size()) != definition.output_count) {
        return Misfit("the engine has " + std::to_string(model->outputs().size()) +
                      " outputs, the node has " + std::to_string(definition.output_count));
      }
      for (const auto& port : model->inputs()) {
        if (Status status = CheckType(port, "input"); !status.ok()) return status;
      }
      for (const auto& port : model->outputs()) {
        if (Status status = CheckType(port, "output"); !status.ok()) return status;
      }
      auto loaded = std::make_unique<OpenVinoEngine>(model, std::move(input_of_port),
                                                     ov::element::Type(precision), definition);
      for (const std::vector<Dims>& dims : definition.specialize_shapes) {
        if (Status status = loaded->SpecializeNow(dims); !status.ok()) return status;
      }
      *engine = std::move(loaded);
      return Status::Ok();
    } catch (const std::exception& exception) {
      return Status::Error(
          "OpenVINO " + std::string(ov::get_openvino_version().buildNumber) +
          " cannot load the engine: " + OneLine(exception.what()) +
          ". Optimize the model again with this OpenVINO, or install the one it was built with.");
    }
  }
};

}  // namespace
}  // namespace tf_opt

TF_OPT_EXPORT tf_opt::Runtime* TfOptCreateRuntime(int interface_version) {
  return interface_version == tf_opt::kInterfaceVersion ? new tf_opt::OpenVinoRuntime : nullptr;
}
