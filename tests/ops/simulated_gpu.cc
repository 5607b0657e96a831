// A device of the type "GPU" in host memory, so that the op's kernel for GPUs can run without one.
//
// As on a real one: memory of the device cannot be read or written by the host (its addresses are
// mapped without any right; a second mapping of the same memory does the work); the stream works in
// another thread, later, one task after the other; copies end by a callback.

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "tensorflow/core/framework/allocator.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/device.h"
#include "tensorflow/core/framework/device_factory.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/public/session_options.h"
#include "xla/stream_executor/stream.h"

namespace simulated_gpu {

using tensorflow::AllocatorAttributes;
using tensorflow::Device;
using tensorflow::DeviceContext;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

constexpr size_t kBytes = size_t{1} << 28;
constexpr size_t kAlignment = 256;
std::atomic<int64_t> copies_to_device{0};
std::atomic<int64_t> copies_to_host{0};

class Memory : public tensorflow::Allocator {
 public:
  static Memory& Get() {
    static Memory* memory = new Memory;
    return *memory;
  }

  std::string Name() override { return "simulated_gpu"; }

  void* AllocateRaw(size_t alignment, size_t bytes) override {
    const size_t size = (bytes + kAlignment) / kAlignment * kAlignment;
    std::lock_guard<std::mutex> lock(mutex_);
    auto& free = free_[size];
    char* address = next_;
    if (free.empty()) {
      if (next_ + size > device_ + kBytes) return nullptr;
      next_ += size;
    } else {
      address = free.back();
      free.pop_back();
    }
    sizes_[address] = size;
    return address;
  }

  void DeallocateRaw(void* address) override {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = sizes_.find(static_cast<char*>(address));
    free_[found->second].push_back(found->first);
    sizes_.erase(found);
  }

  bool Holds(const void* address) const {
    return address >= device_ && address < static_cast<const void*>(device_ + kBytes);
  }

  // Where the work is done. Ends the process where the address is none of the device's.
  char* Reach(const void* address) const {
    if (!Holds(address)) {
      std::fprintf(stderr, "%p is no address of the simulated GPU\n", address);
      std::abort();
    }
    return work_ + (static_cast<const char*>(address) - device_);
  }

 private:
  Memory() {
    const int file = memfd_create("simulated_gpu", 0);
    if (ftruncate(file, kBytes) != 0) std::abort();
    device_ = static_cast<char*>(mmap(nullptr, kBytes, PROT_NONE, MAP_SHARED, file, 0));
    work_ = static_cast<char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    next_ = device_;
  }

  std::mutex mutex_;
  char* device_;
  char* work_;
  char* next_;
  std::map<char*, size_t> sizes_;
  std::map<size_t, std::vector<char*>> free_;
};

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
// The one name of it that every TensorFlow has.
using Address = stream_executor::DeviceMemoryBase;
#pragma GCC diagnostic pop

class Stream : public stream_executor::Stream {
 public:
  Stream() : thread_([this] { Work(); }) { thread_.detach(); }

  void Enqueue(std::function<void()> task) {
    std::lock_guard<std::mutex> lock(mutex_);
    tasks_.push_back(std::move(task));
    changed_.notify_all();
  }

  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return tasks_.empty(); });
  }

  PlatformSpecificHandle platform_specific_handle() const override {
    PlatformSpecificHandle handle;
    handle.stream = const_cast<Stream*>(this);
    return handle;
  }
  bool ok() const override { return true; }
  absl::StatusOr<stream_executor::Stream*> GetOrCreateSubStream() override { return No(); }
  void ReturnSubStream(stream_executor::Stream*) override {}
  absl::Status WaitFor(stream_executor::Stream*) override { return No(); }
  absl::Status WaitFor(stream_executor::Event*) override { return No(); }
  absl::Status RecordEvent(stream_executor::Event*) override { return No(); }
  absl::Status Memcpy(void*, const Address&, uint64_t) override { return No(); }
  absl::Status Memcpy(Address*, const void*, uint64_t) override { return No(); }
  absl::Status BlockHostUntilDone() override {
    Wait();
    return absl::OkStatus();
  }
  absl::Status DoHostCallbackWithStatus(absl::AnyInvocable<absl::Status() &&>) override {
    return No();
  }
  stream_executor::StreamExecutor* parent() const override { return nullptr; }
  stream_executor::CudaComputeCapability GetCudaComputeCapability() const override { return {}; }
  stream_executor::RocmComputeCapability GetRocmComputeCapability() const override {
    return stream_executor::RocmComputeCapability("");
  }
