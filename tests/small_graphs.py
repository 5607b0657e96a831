"""Small graphs that tests share, and how they are optimized and run.

They are big enough for segments and weights, and small enough to run in milliseconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

import tf_opt
from tf_opt.report.optimization import OptimizationReport, SegmentReport


def mlp(seed: int = 0, hidden: int = 48, name: str = "x") -> graph_pb2.GraphDef:
    """x [?, 16] -> MatMul -> BiasAdd -> Relu -> MatMul -> Softmax -> Identity "y". The first weight counts as one."""
    random = np.random.default_rng(seed)
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 16], name=name)
        first = tf.constant(random.normal(size=(16, hidden)).astype(np.float32), name="first")
        second = tf.constant(random.normal(size=(hidden, 4)).astype(np.float32), name="second")
        bias = tf.constant(random.normal(size=hidden).astype(np.float32), name="bias")
        activation = tf.nn.relu(
            tf.nn.bias_add(tf.matmul(x, first, name="product"), bias, name="biased"), name="activation"
        )
        tf.identity(tf.nn.softmax(tf.matmul(activation, second, name="logits"), name="probabilities"), name="y")
    return graph.as_graph_def()


def two_towers() -> graph_pb2.GraphDef:
    """Two MLP-like segments with an op between them that no converter knows (Betainc); outputs "left" and "right"."""
    random = np.random.default_rng(1)
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 16], name="x")
        weight = tf.constant(random.normal(size=(16, 48)).astype(np.float32), name="weight")
        left = tf.nn.softmax(tf.nn.relu(tf.matmul(x, weight)) * 0.5, name="left")
        between = tf.math.betainc(2.0, 3.0, left, name="between")
        tf.nn.softmax(tf.nn.relu(tf.matmul(between, tf.transpose(weight))) * 0.5, name="right")
    return graph.as_graph_def()


def feed(batch: int = 3, seed: int = 0, name: str = "x:0") -> dict[str, Any]:
    """A feed for `mlp` and `two_towers`."""
    return {name: np.random.default_rng(seed).normal(size=(batch, 16)).astype(np.float32)}


def run_graph_def(graph_def: graph_pb2.GraphDef, outputs: list[str], feeds: dict[str, Any]) -> list[Any]:
    """Runs a GraphDef in a plain Session of its own."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(graph_def, name="")
        values: list[Any] = session.run(outputs, feeds)
        return values


def engine_nodes(graph_def: graph_pb2.GraphDef) -> list[Any]:
    """The engine nodes of a graph."""
    return [node for node in graph_def.node if node.op == "TfOptEngine"]


def optimize(
    graph_def: graph_pb2.GraphDef, outputs: Any, feeds: Any, **options: Any
) -> tuple[graph_pb2.GraphDef, OptimizationReport]:
    """Optimizes without measurements, unless the options ask for them; returns the graph and its report."""
    optimizer = tf_opt.Tf2TrtOpt(**{"adopt": "always", **options})
    return optimizer.optimize_graph_def(graph_def, outputs, feeds), optimizer.report


def optimized_segment(feeds: list[Any], **options: Any) -> SegmentReport:
    """What is reported of the one segment of `mlp`."""
    _, report = optimize(mlp(), ["y"], feeds, **{"adopt": "measured", **options})
    (segment,) = report.segments
    return segment
