"""Simulated CUDA streams: work is queued and runs on the stream's worker once somebody synchronizes, not before.

So whoever forgets to synchronize sees poison in every run, and not only when a GPU is slow. Whether two pieces of work
on different streams may overlap is decided by vector clocks: what a stream has waited for through events, and what the
host has synchronized with. Two overlapping pieces that touch the same memory, one of them writing, are a violation.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulators.tensorrt.memory import POISON, host_bytes
from tests.simulators.tensorrt.violations import SimulatorError, Violations

Range = tuple[int, int]
"""First address and the one behind the last."""

Clock = dict[int, int]
"""Per stream, how many of its operations are known to be done."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """Work for a stream.

    Attributes:
        label: For messages.
        run: Does the work, on the stream's worker.
        reads: Memory that it reads.
        writes: Memory that it writes.
        check: Called when the work is queued, also when a graph that recorded it is launched.
        poisons: Host memory that holds poison until the work is done.
    """

    label: str
    run: Callable[[], None]
    reads: tuple[Range, ...] = ()
    writes: tuple[Range, ...] = ()
    check: Callable[[], None] = lambda: None
    poisons: Range | None = None

    def touches(self, begin: int, end: int) -> bool:
        """Returns whether the operation uses a piece of memory."""
        return any(begin < last and first < end for first, last in (*self.reads, *self.writes))


@dataclass
class Capture:
    """A recording in progress: operations, and why it became invalid."""

    thread: int
    operations: list[Operation] = field(default_factory=list)
    invalid: str | None = None


@dataclass
class Event:
    """A point in a stream: how far the stream was, and what it knew by then."""

    stream: Stream | None = None
    sequence: int = 0
    clock: Clock = field(default_factory=dict)
    capture: Capture | None = None


@dataclass
class _Queued:
    sequence: int
    operation: Operation
    after: tuple[Stream, int] | None = None


@dataclass(frozen=True)
class _Access:
    range: Range
    writes: bool
    stream: int
    sequence: int
    label: str


class Stream:
    """A stream and its worker."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.sequence = 0
        self.clock: Clock = {}
        self.capture: Capture | None = None
        self.pending: deque[_Queued] = deque()
        self.failure: BaseException | None = None
        self._requests: queue.SimpleQueue[tuple[int, threading.Event] | None] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None

    def run_until(self, sequence: int) -> None:
        """Has the worker do everything up to an operation, and waits."""
        if not self.pending or self.pending[0].sequence > sequence:
            return
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name=f"simulated stream {self.handle}", daemon=True)
            self._worker.start()
        done = threading.Event()
        self._requests.put((sequence, done))
        done.wait()

    def stop(self) -> None:
        """Ends the worker."""
        self._requests.put(None)

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            sequence, done = request
            while self.pending and self.pending[0].sequence <= sequence:
                queued = self.pending[0]
                try:
                    if queued.after is not None:
                        queued.after[0].run_until(queued.after[1])
                    queued.operation.run()
                except BaseException as error:  # A GPU reports at the next synchronization, and so does this.
                    self.failure = self.failure or error
                self.pending.popleft()
            done.set()


