"""Runtimes written in Python: engines whose library has a Python API only run behind the same op.

The op library calls three functions that are handed to it through ctypes; ctypes takes the interpreter lock, so that
TensorFlow's threads may call. Tensors cross as addresses: neither inputs nor outputs are copied.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tf_opt.errors import TfOptError
from tf_opt.ops import build

Array = npt.NDArray[Any]
Allocate = Callable[[int, Sequence[int], npt.DTypeLike], Array]
"""(output index, shape, dtype) -> a writable array over TensorFlow's memory, to be filled before `run` returns."""


class UnsupportedShapeError(TfOptError):
    """Raised by an engine that cannot run these input shapes; the original TensorFlow nodes run instead."""


class PythonEngine(Protocol):
    """What a loader returns."""

    def run(self, inputs: Sequence[Array], allocate: Allocate) -> None:
        """Runs once; called from several threads.

        Args:
            inputs: Read-only arrays over TensorFlow's memory, valid until this returns: never keep one.
            allocate: Gives the array to write an output into; every output must be allocated.

        Raises:
            UnsupportedShapeError: To have the original nodes run instead. Any other exception becomes a TensorFlow
                error with its type and text.
        """


Loader = Callable[[bytes, list[Array]], PythonEngine]
"""(payload, weights) -> engine. The weights are read-only and valid as long as the engine is not closed."""

KNOWN_LOADERS = {"onnxruntime": ("tf_opt.engines.onnxruntime", "load_engine")}
"""Module and function of the loader, by runtime. Named, not imported: this package knows no engine."""

_MESSAGE_BYTES = 8192  # kMessageBytes of python_runtime.cc.
_SHUTDOWN_WAIT_MILLISECONDS = 2000
_RUN_OK, _RUN_UNSUPPORTED_SHAPE, _RUN_ERROR = 0, 1, 2


