"""What a simulated execution context does once its call is found right: it queues work, or runs it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.simulators.tensorrt.memory import ALIGNMENT, POISON, Memory
from tests.simulators.tensorrt.program import Array, numpy_dtype
from tests.simulators.tensorrt.streams import Operation, Range

# Each context is a piece of memory of its own for the check of what may overlap: its activations.
_ACTIVATIONS = itertools.count(1 << 60, 16)


@dataclass
class State:
    """What outlives the context's object while work of it is queued."""

    activations: int = field(default_factory=lambda: next(_ACTIVATIONS))
    destroyed: bool = False
    generation: int = 0

    @property
    def range(self) -> Range:
        """The context's own memory."""
        return self.activations, self.activations + 16


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies."""

    name: str
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def range(self) -> Range:
        return self.address, self.address + self.size

    def bytes_in(self, memory: Memory) -> Array:
        return memory.device_bytes(self.address, self.size, f"tensor {self.name!r} of type {self.dtype}")

    def array_in(self, memory: Memory) -> Array:
        return self.bytes_in(memory).copy().view(self.dtype).reshape(self.shape)


def enqueue(context: Any, engine: Any, stream: int) -> bool:
    """Queues the work of a context all of whose shapes are known; returns whether it could."""
    library = context.library
    memory, state, program = library.driver.memory, context._state, engine._program
    values = context._shape_values(engine)
    inputs = _inputs(context, engine, values)
    output_shapes = context._output_shapes(engine)
    for name, shape in output_shapes.items():
        allocator = context._allocators.get(name)
        if allocator is not None and not _allocate(context, engine, allocator, name, shape, stream):
            return False
    outputs = [_place(context, engine, name, shape) for name, shape in output_shapes.items()]
    for place in (*inputs, *outputs):
        place.bytes_in(memory)
    generation = state.generation

    def check() -> None:
        if state.destroyed:
            library.violations.fail("a CUDA graph is launched after its execution context was destroyed")
        if state.generation != generation:
            library.violations.fail("a CUDA graph is launched after its execution context was changed")

    def run() -> None:
        feeds = {**values, **{place.name: place.array_in(memory) for place in inputs}}
        targets = [place.bytes_in(memory) for place in outputs]
        for target in targets:
            target[:] = POISON
        for target, result in zip(targets, program.run(feeds), strict=True):
            target[:] = as_bytes(result)

    operation = Operation(
        label="execute_async_v3",
        run=run,
        reads=tuple(place.range for place in inputs),
        writes=(state.range, *(place.range for place in outputs)),
        check=check,
    )
    library.driver.streams.enqueue(stream, operation)
    for name, shape in output_shapes.items():
        if (allocator := context._allocators.get(name)) is not None:
            allocator.notify_shape(name, library.module.Dims(shape))
    return True


def run_data_dependent(context: Any, engine: Any, stream: int) -> bool:
    """Runs at once: the sizes of outputs are known only after the values are."""
    library = context.library
    memory, streams, program = library.driver.memory, library.driver.streams, engine._program
    values = context._shape_values(engine)
    inputs = _inputs(context, engine, values)
    results: list[Array] = []

    def compute() -> None:
        results.extend(program.run({**values, **{place.name: place.array_in(memory) for place in inputs}}))

    reads = tuple(place.range for place in inputs)
    writes = (context._state.range,)
    streams.enqueue(stream, Operation(label="execute_async_v3", run=compute, reads=reads, writes=writes))
    waiting = streams.stream(stream)
    waiting.run_until(waiting.sequence)
    if waiting.failure is not None:
        return False
    for name, result in zip(engine._outputs, results, strict=True):
        allocator = context._allocators.get(name)
        if allocator is not None and not _allocate(context, engine, allocator, name, result.shape, stream):
            return False
        place = _Place(name, context._addresses[name], result.shape, result.dtype)
        _queue_write(context, stream, place, result)
        if allocator is not None:
            allocator.notify_shape(name, library.module.Dims(result.shape))
    return True


def _queue_write(context: Any, stream: int, place: _Place, result: Array) -> None:
    driver = context.library.driver
    place.bytes_in(driver.memory)

    def write() -> None:
        place.bytes_in(driver.memory)[:] = as_bytes(result)

    writes = (place.range, context._state.range)
    driver.streams.enqueue(stream, Operation(label=f"execute_async_v3 ({place.name})", run=write, writes=writes))


def _inputs(context: Any, engine: Any, values: Mapping[str, Array]) -> list[_Place]:
    """Returns where the inputs lie that are read from the device."""
    shapes = context._known_shapes(engine)
    return [_place(context, engine, name, shape) for name, shape in shapes.items() if name not in values]


def _place(context: Any, engine: Any, name: str, shape: tuple[int, ...]) -> _Place:
    return _Place(name, context._addresses.get(name, 0), shape, numpy_dtype(engine._data_type(name)))


def _allocate(context: Any, engine: Any, allocator: Any, name: str, shape: tuple[int, ...], stream: int) -> bool:
    """Asks an allocator for an output's memory; returns whether it gave any."""
    size = _place(context, engine, name, shape).size
    # An empty tensor needs an address too.
    arguments = (name, context._addresses.get(name, 0), max(size, 1), ALIGNMENT)
    if hasattr(allocator, "reallocate_output_async"):
        address = int(allocator.reallocate_output_async(*arguments, stream) or 0)
    else:
        address = int(allocator.reallocate_output(*arguments) or 0)
    if not address:
        context._log("ERROR", f"IExecutionContext::enqueueV3: the allocator gave no memory for {name!r}")
        return False
    if address % ALIGNMENT:
        context.library.violations.fail(f"the allocator's address {address:#x} of {name!r} is not aligned")
    context._addresses[name] = address
    return True


def as_bytes(array: Array) -> Array:
    """Returns an array's memory as bytes."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
