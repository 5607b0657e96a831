"""Graphs, outputs, feeds and options that the optimizer refuses, and unusual ones that it takes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.small_graphs import engine_nodes, feed, mlp, optimize, run_graph_def
from tf_opt import errors


def test_unknown_output_names_the_nearest():
    with pytest.raises(errors.UnknownOutputError, match="probabilities"):
        optimize(mlp(), ["probabilites"], [feed()])


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ([], "empty"),
        ([{}], "lacks 'x'"),
        ([{**feed(), "z": 1}], "no input 'z'"),
        ([{"x": np.zeros((3, 16))}], "astype"),
        ([{"x": np.zeros(16, np.float32)}], "rank 1"),
        ([{"x": np.zeros((3, 15), np.float32)}], "dimension 1 must be 16"),
        (feed(), "list of feeds"),
    ],
)
def test_bad_feeds(feeds, message):
    with pytest.raises(errors.InvalidFeedError, match=message):
        optimize(mlp(), ["y"], feeds)


def test_feed_that_the_original_graph_refuses():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 16], name="x")
        tf.nn.relu(tf.abs(tf.reshape(x, [5, 16])), name="y")
    with pytest.raises(errors.InvalidFeedError, match="original graph fails"):
        optimize(graph.as_graph_def(), ["y"], [feed(3)])


def test_input_that_no_output_needs_may_be_fed_or_not():
    graph_def = mlp()
    unused = graph_def.node.add(name="unused", op="Placeholder")
    unused.attr["dtype"].type = tf.int32.as_datatype_enum
    unused.attr["shape"].shape.unknown_rank = True
    for feeds in (feed(), {**feed(), "unused": np.int32(3)}):
        optimized, _ = optimize(graph_def, ["y"], [feeds])
        assert engine_nodes(optimized)


def test_placeholder_with_default_can_still_be_fed():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 16], name="x")
        scale = tf.compat.v1.placeholder_with_default(tf.constant(2.0), [], name="scale")
        tf.nn.softmax(tf.nn.relu(tf.abs(x) * scale + 1.0), name="y")
    optimized, _ = optimize(graph.as_graph_def(), ["y"], [feed()])
    assert engine_nodes(optimized)
    for feeds in (feed(), {**feed(), "scale:0": np.float32(-3)}):
        expected, actual = (run_graph_def(each, ["y:0"], feeds)[0] for each in (graph.as_graph_def(), optimized))
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_variables_are_refused():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        tf.add(x, tf.compat.v1.get_variable("v", [4], use_resource=True), name="y")
    with pytest.raises(errors.GraphNotFrozenError, match="freeze"):
        optimize(graph.as_graph_def(), ["y"], [{"x": np.zeros((2, 4), np.float32)}])


def test_unknown_op_is_refused():
    graph_def = mlp()
    graph_def.node.add(name="strange", op="NobodyKnowsThisOp", input=["y"])
    with pytest.raises(errors.UnknownOpError, match="NobodyKnowsThisOp"):
        optimize(graph_def, ["y"], [feed()])


def test_op_without_kernel_is_refused():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 16], name="x")
        halves = tf.cast(x, tf.half)
        # Collective and device-specific ops have definitions everywhere and kernels only on their devices.
        tf.raw_ops.TPUReplicatedInput(inputs=[halves], name="y")
    with pytest.raises(errors.UnknownOpError, match=r"kernel.*TPUReplicatedInput"):
        optimize(graph.as_graph_def(), ["y"], [feed()])


def test_opset_that_is_not_possible():
    with pytest.raises(errors.InvalidOptionError, match="opset is 3"):
        tf_opt.Tf2TrtOpt().optimize_graph_def(mlp(), ["y"], [feed()], True, opset=3)
