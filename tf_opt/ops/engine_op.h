// The kernel of the op TfOptEngine: runs a segment of a graph by an engine, or by the segment's
// original nodes (the fallback). As it is here, on the CPU; gpu_engine_op.cc changes what a GPU
// needs to be different.
//
// Invariants:
//   * The engine is loaded once, at the first call. A failed load is remembered: every call gets
//   the same error. Only a load that the user interrupted is tried again.
//   * No lock is held while an engine or the fallback runs.
//   * `weights` are read at the load and for the fallback only, in host memory on every device; the
//   loaded engine keeps references on them.
//   * The stored engine, an attribute or the last input, is read at the load only; no runtime keeps
//   a reference on it.
//   * The engine's memory may become TensorFlow's tensors and outlive this kernel (see
//   OutputAllocator::Adopt).

#ifndef TF_OPT_OPS_ENGINE_OP_H_
#define TF_OPT_OPS_ENGINE_OP_H_

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "fallback.h"
#include "runtime.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/partial_tensor_shape.h"
#include "tensors.h"

namespace tf_opt {

class EngineOp : public tensorflow::AsyncOpKernel {
 public:
  explicit EngineOp(tensorflow::OpKernelConstruction* construction);
  void ComputeAsync(tensorflow::OpKernelContext* context, DoneCallback done) override;

 protected:
  // CUDA's number of the GPU that this kernel is on; -1 on the CPU.
  virtual int DeviceOrdinal(tensorflow::OpKernelContext* context) const;

  // Runs the engine on `inputs`, which are in this kernel's memory, and publishes its outputs.
  virtual Status RunEngine(tensorflow::OpKernelContext* context, Engine* engine,
                           const std::vector<TensorView>& inputs);

  // Runs the original nodes.
  virtual void RunFallback(tensorflow::OpKernelContext* context, DoneCallback done);

  int input_count() const { return input_count_; }
  // How many inputs and weights there are, which are what the fallback takes.
  int argument_count() const { return input_count_ + weight_count_; }
  const std::vector<tensorflow::PartialTensorShape>& output_shapes() const {
    return output_shapes_;
  }
  Statistics* statistics() const { return statistics_; }
  Fallback& fallback() { return fallback_; }

 private:
  absl::Status CheckSpecializeShapes() const;
  Status CountedRun(tensorflow::OpKernelContext* context, Engine* engine);
  Status LoadOnce(tensorflow::OpKernelContext* context, Engine** engine);
  Status Load(tensorflow::OpKernelContext* context);
  Status StoredEngine(tensorflow::OpKernelContext* context, std::string_view* bytes) const;
  void HandleLoadFailure();
  Status Describe(const Status& status) const;
  void Fail(tensorflow::OpKernelContext* context, const DoneCallback& done,
            const Status& status) const;

  std::string segment_name_;
  std::string runtime_name_;
  Fallback fallback_;
  std::vector<tensorflow::PartialTensorShape> output_shapes_;
  int maximum_cached_engines_ = 0;
  int specialize_after_ = 0;
  std::vector<tensorflow::PartialTensorShape> specialize_shapes_;
  int input_count_ = 0;
  int weight_count_ = 0;
  bool engine_is_input_ = false;
  Statistics* statistics_ = nullptr;
  std::atomic<int64_t> running_{0};
  std::atomic<bool> warned_of_shape_{false};

  std::mutex load_mutex_;
  std::atomic<bool> loaded_{false};  // Everything below is constant once this is true.
  Status load_status_;
  bool run_fallback_on_failure_ = false;
  std::vector<std::string> input_names_;  // As the engine's header has them, for messages.
  std::vector<tensorflow::Tensor>
      weights_;  // Declared before the engine, which reads their memory until it is destroyed.
  std::unique_ptr<Engine> engine_;
};

}  // namespace tf_opt

#endif  // TF_OPT_OPS_ENGINE_OP_H_
