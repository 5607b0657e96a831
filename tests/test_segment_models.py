"""What becomes of a segment on its way to an engine: which weights it still reads, and in which order of axes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tests.small_graphs import engine_nodes, optimize, run_graph_def
from tests.whole_segments import WholeSegment
from tf_opt.dump.replay import replay
from tf_opt.engines import create_backend
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.passes.onnx.nodes import is_constant
from tf_opt.weights import MINIMUM_WEIGHT_ELEMENTS

CHANNELS = MINIMUM_WEIGHT_ELEMENTS
"""So many that each vector is a weight."""

CPU_ENGINES = ("openvino", "onnxruntime")


def wide_network() -> graph_pb2.GraphDef:
    """x [?, ?, ?, 3] -> three times convolution, bias, normalization, Relu, the last with a shortcut -> mean -> "y"."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int, mean: float = 0.0, deviation: float = 1.0) -> Any:
        return tf.constant(random.normal(mean, deviation, shape).astype(np.float32), name=name)

    def layer(source: Any, name: str) -> Any:
        inputs = source.shape[-1]
        kernel = weight(f"{name}/kernel", 1, 1, inputs, CHANNELS, deviation=inputs**-0.5)
        gamma, beta, mean = (weight(f"{name}/{each}", CHANNELS) for each in ("gamma", "beta", "mean"))
        variance = weight(f"{name}/variance", CHANNELS, mean=1.0, deviation=0.1)
        value = tf.nn.bias_add(tf.nn.conv2d(source, kernel, 2, "SAME"), weight(f"{name}/bias", CHANNELS))
        # As Keras 3 traces it.
        return tf.nn.batch_normalization(value, mean, tf.reshape(variance, [1, 1, 1, -1]), beta, gamma, 1e-3)

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], name="x")
        value = tf.nn.relu(layer(x, "first"))
        value = tf.nn.relu(layer(value, "second") + tf.nn.max_pool2d(value, 1, 2, "SAME"))
        value = tf.reduce_mean(tf.nn.relu(layer(value, "third")), [1, 2])
        tf.matmul(value, weight("matrix", CHANNELS, 8), name="y")
    return graph.as_graph_def()


def image(batch: int, size: int) -> dict[str, Any]:
    return {"x:0": np.random.default_rng(size).normal(size=(batch, size, size, 3)).astype(np.float32)}


def whole(engine: str, graph_def: graph_pb2.GraphDef) -> WholeSegment:
    return WholeSegment(frozen_from_graph_def(graph_def, ["y"]), create_backend(engine))


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_wide_convolutions_change_the_order_of_axes_once(engine: str) -> None:
    model = whole(engine, wide_network()).prepared.model
    transposed = [node.inputs[0] for node in model.graph if node.op_type == "Transpose"]
    (image_of_user,) = [value for value in transposed if not is_constant(value)]
    assert image_of_user.name == "input_0"
    for node in model.graph:
        if node.op_type == "Mul":  # One for each normalization, and none that computes with constants alone.
            assert sum(is_constant(value) for value in node.inputs) == 1
    assert sum(node.op_type == "Mul" for node in model.graph) == 3


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_only_vectors_behind_convolutions_are_derived(engine: str) -> None:
    segment = whole(engine, wide_network())
    candidate = segment.models.candidate(segment.prepared, segment.prepared.model, precision="fp32")
    derived = [node.attr["value"].tensor.tensor_shape.dim for node in candidate.derived_weights.values()]
    assert derived
    assert {math.prod(dim.size for dim in shape) for shape in derived} == {CHANNELS}
    read = {info.name for info in candidate.node.weights or ()}
    assert {"first/kernel:0", "second/kernel:0", "third/kernel:0", "matrix:0"} <= read
    assert not {"first/gamma:0", "second/variance:0", "third/beta:0"} & read


@pytest.mark.parametrize("keep_fallback", [True, False])
@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_engines_of_wide_convolutions_are_right(engine: str, keep_fallback: bool) -> None:
    graph_def = wide_network()
    optimized, _ = optimize(
        graph_def, ["y"], [image(1, 16)], engine=engine, keep_fallback=keep_fallback, strict=True, cache=False
    )
    assert len(engine_nodes(optimized)) == 1
    assert any(node.name == "first/gamma" for node in optimized.node) == keep_fallback
    for feed in (image(1, 16), image(3, 9)):
        (expected,), (actual,) = (run_graph_def(each, ["y:0"], feed) for each in (graph_def, optimized))
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an optimization dumped of its segment."""
    folder = tmp_path_factory.mktemp("dump")
    optimize(wide_network(), ["y"], [image(1, 8)], dump_dir=folder, cache=False)
    (record,) = folder.rglob("tf_opt_segment_0.json")
    return record


def test_without_convolutions_every_weight_is_the_graphs_own() -> None:
    random = np.random.default_rng(0)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 64], name="x")
        matrix, scale, bias = (random.normal(size=size).astype(np.float32) for size in ((64, 512), 512, 512))
        product = tf.nn.bias_add(tf.matmul(x, tf.constant(matrix)), tf.constant(bias))
        tf.nn.relu(product * tf.constant(scale) + 0.5, name="y")
    segment = whole("openvino", graph.as_graph_def())
    candidate = segment.models.candidate(segment.prepared, segment.prepared.model, precision="fp32")
    assert not candidate.derived_weights
    assert len(candidate.node.weights or ()) == 3


@pytest.mark.parametrize("engine", [None, *CPU_ENGINES])
def test_a_dumped_segment_replays(engine: str | None, dumped: Path) -> None:
    """With the engine that was built, and with one built anew of the exported model."""
    result = replay(dumped, engine, rtol=1e-4, atol=1e-4, seconds=0.05)
    assert result.comparison.passed
