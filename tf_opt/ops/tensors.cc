#include "tensors.h"

#include <cstring>

#include "absl/status/status.h"
#include "texts.h"

namespace tf_opt {
namespace {

using tensorflow::DataType;
using tensorflow::Tensor;
using tensorflow::TensorShape;

// Memory of an engine that TensorFlow holds as a tensor's buffer.
class AdoptedBuffer : public tensorflow::TensorBuffer {
 public:
  AdoptedBuffer(void* data, size_t bytes, std::shared_ptr<void> owner)
      : TensorBuffer(data), bytes_(bytes), owner_(std::move(owner)) {}

  size_t size() const override { return bytes_; }
  TensorBuffer* root_buffer() override { return this; }
  void FillAllocationDescription(tensorflow::AllocationDescription* description) const override {
    description->set_requested_bytes(static_cast<int64_t>(bytes_));
    description->set_allocator_name("tf_opt");
  }

 private:
  const size_t bytes_;
  const std::shared_ptr<void> owner_;
};

}  // namespace

absl::Status ToTensorFlow(const Status& status) {
  switch (status.code) {
    case Code::kOk:
      return absl::OkStatus();
    case Code::kUnsupportedShape:
      return absl::InvalidArgumentError(status.message);
    case Code::kNotFound:
      return absl::NotFoundError(status.message);
    case Code::kUnavailable:
    case Code::kOtherVersion:
      return absl::FailedPreconditionError(status.message);
    case Code::kCorrupt:
      return absl::DataLossError(status.message);
    case Code::kCancelled:
      return absl::CancelledError(status.message);
    case Code::kError:
      break;
  }
  return absl::InternalError(status.message);
}

tensorflow::AllocatorAttributes HostMemoryForCopies() {
  tensorflow::AllocatorAttributes attributes;
  attributes.set_on_host(true);
  attributes.set_gpu_compatible(true);
  return attributes;
}

TensorView ViewOf(const Tensor& tensor) {
  TensorView view;
  const absl::string_view data = tensor.tensor_data();
  view.data = data.data();
  view.bytes = data.size();
  view.dtype = static_cast<int>(tensor.dtype());
  view.dims.reserve(tensor.dims());
  for (int i = 0; i < tensor.dims(); ++i) view.dims.push_back(tensor.dim_size(i));
  return view;
}

EngineOutputs::EngineOutputs(tensorflow::OpKernelContext* context,
                             const std::vector<tensorflow::PartialTensorShape>& shapes,
                             Statistics* statistics,
                             std::optional<tensorflow::AllocatorAttributes> memory)
    : context_(context),
      shapes_(shapes),
      statistics_(statistics),
      memory_(memory),
      outputs_(context->num_outputs()),
      present_(context->num_outputs(), false) {}

Status EngineOutputs::Check(int index, int dtype, const Dims& dims, TensorShape* shape) const {
  if (index < 0 || index >= static_cast<int>(outputs_.size())) {
    return Status::Error("the engine wrote output " + std::to_string(index) + ", the node has " +
                         std::to_string(outputs_.size()));
  }
  const DataType expected = context_->expected_output_dtype(index);
  if (static_cast<DataType>(dtype) != expected) {
    return Status::Error("the engine gave output " + std::to_string(index) + " dtype " +
                         tensorflow::DataTypeString(static_cast<DataType>(dtype)) +
                         ", the node's is " + tensorflow::DataTypeString(expected));
  }
  const absl::Status valid = tensorflow::TensorShapeUtils::MakeShape(dims, shape);
  if (!valid.ok() || !shapes_[index].IsCompatibleWith(*shape)) {
    return Status::Error("the engine gave output " + std::to_string(index) + " shape " +
                         ShapeText(dims) + ", the node's attribute output_shapes says " +
                         shapes_[index].DebugString());
  }
  return Status::Ok();
}

Status EngineOutputs::Allocate(int index, int dtype, const Dims& dims, void** data) {
  TensorShape shape;
  if (Status status = Check(index, dtype, dims, &shape); !status.ok()) return status;
  const absl::Status allocated =
      context_->allocate_temp(static_cast<DataType>(dtype), shape, &outputs_[index],
                              memory_ ? *memory_ : context_->output_alloc_attr(index));
  if (!allocated.ok()) return Status::Error(std::string(allocated.message()));
  present_[index] = true;
  *data = outputs_[index].data();
  return Status::Ok();
}

Status EngineOutputs::Adopt(int index, int dtype, const Dims& dims, void* data,
                            std::shared_ptr<void> owner) {
  TensorShape shape;
  if (Status status = Check(index, dtype, dims, &shape); !status.ok()) return status;
  const size_t bytes =
      shape.num_elements() * tensorflow::DataTypeSize(static_cast<DataType>(dtype));
  // Eigen's kernels downstream load with aligned instructions: memory that is less aligned than
  // TensorFlow's own must be copied.
  const bool aligned = reinterpret_cast<uintptr_t>(data) % EIGEN_MAX_ALIGN_BYTES == 0;
  if (bytes == 0 || !aligned) {
    void* own = nullptr;
    Status status = Allocate(index, dtype, dims, &own);
    if (status.ok() && bytes > 0) {
      std::memcpy(own, data, bytes);
      statistics_->copied_bytes += static_cast<int64_t>(bytes);
    }
    return status;
  }
  auto* buffer = new AdoptedBuffer(data, bytes, std::move(owner));
  outputs_[index] = Tensor(static_cast<DataType>(dtype), shape, buffer);
  buffer->Unref();  // The tensor holds its own reference.
  present_[index] = true;
  return Status::Ok();
}

Status EngineOutputs::Take(std::vector<Tensor>* outputs) {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    if (!present_[i]) return Status::Error("the engine left out output " + std::to_string(i));
  }
  *outputs = std::move(outputs_);
  return Status::Ok();
}

Status EngineOutputs::Publish() {
  std::vector<Tensor> outputs;
  if (Status status = Take(&outputs); !status.ok()) return status;
  for (size_t i = 0; i < outputs.size(); ++i) {
    context_->set_output(static_cast<int>(i), std::move(outputs[i]));
  }
  return Status::Ok();
}

}  // namespace tf_opt
