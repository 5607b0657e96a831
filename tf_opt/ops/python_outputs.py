"""What an engine written in Python gives its outputs to, and who owns memory that TensorFlow took from it."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_opt.errors import TfOptError
from tf_opt.ops import python_native
from tf_opt.ops.python_native import Array


class EngineOutputError(TfOptError):
    """An engine gave an output that TensorFlow cannot take."""


class Owners:
    """Keeps what owns adopted memory, by number, until TensorFlow releases it."""

    def __init__(self) -> None:
        """Starts without any."""
        self._kept: dict[int, object] = {}
        self._numbers = itertools.count(1)
        # Never freed, not even by the interpreter's end: TensorFlow's threads may still read the memory then.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._kept))

    def __len__(self) -> int:
        """Returns how many are kept."""
        return len(self._kept)

    def keep(self, owner: object) -> int:
        """Keeps an owner and returns its number."""
        number = next(self._numbers)
        self._kept[number] = owner
        return number

    def release(self, number: int) -> None:
        """Drops an owner."""
        self._kept.pop(number, None)

    def release_first(self, words: list[int]) -> int:
        """Drops the owners whose count and numbers come first in `words`; returns where the rest begins."""
        end = 1 + words[0]
        for number in words[1:end]:
            self._kept.pop(number, None)
        return end


class _Call:
    """One call's way to the op, closed when the call ends: the op's side of it is gone then."""

    __slots__ = ("_call", "_op")

    def __init__(self, op: python_native.OpFunctions, call: int) -> None:
        self._op = op
        self._call: int | None = call

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call = None

    def _check(self) -> int:
        if self._call is None:
            raise EngineOutputError("An output was given after the run had returned; give all of them before.")
        return self._call

    def _memory(self, allocate: Callable[..., int], index: int, dims: tuple[int, ...], kind: np.dtype[Any]) -> int:
        """Returns the address of TensorFlow's memory for an output; 0 where it has no elements."""
        address = allocate(
            self._check(), index, python_native.dtype_number(kind), len(dims), python_native.pack_dimensions(dims)
        )
        if address < 0:
            raise EngineOutputError(f"TensorFlow refused output {index} of shape {dims} and dtype {kind}.")
        return address


class _HostCall(_Call):
    """One call whose outputs are in host memory."""

    __slots__ = ("_owners",)

    def __init__(self, op: python_native.OpFunctions, owners: Owners, call: int) -> None:
        """Takes outputs for the op's `call`."""
        super().__init__(op, call)
        self._owners = owners

    def adopt(self, index: int, array: Array, owner: object) -> None:
        """Gives an array's memory to TensorFlow."""
        if not array.flags.c_contiguous:
            raise EngineOutputError(
                f"Output {index} of shape {array.shape} has strides {array.strides}; expected a C-contiguous array: "
                "use numpy.ascontiguousarray."
            )
        kind, dims = python_native.dtype_number(array.dtype), python_native.pack_dimensions(array.shape)
        address, call = array.__array_interface__["data"][0], self._check()
        # Kept rather too long than too short: what interrupts this program may do so right after the memory was taken.
        number = self._owners.keep((array, owner))
        taken = self._op.adopt(call, index, kind, array.ndim, dims, address, number)
        if taken <= 0:
            self._owners.release(number)
        if taken < 0:
            raise EngineOutputError(f"TensorFlow refused output {index} of shape {array.shape}, {array.dtype}.")


class OutputsOfCall(_HostCall):
    """Outputs as arrays; see `tf_opt.ops.python_runtime.Outputs`."""

    __slots__ = ()

    def allocate(self, index: int, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """Returns a writable array over TensorFlow's memory."""
        dims, kind = tuple(shape), np.dtype(dtype)
        address = self._memory(self._op.allocate, index, dims, kind)
        return python_native.array_at(address, math.prod(dims) * kind.itemsize, kind, dims, writable=True)


class RawOutputsOfCall(_HostCall):
    """Outputs as addresses; see `tf_opt.ops.python_runtime.RawOutputs`."""

    __slots__ = ()

    def allocate(self, index: int, shape: Sequence[int], dtype: npt.DTypeLike) -> int:
        """Returns the address of TensorFlow's memory for an output."""
        return self._memory(self._op.allocate, index, tuple(shape), np.dtype(dtype))


class DeviceOutputsOfCall(_Call):
    """Outputs in a GPU's memory; see `tf_opt.ops.python_runtime.DeviceOutputs`."""

    __slots__ = ()

    def allocate(self, index: int, shape: Sequence[int], dtype: npt.DTypeLike) -> int:
        """Returns the address of TensorFlow's memory for an output."""
        return self._memory(self._op.allocate_on_device, index, tuple(shape), np.dtype(dtype))
