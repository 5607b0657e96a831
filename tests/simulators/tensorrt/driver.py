"""A CUDA driver without a GPU, with the methods of `tf_opt.engines.tensorrt.cuda.CudaDriver`.

Memory, streams, events and graphs are simulated with the checks of `memory.py` and `streams.py`. A call that the real
driver answers with an error code raises CudaError; one that it answers with undefined behaviour is a violation.
"""

from __future__ import annotations

import threading

from tests.simulators.tensorrt.memory import Memory, host_bytes
from tests.simulators.tensorrt.streams import Capture, Event, Operation, Stream, Streams
from tests.simulators.tensorrt.violations import Violations


def cuda_error(message: str) -> Exception:
    """Returns the error that the backend's driver raises."""
    from tf_opt import errors

    return getattr(errors, "CudaError", RuntimeError)(message)


class SimulatedCudaDriver:
    """One or several equal GPUs of one machine."""

    def __init__(
        self,
        *,
        gpu_name: str = "Simulated GPU",
        compute_capability: tuple[int, int] = (9, 0),
        device_count: int = 1,
        driver_version: int = 13000,
    ) -> None:
        self.violations = Violations()
        self.memory = Memory(self.violations)
        self.streams = Streams(self.violations)
        self._gpu_name = gpu_name
        self._compute_capability = compute_capability
        self._device_count = device_count
        self._driver_version = driver_version
        self._current = threading.local()
        self.launches = 0
        """How many graphs were launched."""

    def device_count(self) -> int:
        return self._device_count

    def driver_version(self) -> int:
        return self._driver_version

    def device_name(self, ordinal: int) -> str:
        self._check_ordinal(ordinal)
        return self._gpu_name

    def compute_capability(self, ordinal: int) -> tuple[int, int]:
        self._check_ordinal(ordinal)
        return self._compute_capability

    def activate(self, ordinal: int) -> None:
        self._check_ordinal(ordinal)
        self._current.ordinal = ordinal

    def current_device(self) -> int | None:
        """The device whose context is current on this thread; no method of the real class."""
        return getattr(self._current, "ordinal", None)

    def allocate(self, size: int) -> int:
        self._check_context("cuMemAlloc", outside_capture=True)
        if size <= 0:
            raise cuda_error(f"cuMemAlloc of {size} bytes: CUDA_ERROR_INVALID_VALUE")
        return self.memory.allocate(size)

    def free(self, address: int) -> None:
        self._check_context("cuMemFree", outside_capture=True)
        self._free(address, "device")

    def allocate_pinned(self, size: int) -> int:
        self._check_context("cuMemAllocHost", outside_capture=True)
        if size <= 0:
            raise cuda_error(f"cuMemAllocHost of {size} bytes: CUDA_ERROR_INVALID_VALUE")
        return self.memory.allocate(size, "pinned")

    def free_pinned(self, address: int) -> None:
        self._check_context("cuMemFreeHost", outside_capture=True)
        self._free(address, "pinned")

    def create_stream(self) -> int:
        self._check_context("cuStreamCreate")
        handle = self.streams.new_handle()
        self.streams.streams[handle] = Stream(handle)
        return handle

    def destroy_stream(self, stream: int) -> None:
        self._check_context("cuStreamDestroy")
        found = self.streams.stream(stream)
        if found.capture is not None:
            self.violations.fail("cuStreamDestroy of a stream that is being captured")
        found.run_until(found.sequence)
        found.stop()
        del self.streams.streams[stream]

    def synchronize_stream(self, stream: int) -> None:
        self._check_context("cuStreamSynchronize")
        found = self.streams.stream(stream)
        if found.capture is not None:
            found.capture.invalid = "it was synchronized while it was captured"
            raise cuda_error("cuStreamSynchronize: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        self._synchronize(found, found.sequence, dict(found.clock))

    def copy_to_device(self, destination: int, source: int, size: int, stream: int) -> None:
        what = f"a copy of {size} bytes to the device"
        self._check_context("cuMemcpyHtoDAsync")
        if size == 0:
            return
        self.memory.device_bytes(destination, size, what)
        self.memory.check_host(source, size, what)
        captured = self.streams.stream(stream).capture is not None
        pinned = captured or self.memory.is_pinned(source)
        # The driver stages pageable memory before it returns; pinned memory is read when the copy's turn comes.
        staged = None if pinned else host_bytes(source, size).copy()

        def run() -> None:
            self.memory.check_host(source, size, what)
            data = host_bytes(source, size) if staged is None else staged
            self.memory.device_bytes(destination, size, what)[:] = data

        reads = ((source, source + size),) if pinned else ()
        writes = ((destination, destination + size),)
        self.streams.enqueue(stream, Operation(label=what, run=run, reads=reads, writes=writes))

    def copy_to_host(self, destination: int, source: int, size: int, stream: int) -> None:
        what = f"a copy of {size} bytes to the host"
        self._check_context("cuMemcpyDtoHAsync")
        if size == 0:
            return
        self.memory.device_bytes(source, size, what)
        self.memory.check_host(destination, size, what)

        def run() -> None:
            self.memory.check_host(destination, size, what)
            host_bytes(destination, size)[:] = self.memory.device_bytes(source, size, what)

        found = self.streams.stream(stream)
        target = (destination, destination + size)
        reads = ((source, source + size),)
        self.streams.enqueue(stream, Operation(label=what, run=run, reads=reads, writes=(target,), poisons=target))
        if found.capture is None and not self.memory.is_pinned(destination):
            # The driver returns once pageable memory is filled.
            self._synchronize(found, found.sequence, dict(found.clock))

    def copy_on_device(self, destination: int, source: int, size: int, stream: int) -> None:
        what = f"a copy of {size} bytes on the device"
        self._check_context("cuMemcpyDtoDAsync")
        if size == 0:
            return
        self.memory.device_bytes(destination, size, what)
        self.memory.device_bytes(source, size, what)

        def run() -> None:
            data = self.memory.device_bytes(source, size, what)
            self.memory.device_bytes(destination, size, what)[:] = data

        reads, writes = ((source, source + size),), ((destination, destination + size),)
        self.streams.enqueue(stream, Operation(label=what, run=run, reads=reads, writes=writes))

    def create_event(self) -> int:
        self._check_context("cuEventCreate")
        handle = self.streams.new_handle()
        self.streams.events[handle] = Event()
        return handle

    def destroy_event(self, event: int) -> None:
        self._check_context("cuEventDestroy")
        self.streams.event(event)
        del self.streams.events[event]

    def record_event(self, event: int, stream: int) -> None:
        self._check_context("cuEventRecord")
        self.streams.record(self.streams.event(event), stream)

    def wait_event(self, stream: int, event: int) -> None:
        self._check_context("cuStreamWaitEvent")
        self.streams.wait(stream, self.streams.event(event))
        capture = self.streams.stream(stream).capture
        if capture is not None and capture.invalid is not None:
            raise cuda_error("cuStreamWaitEvent: CUDA_ERROR_STREAM_CAPTURE_ISOLATION")

    def synchronize_event(self, event: int) -> None:
        self._check_context("cuEventSynchronize")
        found = self.streams.event(event)
        if found.capture is not None:
            raise cuda_error("cuEventSynchronize: CUDA_ERROR_CAPTURED_EVENT")
        if found.stream is not None:
            self._synchronize(found.stream, found.sequence, dict(found.clock))

    def begin_capture(self, stream: int) -> None:
        self._check_context("cuStreamBeginCapture")
        found = self.streams.stream(stream)
        if stream == 0:
            raise cuda_error("cuStreamBeginCapture on the default stream: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        if found.capture is not None:
            raise cuda_error("cuStreamBeginCapture of a stream that is being captured: CUDA_ERROR_ILLEGAL_STATE")
        found.capture = Capture(threading.get_ident())

    def end_capture(self, stream: int) -> int:
        self._check_context("cuStreamEndCapture")
        found = self.streams.stream(stream)
        capture, found.capture = found.capture, None
        if capture is None:
            raise cuda_error("cuStreamEndCapture of a stream that is not captured: CUDA_ERROR_ILLEGAL_STATE")
        if capture.thread != threading.get_ident():
            raise cuda_error("cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD")
        if capture.invalid is not None:
            raise cuda_error(f"cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED ({capture.invalid})")
        handle = self.streams.new_handle()
        self.streams.graphs[handle] = tuple(capture.operations)
        return handle

    def launch_graph(self, graph: int, stream: int) -> None:
        self._check_context("cuGraphLaunch")
        if graph not in self.streams.graphs:
            self.violations.fail(f"{graph:#x} is no graph, or one that was destroyed")
        self.launches += 1
        for operation in self.streams.graphs[graph]:
            self.streams.enqueue(stream, operation)

    def destroy_graph(self, graph: int) -> None:
        self._check_context("cuGraphExecDestroy")
        if self.streams.graphs.pop(graph, None) is None:
            self.violations.fail(f"{graph:#x} is no graph, or one that was destroyed")

    def leaks(self) -> list[str]:
        """Returns what was created and not given back; no method of the real class."""
        left = [f"{block.size} bytes of {block.kind} memory at {block.address:#x}" for block in self.memory.live()]
        left += [f"stream {handle:#x}" for handle in self.streams.streams if handle]
        left += [f"event {handle:#x}" for handle in self.streams.events]
        return left + [f"graph {handle:#x}" for handle in self.streams.graphs]

    def _free(self, address: int, kind: str) -> None:
        block = self.memory.block_of(address)
        if block is not None and (use := self.streams.pending_use(block.address, block.address + block.size)):
            self.violations.fail(f"{kind} memory at {address:#x} is freed while {use} still has to use it")
        self.memory.free(address, kind)

    def _synchronize(self, stream: Stream, sequence: int, clock: dict[int, int]) -> None:
        self.streams.synchronize(stream, sequence, clock)
        if failure := self.streams.failure_of(stream):
            raise cuda_error(f"cuStreamSynchronize: CUDA_ERROR_LAUNCH_FAILED ({failure})")

    def _check_ordinal(self, ordinal: int) -> None:
        if not 0 <= ordinal < self._device_count:
            raise cuda_error(f"device {ordinal} of {self._device_count}: CUDA_ERROR_INVALID_DEVICE")

    def _check_context(self, call: str, *, outside_capture: bool = False) -> None:
        if self.current_device() is None:
            raise cuda_error(f"{call}: CUDA_ERROR_INVALID_CONTEXT (no activate() on this thread)")
        if outside_capture:
            for stream in list(self.streams.streams.values()):
                if stream.capture is not None and stream.capture.thread == threading.get_ident():
                    stream.capture.invalid = f"{call} was called while it was captured"
                    raise cuda_error(f"{call}: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