class Streams:
    """All streams, events and graphs of a simulated GPU."""

    def __init__(self, violations: Violations) -> None:
        self._violations = violations
        self._lock = threading.RLock()
        self._handles = itertools.count(0x5000, 0x10)
        self._host_clock: Clock = {}
        self._accesses: list[_Access] = []
        self.streams: dict[int, Stream] = {0: Stream(0)}
        self.events: dict[int, Event] = {}
        self.graphs: dict[int, tuple[Operation, ...]] = {}

    def new_handle(self) -> int:
        """Returns a number that no stream, event or graph has."""
        return next(self._handles)

    def stop(self) -> None:
        """Ends all workers; what is still queued is never done."""
        for stream in self.streams.values():
            stream.stop()

    def stream(self, handle: int) -> Stream:
        """Returns the stream of a handle; a violation where there is none."""
        if (stream := self.streams.get(handle)) is None:
            self._violations.fail(f"{handle:#x} is no stream, or one that was destroyed")
        return stream

    def event(self, handle: int) -> Event:
        """Returns the event of a handle; a violation where there is none."""
        if (event := self.events.get(handle)) is None:
            self._violations.fail(f"{handle:#x} is no event, or one that was destroyed")
        return event

    def enqueue(self, handle: int, operation: Operation) -> None:
        """Queues work on a stream, or records it where the stream is being captured."""
        with self._lock:
            stream = self.stream(handle)
            operation.check()
            if stream.capture is not None:
                stream.capture.operations.append(operation)
                return
            self._queue(stream, operation)

    def _queue(self, stream: Stream, operation: Operation, after: tuple[Stream, int] | None = None) -> None:
        stream.sequence += 1
        _merge(stream.clock, self._host_clock)
        stream.clock[stream.handle] = stream.sequence
        self._check_races(stream, operation)
        if operation.poisons is not None and self.pending_use(*operation.poisons) is None:
            first, last = operation.poisons
            host_bytes(first, last - first)[:] = POISON
        stream.pending.append(_Queued(stream.sequence, operation, after))

    def _check_races(self, stream: Stream, operation: Operation) -> None:
        # What the host has waited for cannot overlap with anything queued from now on.
        self._accesses = [one for one in self._accesses if self._host_clock.get(one.stream, 0) < one.sequence]
        mine = [(one, False) for one in operation.reads] + [(one, True) for one in operation.writes]
        for (begin, end), writes in mine:
            for other in self._accesses:
                overlap = begin < other.range[1] and other.range[0] < end
                unordered = stream.clock.get(other.stream, 0) < other.sequence
                if overlap and unordered and (writes or other.writes):
                    self._violations.fail(
                        f"{operation.label} on stream {stream.handle:#x} may run at the same time as {other.label} on "
                        f"stream {other.stream:#x}, and both use {max(begin, other.range[0]):#x}; one has to wait for "
                        "an event of the other"
                    )
        for one, writes in mine:
            self._accesses.append(_Access(one, writes, stream.handle, stream.sequence, operation.label))

    def record(self, event: Event, handle: int) -> None:
        """Marks a point in a stream."""
        with self._lock:
            stream = self.stream(handle)
            event.capture = stream.capture
            if stream.capture is None:
                self._queue(stream, Operation(label="an event", run=lambda: None))
                event.stream, event.sequence, event.clock = stream, stream.sequence, dict(stream.clock)

    def wait(self, handle: int, event: Event) -> None:
        """Orders a stream behind an event."""
        with self._lock:
            stream = self.stream(handle)
            if stream.capture is not event.capture and (stream.capture or event.capture):
                for capture in (stream.capture, event.capture):
                    if capture is not None:
                        capture.invalid = "it waits for an event of work that is not captured"
                return
            if event.stream is None or stream.capture is not None:
                return
            _merge(stream.clock, event.clock)
            self._queue(stream, Operation(label="a wait", run=lambda: None), (event.stream, event.sequence))

    def synchronize(self, stream: Stream, sequence: int, clock: Clock) -> None:
        """Waits for a stream up to an operation; from then on the host knows of all that came before it."""
        stream.run_until(sequence)
        with self._lock:
            _merge(self._host_clock, clock)

    def pending_use(self, begin: int, end: int) -> str | None:
        """Returns what still waits in a queue and uses a piece of memory, None where nothing does."""
        with self._lock:
            for stream in self.streams.values():
                for queued in list(stream.pending):
                    if queued.operation.touches(begin, end):
                        return f"{queued.operation.label} on stream {stream.handle:#x}"
        return None

    def failure_of(self, stream: Stream) -> str | None:
        """Returns what failed on a stream since it was last asked; what is no violation yet becomes one."""
        failure, stream.failure = stream.failure, None
        if failure is None:
            return None
        if not isinstance(failure, SimulatorError):
            self._violations.record(f"work on stream {stream.handle:#x} failed: {failure!r}")
        return str(failure)


def _merge(into: Clock, other: Clock) -> None:
    for stream, sequence in other.items():
        into[stream] = max(into.get(stream, 0), sequence)
