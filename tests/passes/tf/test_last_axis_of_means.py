from __future__ import annotations

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from tests.passes.tf.pass_testing import apply_pass, graph_of, only, placeholder
from tf_opt.passes.tf.graph_view import GraphView
from tf_opt.passes.tf.last_axis_of_means import LastAxisOfMeans
from tf_opt.passes.tf.node_defs import constant_value


def axis_of_mean(graph_def):
    view = GraphView(graph_def)
    return constant_value(view.node(only(graph_def, "Mean").input[1])).ravel().tolist()


def test_docstring_before_and_after() -> None:
    after = apply_pass(
        LastAxisOfMeans(), graph_of(lambda: tf.reduce_mean(placeholder("x", [None, None, 4]), [2])), changed=True
    )
    assert axis_of_mean(after) == [-1]


@pytest.mark.parametrize("axis", [[1], [0, 2], [-1]])
def test_other_axes_stay(axis: list[int]) -> None:
    graph = graph_of(lambda: tf.reduce_mean(placeholder("x", [None, 3, 4]), axis))
    apply_pass(LastAxisOfMeans(), graph, changed=False)


def test_fetched_mean_and_shared_axis() -> None:
    def build() -> list[tf.Tensor]:
        axis = tf.constant([1], name="axis")
        mean = tf.reduce_mean(placeholder("x", [None, 4]), axis, keepdims=True, name="mean")
        return [mean, tf.reduce_sum(placeholder("y", [None, 4, 2]), axis)]

    after = apply_pass(LastAxisOfMeans(), graph_of(build), changed=True)
    assert only(after, "Mean").name == "mean"
    assert only(after, "Sum").input[1] == "axis"


def test_layer_norm_keeps_its_epsilon_with_onednn() -> None:
    """In a process of its own, as oneDNN is switched on when TensorFlow is imported."""
    program = """
import numpy as np, tensorflow as tf
from tf_opt.passes.tf.last_axis_of_means import LastAxisOfMeans
from tf_opt.passes.tf.pass_base import Border
with tf.Graph().as_default() as graph:
    x = tf.compat.v1.placeholder(tf.float32, [None, None, 8], name="x")
    mean, variance = tf.nn.moments(x, [2], keepdims=True)
    gamma, beta = (tf.constant(np.linspace(*ends, 8, dtype=np.float32)) for ends in ((1, 2), (0, 1)))
    tf.identity(tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-12), name="y")
after = LastAxisOfMeans().run(graph.as_graph_def(), Border(("x",), ("y:0",))).graph_def
feed = {"x:0": np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32) * 0.01}
results = []
for off in (True, False):
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = off
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        tf.import_graph_def(after, name="")
        results.append(session.run("y:0", feed))
np.testing.assert_allclose(*results, atol=1e-4)
"""
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=300)
