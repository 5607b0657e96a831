"""Engines for one shape: the rule that decides about them, and the runtime that follows it."""

from __future__ import annotations

import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from onnx import TensorProto, helper

import tf_opt.ops
from tests.ops.engine_graphs import (
    batch_of,
    blob,
    counters,
    dense,
    dense_graph,
    dense_session,
    engine_op,
    onnx_model,
    tf1,
)
from tf_opt.ops import build

pytestmark = pytest.mark.usefixtures("fresh_statistics")


@pytest.mark.parametrize("name", ["specializer_test", "compile_queue_test"])
def test_the_rule_and_the_queue(tmp_path: Path, name: str) -> None:
    program = tmp_path / name
    source = Path(__file__).with_name(f"{name}.cc")
    command = [*build.compiler_command(), "-std=c++17", "-Wall", "-Wextra", "-Werror", "-pthread"]
    command += [f"-I{build.SOURCE_DIRECTORY}", str(source), "-o", str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    assert compiled.returncode == 0, f"{shlex.join(command)}\n{compiled.stderr}"

    result = subprocess.run([str(program)], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout


def test_each_shape_is_decided_once_and_values_stay_right() -> None:
    deadline = time.monotonic() + 120
    with dense_session(specialize_after=3) as run:
        while counters_decided() < 2 and time.monotonic() < deadline:
            for rows in (2, 5):
                np.testing.assert_allclose(run(batch_of(rows)), dense(batch_of(rows)), rtol=1e-5, atol=1e-5)
        for _ in range(50):
            np.testing.assert_allclose(run(batch_of(5)), dense(batch_of(5)), rtol=1e-5, atol=1e-5)

    assert counters_decided() == 2
    assert counters()["specialized_runs"] >= 2 * 11
    assert counters()["background_failures"] == 0
    assert counters()["copied_bytes"] == 0


def counters_decided() -> int:
    values = tf_opt.ops.statistics().get("segment", {})
    return values.get("specialized_kept", 0) + values.get("specialized_rejected", 0)


def shape_dependent_onnx() -> bytes:
    """output_0 = input_0 + sum(C^8) where the square matrix C is filled with zeros to a size that depends on the shape.

    With known shapes all of it folds into one addition.
    """
    nodes = [
        helper.make_node("Shape", ["input_0"], ["shape"]),
        helper.make_node("Concat", ["shape", "shape"], ["square"], axis=0),
        helper.make_node("ConstantOfShape", ["square"], ["power_0"]),
    ]
    for index in range(8):
        nodes.append(helper.make_node("MatMul", [f"power_{index}"] * 2, [f"power_{index + 1}"]))
    nodes.append(helper.make_node("ReduceSum", ["power_8"], ["sum"], keepdims=0))
    nodes.append(helper.make_node("Add", ["input_0", "sum"], ["output_0"]))
    return onnx_model(nodes, [("input_0", TensorProto.FLOAT, ["n"])], [("output_0", TensorProto.FLOAT, ["n"])])


def test_a_much_faster_engine_is_kept_and_used() -> None:
    value = np.arange(256, dtype=np.float32)
    deadline = time.monotonic() + 120
    with tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        x = tf1.placeholder(tf.float32, [None])
        (y,) = engine_op([x], [], [tf.float32], engine=blob(shape_dependent_onnx()), specialize_after=2)
        run = session.make_callable(y, feed_list=[x])
        while counters_decided() < 1 and time.monotonic() < deadline:
            np.testing.assert_array_equal(run(value), value)
        before = counters()["specialized_runs"]
        for _ in range(10):
            np.testing.assert_array_equal(run(value), value)

    assert counters()["specialized_kept"] == 1
    assert counters()["specialized_runs"] == before + 10


def test_nothing_is_specialized_by_default() -> None:
    with dense_session() as run:
        for _ in range(60):
            run(batch_of(2))

    assert counters()["specialized_runs"] == 0
    assert counters_decided() == 0


def test_asked_shapes_are_compiled_before_the_first_call() -> None:
    value = np.arange(256, dtype=np.float32)
    with tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        x = tf1.placeholder(tf.float32, [None])
        (y,) = engine_op([x], [], [tf.float32], engine=blob(shape_dependent_onnx()), specialize_shapes=[[256], [100]])
        run = session.make_callable(y, feed_list=[x])
        np.testing.assert_array_equal(run(value), value)
        assert counters()["specialized_runs"] == 1  # The first one, and so compiled by then.
        for _ in range(21):
            np.testing.assert_array_equal(run(value), value)
        assert counters()["specialized_kept"] == 1
        np.testing.assert_array_equal(run(value[:100]), value[:100])
        assert counters()["specialized_runs"] == 11 + 1
        for _ in range(30):
            np.testing.assert_array_equal(run(value[:50]), value[:50])
        assert counters()["specialized_runs"] == 11 + 1  # No other shape is specialized.


def test_asked_shapes_survive_a_stored_graph_and_may_be_missing_in_an_old_one() -> None:
    graph, x, y = dense_graph(specialize_shapes=[[2, 8]])
    stored = tf1.GraphDef.FromString(graph.as_graph_def().SerializeToString())
    for asked in (1, 0):
        tf_opt.ops.reset_statistics()
        with tf1.Graph().as_default() as loaded, tf1.Session(graph=loaded) as session:
            tf.import_graph_def(stored, name="")
            np.testing.assert_allclose(
                session.run(y.name, {x.name: batch_of(2)}), dense(batch_of(2)), rtol=1e-5, atol=1e-5
            )
        assert counters()["specialized_runs"] == asked
        for node in stored.node:
            node.attr.pop("specialize_shapes", None)  # As a graph is that was stored before the attribute existed.


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"specialize_shapes": [[None, 8]]}, "needs every dimension"),
        ({"specialize_shapes": [None]}, "needs every dimension"),
        ({"specialize_shapes": [[1, 8], [2, 8]], "maximum_cached_engines": 1}, "asks for 2 engines.* allows 1"),
        ({"specialize_shapes": [[2, 8, 1]]}, r"cannot compile an engine for the specialize_shapes \[2,8,1\]"),
        ({"specialize_shapes": [[2, 7]]}, r"cannot compile an engine for the specialize_shapes \[2,7\]"),
    ],
)
def test_impossible_shapes_are_an_error(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(tf.errors.OpError, match=message), dense_session(**attributes) as run:
        run(batch_of(2))


def test_shapes_must_be_those_of_all_inputs() -> None:
    with tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        x = tf1.placeholder(tf.float32, [None])
        (y,) = engine_op([x, x], [], [tf.float32], engine=blob(shape_dependent_onnx()), specialize_shapes=[[4]] * 3)
        with pytest.raises(tf.errors.InvalidArgumentError, match="3 shapes, the node has 2 inputs"):
            session.run(y, {x: np.ones(4, np.float32)})
