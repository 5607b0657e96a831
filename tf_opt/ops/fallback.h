// The function of the graph's library that holds a segment's original nodes.

#ifndef TF_OPT_OPS_FALLBACK_H_
#define TF_OPT_OPS_FALLBACK_H_

#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_opt {

// Environment variable that asks for the fallback where an engine cannot be loaded.
inline constexpr char kOnFailureVariable[] = "TF_OPT_ON_ENGINE_FAILURE";
bool FallbackIsWished();

class Fallback {
 public:
  using Library = tensorflow::FunctionLibraryRuntime;

  void Name(tensorflow::NameAttrList function) { function_ = std::move(function); }

  // False where the name stands for "no fallback".
  bool exists() const;

  using Done = tensorflow::AsyncOpKernel::DoneCallback;

  // Calls the function on the node's device; its results become the node's outputs.
  void Run(tensorflow::OpKernelContext* context, const std::vector<tensorflow::Tensor>& arguments,
           Done done);

  // As Run, for a node on a GPU: nodes of the function that have no kernel there run on the CPU.
  // All arguments and results lie in the GPU's memory.
  void RunAcrossDevices(tensorflow::OpKernelContext* context,
                        const std::vector<tensorflow::Tensor>& arguments, Done done);

 private:
  void Call(tensorflow::OpKernelContext* context, const std::vector<tensorflow::Tensor>& arguments,
            const std::function<Library::InstantiateOptions(Library*)>& options,
            Library::Options run, Done done);
  absl::Status Handle(Library* library,
                      const std::function<Library::InstantiateOptions(Library*)>& options,
                      Library::Handle* handle);

  tensorflow::NameAttrList function_;
  std::mutex mutex_;
  // By library: eager contexts may run one kernel from several.
  std::map<Library*, Library::Handle> handles_;
};

}  // namespace tf_opt

#endif  // TF_OPT_OPS_FALLBACK_H_
