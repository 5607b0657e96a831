"""Runs a session on tensors in host memory."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tf_opt.engines.onnxruntime.bindings import Binding, BoundSession, array_of, run_error
from tf_opt.engines.onnxruntime.element_types import onnx_type
from tf_opt.engines.onnxruntime.output_shapes import OutputShapes, Shape

if TYPE_CHECKING:
    from tf_opt.ops.python_runtime import RawArray, RawOutputs

_NO_ELEMENTS = ctypes.create_string_buffer(64)
_NOWHERE = ctypes.addressof(_NO_ELEMENTS)
"""Where tensors without elements lie: ONNX Runtime wants some address."""


class HostEngine:
    """A session over tensors in host memory. ONNX Runtime allows calls from several threads at once.

    Invariants:
        * Inputs are read where TensorFlow has them.
        * Outputs whose shape follows from the input shapes are written where TensorFlow wants them, from the second run
          of these input shapes on.
        * Where the shape is not known, ONNX Runtime allocates, and TensorFlow takes the memory over. It may write to
          it: ONNX Runtime gives out new memory in each run, for an output that is a constant too.
        * A shape is never believed: ONNX Runtime refuses to write an output that is bound with another one.
        * What ONNX Runtime does not run is for the original nodes; see `run_error`.
    """

    def __init__(self, session: Any) -> None:
        """Takes a session that nothing else uses."""
        self._bound = BoundSession(session)
        self._shapes = OutputShapes(len(self._bound.outputs), self._bound.passed)

    def run_on_addresses(self, inputs: Sequence[RawArray], outputs: RawOutputs) -> None:
        """Runs once; see `RawEngine.run_on_addresses`."""
        shapes = tuple([array.shape for array in inputs])
        expected = self._shapes.expected(shapes)
        with self._bound.binding() as binding:
            for port, (address, shape, dtype) in zip(self._bound.inputs, inputs, strict=True):
                binding.bind_input(port, onnx_type(dtype), shape, address or _NOWHERE)
            if expected is None or not self._run_into(binding, expected, outputs):
                self._run_and_learn(binding, inputs, outputs)
        for index, source in self._bound.passed.items():
            # In place of what was taken over above, which is the input's own memory.
            address, shape, dtype = inputs[source]
            ctypes.memmove(outputs.allocate(index, shape, dtype), address, math.prod(shape) * dtype.itemsize)

    def _run_into(self, binding: Binding, expected: Sequence[Shape | None], outputs: RawOutputs) -> bool:
        """Runs into memory of TensorFlow; returns whether the outputs had the shapes that were expected."""
        for index, (port, shape) in enumerate(zip(self._bound.outputs, expected, strict=True)):
            if shape is None:
                binding.bind_new_output(port)
                continue
            address = outputs.allocate(index, shape, port.dtype)
            binding.bind_output(port, shape, address or _NOWHERE)
        try:
            self._bound.run(binding)
        except Exception:
            # Another shape, or an error that the run into memory of ONNX Runtime meets again and reports.
            return False
        if None in expected:
            for index, value in enumerate(binding.outputs()):
                if expected[index] is None:
                    self._give(index, value, outputs)
        return True

    def _run_and_learn(self, binding: Binding, inputs: Sequence[RawArray], outputs: RawOutputs) -> None:
        """Runs into memory of ONNX Runtime, and has TensorFlow take it over."""
        binding.clear_outputs()
        for port in self._bound.outputs:
            binding.bind_new_output(port)
        try:
            self._bound.run(binding)
        except Exception as error:  # Its exceptions share no base below Exception.
            raise run_error(error, self._bound.inputs, inputs) from error
        values = binding.outputs()
        self._shapes.learn(tuple([array.shape for array in inputs]), [tuple(value.shape()) for value in values])
        for index, value in enumerate(values):
            self._give(index, value, outputs)

    def _give(self, index: int, value: Any, outputs: RawOutputs) -> None:
        """Has TensorFlow take over the memory of an output."""
        outputs.adopt(index, array_of(value), (value, self._bound.session))

    def close(self) -> None:
        """Lets go of the session; memory that TensorFlow took over stays."""
        del self._bound
