"""Questions to a TensorRT: right and wrong calls, and what it answers.

The same code asks the simulator and, on a machine with a GPU, the real library, so that the answers can be compared::

    python -m tests.simulators.tensorrt.questions --real ANSWERS.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.simulators.tensorrt import models

Array = npt.NDArray[Any]
Bounds = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

BATCHES: dict[str, Bounds] = {"x": ((1, 8), (4, 8), (16, 8))}


class Asked:
    """A TensorRT, a driver, and what is needed to ask something."""

    def __init__(self, tensorrt: Any, driver: Any) -> None:
        self.trt = tensorrt
        self.driver = driver
        driver.activate(0)
        self.stream = driver.create_stream()
        self.log = logger(tensorrt)
        # A Runtime has to outlive its engines, an engine its contexts.
        self._kept: list[Any] = []

    def upload(self, array: Array, shift: int = 0) -> int:
        """Returns the address of a copy in device memory."""
        array = np.ascontiguousarray(array)
        address: int = self.driver.allocate(max(array.nbytes, 1) + shift)
        self.driver.copy_to_device(address + shift, array.ctypes.data, array.nbytes, self.stream)
        return address + shift

    def download(self, address: int, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        """Waits for the stream, and returns what lies in device memory."""
        array = np.empty(shape, dtype)
        self.driver.copy_to_host(array.ctypes.data, address, array.nbytes, self.stream)
        self.driver.synchronize_stream(self.stream)
        return array

    def parsed(self, model: bytes, *, strong: bool = True) -> tuple[Any, Any, Any, list[str]]:
        """Returns builder, network, configuration, and the parser's errors."""
        builder = self.trt.Builder(self.log)
        flags = 0
        wanted = ("EXPLICIT_BATCH", "STRONGLY_TYPED") if strong else ("EXPLICIT_BATCH",)
        for name in wanted:
            if hasattr(self.trt.NetworkDefinitionCreationFlag, name):
                flags |= 1 << int(getattr(self.trt.NetworkDefinitionCreationFlag, name))
        network = builder.create_network(flags)
        parser = self.trt.OnnxParser(network, self.log)
        errors = []
        if not parser.parse(model):
            errors = [described(parser.get_error(index)) for index in range(parser.num_errors)]
        config = builder.create_builder_config()
        config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, 1 << 28)
        # These models need no library besides TensorRT's own.
        members = self.trt.TacticSource.__members__
        own = [source for name, source in members.items() if name not in ("CUBLAS", "CUBLAS_LT", "CUDNN")]
        config.set_tactic_sources(sum(1 << int(source) for source in own))
        return builder, network, config, errors

    def plan(
        self,
        model: bytes,
        shapes: Mapping[str, Bounds] | None = None,
        values: Mapping[str, Bounds] | None = None,
        flags: tuple[str, ...] = (),
    ) -> Any:
        """Returns a serialized engine with one optimization profile, None where the builder refuses."""
        builder, network, config, errors = self.parsed(model)
        assert not errors, errors
        for flag in flags:
            config.set_flag(getattr(self.trt.BuilderFlag, flag))
        self.add_profile(builder, config, BATCHES if shapes is None else shapes, values)
        return builder.build_serialized_network(network, config)

    def add_profile(
        self, builder: Any, config: Any, shapes: Mapping[str, Bounds], values: Mapping[str, Bounds] | None = None
    ) -> int:
        """Adds an optimization profile; returns what `add_optimization_profile` does."""
        profile = builder.create_optimization_profile()
        for name, bounds in shapes.items():
            profile.set_shape(name, *bounds)
        for name, bounds in (values or {}).items():
            profile.set_shape_input(name, *bounds)
        return int(config.add_optimization_profile(profile))

    def engine(self, *arguments: Any, **keywords: Any) -> Any:
        """Builds an engine; arguments as for `plan`."""
        plan = self.plan(*arguments, **keywords)
        assert plan is not None, self.log.lines
        return self.load(plan)

    def load(self, plan: Any) -> Any:
        """Returns the engine of a plan, None where it is refused."""
        runtime = self.trt.Runtime(self.log)
        engine = runtime.deserialize_cuda_engine(plan)
        self._kept += [runtime, engine]
        return engine

    def context(self, engine: Any = None) -> Any:
        """Returns a context, by default of an engine for `models.dense`."""
        context = (engine or self.engine(models.dense())).create_execution_context()
        assert context is not None
        self._kept.append(context)
        return context

    def bound(self, rows: int = 5, *, skip: str = "", shift: int = 0) -> Bound:
        """Returns a context of `models.dense` that is ready to run, except for what is skipped or shifted."""
        context = self.context()
        array = np.random.default_rng(0).standard_normal((rows, 8)).astype(np.float32)
        out: int = self.driver.allocate(rows * 16)
        if skip != "shape":
            assert context.set_input_shape("x", (rows, 8))
        if skip != "x":
            context.set_tensor_address("x", self.upload(array, shift))
        if skip != "y":
            context.set_tensor_address("y", out)
        return Bound(self, context, out, np.maximum(array @ models.WEIGHTS, 0))


