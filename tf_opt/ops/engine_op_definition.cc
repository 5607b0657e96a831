// What the op TfOptEngine takes and gives; engine_op.cc and gpu_engine_op.cc run it.

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tf_opt {
namespace {

using tensorflow::PartialTensorShape;

absl::Status InferShapes(tensorflow::shape_inference::InferenceContext* context) {
  std::vector<PartialTensorShape> shapes;
  TF_RETURN_IF_ERROR(context->GetAttr("output_shapes", &shapes));
  if (static_cast<int>(shapes.size()) != context->num_outputs()) {
    return absl::InvalidArgumentError(
        "output_shapes has " + std::to_string(shapes.size()) + " shapes, the node has " +
        std::to_string(context->num_outputs()) +
        " outputs: give one shape for each (unknown ranks and dimensions are allowed)");
  }
  for (size_t i = 0; i < shapes.size(); ++i) {
    tensorflow::shape_inference::ShapeHandle handle;
    TF_RETURN_IF_ERROR(context->MakeShapeFromPartialTensorShape(shapes[i], &handle));
    context->set_output(static_cast<int>(i), handle);
  }
  return absl::OkStatus();
}

}  // namespace

REGISTER_OP("TfOptEngine")
    .Input("inputs: InT")
    .Input("weights: WeightT")
    .Input("stored_engine: stored_engines * string")
    .Output("outputs: OutT")
    .Attr("InT: list(type) >= 0")
    .Attr("WeightT: list(type) >= 0")
    .Attr("OutT: list(type) >= 1")
    .Attr("segment_name: string")
    .Attr("runtime: string")
    .Attr("engine: string")
    .Attr("stored_engines: int >= 0 = 0")
    .Attr("fallback: func")
    .Attr("output_shapes: list(shape)")
    .Attr("maximum_cached_engines: int = 16")
    .Attr("specialize_after: int = 0")
    .Attr("specialize_shapes: list(shape) = []")
    .SetIsStateful()  // Keeps one kernel a session, and keeps constant folding from running
                      // engines.
    .SetShapeFn(InferShapes)
    .Doc(R"doc(
Runs a segment of a graph by an engine of tf_opt.

inputs: What the segment reads; in the engine and in the fallback "input_<i>".
weights: Constants of the segment, read once when the engine is loaded at the first call; "weight_<i>".
stored_engine: The engine, where the attribute does not hold it: in a SavedModel it is read from a file.
outputs: What the segment gives to the rest of the graph; "output_<i>".
segment_name: Name in statistics and messages.
runtime: Name of a runtime registered in this process, such as "openvino".
engine: The engine in the container of tf_opt/engines/blob.py; empty where it is an input.
stored_engines: 1 where the engine is an input, which is read once as the weights are; 0 otherwise.
fallback: Function of the inputs, then the weights, with the segment's original nodes; an empty name, or
  one that contains "tf_opt_no_fallback", for none.
output_shapes: Static shapes of the outputs, which every run is checked against.
maximum_cached_engines: How many engines for one shape are kept at most beside the one for all shapes.
specialize_after: After so many calls with the same shapes an engine for them is compiled in the background
  and tried; 0 for never.
specialize_shapes: Shapes of all inputs, one engine after the other: engines for these are compiled when the
  engine is loaded, so that the first call waits for them and no later one does; they are tried as the others.
)doc");

}  // namespace tf_opt
