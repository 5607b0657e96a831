"""CUDA through the driver library alone: no toolkit, no CUDA runtime, no package.

`cuda_driver` is the one way in. It answers before anything of TensorRT is touched, because TensorRT's bindings can end
the process where there is no driver.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from typing import Any

from tf_opt.errors import CudaError, CudaUnavailableError

_LIBRARY = "libcuda.so.1"
_MAJOR_ATTRIBUTE, _MINOR_ATTRIBUTE = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream, which TensorFlow may use.
_DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING: such events are cheaper.
_THREAD_LOCAL_CAPTURE = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on allocating meanwhile.
_NAME_BYTES = 256

_Size, _Address, _Handle = ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDriverGetVersion": (ctypes.POINTER(ctypes.c_int),),
    "cuDeviceGetCount": (ctypes.POINTER(ctypes.c_int),),
    "cuDeviceGet": (ctypes.POINTER(ctypes.c_int), ctypes.c_int),
    "cuDeviceGetName": (ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    "cuDeviceGetAttribute": (ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(_Handle), ctypes.c_int),
    "cuCtxSetCurrent": (_Handle,),
    "cuMemAlloc_v2": (ctypes.POINTER(_Address), _Size),
    "cuMemFree_v2": (_Address,),
    "cuMemHostAlloc": (ctypes.POINTER(_Handle), _Size, ctypes.c_uint),
    "cuMemFreeHost": (_Handle,),
    "cuStreamCreate": (ctypes.POINTER(_Handle), ctypes.c_uint),
    "cuStreamDestroy_v2": (_Handle,),
    "cuStreamSynchronize": (_Handle,),
    "cuMemcpyHtoDAsync_v2": (_Address, _Handle, _Size, _Handle),
    "cuMemcpyDtoHAsync_v2": (_Handle, _Address, _Size, _Handle),
    "cuMemcpyDtoDAsync_v2": (_Address, _Address, _Size, _Handle),
    "cuEventCreate": (ctypes.POINTER(_Handle), ctypes.c_uint),
    "cuEventDestroy_v2": (_Handle,),
    "cuEventRecord": (_Handle, _Handle),
    "cuEventSynchronize": (_Handle,),
    "cuStreamWaitEvent": (_Handle, _Handle, ctypes.c_uint),
    "cuStreamBeginCapture_v2": (_Handle, ctypes.c_int),
    "cuStreamEndCapture": (_Handle, ctypes.POINTER(_Handle)),
    "cuGraphInstantiateWithFlags": (ctypes.POINTER(_Handle), _Handle, ctypes.c_ulonglong),
    "cuGraphDestroy": (_Handle,),
    "cuGraphExecDestroy": (_Handle,),
    "cuGraphLaunch": (_Handle, _Handle),
}
"""The driver's functions that are used; each returns a status, 0 where it worked."""


