"""Execution contexts that are ready to run, and output allocators for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.simulators.tensorrt import models
from tests.simulators.tensorrt.questions import Asked


def allocator_of(asked: Asked, address: Any) -> Any:
    """Returns an output allocator that answers `address(size)`."""

    class Allocator(asked.trt.IOutputAllocator):
        def __init__(self) -> None:
            asked.trt.IOutputAllocator.__init__(self)

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            return int(address(size))

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            pass

    return Allocator()


def data_dependent(asked: Asked, allocator: Any) -> Any:
    """Returns a context with an output of data-dependent shape."""
    context = asked.context(asked.engine(models.non_zero()))
    context.set_input_shape("x", (2, 8))
    context.set_tensor_address("x", asked.upload(np.eye(2, 8, dtype=np.float32)))
    context.set_output_allocator("y", allocator)
    return context


def mortal(asked: Asked) -> Any:
    """Returns a context of `models.fixed` that is destroyed with the caller's last reference to it."""
    context = asked.engine(models.fixed(), {"x": ((2, 8),) * 3}).create_execution_context()
    context.set_tensor_address("x", asked.upload(np.ones((2, 8), np.float32)))
    context.set_tensor_address("y", asked.driver.allocate(32))
    return context
