// The part of ONNX Runtime's C interface that onnxruntime_runtime.cc calls. Its wheel brings the
// library without headers, and none of them is needed: `OrtGetApiBase`, the one function that the
// library exports, gives out a table of functions, and a function's place in it never changes (the
// interface's documented guarantee: functions are only ever added at the end, and every later
// release gives out the table of an earlier version).
//
// Every function that returns a Failure* returns null where it worked.

#ifndef TF_OPT_OPS_ONNXRUNTIME_API_H_
#define TF_OPT_OPS_ONNXRUNTIME_API_H_

#include <cstddef>
#include <cstdint>

namespace tf_opt {
namespace onnxruntime {

// The first version with AddExternalInitializers, the youngest function here.
inline constexpr uint32_t kApiVersion = 12;

inline constexpr int kLogOnlyFatal = 4;     // OrtLoggingLevel
inline constexpr int kDeviceAllocator = 0;  // OrtAllocatorType
inline constexpr int kDefaultMemory = 0;    // OrtMemType

struct ApiBase {
  const void* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// ONNX Runtime's own objects.
struct Failure;  // OrtStatus
struct Environment;
struct Session;
struct SessionOptions;
struct Value;
struct MemoryInfo;
struct Allocator;
struct TypeInfo;
struct TensorInfo;  // OrtTensorTypeAndShapeInfo

class Api {
 public:
  // `table`: what ApiBase::GetApi gave out.
  explicit Api(const void* table) : functions_(static_cast<void* const*>(table)) {}

 private:
  // One place of the table, as whatever function is declared to be there.
  struct Place {
    void* function;
    template <typename Function>
    operator Function*() const {
      return reinterpret_cast<Function*>(function);
    }
  };
  Place At(int index) const { return {functions_[index]}; }

  void* const* const functions_;  // Declared before those that are read from it.

 public:
  const char* (*const GetErrorMessage)(const Failure*) = At(2);
  Failure* (*const CreateEnv)(int level, const char* name, Environment**) = At(3);
  Failure* (*const CreateSessionFromArray)(const Environment*, const void* model, size_t bytes,
                                           const SessionOptions*, Session**) = At(8);
  // Values in `outputs` are written to, null ones are allocated.
  Failure* (*const Run)(Session*, const void* options, const char* const* input_names,
                        const Value* const* inputs, size_t input_count,
                        const char* const* output_names, size_t output_count,
                        Value** outputs) = At(9);
  Failure* (*const CreateSessionOptions)(SessionOptions**) = At(10);
  Failure* (*const SetSessionLogSeverityLevel)(SessionOptions*, int level) = At(22);
  Failure* (*const SetIntraOpNumThreads)(SessionOptions*, int threads) = At(24);
  Failure* (*const SetInterOpNumThreads)(SessionOptions*, int threads) = At(25);
  Failure* (*const SessionGetInputCount)(const Session*, size_t*) = At(30);
  Failure* (*const SessionGetOutputCount)(const Session*, size_t*) = At(31);
  Failure* (*const SessionGetInputTypeInfo)(const Session*, size_t index, TypeInfo**) = At(33);
  Failure* (*const SessionGetOutputTypeInfo)(const Session*, size_t index, TypeInfo**) = At(34);
  // The names are freed by the allocator.
  Failure* (*const SessionGetInputName)(const Session*, size_t index, Allocator*, char**) = At(36);
  Failure* (*const SessionGetOutputName)(const Session*, size_t index, Allocator*, char**) = At(37);
  // The memory stays the caller's.
  Failure* (*const CreateTensorWithDataAsOrtValue)(const MemoryInfo*, void* data, size_t bytes,
                                                   const int64_t* dims, size_t rank, int type,
                                                   Value**) = At(49);
  Failure* (*const GetTensorMutableData)(Value*, void**) = At(51);
  // Null for what is no tensor. It belongs to the TypeInfo.
  Failure* (*const CastTypeInfoToTensorInfo)(const TypeInfo*, const TensorInfo**) = At(55);
  Failure* (*const GetTensorElementType)(const TensorInfo*, int*) = At(60);
  Failure* (*const GetDimensionsCount)(const TensorInfo*, size_t*) = At(61);
  Failure* (*const GetDimensions)(const TensorInfo*, int64_t* dims, size_t rank) = At(62);
  Failure* (*const GetTensorTypeAndShape)(const Value*, TensorInfo**) = At(65);
  Failure* (*const CreateCpuMemoryInfo)(int allocator, int memory, MemoryInfo**) = At(69);
  Failure* (*const AllocatorFree)(Allocator*, void*) = At(76);
  // Never to be released.
  Failure* (*const GetAllocatorWithDefaultOptions)(Allocator**) = At(78);
  void (*const ReleaseFailure)(Failure*) = At(93);
  void (*const ReleaseSession)(Session*) = At(95);
  void (*const ReleaseValue)(Value*) = At(96);
  void (*const ReleaseTypeInfo)(TypeInfo*) = At(98);
  void (*const ReleaseTensorInfo)(TensorInfo*) = At(99);
  void (*const ReleaseSessionOptions)(SessionOptions*) = At(100);
  Failure* (*const AddSessionConfigEntry)(SessionOptions*, const char* key,
                                          const char* value) = At(130);
  // Has the session use this memory for an initializer.
  Failure* (*const AddInitializer)(SessionOptions*, const char* name, const Value*) = At(150);
  // Makes values of initializers with external data known to the graph.
  Failure* (*const AddExternalInitializers)(SessionOptions*, const char* const* names,
                                            const Value* const* values, size_t count) = At(210);
};

}  // namespace onnxruntime
}  // namespace tf_opt

#endif  // TF_OPT_OPS_ONNXRUNTIME_API_H_
