// What crosses the border between the op and Python's functions. python_native.py declares the
// same layouts.

#ifndef TF_OPT_OPS_PYTHON_RUNTIME_H_
#define TF_OPT_OPS_PYTHON_RUNTIME_H_

#include <cstdint>
#include <memory>
#include <string>

#include "runtime.h"

namespace tf_opt {

// The runtime whose engines are what Python's loader of this name returns.
std::shared_ptr<Runtime> MakePythonRuntime(const std::string& name);

struct PythonDefinition {
  const char* runtime;
  const char* segment_name;
  const char* header;
  uint64_t header_bytes;
  const char* payload;
  uint64_t payload_bytes;
  const int64_t* weights;
  uint64_t weight_words;
  int32_t threads;
  int32_t device;
};

struct PythonFunctions {
  int32_t (*load)(const PythonDefinition* definition, void* call) = nullptr;
  int32_t (*run)(int64_t engine, const int64_t* words, int64_t count, void* call) = nullptr;
  int32_t (*run_on_device)(int64_t engine, const int64_t* words, int64_t count, void* call,
                           void* stream) = nullptr;
  void (*destroy)(int64_t engine) = nullptr;
  void (*release)(int64_t owner) = nullptr;
  // The interpreter's own, which may be called by any thread.
  int (*holds_interpreter_lock)() = nullptr;      // PyGILState_Check
  void (*interrupt)() = nullptr;                  // PyErr_SetInterrupt
  void* (*thread_state)() = nullptr;              // PyGILState_GetThisThreadState
  int (*acquire_interpreter_lock)() = nullptr;    // PyGILState_Ensure
  void* (*release_interpreter_lock)() = nullptr;  // PyEval_SaveThread
};

}  // namespace tf_opt

#endif  // TF_OPT_OPS_PYTHON_RUNTIME_H_
