// TensorFlow's tensors as runtime.h shows them to an engine, without copies.

#ifndef TF_OPT_OPS_TENSORS_H_
#define TF_OPT_OPS_TENSORS_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime.h"
#include "tensorflow/core/framework/allocation_description.pb.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/partial_tensor_shape.h"
#include "tensorflow/core/framework/tensor.h"

namespace tf_opt {

absl::Status ToTensorFlow(const Status& status);

TensorView ViewOf(const tensorflow::Tensor& tensor);

// Where tensors lie that are copied to or from a GPU: host memory that the GPU can reach by itself.
tensorflow::AllocatorAttributes HostMemoryForCopies();

// Collects the outputs of one call. They reach the context only by Publish(): a call that fails
// half way leaves nothing behind that the fallback would have to overwrite.
class EngineOutputs : public OutputAllocator {
 public:
  // In the memory that TensorFlow expects the node's outputs in, or as `memory` says.
  EngineOutputs(tensorflow::OpKernelContext* context,
                const std::vector<tensorflow::PartialTensorShape>& shapes, Statistics* statistics,
                std::optional<tensorflow::AllocatorAttributes> memory = std::nullopt);

  Status Allocate(int index, int dtype, const Dims& dims, void** data) override;
  Status Adopt(int index, int dtype, const Dims& dims, void* data,
               std::shared_ptr<void> owner) override;

  // Gives the outputs to TensorFlow; an error where the engine left one out.
  Status Publish();

  // Gives the outputs to the caller instead.
  Status Take(std::vector<tensorflow::Tensor>* outputs);

 private:
  Status Check(int index, int dtype, const Dims& dims, tensorflow::TensorShape* shape) const;

  tensorflow::OpKernelContext* const context_;
  const std::vector<tensorflow::PartialTensorShape>& shapes_;
  Statistics* const statistics_;
  const std::optional<tensorflow::AllocatorAttributes> memory_;
  std::vector<tensorflow::Tensor> outputs_;
  std::vector<bool> present_;
};

}  // namespace tf_opt

#endif  // TF_OPT_OPS_TENSORS_H_
