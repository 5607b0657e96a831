// Runtimes by name. Only a name that was registered in this process can be loaded: an engine blob
// cannot make the op open a library of its own choice.

#ifndef TF_OPT_OPS_RUNTIME_REGISTRY_H_
#define TF_OPT_OPS_RUNTIME_REGISTRY_H_

#include <memory>
#include <string>

#include "runtime.h"

namespace tf_opt {

// Replaces a runtime of the same name; engines that the former one loaded go on.
void RegisterRuntime(const std::string& name, std::shared_ptr<Runtime> runtime);

// Finds a runtime, opening its library at first use.
Status FindRuntime(const std::string& name, std::shared_ptr<Runtime>* runtime);

}  // namespace tf_opt

#endif  // TF_OPT_OPS_RUNTIME_REGISTRY_H_
