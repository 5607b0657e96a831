"""Outputs whose size depends on values: TensorRT asks for their memory while it runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tf_opt.engines.tensorrt.buffers import DeviceBuffer

if TYPE_CHECKING:
    import tensorrt as trt


def make_output_allocator(room: Callable[[DeviceBuffer, int], int]) -> Any:
    """Returns an allocator for one output of one context.

    It has `buffer` (where the output lies), `shape` (None until TensorRT knows it), `error` (why there was no memory)
    and `reset()`, which is called before each run.

    Args:
        room: Returns the address of so many bytes in a buffer, which it lets grow where nothing uses it.
    """
    import tensorrt as trt

    return _allocator_class(trt)(room)


@functools.cache
def _allocator_class(module: Any) -> Any:
    """Makes the class here, because its base is known only once TensorRT is imported."""

    class OutputAllocator(module.IOutputAllocator):  # type: ignore[misc, unused-ignore]
        def __init__(self, room: Callable[[DeviceBuffer, int], int]) -> None:
            module.IOutputAllocator.__init__(self)
            self._room = room
            self.buffer = DeviceBuffer()
            self.reset()

        def reset(self) -> None:
            self.shape: tuple[int, ...] | None = None
            self.error: BaseException | None = None

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            try:
                return self._room(self.buffer, size)
            # Nothing may escape into TensorRT, which fails the run where it gets no memory.
            except BaseException as error:
                self.error = error
                return 0

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: trt.Dims) -> None:
            self.shape = tuple(shape)

    return OutputAllocator
