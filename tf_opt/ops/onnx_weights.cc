// Edits the encoded model: TensorFlow's wheel has no ONNX classes, a model without weights is
// small, and what is not understood stays as it is. The stored engine itself keeps the weights as
// graph inputs, which every engine reads.

#include "onnx_weights.h"

#include <cstdint>

#include "onnx_types.h"
#include "texts.h"

namespace tf_opt {
namespace {

// Numbers of fields in onnx.proto, which never change.
constexpr uint64_t kModelGraph = 7;
constexpr uint64_t kGraphInitializer = 5;
constexpr uint64_t kGraphInput = 11;
constexpr uint64_t kValueName = 1, kValueType = 2;
constexpr uint64_t kTypeTensor = 1;
constexpr uint64_t kTensorTypeElement = 1, kTensorTypeShape = 2;
constexpr uint64_t kShapeDimension = 1, kDimensionValue = 1;
constexpr uint64_t kTensorDims = 1, kTensorType = 2, kTensorName = 8;
constexpr uint64_t kTensorExternalData = 13, kTensorLocation = 14;
constexpr uint64_t kEntryKey = 1, kEntryValue = 2;
constexpr uint64_t kExternal = 1;

constexpr int kVarint = 0, k64Bits = 1, kBytes = 2, k32Bits = 5;

struct Field {
  uint64_t number = 0;
  int wire_type = 0;
  uint64_t value = 0;         // Of a varint.
  std::string_view content;   // Of bytes.
  std::string_view complete;  // With tag and length.

  bool Is(uint64_t wanted, int type) const { return number == wanted && wire_type == type; }
};

// The fields of an encoded message, one after another.
class Fields {
 public:
  explicit Fields(std::string_view message) : left_(message) {}

  // False at the end, and where the message is damaged.
  bool Next(Field* field) {
    if (left_.empty() || damaged_) return false;
    const std::string_view begin = left_;
    uint64_t tag = 0, length = 0;
    damaged_ = !Varint(&tag);
    field->number = tag >> 3;
    field->wire_type = static_cast<int>(tag & 7);
    field->content = {};
    switch (field->wire_type) {
      case kVarint:
        damaged_ |= !Varint(&field->value);
        break;
      case k64Bits:
        damaged_ |= !Skip(8, field);
        break;
      case kBytes:
        damaged_ |= !Varint(&length) || !Skip(length, field);
        break;
      case k32Bits:
        damaged_ |= !Skip(4, field);
        break;
      default:
        damaged_ = true;
    }
    if (!damaged_) field->complete = begin.substr(0, begin.size() - left_.size());
    return !damaged_;
  }

  bool damaged() const { return damaged_; }

 private:
  bool Varint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64 && !left_.empty(); shift += 7) {
      const auto byte = static_cast<uint8_t>(left_.front());
      left_.remove_prefix(1);
      *value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }

  bool Skip(uint64_t bytes, Field* field) {
    if (bytes > left_.size()) return false;
    field->content = left_.substr(0, bytes);
    left_.remove_prefix(bytes);
    return true;
  }

  std::string_view left_;
  bool damaged_ = false;
};

void AppendVarint(uint64_t value, std::string* out) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>(value | 0x80));
  out->push_back(static_cast<char>(value));
}

void AppendNumber(uint64_t field, uint64_t value, std::string* out) {
  AppendVarint(field << 3 | kVarint, out);
  AppendVarint(value, out);
}

void AppendBytes(uint64_t field, std::string_view content, std::string* out) {
  AppendVarint(field << 3 | kBytes, out);
  AppendVarint(content.size(), out);
  out->append(content);
}

// A ValueInfoProto.
struct Value {
  std::string_view name;
  int type = 0;
  bool has_shape = false;
  Dims dims;  // -1 for what is not known.
};

// What lies within the last of a message's fields of this number; empty where there is none.
std::string_view Within(std::string_view message, uint64_t number, bool* damaged) {
  std::string_view content;
  Fields fields(message);
  for (Field field; fields.Next(&field);) {
    if (field.Is(number, kBytes)) content = field.content;
  }
  *damaged |= fields.damaged();
  return content;
}

