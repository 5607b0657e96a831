"""Runs a session on tensors in a GPU's memory."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tf_opt.engines.onnxruntime.bindings import Binding, BoundSession, run_error
from tf_opt.engines.onnxruntime.element_types import onnx_type
from tf_opt.engines.onnxruntime.output_shapes import OutputShapes, Shape
from tf_opt.engines.tensorrt import cuda
from tf_opt.errors import EngineRunError

if TYPE_CHECKING:
    from tf_opt.ops.python_runtime import Array, DeviceArray, DeviceOutputs, Outputs


class DeviceEngine:
    """A session whose work is put on TensorFlow's CUDA stream, in the order in which TensorFlow puts its own.

    Invariants:
        * Nothing waits for the GPU, except where ONNX Runtime has to read a value on the host.
        * A session is bound to one stream when it is made, so it is made at the first call, with that call's stream. A
          call with another one (TensorFlow has one stream for each GPU, until it is configured otherwise) has the
          session's stream wait for its own, and its own wait for the session's: one set of weights serves all.
        * Memory that ONNX Runtime lets go of is used again by what is put on the same stream later, never before.
        * Outputs whose shape is known are written where TensorFlow wants them. The others are copied on the GPU.
    """

    def __init__(self, device: int, make_session: Callable[[int], Any]) -> None:
        """Makes no session yet.

        Args:
            device: CUDA's number of the GPU.
            make_session: Returns an InferenceSession that works on a stream.
        """
        self._device = device
        self._make_session = make_session
        self._lock = threading.Lock()
        self._bound: BoundSession | None = None
        self._shapes = OutputShapes(0)
        self._stream = 0

    def run(self, inputs: Sequence[Array], outputs: Outputs) -> None:
        """Is not called: the op calls `run_on_device` of an engine that has it."""
        raise EngineRunError(
            f"ONNX Runtime's engine on GPU {self._device} was given tensors in host memory; expected a call of "
            "run_on_device. Compile the op again: delete tf_opt's cache folder."
        )

    def run_on_device(self, inputs: Sequence[DeviceArray], outputs: DeviceOutputs, stream: int) -> None:
        """Puts one run on the stream; see `DeviceEngine` of `tf_opt.ops.python_runtime`."""
        bound = self._bound or self._load(stream)
        shapes = tuple(array.shape for array in inputs)
        with self._ordered(stream), bound.binding() as binding:
            for port, array in zip(bound.inputs, inputs, strict=True):
                binding.bind_input(port, onnx_type(array.dtype), array.shape, array.address)
            expected = self._shapes.expected(shapes)
            if expected is not None and self._run_into(bound, binding, expected, outputs):
                return
            binding.clear_outputs()
            for port in bound.outputs:
                binding.bind_new_output(port)
            try:
                bound.run(binding)
            except Exception as error:  # Its exceptions share no base below Exception.
                raise run_error(error, bound.inputs, inputs) from error
            values = binding.outputs()
            self._shapes.learn(shapes, [tuple(value.shape()) for value in values])
            for index, value in enumerate(values):
                self._copy(bound, index, value, outputs)

    def _load(self, stream: int) -> BoundSession:
        with self._lock:
            if self._bound is None:
                bound = BoundSession(self._make_session(stream), "cuda", self._device, waits=False)
                self._shapes, self._stream = OutputShapes(len(bound.outputs), bound.passed), stream
                # Last: other threads look at this one without the lock.
                self._bound = bound
            return self._bound

    @contextmanager
    def _ordered(self, stream: int) -> Iterator[None]:
        """Puts what happens inside between what was put on `stream` before and what will be put on it after."""
        driver = cuda.cuda_driver()
        driver.activate(self._device)
        if stream == self._stream:
            yield
            return
        _wait(driver, self._stream, stream)
        try:
            yield
        finally:
            # After an error too: what was started may still write to memory that TensorFlow then uses again.
            _wait(driver, stream, self._stream)

    def _run_into(
        self, bound: BoundSession, binding: Binding, expected: Sequence[Shape | None], outputs: DeviceOutputs
    ) -> bool:
        """Runs into memory of TensorFlow; returns whether the outputs had the shapes that were expected."""
        for index, (port, shape) in enumerate(zip(bound.outputs, expected, strict=True)):
            address = 0 if shape is None else outputs.allocate(index, shape, port.dtype)
            # No elements have no address, which ONNX Runtime does not take.
            if shape is None or address == 0:
                binding.bind_new_output(port)
            else:
                binding.bind_output(port, shape, address)
        try:
            bound.run(binding)
        except Exception:
            # Another shape, or an error that the run into memory of ONNX Runtime meets again and reports.
            return False
        if None in expected:
            for index, value in enumerate(binding.outputs()):
                if expected[index] is None:
                    self._copy(bound, index, value, outputs)
        return True

    def _copy(self, bound: BoundSession, index: int, value: Any, outputs: DeviceOutputs) -> None:
        """Copies an output on the GPU, behind the work that computes it."""
        shape, dtype = tuple(value.shape()), bound.outputs[index].dtype
        address = outputs.allocate(index, shape, dtype)
        if size := math.prod(shape) * dtype.itemsize:
            cuda.cuda_driver().copy_on_device(address, value.data_ptr(), size, self._stream)

    def close(self) -> None:
        """Lets go of the session once the GPU is done with it."""
        if self._bound is not None:
            driver = cuda.cuda_driver()
            driver.activate(self._device)
            driver.synchronize_stream(self._stream)
            self._bound = None


def _wait(driver: Any, waiting: int, awaited: int) -> None:
    """Has one stream wait for what another one has been given so far."""
    event = driver.create_event()
    try:
        driver.record_event(event, awaited)
        driver.wait_event(waiting, event)
    finally:
        # The driver keeps it until nothing waits for it any more.
        driver.destroy_event(event)
