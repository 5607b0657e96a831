"""A model's own checks are not in an optimized graph, and the report says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_opt


class Checked(tf.Module):
    """Refuses numbers of 10 and more."""

    def __init__(self, checks: int) -> None:
        self.checks = checks
        self.weight = tf.Variable(np.ones((8, 16), np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32, name="x")])
    def serve(self, x: Any) -> dict[str, Any]:
        """Returns what an engine can compute."""
        for _ in range(self.checks):
            tf.debugging.assert_less(x, 10.0)
        return {"y": tf.nn.softmax(tf.tanh(x @ self.weight))}


def feed(value: float) -> dict[str, np.ndarray]:
    return {"x": np.full((2, 8), value, np.float32)}


@pytest.mark.parametrize(("checks", "note"), [(0, None), (1, "1 assertion of the model is"), (2, "2 assertions")])
def test_report_says_how_many_are_gone(checks: int, note: str | None) -> None:
    model = Checked(checks)
    frozen = tf_opt.freeze_concrete_function(model.serve)
    assert frozen.assertions == checks
    for caching_run in range(2):
        optimizer = tf_opt.Tf2TrtOpt(engine="openvino", adopt="always")
        optimized = optimizer.optimize(frozen, [feed(1)])
        assert optimizer.report.from_cache == bool(caching_run)
        assert [each[: len(note or "")] for each in optimizer.report.notes] == ([note] if note else [])
    (y,) = tf_opt.run(optimized, feed(20)).values()
    assert np.isfinite(y).all()


def test_graph_that_was_frozen_by_other_means() -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 8], name="x")
        with tf.control_dependencies([tf.raw_ops.Assert(condition=tf.reduce_all(x < 10.0), data=[x])]):
            y = tf.identity(x)
        tf.nn.softmax(tf.tanh(y @ tf.ones([8, 16])), name="y")
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", adopt="always", cache=False)
    optimized = optimizer.optimize_graph_def(graph.as_graph_def(), ["y"], [feed(1)])
    assert not any(node.op == "Assert" for node in optimized.node)
    for report in (optimizer.report, optimizer.analyze(graph.as_graph_def(), ["y"])):
        assert [each[:28] for each in report.notes] == ["1 assertion of the model is "]


def test_saved_model(tmp_path: Path) -> None:
    model = Checked(1)
    tf.saved_model.save(model, tmp_path / "model", signatures={"serving_default": model.serve})
    report = tf_opt.optimize_saved_model(
        tmp_path / "model", tmp_path / "out", feeds=[feed(1)], engine="openvino", adopt="always"
    )
    assert "1 assertion of the model is" in report.text()
