// Constants whose values lie outside of their graph.
//
// A Const node holds its value as a protobuf, which TensorFlow copies about ten times on the way
// from a GraphDef to a running session. A Const node with the attribute _kernel = "TfOptHeld" runs
// by a kernel below, which takes the tensor from this process's memory: to every graph
// optimization the node is a Const, and the executor treats its tensor as that of any Const, so
// that a graph runs exactly as it does with its values inside.
//
// Invariants:
//   * The value that the node itself carries is never used: it is made so that nothing can be read
//   from it.
//   * A tensor lives as long as its holder (see TfOptHoldTensor) or a kernel refers to it.
//   * On a GPU the value lies where a Const's lies: 32-bit integers in host memory, everything else
//   in the GPU's, copied there once.

#include "held_constant.h"

#include <cstdint>
#include <map>
#include <mutex>

#include "runtime.h"
#include "tensorflow/core/framework/device.h"
#include "tensorflow/core/framework/node_def_util.h"

namespace tf_opt {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::Tensor;

constexpr char kHeldLabel[] = "TfOptHeld";

struct Held {
  std::mutex mutex;
  int64_t next_id = 1;
  std::map<int64_t, Tensor> tensors;
};

Held& TheHeld() {
  static Held* held = new Held;  // Never destroyed: sessions may outlive every static object.
  return *held;
}

class HeldConstantOp : public ConstantKernel {
 public:
  explicit HeldConstantOp(OpKernelConstruction* construction) : ConstantKernel(construction) {
    OP_REQUIRES_OK(construction, HeldTensor(construction, &tensor_));
  }
};

class GpuHeldConstantOp : public ConstantKernel {
 public:
  explicit GpuHeldConstantOp(OpKernelConstruction* construction) : ConstantKernel(construction) {
    Tensor held;
    OP_REQUIRES_OK(construction, HeldTensor(construction, &held));
    OP_REQUIRES_OK(construction, construction->allocate_temp(held.dtype(), held.shape(), &tensor_));
    if (held.NumElements() == 0) return;
    auto* device = static_cast<tensorflow::Device*>(construction->device());
    const auto* information = device->tensorflow_accelerator_device_info();
    OP_REQUIRES(construction, information != nullptr && information->default_context != nullptr,
                absl::InternalError("TensorFlow's GPU device has no context"));
    OP_REQUIRES_OK(construction, information->default_context->CopyCPUTensorToDeviceSync(
                                     &held, device, &tensor_));
  }
};

}  // namespace

absl::Status HeldTensor(OpKernelConstruction* construction, Tensor* tensor) {
  int64_t id = 0;
  TF_RETURN_IF_ERROR(tensorflow::GetNodeAttr(construction->def(), kHeldIdAttribute, &id));
  const std::string& name = construction->def().name();
  Held& held = TheHeld();
  std::lock_guard<std::mutex> lock(held.mutex);
  const auto found = held.tensors.find(id);
  if (found == held.tensors.end()) {
    return absl::NotFoundError(
        "'" + name +
        "' is a constant whose value was held in memory for a trial that is over. Run the graph "
        "that the optimization returned.");
  }
  *tensor = found->second;
  if (tensor->dtype() != construction->output_type(0)) {
    return absl::InvalidArgumentError(
        "'" + name + "' is of type " + tensorflow::DataTypeString(construction->output_type(0)) +
        ", its value in memory of type " + tensorflow::DataTypeString(tensor->dtype()));
  }
  return absl::OkStatus();
}

REGISTER_KERNEL_BUILDER(Name("Const").Device(tensorflow::DEVICE_CPU).Label(kHeldLabel),
                        HeldConstantOp);
REGISTER_KERNEL_BUILDER(Name("Const").Device(tensorflow::DEVICE_GPU).Label(kHeldLabel),
                        GpuHeldConstantOp);
REGISTER_KERNEL_BUILDER(Name("Const")
                            .Device(tensorflow::DEVICE_GPU)
                            .Label(kHeldLabel)
                            .HostMemory("output")
                            .TypeConstraint<int32_t>("dtype")
                            .Priority(1),
                        HeldConstantOp);

}  // namespace tf_opt

// Allocates a tensor and returns its id; 0 where dtype and dims describe none that can be held. Its
// bytes at `*data` are to be written before a session runs.
TF_OPT_EXPORT int64_t TfOptHoldTensor(int dtype, const int64_t* dims, int rank, void** data,
                                      uint64_t* bytes) {
  const auto type = static_cast<tensorflow::DataType>(dtype);
  if (!tensorflow::DataTypeCanUseMemcpy(type)) return 0;
  tensorflow::TensorShape shape;
  for (int i = 0; i < rank; ++i) {
    if (!shape.AddDimWithStatus(dims[i]).ok()) return 0;
  }
  tensorflow::Tensor tensor(type, shape);
  if (!tensor.IsInitialized()) return 0;
  *data = tensor.data();
  *bytes = tensor.TotalBytes();
  tf_opt::Held& held = tf_opt::TheHeld();
  std::lock_guard<std::mutex> lock(held.mutex);
  const int64_t id = held.next_id++;
  held.tensors.emplace(id, std::move(tensor));
  return id;
}

// Lets go of a tensor; its memory is freed once no kernel refers to it either.
TF_OPT_EXPORT void TfOptReleaseTensor(int64_t id) {
  tf_opt::Held& held = tf_opt::TheHeld();
  std::lock_guard<std::mutex> lock(held.mutex);
  held.tensors.erase(id);
}
