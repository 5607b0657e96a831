"""Many threads on one engine: right values, calls that overlap, one load, and safe ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from onnx import TensorProto, helper

from tests.ops.engine_graphs import (
    HIDDEN,
    batch_of,
    blob,
    counters,
    dense,
    dense_session,
    engine_op,
    onnx_model,
    tf1,
)

THREADS = 4


pytestmark = pytest.mark.usefixtures("fresh_statistics")


def in_threads(function: Callable[[int], None]) -> None:
    """Runs function(i) in THREADS threads that start together; raises what any of them raised."""
    barrier = threading.Barrier(THREADS)

    def start(index: int) -> None:
        barrier.wait()
        function(index)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(start, range(THREADS)))


def parallel_config() -> tf1.ConfigProto:
    # As many calls at a time as there are threads, however few cores the machine has.
    return tf1.ConfigProto(inter_op_parallelism_threads=THREADS, intra_op_parallelism_threads=2)


def test_concurrent_first_calls_load_once() -> None:
    with dense_session(config=parallel_config()) as run:
        in_threads(
            lambda i: np.testing.assert_allclose(run(batch_of(i + 1)), dense(batch_of(i + 1)), rtol=1e-5, atol=1e-5)
        )

    assert counters()["loads"] == 1
    assert counters()["runs"] == THREADS


def test_concurrent_calls_of_different_shapes_give_the_right_values() -> None:
    def calls(index: int) -> None:
        for step in range(50):
            x = batch_of(1 + (index * 7 + step) % 11, seed=step)
            np.testing.assert_allclose(run(x), dense(x), rtol=1e-5, atol=1e-5)

    with dense_session(config=parallel_config()) as run:
        in_threads(calls)

    assert counters()["runs"] == 50 * THREADS
    assert counters()["copied_bytes"] == 0


CHAIN = 60
SIZE = 128


def chain_onnx() -> bytes:
    """A chain of MatMuls that takes a few milliseconds, so that calls overlap."""
    nodes, value = [], "input_0"
    for index in range(CHAIN):
        last = "output_0" if index == CHAIN - 1 else f"value_{index}"
        nodes.append(helper.make_node("MatMul", [value, "weight_0"], [last]))
        value = last
    return onnx_model(
        nodes,
        [("input_0", TensorProto.FLOAT, ["n", SIZE]), ("weight_0", TensorProto.FLOAT, [SIZE, SIZE])],
        [("output_0", TensorProto.FLOAT, ["n", SIZE])],
    )


@pytest.fixture
def run_chain() -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    with tf1.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, SIZE])
        # A permutation: the product of any number of them is exact.
        weight = tf.constant(np.eye(SIZE, dtype=np.float32)[::-1])
        (y,) = engine_op([x], [weight], [tf.float32], engine=blob(chain_onnx()))
    with tf1.Session(graph=graph, config=parallel_config()) as session:
        yield session.make_callable(y, feed_list=[x])


def test_persistent_overlap_is_served_by_streams(run_chain: Callable[[np.ndarray], np.ndarray]) -> None:
    run_chain(np.ones((1, SIZE), np.float32))  # Nothing is counted before the first call.
    deadline = time.monotonic() + 120

    def calls(index: int) -> None:
        value = np.full((64, SIZE), index, np.float32) + np.arange(SIZE, dtype=np.float32)
        while counters()["concurrent_runs"] < 20 and time.monotonic() < deadline:
            np.testing.assert_array_equal(run_chain(value), value)

    in_threads(calls)

    assert counters()["concurrent_peak"] > 1
    assert counters()["concurrent_runs"] >= 20
    assert counters()["background_failures"] == 0
    assert counters()["copied_bytes"] == 0


def test_lone_calls_never_compile_streams(run_chain: Callable[[np.ndarray], np.ndarray]) -> None:
    for _ in range(100):
        run_chain(np.ones((1, SIZE), np.float32))

    assert counters()["concurrent_peak"] == 1
    assert counters()["concurrent_runs"] == 0


def test_session_may_close_while_engines_compile() -> None:
    for rows in range(1, 6):
        with dense_session(specialize_after=1) as run:
            np.testing.assert_allclose(run(batch_of(rows)), dense(batch_of(rows)), rtol=1e-5, atol=1e-5)


def test_outputs_kept_by_many_threads() -> None:
    kept: list[tuple[int, np.ndarray]] = []

    def calls(index: int) -> None:
        for step in range(30):
            seed = index * 100 + step
            kept.append((seed, run(batch_of(3, seed))))

    with dense_session(config=parallel_config()) as run:
        in_threads(calls)

    for seed, value in kept:
        assert value.shape == (3, HIDDEN)
        np.testing.assert_allclose(value, dense(batch_of(3, seed)), rtol=1e-5, atol=1e-5)
