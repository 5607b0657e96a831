// One compiled OpenVINO model with a pool of infer requests, run on TensorFlow's memory.

#ifndef TF_OPT_OPS_OPENVINO_VARIANT_H_
#define TF_OPT_OPS_OPENVINO_VARIANT_H_

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "openvino/openvino.hpp"
#include "runtime.h"
#include "texts.h"

namespace tf_opt {

// {tensorflow::DataType, OpenVINO's type} of the same memory layout. float64 and uint64 are left
// out: OpenVINO's CPU plugin computes them in 32 bits.
inline const std::vector<std::pair<int, ov::element::Type>>& ElementTypes() {
  static const auto* types = new std::vector<std::pair<int, ov::element::Type>>{
      {1, ov::element::f32},      {3, ov::element::i32},   {4, ov::element::u8},
      {5, ov::element::i16},      {6, ov::element::i8},    {9, ov::element::i64},
      {10, ov::element::boolean}, {14, ov::element::bf16}, {17, ov::element::u16},
      {19, ov::element::f16},     {22, ov::element::u32},
  };
  return *types;
}

inline ov::element::Type ElementTypeOf(int dtype) {
  for (const auto& [tensorflow_type, type] : ElementTypes()) {
    if (tensorflow_type == dtype) return type;
  }
  return ov::element::dynamic;
}

inline int DtypeOf(const ov::element::Type& element_type) {
  for (const auto& [tensorflow_type, type] : ElementTypes()) {
    if (type == element_type) return tensorflow_type;
  }
  return 0;
}

// Whether every value fits into 32 bits. OpenVINO's CPU plugin computes int64 as int32 and wraps
// larger values without a word; int64 tensors are ids, masks and shapes, so that the look costs
// microseconds.
inline bool FitsInto32Bits(const TensorView& view) {
  if (ElementTypeOf(view.dtype) != ov::element::i64) return true;
  const auto* values = static_cast<const int64_t*>(view.data);
  // No early end: the loop is vectorized without it.
  int64_t beyond = 0;
  for (size_t i = 0; i < view.bytes / sizeof(int64_t); ++i) {
    beyond |= values[i] - static_cast<int32_t>(values[i]);
  }
  return beyond == 0;
}

class RequestPool;

// An infer request while someone uses it or the memory of its outputs; goes back to its pool when
// that ends.
struct Lease {
  std::shared_ptr<RequestPool> pool;
  ov::InferRequest request;
  ~Lease();
};

class RequestPool : public std::enable_shared_from_this<RequestPool> {
 public:
  std::shared_ptr<Lease> Take(ov::CompiledModel* compiled) {
    auto lease = std::make_shared<Lease>();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) {
        lease->request = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (!lease->request) lease->request = compiled->create_infer_request();
    std::lock_guard<std::mutex> lock(mutex_);
    lease->pool = shared_from_this();
    leased_.insert(lease.get());
    return lease;
  }

  void Return(Lease* lease) {
    std::lock_guard<std::mutex> lock(mutex_);
    leased_.erase(lease);
    if (lease->request && free_.size() < kMaximumFree) free_.push_back(std::move(lease->request));
  }

  // A request keeps the whole compiled model. Once the model is not used any more, an output that
  // the user still holds must keep its own memory only.
  void Close() {
    std::vector<ov::InferRequest> requests;
    std::lock_guard<std::mutex> lock(mutex_);
    requests.swap(free_);
    for (Lease* lease : leased_) requests.push_back(std::exchange(lease->request, {}));
  }

 private:
  static constexpr size_t kMaximumFree = 64;

  std::mutex mutex_;
  std::vector<ov::InferRequest> free_;
  std::set<Lease*> leased_;
};

inline Lease::~Lease() {
  if (pool) pool->Return(this);
}

class Variant {
 public:
  // `input_of_port[p]` is the node's input that model input p reads. With `queued`, calls wait for
  // a free stream.
  Variant(ov::CompiledModel compiled, std::vector<int> input_of_port, bool queued)
      : compiled_(std::move(compiled)), input_of_port_(std::move(input_of_port)), queued_(queued) {
    for (const auto& port : compiled_.inputs()) {
      input_types_.push_back(port.get_element_type());
      input_shapes_.push_back(port.get_partial_shape());
    }
    for (const auto& port : compiled_.outputs()) {
      output_types_.push_back(DtypeOf(port.get_element_type()));
      const ov::PartialShape shape = port.get_partial_shape();
      output_static_.push_back(shape.is_static());
      output_dims_.push_back(shape.is_static() ? ToDims(shape.to_shape()) : Dims{});
    }
  }