#if __has_include("xla/stream_executor/sycl/oneapi_compute_capability.h")  // Not before 2.21.
  stream_executor::OneAPIComputeCapability GetOneAPIComputeCapability() const override {
    return {};
  }
#endif
  std::variant<stream_executor::StreamPriority, int> priority() const override { return 0; }
  // TensorFlow 2.18 calls them otherwise.
  const std::string& GetName() const { return name_; }
  void SetName(std::string name) { name_ = std::move(name); }
  absl::string_view name() const { return name_; }
  void set_name(absl::string_view name) { name_ = std::string(name); }

 private:
  static absl::Status No() { return absl::UnimplementedError("not simulated"); }

  void Work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return !tasks_.empty(); });
      auto task = tasks_.front();
      lock.unlock();
      // Whoever does not wait for the stream comes too early.
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      task();
      lock.lock();
      tasks_.pop_front();
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;  // The first one is at work.
  std::string name_;
  std::thread thread_;
};

class Context : public DeviceContext {
 public:
  explicit Context(Stream* stream) : stream_(stream) {}
  stream_executor::Stream* stream() const override { return stream_; }

  void CopyCPUTensorToDevice(const Tensor* from, Device*, Tensor* to,
                             tensorflow::StatusCallback done, bool) const override {
    ++copies_to_device;
    Copy(from, Memory::Get().Reach(to->data()), from->data(), std::move(done));
  }

  void CopyDeviceTensorToCPU(const Tensor* from, absl::string_view, Device*, Tensor* to,
                             tensorflow::StatusCallback done) override {
    ++copies_to_host;
    Copy(from, to->data(), Memory::Get().Reach(from->data()), std::move(done));
  }

  void CopyTensorInSameDevice(const Tensor* from, Device*, Tensor* to,
                              tensorflow::StatusCallback done) const override {
    Copy(from, Memory::Get().Reach(to->data()), Memory::Get().Reach(from->data()), std::move(done));
  }

 private:
  void Copy(const Tensor* from, void* target, const void* source,
            tensorflow::StatusCallback done) const {
    // The caller may let go of its tensor before the copy is made.
    stream_->Enqueue([target, source, from = *from, done = std::move(done)] {
      std::memcpy(target, source, from.TotalBytes());
      std::thread([done] { done(absl::OkStatus()); }).detach();
    });
  }

  Stream* const stream_;
};

class Gpu : public Device {
 public:
  Gpu(const tensorflow::SessionOptions& options, const std::string& prefix)
      : Device(options.env, Device::BuildDeviceAttributes(
                                prefix + "/device:GPU:0", tensorflow::DEVICE_GPU,
                                tensorflow::Bytes(kBytes), tensorflow::DeviceLocality())),
        context_(new Context(&stream_)) {
    information_.stream = &stream_;
    information_.gpu_id = 3;  // The first one that TensorFlow was told to use.
    information_.default_context = context_;
    set_tensorflow_accelerator_device_info(&information_);
    workers_.num_threads = 2;
    set_tensorflow_cpu_worker_threads(&workers_);
  }
  ~Gpu() override {
    stream_.Wait();
    context_->Unref();
  }

  tensorflow::Allocator* GetAllocator(AllocatorAttributes attributes) override {
    if (attributes.on_host()) return tensorflow::cpu_allocator();
    return &Memory::Get();
  }
  absl::Status Sync() override {
    stream_.Wait();
    return absl::OkStatus();
  }
  absl::Status TryGetDeviceContext(DeviceContext** context) override {
    context_->Ref();
    *context = context_;
    return absl::OkStatus();
  }
  absl::Status MakeTensorFromProto(const tensorflow::TensorProto& proto,
                                   const AllocatorAttributes attributes, Tensor* tensor) override {
    Tensor parsed(proto.dtype());
    if (!parsed.FromProto(tensorflow::cpu_allocator(), proto)) {
      return absl::InvalidArgumentError("not a tensor");
    }
    *tensor = parsed;
    if (attributes.on_host() || parsed.NumElements() == 0) return absl::OkStatus();
    *tensor = Tensor(&Memory::Get(), parsed.dtype(), parsed.shape());
    return context_->CopyCPUTensorToDeviceSync(&parsed, this, tensor);
  }