class _Tensor(ctypes.Structure):
    """PythonTensor of python_runtime.cc."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    )


_TensorPointer = ctypes.POINTER(_Tensor)
_AllocateFunction = ctypes.CFUNCTYPE(
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_int64)
)
_LoadFunction = ctypes.CFUNCTYPE(
    ctypes.c_int64,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_uint64,
    _TensorPointer,
    ctypes.c_int32,
    ctypes.c_void_p,
    ctypes.c_uint64,
)
_RunFunction = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    ctypes.c_int64,
    _TensorPointer,
    ctypes.c_int32,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_uint64,
)
_DestroyFunction = ctypes.CFUNCTYPE(None, ctypes.c_int64)

# Reentrant: the garbage collector may run while it is held, and end a session whose engines call _destroy.
_lock = threading.RLock()
_loaders: dict[str, Loader] = {}
_engines: dict[int, PythonEngine] = {}
_engine_ids = itertools.count(1)
_native_functions: tuple[Any, ...] = ()


def register(name: str, loader: Loader) -> None:
    """Makes engine nodes with the attribute `runtime` = `name` run by what `loader` returns.

    Args:
        name: Name of the runtime; replaces a runtime of the same name for engines loaded from now on.
        loader: Called with (payload, weights) when such a node runs for the first time. A `close()` method of the
            engine it returns, where it has one, is called when TensorFlow has no use for the engine any more.

    Raises:
        OpBuildError: The op could not be compiled or loaded.
    """
    _register(build.native_functions(), name, loader)


def register_known_runtimes(functions: ctypes.CDLL) -> None:
    """Registers the runtimes that tf_opt brings; each one's module is imported when an engine first needs it.

    Args:
        functions: The op library's C functions.
    """
    for name, (module, function) in KNOWN_LOADERS.items():
        _register(functions, name, functools.partial(_import_and_load, module, function))


def _import_and_load(module: str, function: str, payload: bytes, weights: list[Array]) -> PythonEngine:
    engine: PythonEngine = getattr(importlib.import_module(module), function)(payload, weights)
    return engine


def _register(functions: ctypes.CDLL, name: str, loader: Loader) -> None:
    with _lock:
        _install(functions)
        _loaders[name] = loader
    functions.TfOptRegisterPythonRuntime(name.encode())


def _install(functions: ctypes.CDLL) -> None:
    global _native_functions
    if _native_functions:
        return
    # Kept for the life of the process: the op calls them, and ctypes frees a function that nothing refers to.
    _native_functions = (_LoadFunction(_load), _RunFunction(_run), _DestroyFunction(_destroy))
    functions.TfOptSetPythonFunctions(*_native_functions)
    functions.TfOptClearPythonFunctions.argtypes = (ctypes.c_int64,)
    # TensorFlow's threads outlive the interpreter: one of them entering Python after its end would crash or hang.
    atexit.register(functions.TfOptClearPythonFunctions, _SHUTDOWN_WAIT_MILLISECONDS)


def _numpy_dtype(number: int) -> np.dtype[Any]:
    import tensorflow as tf

    dtype: np.dtype[Any] = np.dtype(tf.as_dtype(number).as_numpy_dtype)
    return dtype


def _dtype_number(dtype: npt.DTypeLike) -> int:
    import tensorflow as tf

    return int(tf.as_dtype(np.dtype(dtype)).as_datatype_enum)


def _array(address: int | None, dtype: np.dtype[Any], shape: tuple[int, ...], *, writable: bool) -> Array:
    """Returns an array over foreign memory."""
    size = math.prod(shape) * dtype.itemsize
    if size == 0 or address is None:
        return np.empty(shape, dtype)
    # As bytes, then viewed: the buffer protocol has no bfloat16.
    memory = (ctypes.c_ubyte * size).from_address(address)
    array: Array = np.frombuffer(memoryview(memory).cast("B"), np.uint8).view(dtype).reshape(shape)
    array.flags.writeable = writable
    return array


def _arrays(tensors: Any, count: int) -> list[Array]:
    views = []
    for index in range(count):
        tensor = tensors[index]
        shape = tuple(tensor.dims[: tensor.rank])
        views.append(_array(tensor.data, _numpy_dtype(tensor.dtype), shape, writable=False))
    return views


def _write_message(address: int, size: int, error: BaseException) -> None:
    text = f"{type(error).__name__}: {error}".encode()[: size - 1]
    # A character cut in half would make the status message invalid UTF-8.
    text = text.decode(errors="ignore").encode()
    ctypes.memmove(address, text + b"\0", len(text) + 1)


def _load(
    name: bytes, payload: int, payload_bytes: int, weights: Any, weight_count: int, message: int, message_bytes: int
) -> int:
    # BaseException: ctypes prints what a callback raises and goes on, as if nothing had happened.
    try:
        loader = _loaders[name.decode()]
        engine = loader(ctypes.string_at(payload, payload_bytes), _arrays(weights, weight_count))
        with _lock:
            engine_id = next(_engine_ids)
            _engines[engine_id] = engine
        return engine_id
    except BaseException as error:
        _write_message(message, message_bytes, error)
        return -1


def _run(
    engine_id: int, inputs: Any, input_count: int, call: int, allocate: int, message: int, message_bytes: int
) -> int:
    try:
        allocate_native = _AllocateFunction(allocate)

        def allocate_output(index: int, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
            dims = tuple(int(dim) for dim in shape)
            array_of_dims = (ctypes.c_int64 * max(1, len(dims)))(*dims)
            address = allocate_native(call, index, _dtype_number(dtype), len(dims), array_of_dims)
            if address is None and math.prod(dims) > 0:
                raise ValueError(f"TensorFlow refused output {index} of shape {dims} and dtype {np.dtype(dtype)}.")
            return _array(address, np.dtype(dtype), dims, writable=True)

        _engines[engine_id].run(_arrays(inputs, input_count), allocate_output)
    except UnsupportedShapeError as error:
        _write_message(message, message_bytes, error)
        return _RUN_UNSUPPORTED_SHAPE
    except BaseException as error:
        _write_message(message, message_bytes, error)
        return _RUN_ERROR
    return _RUN_OK


def _destroy(engine_id: int) -> None:
    with _lock:
        engine = _engines.pop(engine_id, None)
    close = getattr(engine, "close", None)
    if close is not None:
        close()
