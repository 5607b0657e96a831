// Constants whose values lie outside of their graph.
//
// A Const node holds its value as a protobuf, which TensorFlow copies about ten times on the way
// from a GraphDef to a running session. A Const node with the attribute _kernel = "TfOptHeld" runs
// by the kernel below, which takes the tensor from this process's memory: to every graph
// optimization the node is a Const, and the executor treats its tensor as that of any Const, so
// that a graph runs exactly as it does with its values inside.
//
// Invariants:
//   * The value that the node itself carries is never used: it is made so that nothing can be read
//   from it.
//   * A tensor lives as long as its holder (see TfOptHoldTensor) or a kernel refers to it.

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "runtime.h"
#include "tensorflow/core/framework/node_def_util.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace tf_opt {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

constexpr char kLabel[] = "TfOptHeld";
constexpr char kIdAttribute[] = "_tf_opt_held";

struct Held {
  std::mutex mutex;
  int64_t next_id = 1;
  std::map<int64_t, Tensor> tensors;
};

Held& TheHeld() {
  static Held* held = new Held;  // Never destroyed: sessions may outlive every static object.
  return *held;
}

class HeldConstantOp : public OpKernel {
 public:
  explicit HeldConstantOp(OpKernelConstruction* construction) : OpKernel(construction) {
    int64_t id = 0;
    OP_REQUIRES_OK(construction, tensorflow::GetNodeAttr(def(), kIdAttribute, &id));
    Held& held = TheHeld();
    std::lock_guard<std::mutex> lock(held.mutex);
    const auto found = held.tensors.find(id);
    OP_REQUIRES(
        construction, found != held.tensors.end(),
        absl::NotFoundError(
            "'" + name() +
            "' is a constant whose value was held in memory for a trial that is over. Run the "
            "graph that the optimization returned."));
    tensor_ = found->second;
    OP_REQUIRES(construction, tensor_.dtype() == output_type(0),
                absl::InvalidArgumentError("'" + name() + "' is of type " +
                                           tensorflow::DataTypeString(output_type(0)) +
                                           ", its value in memory of type " +
                                           tensorflow::DataTypeString(tensor_.dtype())));
  }

  void Compute(OpKernelContext* context) override { context->set_output(0, tensor_); }
  bool IsExpensive() override { return false; }
  // The executor hands this tensor on without running the kernel.
  const Tensor* const_tensor() const override { return &tensor_; }

 private:
  Tensor tensor_;
};

}  // namespace

REGISTER_KERNEL_BUILDER(Name("Const").Device(tensorflow::DEVICE_CPU).Label(kLabel), HeldConstantOp);

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