@dataclass
class Bound:
    """A context, where its output goes, and what has to come out."""

    asked: Asked
    context: Any
    out: int
    wanted: Array

    def run(self) -> bool:
        """Queues the work; returns whether TensorRT takes it."""
        return bool(self.context.execute_async_v3(self.asked.stream))

    def is_right(self) -> bool:
        """Waits, and returns whether the right values came out."""
        return bool(np.allclose(self.asked.download(self.out, self.wanted.shape), self.wanted, atol=1e-3))


def logger(tensorrt: Any) -> Any:
    """Returns a logger of a TensorRT that keeps warnings and errors in `lines`."""

    class Log(tensorrt.ILogger):
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(tensorrt.ILogger.Severity.WARNING):
                self.lines.append(f"{severity}: {msg}"[:300])

    return Log()


def described(error: Any) -> str:
    """Returns a parser's error in words; before version 10 it names its node by the position alone."""
    if hasattr(error, "node_name"):
        return f"{error.node_name()} {error.node_operator()}: {error.desc()}"
    return f"node {error.node()}: {error.desc()}"


def growing_allocator(asked: Asked) -> Any:
    """Returns an output allocator that keeps what it was asked in `seen`, and its last address in `address`."""

    class Allocator(asked.trt.IOutputAllocator):
        def __init__(self) -> None:
            asked.trt.IOutputAllocator.__init__(self)
            self.seen: list[Any] = []
            self.address = 0

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            self.seen.append(["allocate", tensor_name, size > 0])
            self.address = asked.driver.allocate(max(size, 1))
            return self.address

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.seen.append(["shape", tensor_name, list(shape)])

    return Allocator()


def _run(**keywords: Any) -> Callable[[Asked], Any]:
    def ask(asked: Asked) -> Any:
        bound = asked.bound(**keywords)
        return [True, bound.is_right()] if bound.run() else [False, None]

    return ask


def _describe(
    model: Callable[[], bytes], shapes: Mapping[str, Bounds] = BATCHES, values: Mapping[str, Bounds] | None = None
) -> Callable[[Asked], Any]:
    def ask(asked: Asked) -> Any:
        engine = asked.engine(model(), shapes, values)
        context = asked.context(engine)
        return {
            name: [
                engine.get_tensor_mode(name).name,
                engine.get_tensor_dtype(name).name,
                list(engine.get_tensor_shape(name)),
                engine.get_tensor_location(name).name,
                bool(engine.is_shape_inference_io(name)),
                list(context.get_tensor_shape(name)),
            ]
            for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
        }

    return ask


def _profile(low: Any, middle: Any, high: Any, name: str = "x") -> Callable[[Asked], Any]:
    def ask(asked: Asked) -> Any:
        builder, network, config, _ = asked.parsed(models.dense())
        added = asked.add_profile(builder, config, {name: (low, middle, high)})
        return [added, builder.build_serialized_network(network, config) is not None]

    return ask


def _shape(*shape: int, name: str = "x") -> Callable[[Asked], Any]:
    def ask(asked: Asked) -> Any:
        context = asked.context()
        return [bool(context.set_input_shape(name, shape)), list(context.get_tensor_shape("y"))]

    return ask


def _no_profile(asked: Asked) -> Any:
    builder, network, config, _ = asked.parsed(models.dense())
    return builder.build_serialized_network(network, config) is not None


