"""Runtimes written in Python: engines whose library has a Python API only run behind the same op.

The op library calls functions that are handed to it through ctypes; ctypes takes the interpreter lock, so that
TensorFlow's threads may call. Tensors cross as addresses: neither inputs nor outputs are copied.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib
import itertools
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy.typing as npt

from tf_opt.errors import TfOptError
from tf_opt.ops import build, python_native
from tf_opt.ops.python_native import RawArray as RawArray
from tf_opt.ops.python_outputs import DeviceOutputsOfCall, OutputsOfCall, Owners, RawOutputsOfCall

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]


class UnsupportedShapeError(TfOptError):
    """Raised by an engine that cannot run these input shapes; the original TensorFlow nodes run instead."""


@dataclass(frozen=True, kw_only=True)
class EngineDefinition:
    """What a loader makes an engine of.

    Attributes:
        segment_name: Name in statistics and messages.
        header: The JSON header of the engine's blob.
        payload: What the backend stored for this runtime.
        weights: Values of `weight_<i>` in host memory, read-only and valid until the engine is closed.
        threads: How many CPU threads the engine may use.
        device: CUDA's number of the GPU that the node is placed on; None where it is on the CPU.
    """

    segment_name: str
    header: Mapping[str, Any]
    payload: bytes = field(repr=False)
    weights: Sequence[Array] = field(repr=False)
    threads: int
    device: int | None


class Outputs(Protocol):
    """Where an engine puts its outputs, each once, before `run` returns."""

    def allocate(self, index: int, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """Returns TensorFlow's own memory for an output (64-byte aligned), to be filled before `run` returns."""

    def adopt(self, index: int, array: Array, owner: object) -> None:
        """Makes an array's memory an output, without a copy where it is aligned as TensorFlow needs it (64 bytes).

        Args:
            index: Number of the output.
            array: C-contiguous; not to be written to any more.
            owner: Kept alive with `array` until TensorFlow has no use for the tensor, which may be long after the
                engine is closed. It is dropped on whichever thread is in Python then: a finalizer of it must not wait
                for a lock that a thread may hold at that point.
        """


class PythonEngine(Protocol):
    """What a loader returns. It may also have `run_on_device` (see `DeviceEngine`) and `close()`.

    In place of `run` it may have `run_on_addresses` (see `RawEngine`).
    """

    def run(self, inputs: Sequence[Array], outputs: Outputs) -> None:
        """Runs once; called from several threads.

        Args:
            inputs: Read-only arrays over TensorFlow's memory, valid until this returns: never keep one.
            outputs: Takes the outputs; every output must be given to it.

        Raises:
            UnsupportedShapeError: To have the original nodes run instead. Any other exception becomes a TensorFlow
                error with its type and text.
        """


class RawOutputs(Protocol):
    """Where an engine that works on addresses puts its outputs."""

    def allocate(self, index: int, shape: Sequence[int], dtype: npt.DTypeLike) -> int:
        """Returns the address of TensorFlow's own memory for an output (0 where it has no elements)."""

    def adopt(self, index: int, array: Array, owner: object) -> None:
        """Makes an array's memory an output; see `Outputs.adopt`."""


class RawEngine(Protocol):
    """An engine whose library takes addresses: making an array of one takes longer than binding it."""

    def run_on_addresses(self, inputs: Sequence[RawArray], outputs: RawOutputs) -> None:
        """Runs once, as `PythonEngine.run` does.

        Args:
            inputs: In host memory, to be read only, valid until this returns.
            outputs: Takes the outputs; every output must be given to it.
        """


DeviceArray: TypeAlias = RawArray
"""A tensor in a GPU's memory, valid for what the stream does before `run_on_device` returns."""


class DeviceOutputs(Protocol):
    """Where an engine puts outputs that lie in a GPU's memory."""

    def allocate(self, index: int, shape: Sequence[int], dtype: npt.DTypeLike) -> int:
        """Returns the address of TensorFlow's GPU memory for an output (0 where it has no elements)."""


