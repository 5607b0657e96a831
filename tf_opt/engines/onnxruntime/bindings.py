"""Binding the inputs and outputs of a session to memory, without a copy."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_opt.engines.onnxruntime.element_types import numpy_type, onnx_type
from tf_opt.engines.onnxruntime.output_shapes import Shape
from tf_opt.errors import EngineRunError, TfOptError

if TYPE_CHECKING:
    from tf_opt.ops.python_runtime import Array, RawArray


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

    def __init__(self, session: Any, device_type: str = "cpu", device: int = 0, *, waits: bool = True) -> None:
        """Reads the ports.

        Args:
            session: An InferenceSession.
            device_type: Where the inputs and outputs lie that will be bound: "cpu" or "cuda".
            device: The number of that device.
            waits: Whether a run returns only when the GPU is done.
        """
        self.session = session
        self.inputs = tuple(_port(value) for value in session.get_inputs())
        self.outputs = tuple(_port(value) for value in session.get_outputs())
        names = [port.name for port in self.inputs]
        self.passed = {index: names.index(port.name) for index, port in enumerate(self.outputs) if port.name in names}
        # Taken and given back by one operation each, which the interpreter does not interrupt.
        self._idle: list[Binding] = []
        self._device = (device_type, device)
        # None where the defaults will do: reading options costs ONNX Runtime 40 µs a run.
        self._options = None if waits else _options_without_waiting()

    def binding(self) -> LentBinding:
        """Lends a binding in which nothing is bound that could be read or written after the call."""
        try:
            binding = self._idle.pop()
        except IndexError:
            binding = Binding(self.session, *self._device)
        return LentBinding(binding, self._idle)

    def run(self, binding: Binding) -> None:
        """Runs once with what is bound."""
        binding.run(self.session, self._options)


class Binding:
    """Where the inputs and outputs of one run lie.

    ONNX Runtime's Python layer makes a device of its name for each tensor, which takes longer than binding it: where
    that layer shows what it calls itself, that is called. It has been the same for years, but is not documented.
    """

    __slots__ = ("_binding", "_place", "_target")

    def __init__(self, session: Any, device_type: str, device: int) -> None:
        """Binds nothing yet.

        Args:
            session: An InferenceSession.
            device_type: "cpu" or "cuda": where the memory is that will be bound.
            device: Its number.
        """
        self._binding = session.io_binding()
        self._target = self._binding
        self._place: tuple[Any, ...] = (device_type, device)
        native = getattr(self._binding, "_iobinding", None)
        if native is not None and (place := _native_device(device_type, device)) is not None:
            self._target, self._place = native, (place,)

    def bind_input(self, port: Port, number: int, shape: Shape, address: int) -> None:
        """Has an input read there, as elements of ONNX's type `number`."""
        self._target.bind_input(port.name, *self._place, number, shape, address)

    def bind_output(self, port: Port, shape: Shape, address: int) -> None:
        """Has an output written there; a run refuses where its shape is another one."""
        self._target.bind_output(port.name, *self._place, port.number, shape, address)

    def bind_new_output(self, port: Port) -> None:
        """Has ONNX Runtime allocate an output."""
        self._target.bind_output(port.name, *self._place)

    def clear_outputs(self) -> None:
        """Lets go of the outputs."""
        self._binding.clear_binding_outputs()

    def clear(self) -> None:
        """Lets go of everything."""
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()

    def run(self, session: Any, options: Any) -> None:
        """Runs once with what is bound."""
        session.run_with_iobinding(self._binding, options)

    def outputs(self) -> list[Any]:
        """Returns the outputs of the last run as OrtValues."""
        values: list[Any] = self._binding.get_outputs()
        return values


@functools.cache
def _native_device(device_type: str, device: int) -> Any:
    """Returns a device as ONNX Runtime's native layer takes it; None where this release does not show it."""
    import onnxruntime

    make = getattr(getattr(onnxruntime, "OrtDevice", None), "make", None)
    native = getattr(make(device_type, device), "_get_c_device", None) if make is not None else None
    return native() if native is not None else None


class LentBinding:
    """A binding for one call, as a context. A class, since entering a generator takes longer."""

    __slots__ = ("_binding", "_idle")

    def __init__(self, binding: Binding, idle: list[Binding]) -> None:
        """Lends a binding that becomes idle afterwards."""
        self._binding, self._idle = binding, idle

    def __enter__(self) -> Binding:
        return self._binding

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What ONNX Runtime allocated for outputs is let go of, too.
        self._binding.clear()
        self._idle.append(self._binding)


def run_error(error: Exception, ports: Sequence[Port], inputs: Sequence[RawArray]) -> TfOptError:
    """Returns what is raised where ONNX Runtime does not run a call.

    Args:
        error: What ONNX Runtime raised.
        ports: The session's inputs.
        inputs: What they were given.

    Returns:
        An UnsupportedShapeError: the original nodes run the call, or refuse it with TensorFlow's own error. Where the
        engine takes other element types than its node has, which is no matter of the call, an EngineRunError.
    """
    import onnxruntime

    from tf_opt.ops.python_runtime import UnsupportedShapeError

    shapes = " ".join(
        f"{port.name}[{','.join(map(str, array.shape))}]" for port, array in zip(ports, inputs, strict=True)
    )
    fit = all(port.dtype == array.dtype for port, array in zip(ports, inputs, strict=True))
    kind = UnsupportedShapeError if fit else EngineRunError
    return kind(f"ONNX Runtime {onnxruntime.__version__} does not run inputs of shape {shapes}: {error}")


def _options_without_waiting() -> Any:
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


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
