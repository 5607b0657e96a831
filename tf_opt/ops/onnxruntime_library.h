// ONNX Runtime's library once it is open, and what holds its objects.

#ifndef TF_OPT_OPS_ONNXRUNTIME_LIBRARY_H_
#define TF_OPT_OPS_ONNXRUNTIME_LIBRARY_H_

#include <dlfcn.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "onnxruntime_api.h"

namespace tf_opt {
namespace onnxruntime {

// What ONNX Runtime said.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Never closed or destroyed: engines of a session that was never closed may still be there while
// the process exits, and their threads run the library's code.
class Library {
 public:
  // Throws an Error where the file is no library of ONNX Runtime's, or an older one than needed.
  static const Library* Open(const std::string& path) {
    // RTLD_LOCAL: it brings its own protobuf, which must not answer for TensorFlow's.
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) throw Error(dlerror());
    using GetApiBase = const ApiBase* (*)();
    const auto get = reinterpret_cast<GetApiBase>(dlsym(handle, "OrtGetApiBase"));
    if (get == nullptr) throw Error(path + " has no OrtGetApiBase");
    const ApiBase* base = get();
    const void* table = base->GetApi(kApiVersion);
    if (table == nullptr) {
      throw Error(path + " is ONNX Runtime " + base->GetVersionString() + ", without version " +
                  std::to_string(kApiVersion) + " of its interface");
    }
    return new Library(table, base->GetVersionString());
  }

  const Api& api() const { return api_; }
  const std::string& version() const { return version_; }
  const Environment* environment() const { return environment_; }
  Allocator* allocator() const { return allocator_; }

  // Throws what a function of the interface returned, unless it worked.
  void Check(Failure* failure) const {
    if (failure == nullptr) return;
    const std::string message = api_.GetErrorMessage(failure);
    api_.ReleaseFailure(failure);
    throw Error(message);
  }

  // A tensor over memory that must outlive it.
  Value* TensorOver(void* data, size_t bytes, const int64_t* dims, size_t rank, int type) const {
    // It takes no null, where tensors without elements lie.
    static char nowhere[64];
    Value* value = nullptr;
    Check(api_.CreateTensorWithDataAsOrtValue(memory_, data == nullptr ? nowhere : data, bytes,
                                              dims, rank, type, &value));
    return value;
  }

 private:
  Library(const void* table, const char* version) : api_(table), version_(version) {
    Check(api_.CreateEnv(kLogOnlyFatal, "tf_opt", &environment_));
    Check(api_.CreateCpuMemoryInfo(kDeviceAllocator, kDefaultMemory, &memory_));
    Check(api_.GetAllocatorWithDefaultOptions(&allocator_));
  }

  const Api api_;
  const std::string version_;
  Environment* environment_ = nullptr;
  MemoryInfo* memory_ = nullptr;
  Allocator* allocator_ = nullptr;
};

// Releases one of ONNX Runtime's objects when it goes.
template <typename Object>
using Holder = std::unique_ptr<Object, void (*)(Object*)>;

// Values of one call or of one session, some of which may be null.
class Values {
 public:
  Values(const Library* library, size_t count) : library_(library), values_(count, nullptr) {}
  Values(const Values&) = delete;
  Values& operator=(const Values&) = delete;
  ~Values() { Clear(); }

  void Clear() {
    for (Value*& value : values_) {
      if (value != nullptr) library_->api().ReleaseValue(value);
      value = nullptr;
    }
  }

  Value** data() { return values_.data(); }
  Value*& operator[](size_t index) { return values_[index]; }

 private:
  const Library* const library_;
  std::vector<Value*> values_;
};

}  // namespace onnxruntime
}  // namespace tf_opt

#endif  // TF_OPT_OPS_ONNXRUNTIME_LIBRARY_H_
