"""Which constants stay in host memory for engine nodes on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.simulators.tensorrt.fixture import simulated_tensorrt
from tests.small_graphs import engine_nodes, feed, mlp, run_graph_def, two_towers
from tf_opt.ops.held_tensors import HOST_KERNEL_LABEL


def optimize(graph_def, outputs, engine):
    return tf_opt.Tf2TrtOpt(engine=engine, adopt="always").optimize_graph_def(graph_def, outputs, [feed()])


def labelled(graph_def):
    return {node.name for node in graph_def.node if node.attr["_kernel"].s == HOST_KERNEL_LABEL}


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_engines_of_the_cpu_are_placed_there_and_need_no_label(engine):
    optimized = optimize(mlp(), ["y:0"], engine)
    assert {node.device for node in engine_nodes(optimized)} == {"/device:CPU:0"}
    assert labelled(optimized) == set()


@pytest.mark.parametrize(("build", "outputs"), [(mlp, ["y:0"]), (two_towers, ["left:0", "right:0"])])
def test_weights_of_engines_that_may_be_on_a_gpu_stay_on_the_host(build, outputs):
    with simulated_tensorrt("10.16"):
        optimized = optimize(build(), outputs, "tensorrt")
        weights = {name.partition(":")[0] for node in engine_nodes(optimized) for name in list(node.input)[1:]}
        assert labelled(optimized) == weights != set()
        results = [run_graph_def(each, outputs, feed()) for each in (optimized, build())]
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_a_weight_that_tensorflow_reads_too_is_left_alone():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 16], name="x")
        weight = tf.constant(np.random.default_rng(0).random((16, 48)).astype(np.float32), name="weight")
        tf.identity(tf.nn.relu(tf.tanh(tf.matmul(x, weight))) * 2.0, name="y")
        # No engine takes Betainc.
        tf.math.betainc(2.0, 3.0, weight, name="z")
    with simulated_tensorrt("10.16"):
        optimized = optimize(graph.as_graph_def(), ["y:0", "z:0"], "tensorrt")
    assert engine_nodes(optimized)
    assert "weight" not in labelled(optimized)
