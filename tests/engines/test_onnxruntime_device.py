"""The engine on a GPU's memory: what is bound, what is copied, and in which order streams wait.

A session of the CPU stands for one of a GPU: what is bound as "cuda" is host memory. This says nothing of kernels or
speed; tests marked `gpu` ask a GPU.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from onnx import TensorProto, helper

import tf_opt
from tests.engines.onnx_models import Array, address_of, definition_of, model_of, relu_model
from tests.small_graphs import engine_nodes, feed, mlp, run_graph_def
from tf_opt.engines.onnxruntime import load_engine, providers
from tf_opt.engines.onnxruntime.device_engine import DeviceEngine
from tf_opt.engines.onnxruntime.session import create_session
from tf_opt.engines.tensorrt import cuda
from tf_opt.errors import EngineRunError
from tf_opt.ops.python_runtime import DeviceArray, UnsupportedShapeError

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
DEVICE, STREAM, OTHER_STREAM = 1, 0x10, 0x20
WEIGHTS = [np.arange(12, dtype=np.float32).reshape(4, 3), np.ones(3, np.float32)]


class Driver:
    """Notes what it is asked to do, in order; copies at once."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def note(*arguments: Any) -> int:
            self.log.append((name, *arguments))
            return len(self.log)  # As the number of an event.

        return note

    def copy_on_device(self, destination: int, source: int, size: int, stream: int) -> None:
        self.log.append(("copy", size, stream))
        ctypes.memmove(destination, source, size)


class Binding:
    """A binding in which the GPU's memory is host memory."""

    _iobinding = None  # Devices are checked by their names.

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def bind_input(self, name: str, device: str, ordinal: int, *rest: Any) -> None:
        assert (device, ordinal) == ("cuda", DEVICE)
        self.inner.bind_input(name, "cpu", 0, *rest)

    def bind_output(self, name: str, device: str, ordinal: int, *rest: Any) -> None:
        assert (device, ordinal) == ("cuda", DEVICE)
        self.inner.bind_output(name, "cpu", 0, *rest)


class Session:
    """A session of the CPU that takes what is bound for a GPU, and notes its runs."""

    def __init__(self, inner: Any, log: list[tuple[Any, ...]]) -> None:
        self.inner, self.log = inner, log

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def io_binding(self) -> Binding:
        return Binding(self.inner.io_binding())

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        waits = options.get_run_config_entry("disable_synchronize_execution_providers") != "1"
        self.log.append(("run", waits))
        self.inner.run_with_iobinding(binding.inner, options)


class DeviceOutputs:
    """Plays TensorFlow's allocator."""

    def __init__(self) -> None:
        self.arrays: dict[int, Array] = {}

    def allocate(self, index: int, shape: Sequence[int], dtype: npt.DTypeLike) -> int:
        self.arrays[index] = np.full(tuple(shape), 77, dtype)
        return int(self.arrays[index].__array_interface__["data"][0]) if math.prod(shape) else 0


def run(engine: DeviceEngine, *inputs: Array, stream: int = STREAM) -> list[Array]:
    outputs = DeviceOutputs()
    given = [DeviceArray(address_of(array), array.shape, array.dtype) for array in inputs]
    engine.run_on_device(given, outputs, stream)
    return [outputs.arrays[index] for index in sorted(outputs.arrays)]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr(cuda, "cuda_driver", lambda: made)
    return made


def engine_of(driver: Driver, model: bytes, weights: Sequence[Array] = ()) -> DeviceEngine:
    def make_session(stream: int) -> Session:
        driver.log.append(("session", stream))
        return Session(create_session(model, "cpu", threads=1, weights=weights), driver.log)

    return DeviceEngine(DEVICE, make_session)


def expected(x: Array) -> Array:
    return np.maximum(x @ WEIGHTS[0] + WEIGHTS[1], 0)


def test_the_session_gets_the_stream_of_the_first_call_and_nothing_waits(driver: Driver) -> None:
    engine = engine_of(driver, relu_model(), WEIGHTS)
    assert driver.log == []
    for count in (2, 2, 3):
        x = np.ones((count, 4), np.float32) * count
        np.testing.assert_array_equal(run(engine, x)[0], expected(x))
    calls = [call for call in driver.log if call[0] != "activate"]
    # The first run of a shape copies its output on the GPU; the next one writes it where TensorFlow wants it.
    assert calls == [
        ("session", STREAM),
        ("run", False),
        ("copy", 2 * 3 * 4, STREAM),
        ("run", False),
        ("run", False),
        ("copy", 3 * 3 * 4, STREAM),
    ]
    assert ("activate", DEVICE) in driver.log