 private:
  // Never destroyed: its thread may still work when a session ends.
  Stream& stream_ = *new Stream;
  Context* const context_;
  AcceleratorDeviceInfo information_;
  CpuWorkerThreads workers_;
};

class Factory : public tensorflow::DeviceFactory {
 public:
  absl::Status ListPhysicalDevices(std::vector<std::string>* devices) override {
    devices->push_back("/physical_device:GPU:0");
    return absl::OkStatus();
  }
  absl::Status CreateDevices(const tensorflow::SessionOptions& options, const std::string& prefix,
                             std::vector<std::unique_ptr<Device>>* devices) override {
    devices->push_back(std::make_unique<Gpu>(options, prefix));
    return absl::OkStatus();
  }
};

REGISTER_LOCAL_DEVICE_FACTORY("GPU", Factory, 1000);  // Before that of a TensorFlow with CUDA.

// sum = a + b, elements of `b` repeated: an op with a kernel on this GPU, for fallback functions.
REGISTER_OP("SimulatedAdd")
    .Input("a: T")
    .Input("b: T")
    .Output("sum: T")
    .Attr("T: {float, int32}")
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape);

void Add(const char* a, const char* b, char* sum, int64_t size, int64_t size_of_b, bool real) {
  for (int64_t i = 0; i < size; ++i) {
    const int64_t j = i % size_of_b;
    if (real) {
      reinterpret_cast<float*>(sum)[i] =
          reinterpret_cast<const float*>(a)[i] + reinterpret_cast<const float*>(b)[j];
    } else {
      reinterpret_cast<int32_t*>(sum)[i] =
          reinterpret_cast<const int32_t*>(a)[i] + reinterpret_cast<const int32_t*>(b)[j];
    }
  }
}

void EnqueueAdd(void* stream, const void* a, const void* b, void* sum, int64_t size,
                int64_t size_of_b, bool real) {
  const Memory& memory = Memory::Get();
  const char *first = memory.Reach(a), *second = memory.Reach(b);
  char* result = memory.Reach(sum);
  static_cast<Stream*>(static_cast<stream_executor::Stream*>(stream))->Enqueue([=] {
    Add(first, second, result, size, size_of_b, real);
  });
}

class AddOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override {
    const Tensor &a = context->input(0), &b = context->input(1);
    Tensor* sum = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, a.shape(), &sum));
    const bool real = a.dtype() == tensorflow::DT_FLOAT;
    if (context->op_device_context() != nullptr) {
      EnqueueAdd(context->op_device_context()->stream(), a.data(), b.data(), sum->data(),
                 a.NumElements(), b.NumElements(), real);
    } else {
      Add(static_cast<const char*>(a.data()), static_cast<const char*>(b.data()),
          static_cast<char*>(sum->data()), a.NumElements(), b.NumElements(), real);
    }
  }
};

REGISTER_KERNEL_BUILDER(Name("SimulatedAdd").Device(tensorflow::DEVICE_CPU), AddOp);
REGISTER_KERNEL_BUILDER(Name("SimulatedAdd").Device(tensorflow::DEVICE_GPU), AddOp);

}  // namespace simulated_gpu

// For an engine written in Python: puts sum = a + b of floats on the stream.
extern "C" void SimulatedGpuAdd(void* stream, const void* a, const void* b, void* sum, int64_t size,
                                int64_t size_of_b) {
  simulated_gpu::EnqueueAdd(stream, a, b, sum, size, size_of_b, true);
}

// Waits and copies, for an engine that looks at the values.
extern "C" void SimulatedGpuRead(void* stream, const void* from, void* to, uint64_t bytes) {
  static_cast<simulated_gpu::Stream*>(static_cast<stream_executor::Stream*>(stream))->Wait();
  std::memcpy(to, simulated_gpu::Memory::Get().Reach(from), bytes);
}

extern "C" void SimulatedGpuWrite(void* stream, void* to, const void* from, uint64_t bytes) {
  const std::string content(static_cast<const char*>(from), bytes);
  char* target = simulated_gpu::Memory::Get().Reach(to);
  static_cast<simulated_gpu::Stream*>(static_cast<stream_executor::Stream*>(stream))
      ->Enqueue([content, target] { std::memcpy(target, content.data(), content.size()); });
}

extern "C" int64_t SimulatedGpuCopiesToDevice() { return simulated_gpu::copies_to_device; }
extern "C" int64_t SimulatedGpuCopiesToHost() { return simulated_gpu::copies_to_host; }
