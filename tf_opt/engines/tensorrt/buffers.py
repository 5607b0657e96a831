"""Memory that is kept between runs and grows when a run needs more."""

from __future__ import annotations

import abc
import ctypes
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_opt.engines.tensorrt import cuda

if TYPE_CHECKING:
    from tf_opt.ops.python_runtime import Array

ALIGNMENT = 256
"""What TensorRT wants of every address."""


def aligned(size: int) -> int:
    """Returns `size` rounded up to the alignment; an empty tensor gets room too, because it needs an address."""
    return max(1, -(-size // ALIGNMENT)) * ALIGNMENT


class Buffer(abc.ABC):
    """Memory of at least the size that was asked for last."""

    def __init__(self) -> None:
        """Allocates nothing yet."""
        self.address = 0
        self._size = 0

    @abc.abstractmethod
    def _allocate(self, size: int) -> int:
        """Returns the address of new memory."""

    @abc.abstractmethod
    def _free(self, address: int) -> None:
        """Gives memory back."""

    def fits(self, size: int) -> bool:
        """Tells whether `size` bytes have room without new memory."""
        return bool(self.address) and size <= self._size

    def ensure(self, size: int) -> int:
        """Returns the address of room for `size` bytes; where they do not fit, the GPU must not be using it."""
        if not self.fits(size):
            self.close()
            # A quarter more, so that shapes that grow step by step do not allocate at each one.
            wanted = aligned(size + size // 4)
            self.address, self._size = self._allocate(wanted), wanted
        return self.address

    def close(self) -> None:
        """Gives the memory back; nothing of it may be in use by the GPU."""
        if self.address:
            self._free(self.address)
        self.address = self._size = 0


class DeviceBuffer(Buffer):
    """GPU memory."""

    def _allocate(self, size: int) -> int:
        return cuda.cuda_driver().allocate(size)

    def _free(self, address: int) -> None:
        cuda.cuda_driver().free(address)


class PinnedBuffer(Buffer):
    """Host memory that the GPU copies from and to directly."""

    def _allocate(self, size: int) -> int:
        return cuda.cuda_driver().allocate_pinned(size)

    def _free(self, address: int) -> None:
        cuda.cuda_driver().free_pinned(address)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where tensors lie in one buffer, so that one copy moves all of them.

    Attributes:
        offsets: Of each tensor, by name.
        size: Of all together.
    """

    offsets: Mapping[str, int]
    size: int

    @classmethod
    def of(cls, sizes: Iterable[tuple[str, int]]) -> Layout:
        """Returns a layout of tensors of these sizes in bytes."""
        offsets, end = {}, 0
        for name, size in sizes:
            offsets[name] = end
            end += aligned(size)
        return cls(offsets=offsets, size=end)


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Returns new host memory that begins where TensorRT wants tensors to begin."""
    size = byte_size(shape, dtype)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    array: Array = memory[start : start + size].view(dtype).reshape(shape)
    return array


def byte_size(shape: Iterable[int], dtype: np.dtype[Any]) -> int:
    """Returns how many bytes a tensor has."""
    return math.prod(shape) * dtype.itemsize


def array_over(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Returns a writable array over host memory, which has to outlive it."""
    size = byte_size(shape, dtype)
    if size == 0:
        return np.empty(shape, dtype)
    # As bytes, then viewed: the buffer protocol has no bfloat16.
    memory = (ctypes.c_ubyte * size).from_address(address)
    array: Array = np.frombuffer(memoryview(memory).cast("B"), np.uint8).view(dtype).reshape(shape)
    return array
