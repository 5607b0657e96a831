"""One execution context with all that a call needs besides: a stream, memory, and perhaps a CUDA graph."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from tf_opt.engines.tensorrt import cuda
from tf_opt.engines.tensorrt.border import Border, BorderTensor
from tf_opt.engines.tensorrt.buffers import DeviceBuffer, PinnedBuffer
from tf_opt.engines.tensorrt.logger import captured_messages
from tf_opt.engines.tensorrt.output_allocator import make_output_allocator
from tf_opt.engines.tensorrt.staging import Staging
from tf_opt.errors import CudaError, EngineRunError

if TYPE_CHECKING:
    import tensorrt as trt

Shape: TypeAlias = tuple[int, ...]

CallKey: TypeAlias = tuple[Any, ...]
"""Profile and shapes of a call, and values that are shapes: equal keys need the same state of a context."""


class ContextSlot:
    """Used by one call at a time. Buffers, graph and state belong to its context alone.

    Attributes:
        key: What the context was last prepared for; None where that is unknown.
        graph_key: What the CUDA graph was captured for; None where there is none.
    """

    def __init__(self, engine: trt.ICudaEngine, border: Border, name: str) -> None:
        """Creates the context and its stream.

        Args:
            engine: Outlives the slot.
            border: The engine's inputs and outputs.
            name: Of the segment, for messages.

        Raises:
            EngineRunError: TensorRT makes no context, most often for want of memory.
        """
        self.border = border
        self.name = name
        self.key: CallKey | None = None
        self.graph_key: CallKey | None = None
        self._graph = 0
        with captured_messages() as lines:
            context = engine.create_execution_context()
        if context is None:
            raise EngineRunError(_message(name, "makes no execution context", lines))
        self.context: trt.IExecutionContext | None = context
        driver = cuda.cuda_driver()
        self.stream = driver.create_stream()
        self.inputs, self.outputs, self.scratch = DeviceBuffer(), DeviceBuffer(), DeviceBuffer()
        self.pinned_inputs, self.pinned_outputs, self.pinned_dynamic = PinnedBuffer(), PinnedBuffer(), PinnedBuffer()
        self.staging: Staging | None = None
        self.host_values: Mapping[str, Any] = {}
        self.allocators: dict[str, Any] = {}
        self.output_shapes: dict[str, Shape] = {}
        self._profile: int | None = None
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._last_use = driver.create_event()
        self._busy = False

    @property
    def profile(self) -> int | None:
        """The active profile; None before the first call."""
        return self._profile

    @property
    def has_dynamic_outputs(self) -> bool:
        """Whether sizes of outputs depend on values; known once the context was prepared."""
        return any(-1 in shape for shape in self.output_shapes.values())

    def begin(self, stream: int) -> None:
        """Has a stream wait for what the context still does.

        On its own stream too: a handle may be that of a new stream in the place of one that was destroyed.
        """
        if self._busy:
            cuda.cuda_driver().wait_event(stream, self._last_use)

    def end(self, stream: int) -> None:
        """Remembers that the context is busy until the stream has done what it was given."""
        cuda.cuda_driver().record_event(self._last_use, stream)
        self._busy = True

    def finished(self) -> None:
        """Remembers that the context has nothing left to do."""
        self._busy = False

    def room(self, buffer: DeviceBuffer, size: int) -> int:
        """Returns the address of so many bytes in one of the slot's buffers, once what may use it has ended."""
        if not buffer.fits(size) and self._busy:
            cuda.cuda_driver().synchronize_event(self._last_use)
        return buffer.ensure(size)

    def prepare(
        self, key: CallKey, profile: int, shapes: Mapping[str, Shape], host_inputs: Mapping[str, int], stream: int
    ) -> None:
        """Gets the context ready for inputs of these shapes and finds out the shapes of its outputs.

        Args:
            key: Says whether anything is different from the last call.
            profile: Index of the profile to use.
            shapes: Of every input.
            host_inputs: Addresses of the inputs that hold a shape; their values are read until the run is enqueued.
            stream: That the call runs on.

        Raises:
            EngineRunError: TensorRT refuses a shape, or cannot tell the outputs'.
        """
        if self.key == key and not host_inputs:
            return
        self.drop_graph()
        self.key = None
        context = self._context()
        with captured_messages() as lines:
            if self._profile != profile:
                # TensorRT raises where it does not take the profile, as other versions answer False.
                try:
                    accepted = context.set_optimization_profile_async(profile, stream)
                except RuntimeError as error:
                    raise EngineRunError(_message(self.name, f"refuses profile {profile} ({error})", lines)) from error
                self._require(accepted, f"refuses profile {profile}", lines)
                self._profile = profile
                self._shapes.clear()  # Another profile forgets them.
                self._addresses.clear()
            for name, shape in shapes.items():
                if self._shapes.get(name) != shape:
                    self._require(context.set_input_shape(name, shape), f"refuses the shape {shape} of {name}", lines)
                    self._shapes[name] = shape
            for name, address in host_inputs.items():
                self._addresses.pop(name, None)  # The same address holds other values now.
                self._set_address(name, address, lines)
            missing = context.infer_shapes()
            self._require(not missing, f"does not know the shapes of {', '.join(missing)}", lines)
            self.output_shapes = {
                tensor.name: tuple(context.get_tensor_shape(tensor.name)) for tensor in self.border.outputs
            }
            for tensor in self.border.outputs:
                if -1 in self.output_shapes[tensor.name] and tensor.name not in self.allocators:
                    self._add_allocator(tensor, lines)
        self.key = key

    def set_addresses(self, addresses: Mapping[str, int]) -> None:
        """Tells the context where tensors lie; those that lie where they did cost nothing."""
        for name, address in addresses.items():
            self._set_address(name, address, deque())

    def execute(self, stream: int) -> None:
        """Enqueues one run; raises EngineRunError with what TensorRT said where it does not."""
        for allocator in self.allocators.values():
            allocator.reset()
        with captured_messages() as lines:
            done = self._context().execute_async_v3(stream)
        for allocator in self.allocators.values():
            if allocator.error is not None:
                raise allocator.error
        self._require(done, "does not run", lines)

    def dynamic_output(self, name: str, stream: int) -> tuple[int, Shape]:
        """Returns address and shape of an output whose size depends on values, after `execute`."""
        allocator = self.allocators[name]
        if allocator.shape is None:  # TensorRT promises to know it when a run is enqueued.
            cuda.cuda_driver().synchronize_stream(stream)
        if allocator.shape is None:
            raise EngineRunError(f"TensorRT did not say which shape {name} of {self.name} has.")
        return allocator.buffer.ensure(0), allocator.shape

    def capture(self, key: CallKey, work: Any) -> None:
        """Records what `work` enqueues on the slot's stream as its CUDA graph; raises where it cannot be recorded."""
        driver = cuda.cuda_driver()
        self.drop_graph()
        driver.begin_capture(self.stream)
        try:
            work()
        except BaseException:
            # A stream that is left in capture is of no use for anything else. What failed is told, not this.
            with contextlib.suppress(CudaError):
                driver.destroy_graph(driver.end_capture(self.stream))
            raise
        self._graph = driver.end_capture(self.stream)
        self.graph_key = key

    def launch(self) -> None:
        """Enqueues the CUDA graph on the slot's stream."""
        cuda.cuda_driver().launch_graph(self._graph, self.stream)

    def drop_graph(self) -> None:
        """Forgets the CUDA graph: it must not run once its context has changed."""
        if self.graph_key is not None:
            cuda.cuda_driver().destroy_graph(self._graph)
            self.graph_key, self._graph = None, 0

    def close(self) -> None:
        """Waits for the context's work, then frees it and all its memory."""
        driver = cuda.cuda_driver()
        driver.synchronize_event(self._last_use)
        driver.synchronize_stream(self.stream)
        self.drop_graph()
        self.context = None
        for allocator in self.allocators.values():
            allocator.buffer.close()
        self.allocators.clear()
        for buffer in (self.inputs, self.outputs, self.scratch, self.pinned_inputs, self.pinned_outputs):
            buffer.close()
        self.pinned_dynamic.close()
        driver.destroy_event(self._last_use)
        driver.destroy_stream(self.stream)

    def _context(self) -> trt.IExecutionContext:
        if self.context is None:
            raise EngineRunError(f"The TensorRT engine of {self.name} is closed.")
        return self.context

    def _set_address(self, name: str, address: int, lines: deque[str]) -> None:
        if self._addresses.get(name) != address:
            self._require(self._context().set_tensor_address(name, address), f"refuses the address of {name}", lines)
            self._addresses[name] = address

    def _add_allocator(self, tensor: BorderTensor, lines: deque[str]) -> None:
        allocator = make_output_allocator(self.room)
        self._require(
            self._context().set_output_allocator(tensor.name, allocator), f"takes no allocator for {tensor.name}", lines
        )
        self.allocators[tensor.name] = allocator

    def _require(self, accepted: bool, what: str, lines: deque[str]) -> None:
        if not accepted:
            self.key = None
            raise EngineRunError(_message(self.name, what, lines))


def _message(name: str, what: str, lines: deque[str]) -> str:
    return f"TensorRT {what} for {name}. It says: {'; '.join(lines) or 'nothing'}"