def test_another_stream_is_ordered_before_and_after(driver: Driver) -> None:
    engine = engine_of(driver, relu_model(), WEIGHTS)
    x = np.ones((2, 4), np.float32)
    run(engine, x)
    driver.log.clear()
    run(engine, x, stream=OTHER_STREAM)
    names = [call[0] for call in driver.log]
    assert names == [
        "activate",
        *("create_event", "record_event", "wait_event", "destroy_event"),
        "run",
        *("create_event", "record_event", "wait_event", "destroy_event"),
    ]
    records = [call[2] for call in driver.log if call[0] == "record_event"]
    waits = [call[1] for call in driver.log if call[0] == "wait_event"]
    assert records == [OTHER_STREAM, STREAM]
    assert waits == [STREAM, OTHER_STREAM]


def test_another_stream_is_ordered_after_an_error_too(driver: Driver) -> None:
    nodes = [helper.make_node("MatMul", ["input_0", "input_1"], ["output_0"])]
    model = model_of(nodes, {"input_0": (FLOAT, [None, None]), "input_1": (FLOAT, [None, None])}, {"output_0": FLOAT})
    engine = engine_of(driver, model)
    two = np.ones((2, 2), np.float32)
    run(engine, two, two)
    driver.log.clear()
    with pytest.raises(UnsupportedShapeError, match=r"(?s)input_1\[3,2\].*MatMul"):
        run(engine, two, np.ones((3, 2), np.float32), stream=OTHER_STREAM)
    assert [call[1] for call in driver.log if call[0] == "wait_event"] == [STREAM, OTHER_STREAM]


def test_shapes_that_depend_on_values(driver: Driver) -> None:
    one = {"one": np.ones(1, np.float32)}
    nodes = [
        helper.make_node("NonZero", ["input_0"], ["output_0"]),
        helper.make_node("Add", ["input_0", "one"], ["output_1"]),
    ]
    model = model_of(nodes, {"input_0": (FLOAT, ["n"])}, {"output_0": INT64, "output_1": FLOAT}, one)
    engine = engine_of(driver, model)
    for bits in ([1, 0, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]):
        x = np.array(bits, np.float32)
        found, sums = run(engine, x)
        np.testing.assert_array_equal(found, np.stack(np.nonzero(x)))
        np.testing.assert_array_equal(sums, x + 1)


def test_an_input_that_is_an_output(driver: Driver) -> None:
    nodes = [helper.make_node("Relu", ["input_0"], ["output_0"])]
    engine = engine_of(driver, model_of(nodes, {"input_0": (FLOAT, ["n"])}, {"output_0": FLOAT, "input_0": FLOAT}))
    for value in (-1, -2, -3):
        x = np.full(3, value, np.float32)
        computed, passed = run(engine, x)
        np.testing.assert_array_equal(passed, x)
        np.testing.assert_array_equal(computed, 0 * x)


def test_empty_tensors(driver: Driver) -> None:
    engine = engine_of(driver, relu_model(), WEIGHTS)
    for _ in range(2):
        assert run(engine, np.ones((0, 4), np.float32))[0].shape == (0, 3)


def test_host_memory_is_refused(driver: Driver) -> None:
    with pytest.raises(EngineRunError, match="run_on_device"):
        engine_of(driver, relu_model(), WEIGHTS).run([], None)


def test_close_waits_for_the_gpu(driver: Driver) -> None:
    engine = engine_of(driver, relu_model(), WEIGHTS)
    engine.close()  # Nothing was loaded.
    run(engine, np.ones((1, 4), np.float32))
    engine.close()
    assert ("synchronize_stream", STREAM) in driver.log


def test_only_an_engine_for_a_gpu_on_a_gpu_takes_its_memory(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    monkeypatch.setattr("tf_opt.engines.onnxruntime.runtime.unavailable_reason", lambda provider: None)
    header = {"runtime": "onnxruntime", "provider": "cuda"}
    assert hasattr(load_engine(definition_of(relu_model(), WEIGHTS, header=header, device=0)), "run_on_device")
    on_cpu = load_engine(definition_of(relu_model(), WEIGHTS, device=0))
    assert not hasattr(on_cpu, "run_on_device")


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="needs onnxruntime-gpu"
)
def test_on_a_gpu_in_a_session() -> None:
    assert providers.unavailable_reason("cuda") is None
    optimizer = tf_opt.Tf2TrtOpt(engine="onnxruntime", adopt="always", cache=False, progress=False)
    graph_def = mlp()
    optimized = optimizer.optimize_graph_def(graph_def, ["y:0"], [feed()])
    assert engine_nodes(optimized)
    assert str(optimizer.report.segments[0].library).endswith("(cuda)")
    for batch in (1, 5, 5, 2):
        (original,) = run_graph_def(graph_def, ["y:0"], feed(batch, batch))
        (actual,) = run_graph_def(optimized, ["y:0"], feed(batch, batch))
        np.testing.assert_allclose(actual, original, rtol=1e-4, atol=1e-4)