class DeviceEngine(PythonEngine, Protocol):
    """An engine that works on a GPU's memory."""

    def run_on_device(self, inputs: Sequence[DeviceArray], outputs: DeviceOutputs, stream: int) -> None:
        """Runs once where the node is on a GPU; called from several threads.

        Args:
            inputs: In the memory of the GPU that the definition named.
            outputs: Takes the outputs; every output must be allocated.
            stream: TensorFlow's CUDA stream, as the number of a CUstream. The work is put on it, or on a stream that
                waits for it and that it waits for; this returns without waiting for the work.

        Raises:
            UnsupportedShapeError: As in `run`; nothing must have been put on the stream that writes to an output.
        """


Loader = Callable[[EngineDefinition], PythonEngine | RawEngine]

KNOWN_LOADERS = {
    "onnxruntime": ("tf_opt.engines.onnxruntime", "load_engine"),
    "tensorrt": ("tf_opt.engines.tensorrt.runtime", "load_engine"),
}
"""Module and function of the loader, by runtime. Named, not imported: this package knows no engine."""

_SHUTDOWN_WAIT_MILLISECONDS = 2000


class _Loaded(NamedTuple):
    """An engine, and which of its functions a call on the CPU runs."""

    engine: Any
    run: Callable[[Any, list[int], int, int], None]


# Reentrant: the garbage collector may run while it is held, and end a session whose engines call _destroy.
_lock = threading.RLock()
_loaders: dict[str, Loader] = {}
_engines: dict[int, _Loaded] = {}
_engine_ids = itertools.count(1)
_owners = Owners()
_op: python_native.OpFunctions
"""Set when the first runtime is registered, before any engine can be loaded."""
_functions: python_native.Functions | None = None


