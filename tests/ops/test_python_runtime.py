"""Engines written in Python behind the op."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tests.ops.engine_graphs import batch_of, blob, counters, dense, dense_graph, dense_session, engine_op, tf1
from tf_opt.ops import python_runtime
from tf_opt.ops.python_runtime import Array, EngineDefinition, Outputs, UnsupportedShapeError

ROOT = Path(__file__).resolve().parents[2]


pytestmark = pytest.mark.usefixtures("fresh_statistics")


class DenseEngine:
    """x @ weight + bias, written into TensorFlow's memory."""

    closed = 0

    def __init__(self, definition: EngineDefinition) -> None:
        assert definition.payload == b"dense"
        self.weights = definition.weights

    def run(self, inputs: Sequence[Array], outputs: Outputs) -> None:
        (x,) = inputs
        if x.shape[0] > 100:
            raise UnsupportedShapeError(f"{x.shape[0]} rows, at most 100")
        out = outputs.allocate(0, (x.shape[0], self.weights[0].shape[1]), np.float32)
        np.matmul(x, self.weights[0], out=out)
        out += self.weights[1]

    def close(self) -> None:
        DenseEngine.closed += 1


def test_values_shapes_and_weights() -> None:
    python_runtime.register("python_dense", DenseEngine)
    with dense_session(runtime="python_dense", engine=blob(b"dense")) as run:
        for rows in (1, 5, 2):
            np.testing.assert_allclose(run(batch_of(rows)), dense(batch_of(rows)), rtol=1e-5, atol=1e-5)
        assert counters()["runs"] == 3
        assert counters()["copied_bytes"] == 0


def test_the_engine_is_closed_with_the_session() -> None:
    python_runtime.register("python_dense", DenseEngine)
    graph, x, y = dense_graph(engine=blob(b"dense"), runtime="python_dense")
    session = tf1.Session(graph=graph)
    session.run(y, {x: batch_of(2)})
    closed = DenseEngine.closed
    session.close()
    del session
    assert DenseEngine.closed == closed + 1


def test_unsupported_shape_runs_the_fallback() -> None:
    python_runtime.register("python_dense", DenseEngine)
    with dense_session(runtime="python_dense", engine=blob(b"dense"), fallback=True) as run:
        np.testing.assert_allclose(run(batch_of(101)), dense(batch_of(101)), rtol=1e-4, atol=1e-4)

    assert counters()["fallback_runs"] == 1


def test_unsupported_shape_without_a_fallback() -> None:
    python_runtime.register("python_dense", DenseEngine)
    session = dense_session(runtime="python_dense", engine=blob(b"dense"))
    with session as run, pytest.raises(tf.errors.InvalidArgumentError, match="101 rows, at most 100"):
        run(batch_of(101))


class Raising:
    def run(self, inputs: Sequence[Array], outputs: Outputs) -> None:
        raise LookupError("nothing here: äöü")


def test_exception_in_run_carries_type_and_text() -> None:
    python_runtime.register("python_raising", lambda definition: Raising())
    with dense_session(runtime="python_raising", fallback=True) as run:
        for _ in range(2):
            with pytest.raises(tf.errors.InternalError, match="LookupError: nothing here: äöü"):
                run(batch_of(1))


def test_exception_in_the_loader_carries_type_and_text() -> None:
    def loader(definition: EngineDefinition) -> Raising:
        raise OSError("no such engine")

    python_runtime.register("python_no_loader", loader)
    session = dense_session(runtime="python_no_loader")
    with session as run, pytest.raises(tf.errors.InternalError, match="OSError: no such engine"):
        run(batch_of(1))
    assert counters()["load_failures"] == 1


class WrongOutput:
    def __init__(self, index: int, dtype: Any) -> None:
        self.index, self.dtype = index, dtype

    def run(self, inputs: Sequence[Array], outputs: Outputs) -> None:
        if self.index >= 0:
            outputs.allocate(self.index, inputs[0].shape, self.dtype)


@pytest.mark.parametrize(
    ("index", "dtype", "message"),
    [
        (0, np.float64, "output 0 dtype double, the node's is float"),
        (1, np.float32, "wrote output 1, the node has 1"),
        (-1, np.float32, "left out output 0"),
    ],
)
def test_wrong_outputs_are_errors(index: int, dtype: Any, message: str) -> None:
    python_runtime.register("python_wrong", lambda definition: WrongOutput(index, dtype))
    with dense_session(runtime="python_wrong") as run, pytest.raises(tf.errors.InternalError, match=message):
        run(batch_of(1))


class Echo:
    """Gives its inputs back."""

    def run(self, inputs: Sequence[Array], outputs: Outputs) -> None:
        for index, value in enumerate(inputs):
            assert not value.flags.writeable
            outputs.allocate(index, value.shape, value.dtype)[...] = value


DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.int32, np.int64, np.uint8, np.bool_]


@pytest.mark.parametrize("dims", [(), (3,), (2, 1, 4)], ids=["scalar", "vector", "rank3"])
def test_dtypes_and_ranks(dims: tuple[int, ...]) -> None:
    python_runtime.register("python_echo", lambda definition: Echo())
    values = [np.random.default_rng(0).integers(0, 2, dims).astype(dtype) for dtype in DTYPES]
    types = [tf.as_dtype(dtype) for dtype in DTYPES]
    with tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        inputs = [tf1.placeholder(dtype) for dtype in types]
        outputs = engine_op(inputs, [], types, engine=blob(b""), runtime="python_echo")
        results = session.run(outputs, dict(zip(inputs, values, strict=True)))

    for value, result in zip(values, results, strict=True):
        assert result.dtype == value.dtype
        np.testing.assert_array_equal(result, value)


def test_the_process_ends_well_with_an_engine_in_use() -> None:
    script = """
import threading
import numpy as np
from tests.ops.engine_graphs import batch_of, blob, dense_graph, tf1
from tests.ops.test_python_runtime import DenseEngine
from tf_opt.ops import python_runtime

python_runtime.register("python_dense", DenseEngine)
graph, x, y = dense_graph(runtime="python_dense", engine=blob(b"dense"))
session = tf1.Session(graph=graph)
ready = threading.Event()

def work():
    try:
        while True:
            session.run(y, {x: batch_of(3)})
            ready.set()
    except Exception as error:
        assert "shutting down" in str(error) or "closed" in str(error), error

threading.Thread(target=work, daemon=True).start()
assert ready.wait(300)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )

    # Before 3.14 Python ends a thread that wants back in by pthread_exit, which TensorFlow's frames on its stack may
    # turn into an abort with this message. The op's own frames are gone by then.
    ended_by_python = "FATAL: exception not rethrown" in result.stderr
    assert result.returncode == 0 or ended_by_python, result.stderr
    assert "Fatal" not in result.stderr
