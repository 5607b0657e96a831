// An engine's ONNX model with the node's weights as initializers.

#ifndef TF_OPT_OPS_ONNX_WEIGHTS_H_
#define TF_OPT_OPS_ONNX_WEIGHTS_H_

#include <string>
#include <string_view>
#include <vector>

#include "runtime.h"

namespace tf_opt {

// Turns the graph inputs `weight_<j>` of a serialized ModelProto into initializers with external
// data of the same name, which ONNX Runtime is given as memory.
//
// `used` gets the numbers of these weights; those that only the fallback reads are none of the
// model's. An error where a weight is missing or of another type or shape, or the bytes are no
// model.
Status DeclareWeightsExternal(std::string_view model, const std::vector<TensorView>& weights,
                              std::string* declared, std::vector<int>* used);

}  // namespace tf_opt

#endif  // TF_OPT_OPS_ONNX_WEIGHTS_H_
