"""Frozen graphs as programs for TensorFlow 1 wrote them: placeholders, control flow of plain nodes, TensorArrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

import tf_opt
from tests.small_graphs import engine_nodes, run_graph_def

v1 = tf.compat.v1


@pytest.fixture(autouse=True)
def plain_control_flow() -> Iterator[None]:
    v1.disable_control_flow_v2()
    yield
    v1.enable_control_flow_v2()


def floats(*shape: int) -> np.ndarray:
    return (0.3 * np.random.default_rng(sum(shape)).standard_normal(shape)).astype(np.float32)


def dense(x: tf.Tensor, rows: int, columns: int) -> tf.Tensor:
    return tf.nn.softmax(tf.nn.relu(tf.matmul(x, tf.constant(floats(rows, columns)))) * 0.5 + 0.1)


def cond() -> tuple[tf.Tensor, list[dict[str, np.ndarray]]]:
    """Switch and Merge: what is computed depends on the feed."""
    x = v1.placeholder(tf.float32, [None, 16], name="x")
    training = v1.placeholder(tf.bool, [], name="training")
    hidden = dense(x, 16, 32)
    branch = v1.cond(training, lambda: dense(hidden, 32, 32) * 2.0, lambda: tf.tanh(dense(hidden, 32, 32)))
    return dense(branch, 32, 8), [{"x:0": floats(3, 16), "training:0": np.array(value)} for value in (True, False)]


def while_loop() -> tuple[tf.Tensor, list[dict[str, np.ndarray]]]:
    """Enter, NextIteration and Exit, as often as the feed says."""
    x = v1.placeholder(tf.float32, [None, 16], name="x")
    steps = v1.placeholder(tf.int32, [], name="steps")
    weight = tf.constant(floats(16, 32))
    back = tf.constant(floats(32, 16))

    def body(i, y):
        return i + 1, tf.matmul(tf.nn.relu(tf.matmul(y, weight) + 0.1), back) * 0.5

    _, y = v1.while_loop(lambda i, y: i < steps, body, [0, x])
    return dense(y, 16, 8), [{"x:0": floats(3, 16), "steps:0": np.array(count, np.int32)} for count in (0, 3)]


def loop_in_a_branch() -> tuple[tf.Tensor, list[dict[str, np.ndarray]]]:
    """A while loop that runs in one branch of a condition only."""
    x = v1.placeholder(tf.float32, [None, 16], name="x")
    weight = tf.constant(floats(16, 16))

    def loop():
        return v1.while_loop(lambda i, y: i < 2, lambda i, y: (i + 1, tf.nn.relu(tf.matmul(y, weight)) + 0.1), [0, x])[
            1
        ]

    chosen = v1.cond(tf.reduce_sum(x) > 0, loop, lambda: x * 2.0)
    return dense(chosen, 16, 8), [{"x:0": np.abs(floats(3, 16))}, {"x:0": -np.abs(floats(2, 16))}]


def dynamic_rnn() -> tuple[tf.Tensor, list[dict[str, np.ndarray]]]:
    """A recurrent layer over TensorArrays, as `dynamic_rnn` builds it: rows end at their own lengths."""
    steps = v1.placeholder(tf.float32, [None, None, 4], name="steps")
    lengths = v1.placeholder(tf.int32, [None], name="lengths")
    by_time = tf.transpose(steps, [1, 0, 2])
    shape = tf.shape(by_time)
    inputs = tf.TensorArray(tf.float32, size=shape[0]).unstack(by_time)
    outputs = tf.TensorArray(tf.float32, size=shape[0])
    weight = tf.constant(floats(12, 32))

    def body(time, state, cell, outputs):
        gates = tf.matmul(tf.concat([inputs.read(time), state], 1), weight)
        i, j, f, o = tf.split(gates, 4, axis=1)
        new_cell = cell * tf.sigmoid(f + 1.0) + tf.sigmoid(i) * tf.tanh(j)
        new_state = tf.sigmoid(o) * tf.tanh(new_cell)
        alive = tf.expand_dims(time < lengths, 1)
        state, cell = tf.where(alive, new_state, state), tf.where(alive, new_cell, cell)
        return time + 1, state, cell, outputs.write(time, state)

    zeros = tf.zeros([shape[1], 8])
    _, state, _, outputs = v1.while_loop(lambda time, *_: time < shape[0], body, [0, zeros, zeros, outputs])
    pooled = tf.reduce_mean(outputs.stack(), axis=0)
    feeds = [
        {"steps:0": floats(2, 5, 4), "lengths:0": np.array([5, 2], np.int32)},
        {"steps:0": floats(3, 1, 4), "lengths:0": np.array([1, 0, 1], np.int32)},
    ]
    return dense(tf.concat([pooled, state], 1), 16, 8), feeds


GRAPHS: list[Callable[[], tuple[tf.Tensor, list[dict[str, np.ndarray]]]]] = [
    cond,
    while_loop,
    loop_in_a_branch,
    dynamic_rnn,
]


def built(make) -> tuple[v1.GraphDef, list[dict[str, np.ndarray]]]:
    with tf.Graph().as_default() as graph:
        output, feeds = make()
        tf.identity(output, name="y")
    return graph.as_graph_def(), feeds


@pytest.mark.parametrize("make", GRAPHS, ids=lambda make: make.__name__)
def test_graph_computes_the_same_in_every_branch(make, tmp_path):
    graph_def, feeds = built(make)
    assert not graph_def.library.function
    assert {"Switch", "Merge"} <= {node.op for node in graph_def.node}
    path = tmp_path / "frozen.pb"
    path.write_bytes(graph_def.SerializeToString())
    frozen = tf_opt.load_graph_def(path, ["y"])
    assert {info.name for info in frozen.inputs} == set(feeds[0])
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", adopt="always", minimum_segment_size=2, cache=False)
    optimized = optimizer.optimize_graph_def(frozen.graph_def, ["y"], feeds)
    assert engine_nodes(optimized)
    for feed in feeds:
        expected, actual = (run_graph_def(each, ["y:0"], feed)[0] for each in (graph_def, optimized))
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_switch_and_merge_enter_no_engine():
    graph_def, feeds = built(cond)
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", adopt="always", minimum_segment_size=2, cache=False)
    optimized = optimizer.optimize_graph_def(graph_def, ["y"], feeds)
    kept = {node.op for node in optimized.node}
    assert {"Switch", "Merge"} <= kept
    refused = {each.op: each.reason for each in optimizer.report.refused}
    assert "decides what runs" in refused["Switch"]


def test_placeholder_with_default_may_be_left_out():
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 16], name="x")
        scale = v1.placeholder_with_default(np.float32(2.0), [], name="scale")
        tf.identity(dense(x, 16, 32) * scale, name="y")
    graph_def = graph.as_graph_def()
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", adopt="always", cache=False)
    optimized = optimizer.optimize_graph_def(graph_def, ["y"], [{"x": floats(3, 16)}])
    for extra in ({}, {"scale:0": np.float32(-1.0)}):
        feed = {"x:0": floats(2, 16), **extra}
        expected, actual = (run_graph_def(each, ["y:0"], feed)[0] for each in (graph_def, optimized))
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_text_format_of_version_1(tmp_path):
    graph_def, feeds = built(cond)
    path = tmp_path / "graph.pbtxt"
    path.write_text(text_format.MessageToString(graph_def))
    frozen = tf_opt.load_graph_def(path, ["y"])
    np.testing.assert_array_equal(
        run_graph_def(frozen.graph_def, ["y:0"], feeds[0])[0], run_graph_def(graph_def, ["y:0"], feeds[0])[0]
    )
