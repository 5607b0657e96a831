"""Engines written in Python that take addresses, and TensorFlow's threads in the interpreter."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tests.ops.engine_graphs import HIDDEN, batch_of, blob, counters, dense_session, engine_op, tf1
from tf_opt.ops import python_outputs, python_runtime
from tf_opt.ops.python_runtime import Array, Outputs, RawArray, RawOutputs

pytestmark = pytest.mark.usefixtures("fresh_statistics")

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.int32, np.int64, np.uint8, np.bool_]


class RawEcho:
    """Gives its inputs back, by addresses alone."""

    def run_on_addresses(self, inputs: Sequence[RawArray], outputs: RawOutputs) -> None:
        for index, (address, shape, dtype) in enumerate(inputs):
            taken = outputs.allocate(index, shape, dtype)
            assert (taken == 0) == (math.prod(shape) == 0)
            ctypes.memmove(taken, address, math.prod(shape) * dtype.itemsize)


@pytest.mark.parametrize("dims", [(), (3,), (2, 1, 4)], ids=str)
def test_every_type_and_rank_crosses(dims: tuple[int, ...]) -> None:
    python_runtime.register("python_raw", lambda definition: RawEcho())
    generator = np.random.default_rng(3)
    values = [np.asarray(generator.integers(0, 2, dims)).astype(dtype) for dtype in DTYPES]
    with tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        inputs = [tf1.placeholder(value.dtype, dims) for value in values]
        types = [tf.as_dtype(value.dtype) for value in values]
        echoed = engine_op(inputs, [], types, runtime="python_raw", engine=blob(b""))
        results = session.run(echoed, dict(zip(inputs, values, strict=True)))
    for value, result in zip(values, results, strict=True):
        assert result.dtype == value.dtype
        np.testing.assert_array_equal(result, value)
    assert counters()["copied_bytes"] == 0


def test_an_output_without_elements_has_no_address() -> None:
    addresses: list[int] = []

    class Empty:
        def run_on_addresses(self, inputs: Sequence[RawArray], outputs: RawOutputs) -> None:
            addresses.append(outputs.allocate(0, (0, HIDDEN), np.float32))

    python_runtime.register("python_raw", lambda definition: Empty())
    with dense_session(runtime="python_raw") as run:
        assert run(batch_of(2)).shape == (0, HIDDEN)
    assert addresses == [0]


def test_an_adopted_array_is_the_result() -> None:
    class Adopting:
        def run_on_addresses(self, inputs: Sequence[RawArray], outputs: RawOutputs) -> None:
            result: Array = np.full(inputs[0].shape, 7, inputs[0].dtype)
            outputs.adopt(0, result, result)

    python_runtime.register("python_raw", lambda definition: Adopting())
    with dense_session(runtime="python_raw") as run:
        np.testing.assert_array_equal(run(batch_of(2)), np.full((2, HIDDEN), 7, np.float32))


def test_a_refused_output_is_an_error() -> None:
    class Wrong:
        def run_on_addresses(self, inputs: Sequence[RawArray], outputs: RawOutputs) -> None:
            outputs.allocate(0, inputs[0].shape, np.float64)

    python_runtime.register("python_raw", lambda definition: Wrong())
    with dense_session(runtime="python_raw") as run, pytest.raises(tf.errors.InternalError, match="dtype double"):
        run(batch_of(1))


def test_outputs_are_of_no_use_after_the_run() -> None:
    kept: list[RawOutputs] = []

    class Keeping(RawEcho):
        def run_on_addresses(self, inputs: Sequence[RawArray], outputs: RawOutputs) -> None:
            kept.append(outputs)
            super().run_on_addresses(inputs, outputs)

    python_runtime.register("python_raw", lambda definition: Keeping())
    with dense_session(runtime="python_raw") as run:
        run(batch_of(2))
    with pytest.raises(python_outputs.EngineOutputError, match="after the run had returned"):
        kept[0].allocate(0, (2, HIDDEN), np.float32)


class Counting:
    """Counts the runs of each thread in a value that the interpreter drops with the thread's state."""

    def __init__(self) -> None:
        self.local = threading.local()
        self.runs: dict[int, list[int]] = {}
        self.threads: set[int] = set()

    def run(self, inputs: Sequence[Array], outputs: Outputs) -> None:
        self.local.count = getattr(self.local, "count", 0) + 1
        self.runs.setdefault(threading.get_ident(), []).append(self.local.count)
        self.threads.add(threading.get_native_id())
        outputs.allocate(0, inputs[0].shape, np.float32)[...] = inputs[0]


def run_with_own_threads(engine: Any, runs: int) -> None:
    """Runs an engine in a Session with one thread of its own, which ends with the Session."""
    python_runtime.register("python_counting", lambda definition: engine)
    config = tf1.ConfigProto(inter_op_parallelism_threads=1, use_per_session_threads=True)
    with tf1.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, HIDDEN])
        (y,) = engine_op([x], [], [tf.float32], runtime="python_counting", engine=blob(b""))
    with tf1.Session(graph=graph, config=config) as session:
        for _ in range(runs):
            session.run(y, {x: batch_of(1)})


def test_the_interpreter_knows_a_thread_from_one_run_to_the_next() -> None:
    engine = Counting()
    run_with_own_threads(engine, 5)
    assert threading.get_ident() not in engine.runs
    (counts,) = engine.runs.values()
    assert counts == [1, 2, 3, 4, 5]


def test_threads_that_ran_an_engine_end_with_their_session() -> None:
    engine = Counting()
    for _ in range(5):
        run_with_own_threads(engine, 2)
    assert engine.threads
    # Those of the engine alone: what else a process does starts and ends threads at any time.
    assert not engine.threads & {int(path.name) for path in Path("/proc/self/task").iterdir()}
