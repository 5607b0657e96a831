// TensorFlow's element types as ONNX numbers them.

#ifndef TF_OPT_OPS_ONNX_TYPES_H_
#define TF_OPT_OPS_ONNX_TYPES_H_

#include <cstddef>

namespace tf_opt {

struct OnnxType {
  int dtype;  // tensorflow::DataType
  int type;   // TensorProto.DataType
  size_t bytes;
};

// Element types of the same memory layout: all that cross between TensorFlow and ONNX Runtime.
inline constexpr OnnxType kOnnxTypes[] = {
    {1, 1, 4},    // float32
    {2, 11, 8},   // float64
    {3, 6, 4},    // int32
    {4, 2, 1},    // uint8
    {5, 5, 2},    // int16
    {6, 3, 1},    // int8
    {9, 7, 8},    // int64
    {10, 9, 1},   // bool
    {14, 16, 2},  // bfloat16
    {17, 4, 2},   // uint16
    {19, 10, 2},  // float16
    {22, 12, 4},  // uint32
    {23, 13, 8},  // uint64
};

// Zero, which is no type in either, where there is none.
inline int OnnxTypeOf(int dtype) {
  for (const OnnxType& each : kOnnxTypes) {
    if (each.dtype == dtype) return each.type;
  }
  return 0;
}

inline int DtypeOfOnnx(int type) {
  for (const OnnxType& each : kOnnxTypes) {
    if (each.type == type) return each.dtype;
  }
  return 0;
}

inline size_t BytesOf(int dtype) {
  for (const OnnxType& each : kOnnxTypes) {
    if (each.dtype == dtype) return each.bytes;
  }
  return 0;
}

}  // namespace tf_opt

#endif  // TF_OPT_OPS_ONNX_TYPES_H_
