"""An engine that the node takes as an input, and the op that reads it from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_opt.ops
from tests.ops.engine_graphs import (
    HIDDEN,
    batch_of,
    blob,
    counters,
    dense,
    dense_fallback,
    dense_onnx,
    dense_weights,
    engine_op,
    tf1,
)

pytestmark = pytest.mark.usefixtures("fresh_statistics")

GOOD = blob(dense_onnx())


@pytest.fixture(autouse=True)
def failures_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_OPT_ON_ENGINE_FAILURE", raising=False)


def run_dense(x: np.ndarray, stored: Any = GOOD, **attributes: Any) -> np.ndarray:
    """Runs the dense engine with the stored engine as an input."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        weights = [tf.constant(weight) for weight in dense_weights()]
        engines = [tf.constant(each) for each in (stored if isinstance(stored, list) else [stored])]
        (y,) = engine_op([tf.constant(x)], weights, [tf.float32], stored_engine=engines, **attributes)
        result: np.ndarray = session.run(y)
        return result


def test_engine_from_an_input() -> None:
    np.testing.assert_allclose(run_dense(batch_of(3)), dense(batch_of(3)), rtol=1e-5, atol=1e-5)
    assert counters()["loads"] == counters()["runs"] == 1
    assert counters()["copied_bytes"] == 0


def test_the_fallback_takes_inputs_and_weights_alone() -> None:
    found = run_dense(batch_of(3), blob(dense_onnx(batch=4)), fallback=dense_fallback())
    np.testing.assert_allclose(found, dense(batch_of(3)), rtol=1e-5, atol=1e-5)
    assert counters()["fallback_runs"] == 1


@pytest.mark.parametrize(("stored", "engine"), [([GOOD, GOOD], b""), ([GOOD], GOOD)], ids=["two", "both ways"])
def test_one_engine_in_one_way(stored: list[bytes], engine: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="an empty attribute, one input and 1"):
        run_dense(batch_of(1), stored, engine=engine)


@pytest.mark.parametrize(
    ("stored", "error", "message"),
    [
        (b"", tf.errors.FailedPreconditionError, "its file could not be read when the model was loaded"),
        (GOOD[:-1], tf.errors.DataLossError, "the stored engine is damaged"),
        ([[GOOD, GOOD]], tf.errors.InternalError, "expected one string"),
    ],
    ids=["empty", "damaged", "several"],
)
def test_input_that_is_no_engine(stored: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        run_dense(batch_of(1), stored)


def test_graph_of_a_time_without_the_input() -> None:
    with tf1.Graph().as_default() as graph:
        weights = [tf.constant(weight) for weight in dense_weights()]
        x = tf1.placeholder(tf.float32, [None, HIDDEN], name="x")
        engine_op([x], weights, [tf.float32], engine=GOOD)
    stored = graph.as_graph_def()
    (node,) = [node for node in stored.node if node.op == "TfOptEngine"]
    del node.attr["stored_engines"]
    with tf1.Graph().as_default(), tf1.Session() as session:
        tf.graph_util.import_graph_def(stored, name="")
        found = session.run("segment:0", {"x:0": batch_of(2)})
    np.testing.assert_allclose(found, dense(batch_of(2)), rtol=1e-5, atol=1e-5)


def read(path: Path) -> bytes:
    contents: bytes = tf_opt.ops.load().tf_opt_read_engine(filename=str(path), segment_name="segment_7").numpy()
    return contents


def test_file_is_read_whole(tmp_path: Path) -> None:
    ends_in_zero = next(each for each in (blob(b"x" * size) for size in range(5000)) if each.endswith(b"\0"))
    for engine in (GOOD, ends_in_zero):
        (tmp_path / "good.engine").write_bytes(engine)
        assert read(tmp_path / "good.engine") == engine


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, tf.errors.FailedPreconditionError),
        (GOOD[:-1], tf.errors.DataLossError),
        (GOOD[:8] + b"\7\0\0\0" + GOOD[12:], tf.errors.FailedPreconditionError),
    ],
    ids=["missing", "damaged", "other version"],
)
def test_file_that_cannot_be_read(
    tmp_path: Path, content: bytes | None, error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bad.engine"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error) as caught:
        read(path)
    for said in (f"segment 'segment_7' cannot be read from {path}: ", "Copy the SavedModel's folder", "=fallback"):
        assert said in str(caught.value)

    monkeypatch.setenv("TF_OPT_ON_ENGINE_FAILURE", "fallback")
    assert read(path) == b""
