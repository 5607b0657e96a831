// Kernels of Const nodes, and the values that are held in memory for some of them.

#ifndef TF_OPT_OPS_HELD_CONSTANT_H_
#define TF_OPT_OPS_HELD_CONSTANT_H_

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace tf_opt {

// The attribute of a Const node whose value is held in memory: the id that TfOptHoldTensor gave.
inline constexpr char kHeldIdAttribute[] = "_tf_opt_held";

// The tensor that the node refers to.
absl::Status HeldTensor(tensorflow::OpKernelConstruction* construction, tensorflow::Tensor* tensor);

// A kernel whose output is always the same tensor.
class ConstantKernel : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(tensorflow::OpKernelContext* context) override { context->set_output(0, tensor_); }
  bool IsExpensive() override { return false; }
  // The executor hands this tensor on without running the kernel.
  const tensorflow::Tensor* const_tensor() const override { return &tensor_; }

 protected:
  tensorflow::Tensor tensor_;  // Set by the constructor.
};

}  // namespace tf_opt

#endif  // TF_OPT_OPS_HELD_CONSTANT_H_
