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
    """A session with its ports and its bindings, each of which serves one call at a time.

    Attributes:
        session: The InferenceSession.
        inputs: Its inputs.
        outputs: Its outputs.
        passed: By the index of an output that is an input, the index of that input. ONNX Runtime gives out the input's
            own memory for it, and writes nothing to memory that is bound to it.
    """

    def __init__(self, session: Any, *, waits: bool = True) -> None:
        """Reads the ports.

        Args:
            session: An InferenceSession.
            waits: Whether a run returns only when the GPU is done.
        """
        self.session = session
        self.inputs = tuple(_port(value) for value in session.get_inputs())
        self.outputs = tuple(_port(value) for value in session.get_outputs())
        names = [port.name for port in self.inputs]
        self.passed = {index: names.index(port.name) for index, port in enumerate(self.outputs) if port.name in names}
        # Taken and given back by one operation each, which the interpreter does not interrupt.
        self._idle: list[Any] = []
        # None where the defaults will do: reading options costs ONNX Runtime 40 µs a run.
        self._options = None if waits else _options_without_waiting()

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


def _options_without_waiting() -> Any:
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


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
