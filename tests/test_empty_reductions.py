"""Tests of reductions over what may have become empty inside of a segment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tf_opt.empty_reductions import EmptyReductions
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.tensor_types import tensor_infos
from tf_opt.tensor_info import node_name, tensor_name

SPEC = {"x": tf.TensorSpec([None, None, 4], tf.float32, name="x"), "n": tf.TensorSpec([], tf.int32, name="n")}


def frozen(function: Callable[[Any, Any], Any]) -> FrozenGraph:
    return tf_opt.freeze_concrete_function(tf.function(function, input_signature=[SPEC["x"], SPEC["n"]]))


def reasons(graph: FrozenGraph) -> list[str]:
    border = Border(tuple(map(node_name, graph.input_names)), graph.output_names)
    infos = tensor_infos(graph.graph_def)
    judge = EmptyReductions(graph.graph_def, border)
    found = [judge.reason(node, infos[tensor_name(node.input[0])].shape) for node in graph.graph_def.node if node.input]
    return [reason for reason in found if reason]


def batch_of_zeros(x: Any, n: Any) -> Any:
    return tf.fill([n, 4], tf.reduce_sum(x))


MAY_BE_EMPTY = {
    "slice": lambda x, n: tf.reduce_mean(x[:, 1:], axis=1),
    "last columns": lambda x, n: tf.reduce_max(x[:, 2:], axis=[1]),
    "fill": lambda x, n: tf.reduce_min(batch_of_zeros(x, n), axis=0),
    "tile": lambda x, n: tf.reduce_mean(tf.tile(x, [1, n, 1]), axis=1),
    "mask": lambda x, n: tf.reduce_max(tf.boolean_mask(x, x[:, :, 0] > 0), axis=0),
    "all axes": lambda x, n: tf.reduce_mean(x[:, 1:] * 2.0),
    "through arithmetic": lambda x, n: tf.reduce_mean(tf.nn.relu(x[:, 1:]) + x[:, :1], axis=1),
    "halves": lambda x, n: tf.reduce_mean(tf.reshape(x, [tf.shape(x)[0] // 2, -1, 4]), axis=0),
    "index": lambda x, n: tf.cast(tf.argmax(x[:, 1:], axis=1), tf.float32),
}
NEVER_EMPTY = {
    "input": lambda x, n: tf.reduce_mean(x, axis=1),
    "whole slice": lambda x, n: tf.reduce_max(x[:, :, 1:], axis=1),
    "known size": lambda x, n: tf.reduce_mean(x[:, 1:], axis=-1),
    "sum": lambda x, n: tf.reduce_sum(x[:, 1:], axis=1),
    "joined": lambda x, n: tf.reduce_mean(tf.concat([x, x[:, 1:]], axis=1), axis=1),
    "product": lambda x, n: tf.reduce_mean(tf.reshape(x, [-1, 2]), axis=0),
    "broadcast": lambda x, n: tf.reduce_max(x + tf.transpose(x, [1, 0, 2]), axis=[0, 1]),
    "new axis": lambda x, n: tf.reduce_max(x * x[..., 0][..., tf.newaxis], axis=1),
    "pooled": lambda x, n: tf.reduce_mean(tf.nn.max_pool2d(x[..., None], 2, 1, "VALID"), axis=[1, 2]),
}


@pytest.mark.parametrize("name", MAY_BE_EMPTY)
def test_what_may_be_empty_stays(name: str) -> None:
    (reason,) = reasons(frozen(MAY_BE_EMPTY[name]))
    assert "may be zero" in reason


@pytest.mark.parametrize("name", NEVER_EMPTY)
def test_what_has_elements_may_enter_an_engine(name: str) -> None:
    assert reasons(frozen(NEVER_EMPTY[name])) == []


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", ["slice", "fill", "tile", "mask"])
def test_nothing_is_reduced_as_in_tensorflow(name: str, engine: str) -> None:
    graph = frozen(lambda x, n: MAY_BE_EMPTY[name](tf.nn.relu(tf.tanh(x) * 2.0 + 1.0) - 1.0, n))
    feed = {"x": np.full([2, 3, 4], -0.5, np.float32), "n": np.int32(1)}
    optimizer = tf_opt.Tf2TrtOpt(engine=engine, adopt="always", cache=False)
    optimized = optimizer.optimize(graph, [feed])
    assert optimizer.report.engine_count >= 1
    empty = {"x": np.full([2, 1, 4], -3.0, np.float32), "n": np.int32(0)}
    for each in (feed, empty):
        expected, actual = tf_opt.run(graph, each), tf_opt.run(optimized, each)
        for key, value in expected.items():
            np.testing.assert_allclose(actual[key], value, rtol=1e-5, atol=1e-5)
    assert not all(np.isfinite(value).all() for value in tf_opt.run(graph, empty).values()), "nothing was reduced"
