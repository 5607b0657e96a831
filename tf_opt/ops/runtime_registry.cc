#include "runtime_registry.h"

#include <dlfcn.h>

#include <map>
#include <mutex>

namespace tf_opt {
namespace {

struct Library {
  std::string path;
  // What `path` links to, by full path; opened first, so that the loader takes this one for that
  // name. The compiled library therefore holds no path of the installation and may be built
  // elsewhere.
  std::string dependency;
};

struct Registry {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<Runtime>> runtimes;
  std::map<std::string, Library> libraries;
  std::map<std::string, std::string> unavailable;  // name -> why there is no library
};

// Never destroyed: kernels of a session that was never closed may still use it while the process
// exits.
Registry& GetRegistry() {
  static Registry* registry = new Registry;
  return *registry;
}

Status OpenLibrary(const std::string& name, const Library& registered,
                   std::shared_ptr<Runtime>* runtime) {
  const std::string& path = registered.path;
  // RTLD_LOCAL: the engine's libraries bring their own TBB and protobuf, which must not answer for
  // TensorFlow's.
  constexpr int kFlags = RTLD_NOW | RTLD_LOCAL;
  void* library = nullptr;
  if (dlopen(registered.dependency.c_str(), kFlags) != nullptr)
    library = dlopen(path.c_str(), kFlags);
  if (library == nullptr) {
    const char* reason = dlerror();
    return {Code::kUnavailable,
            "the library of runtime '" + name +
                "' does not load: " + (reason == nullptr ? "unknown reason" : reason) +
                ". Reinstall the engine's package (`pip install --force-reinstall " + name +
                "`), then run `python -m tf_opt.ops.build`."};
  }
  using Create = Runtime* (*)(int);
  const auto create = reinterpret_cast<Create>(dlsym(library, kCreateRuntimeSymbol));
  Runtime* created = create == nullptr ? nullptr : create(kInterfaceVersion);
  if (created == nullptr) {
    dlclose(library);
    return {Code::kUnavailable,
            "'" + path + "' is no runtime library of this tf_opt version. Remove it and run " +
                "`python -m tf_opt.ops.build`."};
  }
  runtime->reset(created);
  return Status::Ok();
}

}  // namespace

void RegisterRuntime(const std::string& name, std::shared_ptr<Runtime> runtime) {
  Registry& registry = GetRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  registry.runtimes[name] = std::move(runtime);
}

Status FindRuntime(const std::string& name, std::shared_ptr<Runtime>* runtime) {
  Registry& registry = GetRegistry();
  // Held while a library opens, so that it opens once; nothing that runs an engine takes this
  // mutex.
  std::lock_guard<std::mutex> lock(registry.mutex);
  if (const auto found = registry.runtimes.find(name); found != registry.runtimes.end()) {
    *runtime = found->second;
    return Status::Ok();
  }
  if (const auto found = registry.libraries.find(name); found != registry.libraries.end()) {
    Status status = OpenLibrary(name, found->second, runtime);
    if (status.ok()) registry.runtimes[name] = *runtime;
    return status;
  }
  if (const auto found = registry.unavailable.find(name); found != registry.unavailable.end()) {
    return {Code::kUnavailable, found->second};
  }
  std::string known;
  for (const auto& entry : registry.runtimes)
    known += (known.empty() ? "'" : ", '") + entry.first + "'";
  for (const auto& entry : registry.libraries) {
    if (registry.runtimes.count(entry.first) == 0)
      known += (known.empty() ? "'" : ", '") + entry.first + "'";
  }
  return {Code::kNotFound,
          "no runtime named '" + name +
              "' is registered in this process (registered: " + (known.empty() ? "none" : known) +
              "). Import the package that registers it before running the graph."};
}

}  // namespace tf_opt

TF_OPT_EXPORT void TfOptRegisterRuntimeLibrary(const char* name, const char* path,
                                               const char* dependency) {
  tf_opt::Registry& registry = tf_opt::GetRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  registry.libraries[name] = {path, dependency};
  registry.unavailable.erase(name);
}

TF_OPT_EXPORT void TfOptRegisterUnavailableRuntime(const char* name, const char* reason) {
  tf_opt::Registry& registry = tf_opt::GetRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  registry.unavailable[name] = reason;
  registry.libraries.erase(name);
}
