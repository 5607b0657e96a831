#include "fallback.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

namespace tf_opt {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

// Part of the name of a function that stands for "no fallback". An empty name does as well, but
// TensorFlow cannot load a SavedModel with one; and it renames the functions of a SavedModel,
// keeping the name inside.
constexpr char kNoFallback[] = "tf_opt_no_fallback";

}  // namespace

bool FallbackIsWished() {
  const char* wish = std::getenv(kOnFailureVariable);
  return wish != nullptr && std::strcmp(wish, "fallback") == 0;
}

bool Fallback::exists() const {
  return !function_.name().empty() && function_.name().find(kNoFallback) == std::string::npos;
}

void Fallback::Run(OpKernelContext* context, const std::vector<Tensor>& arguments, Done done) {
  Library::Options run(context->step_id());
  run.rendezvous = context->rendezvous();
  Call(
      context, arguments, [](Library*) { return Library::InstantiateOptions(); }, std::move(run),
      std::move(done));
}

void Fallback::RunAcrossDevices(OpKernelContext* context, const std::vector<Tensor>& arguments,
                                Done done) {
  // Without the step's rendezvous: the library makes one for the parts of this call.
  Library::Options run(context->step_id());
  run.source_device = context->device()->name();
  const auto options = [&](Library* library) {
    Library::InstantiateOptions options;
    options.target = context->device()->name();
    options.is_multi_device_function = true;
    options.input_devices.assign(arguments.size(), options.target);
    options.output_devices.assign(context->num_outputs(), options.target);
    // Functions expect 32-bit integers in host memory otherwise.
    options.int_args_and_retvals_on_device = true;
    if (const auto* configuration = library->config_proto(); configuration != nullptr) {
      options.config_proto = *configuration;
    }
    return options;
  };
  Call(context, arguments, options, std::move(run), std::move(done));
}

void Fallback::Call(OpKernelContext* context, const std::vector<Tensor>& arguments,
                    const std::function<Library::InstantiateOptions(Library*)>& options,
                    Library::Options run, Done done) {
  Library* library = context->function_library();
  OP_REQUIRES_ASYNC(context, library != nullptr,
                    absl::InternalError("no function library for the fallback"), done);
  Library::Handle handle;
  OP_REQUIRES_OK_ASYNC(context, Handle(library, options, &handle), done);
  run.cancellation_manager = context->cancellation_manager();
  run.collective_executor = context->collective_executor();
  run.stats_collector = context->stats_collector();
  run.step_container = context->step_container();
  run.runner = context->runner();
  run.run_all_kernels_inline = context->run_all_kernels_inline();
  auto results = std::make_shared<std::vector<Tensor>>();
  library->Run(run, handle, arguments, results.get(),
               [context, results, done = std::move(done)](const absl::Status& status) {
                 if (!status.ok()) {
                   context->SetStatus(status);
                 } else if (static_cast<int>(results->size()) != context->num_outputs()) {
                   context->SetStatus(absl::InternalError(
                       "the fallback function returns another number of outputs"));
                 } else {
                   for (size_t i = 0; i < results->size(); ++i) {
                     context->set_output(static_cast<int>(i), std::move((*results)[i]));
                   }
                 }
                 done();
               });
}

absl::Status Fallback::Handle(Library* library,
                              const std::function<Library::InstantiateOptions(Library*)>& options,
                              Library::Handle* handle) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = handles_.find(library);
  if (found != handles_.end()) {
    *handle = found->second;
    return absl::OkStatus();
  }
  absl::Status status = library->Instantiate(
      function_.name(), tensorflow::AttrSlice(&function_.attr()), options(library), handle);
  if (status.ok()) handles_[library] = *handle;
  return status;
}

}  // namespace tf_opt
