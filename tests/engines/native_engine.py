"""The op's own ONNX Runtime engine, without TensorFlow around it, as tests of engines drive one."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import shlex
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.engines.onnx_models import Array, address_of
from tf_opt.ops import build
from tf_opt.ops.onnxruntime_library import find_library
from tf_opt.ops.python_native import array_at, dtype_number, numpy_dtype
from tf_opt.ops.python_runtime import EngineDefinition, RawArray, RawOutputs

_Dims = ctypes.POINTER(ctypes.c_int64)
_Allocate = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int, ctypes.c_int, ctypes.c_int, _Dims)
_Adopt = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_int, ctypes.c_int, _Dims, ctypes.c_void_p, ctypes.c_void_p)


class NativeError(Exception):
    """What an engine says where it fails."""


def installed_library() -> Path:
    """Returns ONNX Runtime's library; each version in constraints.txt brings one, so its absence is a failure."""
    library = find_library()
    if library is None:
        pytest.fail("No libonnxruntime.so is found; the onnxruntime of constraints.txt has one: make venv")
    return library


@functools.cache
def native_functions() -> ctypes.CDLL:
    """Compiles the runtime with native_engine.cc, and registers the installed ONNX Runtime."""
    library = installed_library()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "libnative_engine.so"
        source = Path(__file__).with_suffix(".cc")
        flags = "-std=c++17 -Wall -Wextra -Werror -fPIC -shared -pthread -fvisibility=hidden".split()
        command = [
            *build.compiler_command(),
            *flags,
            f"-I{build.SOURCE_DIRECTORY}",
            str(source),
            "-o",
            str(target),
            "-ldl",
        ]
        compiled = subprocess.run(command, capture_output=True, text=True, check=False)
        assert compiled.returncode == 0, f"{shlex.join(command)}\n{compiled.stderr}"
        functions = ctypes.CDLL(str(target))
    functions.TestClose.argtypes = functions.TestRelease.argtypes = (ctypes.c_void_p,)
    functions.TestRun.argtypes = (
        *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, _Allocate, _Adopt),
        *(ctypes.c_char_p, ctypes.c_uint64),
    )
    functions.TfOptRegisterOnnxRuntime(b"onnxruntime", os.fsencode(library))
    return functions


def words_of(arrays: Sequence[RawArray]) -> Any:
    """Returns what native_engine.cc reads tensors from."""
    words: list[int] = []
    for address, shape, dtype in arrays:
        words += [address, math.prod(shape) * dtype.itemsize, dtype_number(dtype), len(shape), *shape]
    return (ctypes.c_int64 * len(words))(*words)


def raw(arrays: Sequence[Array]) -> list[RawArray]:
    """Returns arrays by their addresses."""
    return [RawArray(address_of(array), array.shape, array.dtype) for array in arrays]


class NativeEngine:
    """An engine with the interface of `RawEngine`."""

    def __init__(self, definition: EngineDefinition) -> None:
        """Loads it; raises NativeError where that fails."""
        self._functions = native_functions()
        # The engine reads their memory.
        self._weights = definition.weights
        outputs = len(onnx.ModelProto.FromString(definition.payload).graph.output)
        words, engine = words_of(raw(definition.weights)), ctypes.c_void_p()
        payload, size = definition.payload, ctypes.c_uint64(len(definition.payload))
        given = (payload, size, words, ctypes.c_uint64(len(words)), definition.threads, outputs, ctypes.byref(engine))
        check(self._functions.TestLoad, *given)
        self._engine = engine
        self.close = weakref.finalize(self, self._functions.TestClose, engine)

    def run_on_addresses(self, inputs: Sequence[RawArray], outputs: RawOutputs) -> None:
        """Runs once."""

        def allocate(index: int, dtype: int, rank: int, dims: Any) -> int:
            return outputs.allocate(index, tuple(dims[:rank]), numpy_dtype(dtype))

        def adopt(index: int, dtype: int, rank: int, dims: Any, data: int | None, owner: int) -> None:
            kind, shape = numpy_dtype(dtype), tuple(dims[:rank])
            size = math.prod(shape) * kind.itemsize
            array = array_at(data or 0, size, kind, shape, writable=True)
            outputs.adopt(index, array, NativeOwner(self._functions, owner))

        words = words_of(inputs)
        check(self._functions.TestRun, self._engine, words, len(words), _Allocate(allocate), _Adopt(adopt))


class NativeOwner:
    """What keeps memory that was given away."""

    def __init__(self, functions: ctypes.CDLL, owner: int) -> None:
        """Releases it when this object goes."""
        weakref.finalize(self, functions.TestRelease, owner)


def declared(model: bytes, weights: Sequence[Array]) -> bytes:
    """Returns the model with its weights as external initializers; raises NativeError where that fails."""
    words, size = words_of(raw(weights)), ctypes.c_uint64()
    buffer = ctypes.create_string_buffer(2 * len(model) + 4096)
    given = (model, ctypes.c_uint64(len(model)), words, ctypes.c_uint64(len(words)), buffer, ctypes.byref(size))
    check(native_functions().TestDeclare, *given)
    return buffer.raw[: size.value]


def check(function: Any, *arguments: Any) -> None:
    """Calls a function of native_engine.cc; raises NativeError with the message that it writes."""
    message = ctypes.create_string_buffer(4096)
    if not function(*arguments, message, ctypes.c_uint64(len(message))):
        raise NativeError(message.value.decode())