bool ReadValue(std::string_view message, Value* value) {
  bool damaged = false;
  value->name = Within(message, kValueName, &damaged);
  const std::string_view type = Within(message, kValueType, &damaged);
  Fields tensor(Within(type, kTypeTensor, &damaged));
  for (Field field; tensor.Next(&field);) {
    if (field.Is(kTensorTypeElement, kVarint)) value->type = static_cast<int>(field.value);
    if (!field.Is(kTensorTypeShape, kBytes)) continue;
    value->has_shape = true;
    Fields shape(field.content);
    for (Field dimension; shape.Next(&dimension);) {
      if (!dimension.Is(kShapeDimension, kBytes)) continue;
      value->dims.push_back(-1);
      Fields parts(dimension.content);
      for (Field part; parts.Next(&part);) {
        if (part.Is(kDimensionValue, kVarint))
          value->dims.back() = static_cast<int64_t>(part.value);
      }
      damaged |= parts.damaged();
    }
    damaged |= shape.damaged();
  }
  return !damaged && !tensor.damaged();
}

bool Fits(const Value& value, const TensorView& weight) {
  if (OnnxTypeOf(weight.dtype) != value.type) return false;
  if (!value.has_shape) return true;
  if (value.dims.size() != weight.dims.size()) return false;
  for (size_t i = 0; i < weight.dims.size(); ++i) {
    if (value.dims[i] != -1 && value.dims[i] != weight.dims[i]) return false;
  }
  return true;
}

std::string ExternalInitializer(const Value& value, const TensorView& weight) {
  std::string tensor, location;
  for (const int64_t size : weight.dims) {
    AppendNumber(kTensorDims, static_cast<uint64_t>(size), &tensor);
  }
  AppendNumber(kTensorType, static_cast<uint64_t>(value.type), &tensor);
  AppendBytes(kTensorName, value.name, &tensor);
  AppendBytes(kEntryKey, "location", &location);
  AppendBytes(kEntryValue, value.name, &location);
  AppendBytes(kTensorExternalData, location, &tensor);
  AppendNumber(kTensorLocation, kExternal, &tensor);
  return tensor;
}

Status Damaged() { return Misfit("the engine's payload is no ONNX model"); }

Status DeclareInGraph(std::string_view graph, const std::vector<TensorView>& weights,
                      std::string* declared, std::vector<int>* used) {
  std::string initializers;
  Fields fields(graph);
  for (Field field; fields.Next(&field);) {
    Value value;
    if (field.Is(kGraphInput, kBytes) && !ReadValue(field.content, &value)) return Damaged();
    const int index = IndexOf(value.name, "weight_");
    if (index < 0) {
      declared->append(field.complete);
      continue;
    }
    const std::string name(value.name);
    if (index >= static_cast<int>(weights.size())) {
      return Misfit("the engine reads " + name + ", the node has " +
                    std::to_string(weights.size()) + " weights");
    }
    const TensorView& weight = weights[index];
    if (!Fits(value, weight)) {
      return Misfit("the engine's " + name + " has ONNX's element type " +
                    std::to_string(value.type) + " and shape " + ShapeText(value.dims) +
                    ", the node's has type " + std::to_string(OnnxTypeOf(weight.dtype)) +
                    " and shape " + ShapeText(weight.dims));
    }
    AppendBytes(kGraphInitializer, ExternalInitializer(value, weight), &initializers);
    used->push_back(index);
  }
  declared->append(initializers);
  return fields.damaged() ? Damaged() : Status::Ok();
}

}  // namespace

Status DeclareWeightsExternal(std::string_view model, const std::vector<TensorView>& weights,
                              std::string* declared, std::vector<int>* used) {
  declared->clear();
  used->clear();
  Fields fields(model);
  for (Field field; fields.Next(&field);) {
    if (!field.Is(kModelGraph, kBytes)) {
      declared->append(field.complete);
      continue;
    }
    std::string graph;
    if (Status status = DeclareInGraph(field.content, weights, &graph, used); !status.ok())
      return status;
    AppendBytes(kModelGraph, graph, declared);
  }
  return fields.damaged() ? Damaged() : Status::Ok();
}

}  // namespace tf_opt
