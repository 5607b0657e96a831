// The op TfOptReadEngine: reads the engine of a SavedModel from its file.
//
// It is part of what TensorFlow runs when it loads a SavedModel, as the reading of a table's file
// is: once the model is loaded, neither the folder nor the working directory matters any more.

#include <string>

#include "engine_blob.h"
#include "fallback.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/platform/logging.h"
#include "tensors.h"

namespace tf_opt {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::tstring;

class ReadEngineOp : public tensorflow::OpKernel {
 public:
  explicit ReadEngineOp(OpKernelConstruction* construction) : OpKernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("segment_name", &segment_name_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& filename = context->input(0);
    OP_REQUIRES(context, filename.NumElements() == 1,
                absl::InvalidArgumentError("filename has shape " + filename.shape().DebugString() +
                                           ", expected one string"));
    const std::string path(filename.flat<tstring>()(0));
    std::string bytes;
    absl::Status status = Read(path, &bytes);
    if (!status.ok() && FallbackIsWished()) {
      // The engine node then finds no bytes, and runs its fallback if it has one.
      LOG(WARNING) << status.message();
      status = absl::OkStatus();
      bytes.clear();
    }
    OP_REQUIRES_OK(context, status);
    Tensor* contents = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, tensorflow::TensorShape(), &contents));
    contents->scalar<tstring>()() = std::move(bytes);
  }

 private:
  absl::Status Read(const std::string& path, std::string* bytes) const {
    absl::Status status = tensorflow::ReadFileToString(tensorflow::Env::Default(), path, bytes);
    if (!status.ok()) return Describe(path, status.code(), std::string(status.message()) + ".");
    EngineBlob blob;
    status = ToTensorFlow(ParseEngineBlob(*bytes, &blob));
    return status.ok() ? status : Describe(path, status.code(), std::string(status.message()));
  }

  absl::Status Describe(const std::string& path, absl::StatusCode code,
                        const std::string& problem) const {
    // tf.saved_model.load takes NOT_FOUND for a wrong device, and says so.
    if (code == absl::StatusCode::kNotFound) code = absl::StatusCode::kFailedPrecondition;
    return absl::Status(
        code, "The engine of segment '" + segment_name_ + "' cannot be read from " + path + ": " +
                  problem +
                  " Copy the SavedModel's folder as a whole, with its assets, or convert "
                  "the original model again. Or set the environment variable " +
                  kOnFailureVariable + "=fallback to run the original TensorFlow nodes instead.");
  }

  std::string segment_name_;
};

REGISTER_KERNEL_BUILDER(Name("TfOptReadEngine").Device(tensorflow::DEVICE_CPU), ReadEngineOp);

}  // namespace

REGISTER_OP("TfOptReadEngine")
    .Input("filename: string")
    .Output("contents: string")
    .Attr("segment_name: string")
    .SetIsStateful()  // The file may be another one the next time.
    .SetShapeFn(tensorflow::shape_inference::ScalarShape)
    .Doc(R"doc(
Reads an engine from a file and checks that it is whole.

filename: Path of the file, in any file system that TensorFlow knows.
contents: The file's bytes, in the container of tf_opt/engines/blob.py.
segment_name: Name in messages.
)doc");

}  // namespace tf_opt
