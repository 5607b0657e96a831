"""The simulated execution context."""

from __future__ import annotations

import contextlib
import math
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

from tests.simulators.tensorrt.bindings_base import Dims, as_shape, checked_overridable, stored, versions
from tests.simulators.tensorrt.execution import State, enqueue, run_data_dependent
from tests.simulators.tensorrt.library import Owner
from tests.simulators.tensorrt.memory import ALIGNMENT, host_bytes
from tests.simulators.tensorrt.program import Array, numpy_dtype


class IExecutionContext(Owner):
    """Runs an engine, one call at a time."""

    def __init__(self, engine: Any) -> None:
        self._engine = weakref.ref(engine)
        self._plan = engine._plan
        self._logger = engine._logger
        self._device = engine._device
        self._state = State()
        self._busy = threading.Lock()
        self._user: int | None = None
        self._name = ""
        # The first context of an engine starts with its first profile; each later one has to choose.
        with engine._lock:
            self._profile = 0 if engine._allocated == 0 or engine.num_optimization_profiles == 1 else -1
            engine._allocated += 1
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._warm: set[Any] = set()

    def __del__(self) -> None:
        state = getattr(self, "_state", None)
        if state is not None and not state.destroyed:
            state.destroyed = True
            first = state.activations
            if use := self.library.driver.streams.pending_use(first, first + 16):
                self.library.violations.record(f"an execution context is destroyed while {use} still has to run")

    @contextlib.contextmanager
    def _used(self, call: str) -> Iterator[Any]:
        """Demands that no other thread is inside the context, and that its engine lives; gives the engine."""
        violations = self.library.violations
        if not self._busy.acquire(blocking=False):
            if self._user == threading.get_ident():  # A callback that calls back.
                violations.fail(f"{call} inside of another call of the same execution context")
            violations.fail(f"{call}: two threads use one execution context at once")
        self._user = threading.get_ident()
        try:
            engine = self._engine()
            if engine is None:
                violations.fail(f"{call}: the execution context is used after its engine was destroyed")
            engine._alive()
            yield engine
        finally:
            self._user = None
            self._busy.release()

    def _change(self, values: dict[str, Any], name: str, value: Any) -> None:
        if name in values and values[name] == value:
            return
        values[name] = value
        self._state.generation += 1

    @property
    def engine(self) -> Any:
        return self._engine()

    name = stored("_name")

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        with self._used("set_optimization_profile_async()") as engine:
            self.library.driver.streams.stream(stream_handle)
            if not 0 <= profile_index < engine.num_optimization_profiles:
                raise RuntimeError(f"Error in set optimization profile async: there is no profile {profile_index}")
            if profile_index != self._profile:
                self._profile = int(profile_index)
                self._shapes.clear()
                self._warm.clear()
                self._state.generation += 1
            return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        with self._used("set_input_shape()") as engine:
            wanted = as_shape(shape, "set_input_shape()")
            fault = self._shape_fault(engine, name, wanted)
            if fault is not None:
                self._log("ERROR", f"IExecutionContext::setInputShape: Error Code 3: API Usage Error ({fault})")
                return False
            self._change(self._shapes, name, wanted)
            return True

    def _shape_fault(self, engine: Any, name: str, shape: tuple[int, ...]) -> str | None:
        if name not in engine._inputs:
            return f"{name!r} is no input"
        if self._profile < 0:
            return "no optimization profile is selected"
        low, _, high = engine._shape_bounds(name, self._profile)
        if len(shape) != len(low):
            return f"{name!r} has rank {len(low)}, the shape {shape} has rank {len(shape)}"
        if not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
            return f"{name!r}: the shape {shape} is outside of profile {self._profile}, {low} to {high}"
        return None

    def set_tensor_address(self, name: str, memory: int) -> bool:
        with self._used("set_tensor_address()") as engine:
            if memory is None or not hasattr(memory, "__index__"):
                raise TypeError(f"set_tensor_address(): incompatible function arguments; got {memory!r}")
            if name not in engine._inputs and name not in engine._outputs:
                self._log("ERROR", f"IExecutionContext::setTensorAddress: {name!r} is no input or output")
                return False
            self._change(self._addresses, name, int(memory))
            return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        with self._used("set_output_allocator()") as engine:
            if output_allocator is not None:
                checked_overridable(output_allocator, self.library.module.IOutputAllocator, "set_output_allocator()")
            if name not in engine._outputs:
                self._log("ERROR", f"IExecutionContext::setOutputAllocator: {name!r} is no output")
                return False
            self._change(self._allocators, name, output_allocator)
            return True

    def get_output_allocator(self, name: str) -> Any:
        return self._allocators.get(name)

    def infer_shapes(self) -> list[str]:
        with self._used("infer_shapes()") as engine:
            return self._missing(engine)

    @property
    def all_binding_shapes_specified(self) -> bool:
        with self._used("all_binding_shapes_specified") as engine:
            return not any(name not in self._known_shapes(engine) for name in engine._inputs)

    @property
    @versions(until=(11, 0))
    def all_shape_inputs_specified(self) -> bool:
        with self._used("all_shape_inputs_specified") as engine:
            return all(self._addresses.get(name) for name in engine._shape_inputs)

    def get_tensor_shape(self, name: str) -> Dims:
        with self._used("get_tensor_shape()") as engine:
            shape = self._shape(engine, name)
            return self.library.module.Dims(shape)

    def get_max_output_size(self, name: str) -> int:
        with self._used("get_max_output_size()") as engine:
            shape = self._shape(engine, name)
            size = math.prod(shape) * numpy_dtype(engine._data_type(name)).itemsize
            return -1 if -1 in shape else -(-size // ALIGNMENT) * ALIGNMENT

    def _shape(self, engine: Any, name: str) -> tuple[int, ...]:
        declared = tuple(engine.get_tensor_shape(name))
        if name in engine._inputs:
            return self._known_shapes(engine).get(name, declared)
        if name in engine._data_dependent or self._missing(engine):
            return declared
        shapes = self._output_shapes(engine)
        return declared if shapes is None else shapes[name]

    def _known_shapes(self, engine: Any) -> dict[str, tuple[int, ...]]:
        declared = {name: tuple(engine.get_tensor_shape(name)) for name in engine._inputs}
        static = {name: shape for name, shape in declared.items() if -1 not in shape}
        return static | self._shapes

    def _missing(self, engine: Any) -> list[str]:
        known = self._known_shapes(engine)
        without_shape = {name for name in engine._inputs if name not in known}
        without_values = {name for name in engine._shape_inputs if not self._addresses.get(name)}
        return [name for name in engine._inputs if name in without_shape | without_values]

    def _shape_values(self, engine: Any) -> dict[str, Array]:
        """Reads the shape inputs, which lie in host memory."""
        values = {}
        for name in engine._shape_inputs:
            shape, dtype = self._known_shapes(engine)[name], numpy_dtype(engine._data_type(name))
            size = math.prod(shape) * dtype.itemsize
            address = self._addresses[name]
            self.library.driver.memory.check_host(address, size, f"the shape input {name!r}")
            values[name] = host_bytes(address, size).copy().view(dtype).reshape(shape)
        return values

    def _output_shapes(self, engine: Any) -> dict[str, tuple[int, ...]] | None:
        try:
            shapes = engine._program.output_shapes(self._known_shapes(engine), self._shape_values(engine))
        except Exception as error:
            self._log("ERROR", f"IExecutionContext: shapes cannot be inferred: {error}")
            return None
        return dict(zip(engine._outputs, shapes, strict=True))

    def execute_v2(self, bindings: Any) -> bool:
        self.library.violations.fail("execute_v2() is not simulated; use execute_async_v3()")

    def execute_async_v3(self, stream_handle: int) -> bool:
        with self._used("execute_async_v3()") as engine:
            time.sleep(0.0002)  # The real call releases the interpreter's lock, so that other threads come in between.
            stream = self.library.driver.streams.stream(stream_handle)
            if stream_handle == 0:
                self._log("WARNING", "using the default stream in enqueueV3() may lead to performance issues")
            if engine._missing:
                self.library.violations.fail(
                    f"a stripped engine runs without its weights: {sorted(engine._missing)[:3]}"
                )
            current = self.library.driver.current_device()
            if current is not None and current != self._device:
                self.library.violations.fail(f"an engine of device {self._device} runs while {current} is current")
            fault = self._enqueue_fault(engine)
            if fault is None and stream.capture is not None:
                fault = self._capture_fault(engine)
                if fault is not None:
                    stream.capture.invalid = fault
            if fault is not None:
                self._log("ERROR", f"IExecutionContext::enqueueV3: Error Code 3: API Usage Error ({fault})")
                return False
            if engine._data_dependent:
                return run_data_dependent(self, engine, stream_handle)
            if not enqueue(self, engine, stream_handle):
                return False
            self._warm.add(self._warm_key(engine))
            return True

    def _enqueue_fault(self, engine: Any) -> str | None:
        if self._profile < 0:
            return "no optimization profile is selected"
        known = self._known_shapes(engine)
        if missing := [name for name in engine._inputs if name not in known]:
            return f"the shape of input {missing[0]!r} is not set"
        for name in (*engine._inputs, *engine._outputs):
            address = self._addresses.get(name, 0)
            if name in engine._outputs and self._allocators.get(name) is not None:
                continue
            if name in engine._data_dependent:
                return f"output {name!r} has a data-dependent shape and no output allocator"
            if not address:
                return f"neither address nor allocator is set for {name!r}"
            if name not in engine._shape_inputs and address % ALIGNMENT:
                return f"the address {address:#x} of {name!r} is not aligned to {ALIGNMENT} bytes"
        for index, bounds in enumerate(self._plan.values):
            for name, (low, _, high) in bounds.items() if index == self._profile else ():
                values = self._shape_values(engine)[name].ravel().tolist()
                if not all(a <= value <= b for a, value, b in zip(low, values, high, strict=True)):
                    return f"the values {values} of shape input {name!r} are outside of profile {index}"
        return None if self._output_shapes(engine) is not None else "shapes cannot be inferred"

    def _capture_fault(self, engine: Any) -> str | None:
        if engine._data_dependent:
            return "outputs of data-dependent shape cannot be captured"
        if self._warm_key(engine) not in self._warm:
            return "enqueueV3 was not called with these shapes before the capture, and sets itself up in the first call"
        return None

    def _warm_key(self, engine: Any) -> Any:
        values = {name: array.tobytes() for name, array in self._shape_values(engine).items()}
        return tuple(sorted(self._known_shapes(engine).items())), tuple(sorted(values.items()))
