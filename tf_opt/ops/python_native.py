"""The border to python_runtime.cc: layouts, function types and memory, as ctypes and NumPy see them."""

from __future__ import annotations

import ctypes
import functools
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DONE, UNSUPPORTED_SHAPE, FAILED, DONE_BUT_INTERRUPTED = 1, 2, 3, 4
INTERRUPTED = 0  # Also what ctypes returns where a function raised outside of its `try`.

_READ, _WRITE = 0x100, 0x200  # PyBUF_READ and PyBUF_WRITE.
_WORDS_BEFORE_DIMENSIONS = 3  # Address, dtype and rank.
_LONGEST_MESSAGE = 8192


class RawArray(NamedTuple):
    """A tensor by its address: contiguous, row-major.

    Attributes:
        address: Where it lies.
        shape: Dimensions.
        dtype: Element type.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Definition(ctypes.Structure):
    """PythonDefinition of python_runtime.h."""

    _fields_ = (
        ("runtime", ctypes.c_char_p),
        ("segment_name", ctypes.c_char_p),
        ("header", ctypes.c_void_p),
        ("header_bytes", ctypes.c_uint64),
        ("payload", ctypes.c_void_p),
        ("payload_bytes", ctypes.c_uint64),
        ("weights", ctypes.c_void_p),
        ("weight_words", ctypes.c_uint64),
        ("threads", ctypes.c_int32),
        ("device", ctypes.c_int32),
    )


LoadFunction = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.POINTER(Definition), ctypes.c_void_p)
RunFunction = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
RunOnDeviceFunction = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p
)
NumberFunction = ctypes.CFUNCTYPE(None, ctypes.c_int64)


class Functions(ctypes.Structure):
    """PythonFunctions of python_runtime.h."""

    _fields_ = (
        ("load", LoadFunction),
        ("run", RunFunction),
        ("run_on_device", RunOnDeviceFunction),
        ("destroy", NumberFunction),
        ("release", NumberFunction),
        ("holds_interpreter_lock", ctypes.c_void_p),
        ("interrupt", ctypes.c_void_p),
        ("thread_state", ctypes.c_void_p),
        ("acquire_interpreter_lock", ctypes.c_void_p),
        ("release_interpreter_lock", ctypes.c_void_p),
    )


class OpFunctions:
    """What the op library offers to a call that is in Python.

    Attributes:
        allocate: Memory for an output. The interpreter lock stays held: it takes a microsecond.
        allocate_on_device: The same without the lock, since a GPU's allocator may wait until memory is freed.
        adopt: Gives memory away; without the lock, since it may copy.
        set_message: Says why the call failed.
        engine_loaded: Says what was loaded.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        """Declares the functions of the op library."""
        locked = ctypes.PyDLL(library._name, handle=library._handle)
        output = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, ctypes.c_char_p)
        self.allocate = locked["TfOptAllocateOutput"]
        self.allocate_on_device = library["TfOptAllocateOutput"]
        for allocate in (self.allocate, self.allocate_on_device):
            allocate.argtypes, allocate.restype = output, ctypes.c_int64
        self.adopt = library["TfOptAdoptOutput"]
        self.adopt.argtypes, self.adopt.restype = (*output, ctypes.c_void_p, ctypes.c_int64), ctypes.c_int32
        self.set_message = locked["TfOptSetMessage"]
        self.set_message.argtypes, self.set_message.restype = (ctypes.c_void_p, ctypes.c_char_p), None
        self.engine_loaded = locked["TfOptEngineLoaded"]
        self.engine_loaded.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32)
        self.engine_loaded.restype = None


def interpreter_function(name: str) -> int:
    """Returns the address of a function of the interpreter's C interface."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


_memory_view = ctypes.pythonapi.PyMemoryView_FromMemory
_memory_view.argtypes, _memory_view.restype = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int), ctypes.py_object


@functools.cache
def numpy_dtype(number: int) -> np.dtype[Any]:
    """Returns the NumPy type of TensorFlow's type number."""
    import tensorflow as tf

    dtype: np.dtype[Any] = np.dtype(tf.as_dtype(number).as_numpy_dtype)
    return dtype


@functools.cache
def dtype_number(dtype: np.dtype[Any]) -> int:
    """Returns TensorFlow's type number of a NumPy type."""
    import tensorflow as tf

    if not dtype.isnative:
        raise TypeError(f"{dtype} has another byte order than this machine; use dtype.newbyteorder('=').")
    return int(tf.as_dtype(dtype).as_datatype_enum)


@functools.cache
def _packer(rank: int) -> struct.Struct:
    return struct.Struct(f"={rank}q")


def pack_dimensions(shape: Sequence[int]) -> bytes:
    """Returns dimensions as the op library reads them."""
    return _packer(len(shape)).pack(*shape)


def array_at(address: int, size: int, dtype: np.dtype[Any], shape: tuple[int, ...], *, writable: bool) -> Array:
    """Returns an array over foreign memory of `size` bytes."""
    if size == 0:
        return np.empty(shape, dtype)
    array: Array = np.ndarray(shape, dtype, _memory_view(address, size, _WRITE if writable else _READ))
    return array


def words_at(address: int, count: int) -> list[int]:
    """Returns the 64-bit numbers at an address."""
    if count == 0:
        return []
    words: list[int] = _memory_view(address, 8 * count, _READ).cast("q").tolist()
    return words


def arrays_of(words: list[int], begin: int = 0) -> list[Array]:
    """Returns read-only arrays over the tensors in host memory that `words` describe from `begin` on."""
    return [
        array_at(address, math.prod(shape) * dtype.itemsize, dtype, shape, writable=False)
        for address, shape, dtype in raw_arrays_of(words, begin)
    ]


def raw_arrays_of(words: list[int], begin: int = 0) -> list[RawArray]:
    """Returns the tensors that `words` describe from `begin` on."""
    arrays = []
    end = len(words)
    while begin < end:
        address, number, rank = words[begin : begin + _WORDS_BEFORE_DIMENSIONS]
        begin += _WORDS_BEFORE_DIMENSIONS + rank
        arrays.append(RawArray(address, tuple(words[begin - rank : begin]), numpy_dtype(number)))
    return arrays


def message_of(error: BaseException) -> bytes:
    """Returns type and text of an exception, cut to a length that a TensorFlow error can carry."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # An exception's own text may fail; its type must still arrive.
        text = type(error).__name__
    encoded = text.replace("\0", "\\0").encode(errors="backslashreplace")[:_LONGEST_MESSAGE]
    # A character cut in half would make the status message invalid UTF-8.
    return encoded.decode(errors="ignore").encode()
