"""Sessions that run all ops on the thread of their caller: no kernel waits there for a thread that never comes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.engine_graphs import (
    batch_of,
    blob,
    counters,
    dense,
    dense_fallback,
    dense_graph,
    dense_onnx,
    dense_weights,
    engine_op,
    tf1,
)

THREADS, CALLS = 4, 25
SECONDS = 120
"""A call that waits for itself would wait for ever."""

pytestmark = pytest.mark.usefixtures("fresh_statistics")

by_configuration = tf1.ConfigProto(inter_op_parallelism_threads=-1)
by_call = tf1.RunOptions(inter_op_thread_pool=-1)


def in_threads(function: Callable[[int], Any]) -> None:
    """Runs function(i) on several threads, and fails where they do not come to an end."""
    pool = ThreadPoolExecutor(THREADS)
    for future in [pool.submit(function, index) for index in range(THREADS)]:
        future.result(timeout=SECONDS)
    pool.shutdown()


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(("config", "options"), [(by_configuration, None), (None, by_call)], ids=["session", "call"])
def test_engine_and_fallback(runtime: str, config: Any, options: Any) -> None:
    graph, x, y = dense_graph(engine=blob(dense_onnx(), runtime), runtime=runtime, fallback=True)

    def calls(index: int) -> None:
        for step in range(CALLS):
            # Engines leave batches without rows to the fallback.
            rows = batch_of(1 + (index + step) % 8 if step % 2 else 0, seed=step)
            np.testing.assert_allclose(session.run(y, {x: rows}, options), dense(rows), rtol=1e-5, atol=1e-5)

    with tf1.Session(graph=graph, config=config) as session:
        in_threads(calls)
    assert counters()["runs"] == THREADS * (CALLS // 2)
    assert counters()["fallback_runs"] == THREADS * (CALLS - CALLS // 2)


def test_engine_inside_of_functional_control_flow() -> None:
    with tf1.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, None], name="x")
        weights = [tf.constant(weight) for weight in dense_weights()]

        def body(step: tf.Tensor, value: tf.Tensor) -> list[tf.Tensor]:
            (product,) = engine_op(
                [value], weights, [tf.float32], engine=blob(dense_onnx(batch=3)), fallback=dense_fallback()
            )
            product.set_shape([None, None])
            return [step + 1, tf.cond(tf.equal(step % 2, 0), lambda: tf.tanh(product), lambda: -tf.tanh(product))]

        tf1.enable_control_flow_v2()
        try:
            _, y = tf.while_loop(lambda step, _: step < 4, body, [tf.constant(0), x])
        finally:
            tf1.disable_control_flow_v2()

    def calls(index: int) -> None:
        for step in range(CALLS):
            rows = expected = batch_of(3 if step % 2 else 1 + index, seed=step)
            for turn in range(4):
                expected = np.tanh(dense(expected)) * (-1 if turn % 2 else 1)
            np.testing.assert_allclose(session.run(y, {x: rows}), expected, rtol=1e-4, atol=1e-4)

    with tf1.Session(graph=graph, config=by_configuration) as session:
        in_threads(calls)
    assert counters()["fallback_runs"] > 0 < counters()["runs"]
