"""The driver through ctypes, on a library that writes down what it is asked."""

from __future__ import annotations

import ctypes

import pytest

from tests.simulators.tensorrt.driver import SimulatedCudaDriver
from tf_opt.engines.tensorrt import cuda
from tf_opt.errors import CudaError, CudaUnavailableError

HANDLE = 0x1234_5678_9ABC  # More than 32 bits, as addresses have.


class Function:
    """One C function: checks its arguments against argtypes as ctypes does, and fills what it points to."""

    def __init__(self, library, name):
        self.library, self.name, self.argtypes, self.restype = library, name, None, None

    def __call__(self, *arguments):
        if self.argtypes is not None:
            assert len(arguments) == len(self.argtypes), self.name
            arguments = [kind.from_param(each) for kind, each in zip(self.argtypes, arguments, strict=True)]
        self.library.calls.append(self.name)
        for each in arguments:
            target = getattr(each, "_obj", None)
            if isinstance(target, ctypes.c_int):
                target.value = self.library.integers.get(self.name, 1)
            elif isinstance(target, ctypes.c_void_p | ctypes.c_uint64):
                target.value = HANDLE
            elif isinstance(target, ctypes.c_char_p):
                target.value = b"CUDA_ERROR_OUT_OF_MEMORY" if self.name == "cuGetErrorName" else b"out of memory"
        return self.library.statuses.get(self.name, 0)


class Library:
    """libcuda.so.1."""

    def __init__(self, statuses=None, integers=None, absent=()):
        self.statuses, self.integers, self.absent = statuses or {}, integers or {}, absent
        self.calls = []
        self._functions = {}

    def __getattr__(self, name):
        if not name.startswith("cu") or name in self.absent:
            raise AttributeError(name)
        return self._functions.setdefault(name, Function(self, name))


def driver_on(library, monkeypatch):
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: library)
    return cuda.CudaDriver()


CALLS = {
    "device_count": ((), "cuDeviceGetCount"),
    "driver_version": ((), "cuDriverGetVersion"),
    "device_name": ((0,), "cuDeviceGetName"),
    "compute_capability": ((0,), "cuDeviceGetAttribute"),
    "activate": ((0,), "cuCtxSetCurrent"),
    "allocate": ((64,), "cuMemAlloc_v2"),
    "free": ((HANDLE,), "cuMemFree_v2"),
    "allocate_pinned": ((64,), "cuMemHostAlloc"),
    "free_pinned": ((HANDLE,), "cuMemFreeHost"),
    "create_stream": ((), "cuStreamCreate"),
    "destroy_stream": ((HANDLE,), "cuStreamDestroy_v2"),
    "synchronize_stream": ((HANDLE,), "cuStreamSynchronize"),
    "copy_to_device": ((HANDLE, HANDLE, 8, HANDLE), "cuMemcpyHtoDAsync_v2"),
    "copy_to_host": ((HANDLE, HANDLE, 8, HANDLE), "cuMemcpyDtoHAsync_v2"),
    "copy_on_device": ((HANDLE, HANDLE, 8, HANDLE), "cuMemcpyDtoDAsync_v2"),
    "create_event": ((), "cuEventCreate"),
    "destroy_event": ((HANDLE,), "cuEventDestroy_v2"),
    "record_event": ((HANDLE, HANDLE), "cuEventRecord"),
    "wait_event": ((HANDLE, HANDLE), "cuStreamWaitEvent"),
    "synchronize_event": ((HANDLE,), "cuEventSynchronize"),
    "begin_capture": ((HANDLE,), "cuStreamBeginCapture_v2"),
    "end_capture": ((HANDLE,), "cuStreamEndCapture"),
    "launch_graph": ((HANDLE, HANDLE), "cuGraphLaunch"),
    "destroy_graph": ((HANDLE,), "cuGraphExecDestroy"),
}


@pytest.mark.parametrize("method", CALLS)
def test_every_method_calls_the_driver_and_checks_its_answer(method, monkeypatch):
    arguments, function = CALLS[method]
    library = Library()
    driver = driver_on(library, monkeypatch)
    getattr(driver, method)(*arguments)
    assert function in library.calls
    library.statuses[function] = 2
    with pytest.raises(CudaError, match=rf"{function}.*CUDA_ERROR_OUT_OF_MEMORY \(2\), out of memory"):
        getattr(driver, method)(*arguments)


def test_handles_keep_all_their_bits(monkeypatch):
    driver = driver_on(Library(), monkeypatch)
    made = (driver.allocate(1), driver.allocate_pinned(1), driver.create_stream(), driver.create_event())
    assert made == (HANDLE,) * 4
    assert driver.end_capture(HANDLE) == HANDLE


def test_context_is_retained_once(monkeypatch):
    library = Library()
    driver = driver_on(library, monkeypatch)
    for _ in range(3):
        driver.activate(0)
    assert library.calls.count("cuDevicePrimaryCtxRetain") == 1
    assert library.calls.count("cuCtxSetCurrent") == 3


def test_captured_graph_is_destroyed_even_where_it_cannot_be_launched(monkeypatch):
    library = Library({"cuGraphInstantiateWithFlags": 2})
    driver = driver_on(library, monkeypatch)
    with pytest.raises(CudaError, match="cuGraphInstantiateWithFlags"):
        driver.end_capture(HANDLE)
    assert "cuGraphDestroy" in library.calls


@pytest.mark.parametrize(
    ("library", "message"),
    [
        (Library({"cuInit": 2}), "does not start: cuInit says CUDA_ERROR_OUT_OF_MEMORY"),
        (Library(integers={"cuDeviceGetCount": 0}), "finds no GPU"),
        (Library(absent=("cuInit",)), "too old: it has no cuInit"),
    ],
)
def test_machines_without_a_usable_gpu(library, message, monkeypatch):
    with pytest.raises(CudaUnavailableError, match=message):
        driver_on(library, monkeypatch)


def test_reason_never_raises(monkeypatch):
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: Library({"cuInit": 2}))
    cuda.cuda_driver.cache_clear()
    assert "does not start" in cuda.unavailable_reason()
    cuda.cuda_driver.cache_clear()


def test_the_simulated_driver_has_the_same_methods():
    methods = {name for name in vars(cuda.CudaDriver) if not name.startswith("_")}
    assert set(CALLS) == methods
    assert methods <= set(dir(SimulatedCudaDriver))
