// The kernel of the op TfOptEngine on a GPU: inputs and outputs lie in the GPU's memory, weights in
// host memory, and the engine puts its work on TensorFlow's stream. It is compiled without CUDA's
// headers: the stream is TensorFlow's object, which knows its own handle.
//
// Invariants:
//   * An engine that runs on the device never waits here: what it put on the stream is finished in
//   the stream's order, as that of any other kernel.
//   * An engine that knows host memory only is waited for, with copies in both directions.
//   * The fallback gets every argument in the GPU's memory, integers too, and gives its results
//   there. Its copies of the weights are made when it first runs.
//
// It was never run on a real GPU, but on tests/ops/simulated_gpu.cc.

#include <algorithm>

#include "engine_op.h"
#include "tensorflow/core/framework/device.h"
#include "xla/stream_executor/stream.h"

namespace tf_opt {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

Status FromTensorFlow(const absl::Status& status) {
  return status.ok() ? Status::Ok() : Status::Error(std::string(status.message()));
}

// Outputs in the GPU's memory, which TensorFlow's allocator alone hands out.
class DeviceOutputs : public EngineOutputs {
 public:
  using EngineOutputs::EngineOutputs;
  Status Adopt(int index, int, const Dims&, void*, std::shared_ptr<void>) override {
    return Status::Error("the engine gave its own memory for output " + std::to_string(index) +
                         ", which must be allocated on a GPU");
  }
};

class GpuEngineOp : public EngineOp {
 public:
  using EngineOp::EngineOp;

 protected:
  int DeviceOrdinal(OpKernelContext* context) const override {
    // Of the platform, behind what visible_device_list chose.
    const auto* information = context->device()->tensorflow_accelerator_device_info();
    return information == nullptr ? 0 : std::max(0, information->gpu_id);
  }

  Status RunEngine(OpKernelContext* context, Engine* engine,
                   const std::vector<TensorView>& inputs) override {
    const auto* stream = StreamOf(context);
    if (stream == nullptr) return Status::Error("TensorFlow's GPU device has no stream");
    if (!engine->runs_on_device()) return RunOnHost(context, engine);
    DeviceOutputs outputs(context, output_shapes(), statistics());
    Status status =
        engine->RunOnDevice(inputs, &outputs, stream->platform_specific_handle().stream);
    if (status.ok()) status = outputs.Publish();
    if (status.ok()) ++statistics()->device_runs;
    return status;
  }

  void RunFallback(OpKernelContext* context, DoneCallback done) override {
    std::vector<Tensor> arguments;
    arguments.reserve(argument_count());
    for (int i = 0; i < input_count(); ++i) arguments.push_back(context->input(i));
    OP_REQUIRES_OK_ASYNC(context, AppendWeights(context, &arguments), done);
    fallback().RunAcrossDevices(context, arguments, std::move(done));
  }

 private:
  static stream_executor::Stream* StreamOf(OpKernelContext* context) {
    auto* device_context = context->op_device_context();
    return device_context == nullptr ? nullptr : device_context->stream();
  }

  static tensorflow::Device* DeviceOf(OpKernelContext* context) {
    return static_cast<tensorflow::Device*>(context->device());
  }

  Status RunOnHost(OpKernelContext* context, Engine* engine) {
    std::vector<Tensor> inputs(input_count());
    std::vector<TensorView> views;
    for (int i = 0; i < input_count(); ++i) {
      const Tensor& input = context->input(i);
      absl::Status status =
          context->allocate_temp(input.dtype(), input.shape(), &inputs[i], HostMemoryForCopies());
      if (status.ok()) {
        status = context->op_device_context()->CopyDeviceTensorToCPUSync(
            &input, "", DeviceOf(context), &inputs[i]);
      }
      if (!status.ok()) return FromTensorFlow(status);
      statistics()->copied_bytes += static_cast<int64_t>(input.TotalBytes());
      views.push_back(ViewOf(inputs[i]));
    }
    EngineOutputs outputs(context, output_shapes(), statistics(), HostMemoryForCopies());
    std::vector<Tensor> results;
    if (Status status = engine->Run(views, &outputs); !status.ok()) return status;
    if (Status status = outputs.Take(&results); !status.ok()) return status;
    for (Tensor& result : results) {
      Tensor copy;
      if (absl::Status status = CopyToDevice(context, result, &copy); !status.ok()) {
        return FromTensorFlow(status);
      }
      result = std::move(copy);
    }
    for (size_t i = 0; i < results.size(); ++i) {
      context->set_output(static_cast<int>(i), std::move(results[i]));
    }
    return Status::Ok();
  }

  // Waits for the copy: what it reads may be gone or written to afterwards.
  absl::Status CopyToDevice(OpKernelContext* context, const Tensor& source, Tensor* copy) {
    TF_RETURN_IF_ERROR(context->allocate_temp(source.dtype(), source.shape(), copy));
    if (source.NumElements() == 0) return absl::OkStatus();
    statistics()->copied_bytes += static_cast<int64_t>(source.TotalBytes());
    return context->op_device_context()->CopyCPUTensorToDeviceSync(&source, DeviceOf(context),
                                                                   copy);
  }

  absl::Status AppendWeights(OpKernelContext* context, std::vector<Tensor>* arguments) {
    std::lock_guard<std::mutex> lock(weights_mutex_);
    for (int i = input_count() + static_cast<int>(weights_.size()); i < argument_count(); ++i) {
      Tensor copy;
      TF_RETURN_IF_ERROR(CopyToDevice(context, context->input(i), &copy));
      weights_.push_back(std::move(copy));
    }
    arguments->insert(arguments->end(), weights_.begin(), weights_.end());
    return absl::OkStatus();
  }

  std::mutex weights_mutex_;
  std::vector<Tensor> weights_;  // In the GPU's memory, for the fallback.
};

REGISTER_KERNEL_BUILDER(Name("TfOptEngine")
                            .Device(tensorflow::DEVICE_GPU)
                            .HostMemory("weights")
                            .HostMemory("stored_engine"),
                        GpuEngineOp);

}  // namespace
}  // namespace tf_opt