  ~Variant() { pool_->Close(); }

  Status Run(const std::vector<TensorView>& inputs, OutputAllocator* outputs) {
    std::shared_ptr<Lease> lease;
    try {
      if (Status status = Check(inputs); !status.ok()) return status;
      lease = pool_->Take(&compiled_);
      for (size_t port = 0; port < input_types_.size(); ++port) {
        const TensorView& view = inputs[input_of_port_[port]];
        lease->request.set_input_tensor(
            port, ov::Tensor(input_types_[port], ov::Shape(view.dims.begin(), view.dims.end()),
                             view.data));
      }
      // Static outputs are written straight into TensorFlow's memory. OpenVINO gives outputs of
      // unknown shape to the user's memory only by a copy; those leave as OpenVINO's own memory
      // instead (below).
      for (size_t i = 0; i < output_types_.size(); ++i) {
        if (!output_static_[i]) continue;
        void* data = nullptr;
        Status status =
            outputs->Allocate(static_cast<int>(i), output_types_[i], output_dims_[i], &data);
        if (!status.ok()) return status;
        if (data == nullptr) continue;  // No elements.
        const ov::Shape shape(output_dims_[i].begin(), output_dims_[i].end());
        lease->request.set_output_tensor(i,
                                         ov::Tensor(ElementTypeOf(output_types_[i]), shape, data));
      }
      if (queued_) {
        lease->request.start_async();
        lease->request.wait();
      } else {
        lease->request.infer();
      }
      for (size_t i = 0; i < output_types_.size(); ++i) {
        if (output_static_[i]) continue;
        ov::Tensor tensor = lease->request.get_output_tensor(i);
        // The tensor keeps the memory, the lease keeps the request from writing to it again.
        auto owner = std::make_shared<std::pair<std::shared_ptr<Lease>, ov::Tensor>>(lease, tensor);
        Status status = outputs->Adopt(static_cast<int>(i), output_types_[i],
                                       ToDims(tensor.get_shape()), tensor.data(), owner);
        if (!status.ok()) return status;
      }
      return Status::Ok();
    } catch (const std::exception& exception) {
      if (lease) lease->request = {};  // Its state is unknown; do not use it again.
      // What still fails at this point is, in OpenVINO, mostly a shape that one of its kernels does
      // not take; and where the shapes are wrong altogether, the original nodes give TensorFlow's
      // own message.
      return {Code::kUnsupportedShape,
              "OpenVINO does not run " + ShapesText(inputs) + ": " + OneLine(exception.what())};
    }
  }

 private:
  static Dims ToDims(const ov::Shape& shape) { return Dims(shape.begin(), shape.end()); }

  Status Check(const std::vector<TensorView>& inputs) const {
    for (size_t port = 0; port < input_types_.size(); ++port) {
      const size_t index = input_of_port_[port];
      const std::string name = "input_" + std::to_string(index);
      if (index >= inputs.size()) {
        return Misfit("the engine reads " + name + ", the node has " +
                      std::to_string(inputs.size()) + " inputs");
      }
      const TensorView& view = inputs[index];
      if (ElementTypeOf(view.dtype) != input_types_[port]) {
        return Misfit("the engine's " + name + " is " + input_types_[port].get_type_name() +
                      ", the tensor has TensorFlow dtype number " + std::to_string(view.dtype));
      }
      const ov::PartialShape shape(std::vector<ov::Dimension>(view.dims.begin(), view.dims.end()));
      if (!input_shapes_[port].compatible(shape)) {
        return {Code::kUnsupportedShape, name + " has shape " + ShapeText(view.dims) +
                                             ", the engine was built for " +
                                             input_shapes_[port].to_string()};
      }
      if (!FitsInto32Bits(view)) {
        return {Code::kUnsupportedShape,
                name + " holds integers beyond 32 bits, which OpenVINO does not compute with"};
      }
    }
    return Status::Ok();
  }

  ov::CompiledModel compiled_;
  const std::vector<int> input_of_port_;
  const bool queued_;
  std::vector<ov::element::Type> input_types_;
  std::vector<ov::PartialShape> input_shapes_;
  std::vector<int> output_types_;
  std::vector<bool> output_static_;
  std::vector<Dims> output_dims_;
  std::shared_ptr<RequestPool> pool_ = std::make_shared<RequestPool>();
};

}  // namespace tf_opt

#endif  // TF_OPT_OPS_OPENVINO_VARIANT_H_