class CudaDriver:
    """The CUDA driver. Every method raises CudaError where the driver refuses; all may be called from any thread.

    Addresses, streams, events and graphs are the driver's handles as integers. A thread calls `activate` before it
    calls anything that allocates, copies or launches.
    """

    def __init__(self) -> None:
        """Loads and initializes the driver.

        Raises:
            CudaUnavailableError: There is no driver, or it finds no GPU.
        """
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise CudaUnavailableError(_loading_failure(str(error))) from None
        self._functions: dict[str, Callable[..., int]] = {}
        self._contexts: dict[int, int] = {}
        self._lock = threading.Lock()
        status = self._function("cuInit")(0)
        if status != 0:
            raise CudaUnavailableError(f"The NVIDIA driver does not start: cuInit says {self._explain(status)}.")
        if self.device_count() == 0:
            raise CudaUnavailableError("The NVIDIA driver finds no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES.")

    def device_count(self) -> int:
        """Returns how many GPUs this process may use."""
        return self._integer("cuDeviceGetCount")

    def driver_version(self) -> int:
        """Returns the newest CUDA version that the driver serves: 12040 for 12.4."""
        return self._integer("cuDriverGetVersion")

    def device_name(self, ordinal: int) -> str:
        """Returns a GPU's name, such as "NVIDIA H200"."""
        name = ctypes.create_string_buffer(_NAME_BYTES)
        self._call("cuDeviceGetName", name, _NAME_BYTES, self._device(ordinal))
        return name.value.decode(errors="replace")

    def compute_capability(self, ordinal: int) -> tuple[int, int]:
        """Returns a GPU's compute capability, such as (9, 0)."""
        device = self._device(ordinal)
        major = self._integer("cuDeviceGetAttribute", _MAJOR_ATTRIBUTE, device)
        return major, self._integer("cuDeviceGetAttribute", _MINOR_ATTRIBUTE, device)

    def activate(self, ordinal: int) -> None:
        """Makes a GPU's primary context, which TensorFlow and TensorRT use too, current on this thread."""
        with self._lock:
            if ordinal not in self._contexts:
                self._contexts[ordinal] = self._handle("cuDevicePrimaryCtxRetain", self._device(ordinal))
        self._call("cuCtxSetCurrent", self._contexts[ordinal])

    def allocate(self, size: int) -> int:
        """Returns the address of new GPU memory; at least one byte, as the driver refuses none."""
        address = _Address()
        self._call("cuMemAlloc_v2", ctypes.byref(address), max(1, size))
        return address.value

    def free(self, address: int) -> None:
        """Gives GPU memory back once the GPU has finished what uses it."""
        self._call("cuMemFree_v2", address)

    def allocate_pinned(self, size: int) -> int:
        """Returns the address of new host memory that the GPU copies from and to without a detour."""
        return self._handle("cuMemHostAlloc", max(1, size), 0)

    def free_pinned(self, address: int) -> None:
        """Gives memory of `allocate_pinned` back."""
        self._call("cuMemFreeHost", address)

    def create_stream(self) -> int:
        """Returns a new stream."""
        return self._handle("cuStreamCreate", _NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        """Destroys a stream once it has finished its work."""
        self._call("cuStreamDestroy_v2", stream)

    def synchronize_stream(self, stream: int) -> None:
        """Waits until a stream has finished its work; other Python threads go on."""
        self._call("cuStreamSynchronize", stream)

    def copy_to_device(self, destination: int, source: int, size: int, stream: int) -> None:
        """Enqueues a copy from host memory."""
        self._call("cuMemcpyHtoDAsync_v2", destination, source, size, stream)

    def copy_to_host(self, destination: int, source: int, size: int, stream: int) -> None:
        """Enqueues a copy into host memory."""
        self._call("cuMemcpyDtoHAsync_v2", destination, source, size, stream)

    def copy_on_device(self, destination: int, source: int, size: int, stream: int) -> None:
        """Enqueues a copy within GPU memory."""
        self._call("cuMemcpyDtoDAsync_v2", destination, source, size, stream)

    def create_event(self) -> int:
        """Returns a new event, which counts as reached until it is recorded."""
        return self._handle("cuEventCreate", _DISABLE_TIMING)

    def destroy_event(self, event: int) -> None:
        """Destroys an event."""
        self._call("cuEventDestroy_v2", event)

    def record_event(self, event: int, stream: int) -> None:
        """Has the event reached when the stream has finished what it was given so far."""
        self._call("cuEventRecord", event, stream)

    def wait_event(self, stream: int, event: int) -> None:
        """Has the stream wait for the event before what it is given from now on."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def synchronize_event(self, event: int) -> None:
        """Waits until the event is reached."""
        self._call("cuEventSynchronize", event)

    def begin_capture(self, stream: int) -> None:
        """Has a stream record its work into a graph instead of doing it."""
        self._call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL_CAPTURE)

    def end_capture(self, stream: int) -> int:
        """Ends the recording and returns a graph that can be launched; ends it too where it raises."""
        captured = _Handle()
        self._call("cuStreamEndCapture", stream, ctypes.byref(captured))
        graph = captured.value or 0
        try:
            return self._handle("cuGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

    def launch_graph(self, graph: int, stream: int) -> None:
        """Enqueues a graph."""
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Destroys a graph."""
        self._call("cuGraphExecDestroy", graph)

    def _device(self, ordinal: int) -> int:
        return self._integer("cuDeviceGet", ordinal)

    def _integer(self, name: str, *arguments: Any) -> int:
        value = ctypes.c_int()
        self._call(name, ctypes.byref(value), *arguments)
        return value.value

    def _handle(self, name: str, *arguments: Any) -> int:
        handle = _Handle()
        self._call(name, ctypes.byref(handle), *arguments)
        return handle.value or 0

    def _call(self, name: str, *arguments: Any) -> None:
        status = self._function(name)(*arguments)
        if status != 0:
            raise CudaError(f"The CUDA driver refused {name}: {self._explain(status)}.")

    def _function(self, name: str) -> Callable[..., int]:
        function = self._functions.get(name)
        if function is None:
            try:
                found = getattr(self._library, name)
            except AttributeError:
                raise CudaUnavailableError(
                    f"The NVIDIA driver is too old: it has no {name}. Update the driver."
                ) from None
            found.argtypes, found.restype = _SIGNATURES[name], ctypes.c_int
            function = self._functions[name] = found
        return function

    def _explain(self, status: int) -> str:
        """Returns the driver's name and sentence for a status; works before the driver is initialized, and without."""
        texts = []
        for name in ("cuGetErrorName", "cuGetErrorString"):
            text = ctypes.c_char_p()
            # A library that only stands in for the driver has neither.
            if (function := getattr(self._library, name, None)) is not None:
                function(ctypes.c_int(status), ctypes.byref(text))
            texts.append((text.value or b"unknown").decode(errors="replace"))
        return f"{texts[0]} ({status}), {texts[1]}"


def _loading_failure(reason: str) -> str:
    """Returns what to tell of a library that the loader did not open: it is absent, or there and of no use."""
    # A library of the driver's own that is absent has its name here instead.
    if _LIBRARY in reason and "No such file" in reason:
        return f"There is no NVIDIA driver here ({_LIBRARY}). Install it, or start the container with GPUs."
    return (
        f"The NVIDIA driver is here, but its library does not load: {reason}. Install the driver again; in a "
        "container, see which folders LD_LIBRARY_PATH names."
    )


@functools.cache
def cuda_driver() -> CudaDriver:
    """Returns the driver; raises CudaUnavailableError where there is none or no GPU."""
    return CudaDriver()


def unavailable_reason() -> str | None:
    """Returns why no GPU can be used, None where one can. Touches the driver and nothing else, and never raises."""
    try:
        cuda_driver()
    except CudaError as error:
        return str(error)
    return None
