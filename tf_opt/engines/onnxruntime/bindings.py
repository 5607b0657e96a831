"""Binding the inputs and outputs of a session to memory, without a copy."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_opt.engines.onnxruntime.element_types import numpy_type, onnx_type

if TYPE_CHECKING:
    from tf_opt.ops.python_runtime import Array

_ONLY_FATAL = "4"


@dataclass(frozen=True)
class Port:
    """An input or output of a session.

    Attributes:
        name: Its name in the model.
        dtype: Its element type.
        number: ONNX's number of the element type.
    """

    name: str
    dtype: np.dtype[Any]
    number: int


class BoundSession:
    """A session with its ports and its bindings, each of which serves one call at a time."""

    def __init__(self, session: Any, *, waits: bool = True) -> None:
        """Reads the ports.

        Args:
            session: An InferenceSession.
            waits: Whether a run returns only when the GPU is done.
        """
        import onnxruntime

        self.session = session
        self.inputs = tuple(_port(value) for value in session.get_inputs())
        self.outputs = tuple(_port(value) for value in session.get_outputs())
        # Taken and given back by one operation each, which the interpreter does not interrupt.
        self._idle: list[Any] = []
        self._options = onnxruntime.RunOptions()
        # An output that turns out to have another shape is no error here, and not to be logged as one.
        self._options.log_severity_level = int(_ONLY_FATAL)
        if not waits:
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    @contextmanager
    def binding(self) -> Iterator[Any]:
        """Lends a binding in which nothing is bound that could be read or written after the call."""
        binding = self._idle.pop() if self._idle else self.session.io_binding()
        try:
            yield binding
        finally:
            # What ONNX Runtime allocated for outputs is let go of, too.
            binding.clear_binding_inputs()
            binding.clear_binding_outputs()
            self._idle.append(binding)

    def run(self, binding: Any) -> None:
        """Runs once with what is bound."""
        self.session.run_with_iobinding(binding, self._options)


def address_of(array: Array) -> int:
    """Returns where an array's elements lie; some address for an array without elements."""
    address: int = array.__array_interface__["data"][0]
    return address


def array_of(value: Any) -> Array:
    """Returns an array over the memory of an OrtValue in host memory, valid as long as the OrtValue is."""
    dtype, shape = numpy_type(value.data_type()), tuple(value.shape())
    size = math.prod(shape) * dtype.itemsize
    if size == 0:
        return np.empty(shape, dtype)
    memory = (ctypes.c_ubyte * size).from_address(value.data_ptr())
    # As bytes, then viewed: the buffer protocol has no bfloat16.
    array: Array = np.frombuffer(memory, np.uint8).view(dtype).reshape(shape)
    return array


def _port(value: Any) -> Port:
    dtype = numpy_type(value.type)
    return Port(value.name, dtype, onnx_type(dtype))