def register(name: str, loader: Loader) -> None:
    """Makes engine nodes with the attribute `runtime` = `name` run by what `loader` returns.

    Args:
        name: Name of the runtime; replaces a runtime of the same name for engines loaded from now on.
        loader: Called when such a node runs for the first time. A `close()` method of the engine it returns, where it
            has one, is called when TensorFlow has no use for the engine any more. Where the node is on a GPU and the
            engine has no `run_on_device`, the op calls `run` with copies in host memory.

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


def _import_and_load(module: str, function: str, definition: EngineDefinition) -> PythonEngine | RawEngine:
    engine: PythonEngine | RawEngine = getattr(importlib.import_module(module), function)(definition)
    return engine


def _register(functions: ctypes.CDLL, name: str, loader: Loader) -> None:
    with _lock:
        _install(functions)
        _loaders[name] = loader
    functions.TfOptRegisterPythonRuntime(name.encode())


def _install(functions: ctypes.CDLL) -> None:
    global _functions, _op
    if _functions is not None:
        return
    _op = python_native.OpFunctions(functions)
    # Kept for the life of the process: the op calls them, and ctypes frees a function that nothing refers to.
    _functions = python_native.Functions(
        load=python_native.LoadFunction(_load),
        run=python_native.RunFunction(_run),
        run_on_device=python_native.RunOnDeviceFunction(_run_on_device),
        destroy=python_native.NumberFunction(_destroy),
        release=python_native.NumberFunction(_owners.release),
        holds_interpreter_lock=python_native.interpreter_function("PyGILState_Check"),
        interrupt=python_native.interpreter_function("PyErr_SetInterrupt"),
        thread_state=python_native.interpreter_function("PyGILState_GetThisThreadState"),
        acquire_interpreter_lock=python_native.interpreter_function("PyGILState_Ensure"),
        release_interpreter_lock=python_native.interpreter_function("PyEval_SaveThread"),
    )
    functions.TfOptSetPythonFunctions(ctypes.byref(_functions))
    functions.TfOptClearPythonFunctions.argtypes = (ctypes.c_int64,)
    # TensorFlow's threads outlive the interpreter: one of them entering Python after its end would crash or hang.
    atexit.register(functions.TfOptClearPythonFunctions, _SHUTDOWN_WAIT_MILLISECONDS)


def _load(pointer: Any, call: int) -> int:
    # BaseException: ctypes prints what a callback raises and goes on, as if nothing had happened.
    try:
        crossing = pointer.contents
        weights = python_native.words_at(crossing.weights, crossing.weight_words)
        definition = EngineDefinition(
            segment_name=crossing.segment_name.decode(),
            header=json.loads(ctypes.string_at(crossing.header, crossing.header_bytes)),
            payload=ctypes.string_at(crossing.payload, crossing.payload_bytes),
            weights=python_native.arrays_of(weights),
            threads=crossing.threads,
            device=None if crossing.device < 0 else crossing.device,
        )
        engine = _loaders[crossing.runtime.decode()](definition)
        with _lock:
            engine_id = next(_engine_ids)
            run = _run_on_addresses if hasattr(engine, "run_on_addresses") else _run_on_arrays
            _engines[engine_id] = _Loaded(engine, run)
        _op.engine_loaded(call, engine_id, hasattr(engine, "run_on_device"))
        return python_native.DONE
    except BaseException as error:
        return _outcome(call, error)


def _run(engine_id: int, address: int, count: int, call: int) -> int:
    try:
        words = python_native.words_at(address, count)
        begin = _owners.release_first(words)
        engine, run = _engines[engine_id]
        return _uninterrupted(run, engine, words, begin, call)
    except BaseException as error:
        return _outcome(call, error)


def _run_on_device(engine_id: int, address: int, count: int, call: int, stream: int | None) -> int:
    try:
        words = python_native.words_at(address, count)
        begin = _owners.release_first(words)
        return _uninterrupted(_run_on_stream, _engines[engine_id].engine, words, begin, call, stream or 0)
    except BaseException as error:
        return _outcome(call, error)


def _run_on_arrays(engine: PythonEngine, words: list[int], begin: int, call: int) -> None:
    with OutputsOfCall(_op, _owners, call) as outputs:
        engine.run(python_native.arrays_of(words, begin), outputs)


def _run_on_addresses(engine: RawEngine, words: list[int], begin: int, call: int) -> None:
    with RawOutputsOfCall(_op, _owners, call) as outputs:
        engine.run_on_addresses(python_native.raw_arrays_of(words, begin), outputs)


def _run_on_stream(engine: DeviceEngine, words: list[int], begin: int, call: int, stream: int) -> None:
    with DeviceOutputsOfCall(_op, call) as outputs:
        engine.run_on_device(python_native.raw_arrays_of(words, begin), outputs, stream)


def _uninterrupted(run: Callable[..., None], *arguments: Any) -> int:
    """Runs an engine as if it were native code, which Python interrupts after the call only.

    TensorFlow may run a node on the program's main thread, and Python raises KeyboardInterrupt in whatever that does.
    As an error it would not come through TensorFlow as itself; so the engine runs once more, and the op has Python
    raise it again.
    """
    try:
        run(*arguments)
        return python_native.DONE
    except KeyboardInterrupt:
        run(*arguments)
        return python_native.DONE_BUT_INTERRUPTED


def _outcome(call: int, error: BaseException) -> int:
    """Tells the op why a call failed; returns the number of the kind of failure."""
    if isinstance(error, KeyboardInterrupt):
        return python_native.INTERRUPTED
    _op.set_message(call, python_native.message_of(error))
    if isinstance(error, UnsupportedShapeError):
        return python_native.UNSUPPORTED_SHAPE
    logger.debug("An engine failed.", exc_info=error)
    return python_native.FAILED


def _destroy(engine_id: int) -> None:
    with _lock:
        loaded = _engines.pop(engine_id, None)
    close = getattr(loaded.engine, "close", None) if loaded is not None else None
    if close is not None:
        close()