def _integer_type(engine: Any, name: str) -> npt.DTypeLike:
    """Returns the NumPy type of an integer tensor; before version 10, int64 is held as int32."""
    return np.int64 if engine.get_tensor_dtype(name).name == "INT64" else np.int32


def _data_dependent(asked: Asked) -> Any:
    engine = asked.engine(models.non_zero())
    context = asked.context(engine)
    context.set_input_shape("x", (2, 8))
    context.set_tensor_address("x", asked.upload(np.eye(2, 8, dtype=np.float32)))
    allocator = growing_allocator(asked)
    before = list(context.get_tensor_shape("y"))
    accepted = [bool(context.set_output_allocator("y", allocator)), bool(context.execute_async_v3(asked.stream))]
    found = (
        asked.download(allocator.address, (2, 2), _integer_type(engine, "y")).tolist() if allocator.address else None
    )
    return [before, *accepted, allocator.seen[-1], found]


def _shape_input(asked: Asked) -> Any:
    values = {"s": ((1, 1), (8, 4), (128, 128))}
    engine = asked.engine(models.reshape(), BATCHES, values)
    context = asked.context(engine)
    shape, out = np.array([4, 8], _integer_type(engine, "s")), asked.driver.allocate(128)
    before = list(context.get_tensor_shape("y"))
    context.set_input_shape("x", (4, 8))
    context.set_tensor_address("s", shape.ctypes.data)
    context.set_tensor_address("x", asked.upload(np.ones((4, 8), np.float32)))
    context.set_tensor_address("y", out)
    answers = [before, list(context.infer_shapes()), list(context.get_tensor_shape("y"))]
    answers.append(bool(context.execute_async_v3(asked.stream)))
    return [*answers, float(asked.download(out, (4, 8)).sum())]


def _graph(asked: Asked) -> Any:
    bound, driver = asked.bound(), asked.driver
    bound.run()
    driver.synchronize_stream(asked.stream)
    driver.begin_capture(asked.stream)
    accepted = bound.run()
    graph = driver.end_capture(asked.stream)
    for _ in range(3):
        driver.launch_graph(graph, asked.stream)
    return [accepted, bound.is_right()]


QUESTIONS: dict[str, Callable[[Asked], Any]] = {
    "right": _run(),
    "io of dense": _describe(models.dense),
    "io of reshape": _describe(models.reshape, values={"s": ((1, 1), (8, 4), (128, 128))}),
    "io of int64": _describe(models.integers, {"i": ((1,), (4,), (16,))}),
    "io of nonzero": _describe(models.non_zero),
    "parser errors": lambda asked: len(asked.parsed(models.unsupported())[3]) > 0,
    "no profile": _no_profile,
    "profile min>opt": _profile((5, 8), (4, 8), (16, 8)),
    "profile rank": _profile((1, 8, 1), (4, 8, 1), (16, 8, 1)),
    "profile fixed dim": _profile((1, 7), (4, 8), (16, 9)),
    "profile unknown name": _profile((1, 8), (4, 8), (16, 8), "nope"),
    "profile min 0": _profile((0, 8), (4, 8), (16, 8)),
    "shape in range": _shape(16, 8),
    "shape above": _shape(17, 8),
    "shape below": _shape(0, 8),
    "shape rank": _shape(4, 8, 1),
    "shape fixed dim": _shape(4, 9),
    "shape unknown name": _shape(4, 8, name="nope"),
    "shape of output": _shape(4, 4, name="y"),
    "infer before shapes": lambda asked: list(asked.context().infer_shapes()),
    "run without shape": _run(skip="shape"),
    "run without input": _run(skip="x"),
    "run without output": _run(skip="y"),
    "run misaligned": _run(shift=4),
    "data dependent": _data_dependent,
    "shape input": _shape_input,
    "shape input unset profile": _describe(models.reshape),
    "garbage plan": lambda asked: asked.load(b"x" * 4096) is not None,
    "cuda graph": _graph,
}
"""By the names under which answers are stored."""


def ask(name: str, tensorrt: Any, driver: Any) -> Any:
    """Returns the answer to a question; an exception is an answer too."""
    try:
        return QUESTIONS[name](Asked(tensorrt, driver))
    except Exception as error:
        return type(error).__name__


if __name__ == "__main__":
    from tests.simulators.tensorrt import real_answers

    sys.exit(real_answers.main())
