// Constants that stay in host memory on every device: the weights of engine nodes.
//
// On a GPU, TensorFlow would put a Const into the GPU's memory, and, since engine nodes take their
// weights in host memory, copy it back in every run; on the CPU it would send it to the GPU's
// part of the graph in every run. A Const node with the attribute _kernel = "TfOptHost" costs
// neither. A node that computes on the GPU must not read the same Const: it would get a copy in
// every run.

#include "held_constant.h"
#include "tensorflow/core/framework/node_def_util.h"
#include "tensorflow/core/framework/tensor.pb.h"

namespace tf_opt {
namespace {

using tensorflow::OpKernelConstruction;

constexpr char kHostLabel[] = "TfOptHost";

class HostConstantOp : public ConstantKernel {
 public:
  explicit HostConstantOp(OpKernelConstruction* construction) : ConstantKernel(construction) {
    if (tensorflow::HasNodeAttr(construction->def(), kHeldIdAttribute)) {
      OP_REQUIRES_OK(construction, HeldTensor(construction, &tensor_));
      return;
    }
    const tensorflow::TensorProto* value = nullptr;
    OP_REQUIRES_OK(construction, construction->GetAttr("value", &value));
    OP_REQUIRES(construction,
                tensor_.FromProto(tensorflow::cpu_allocator(), *value) &&
                    tensor_.dtype() == construction->output_type(0),
                absl::InvalidArgumentError("'" + construction->def().name() +
                                           "' has no value of its type"));
  }
};

REGISTER_KERNEL_BUILDER(Name("Const").Device(tensorflow::DEVICE_CPU).Label(kHostLabel),
                        HostConstantOp);
REGISTER_KERNEL_BUILDER(
    Name("Const").Device(tensorflow::DEVICE_GPU).Label(kHostLabel).HostMemory("output"),
    HostConstantOp);

}  // namespace
}  // namespace tf_opt
