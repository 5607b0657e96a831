from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.framework import graph_pb2

from tf_opt.freeze.cleanup import SideEffects, clean_graph

FLOAT = tf.float32.as_datatype_enum


def evaluate(graph_def: graph_pb2.GraphDef, fetches: list[str], x: Any) -> list[Any]:
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    config = tf.compat.v1.ConfigProto()
    # What the graph says: TensorFlow 2.19's optimizer takes a sign away where one of two negations has a control input.
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.compat.v1.Session(graph=graph, config=config) as session:
        values: list[Any] = session.run(fetches, {"x:0": x})
        return values


def nodes(graph_def: graph_pb2.GraphDef) -> dict[str, str]:
    return {node.name: node.op for node in graph_def.node}


@st.composite
def graphs(draw: st.DrawFn) -> tuple[graph_pb2.GraphDef, list[str]]:
    """A random graph of elementwise ops, Identity and gradient stops, Assert, and control inputs, and two outputs."""
    with tf.Graph().as_default() as graph:
        tensors = [tf.compat.v1.placeholder(tf.float32, [3], name="x")]
        control: list[Any] = []
        for _ in range(draw(st.integers(1, 12))):
            source = draw(st.sampled_from(tensors))
            kind = draw(st.sampled_from(["identity", "stop", "prevent", "negate", "add", "assert", "no_op"]))
            before = draw(st.lists(st.sampled_from(control), max_size=2)) if control else []
            with tf.control_dependencies(before):
                if kind == "identity":
                    made = tf.raw_ops.Identity(input=source)
                elif kind == "stop":
                    made = tf.stop_gradient(source)
                elif kind == "prevent":
                    made = tf.raw_ops.PreventGradient(input=source, message="none")
                elif kind == "negate":
                    made = -source
                elif kind == "add":
                    made = source + draw(st.sampled_from(tensors))
                elif kind == "assert":
                    control.append(tf.raw_ops.Assert(condition=tf.reduce_all(source < 1e9), data=[source]))
                    continue
                else:
                    control.append(tf.no_op())
                    continue
            tensors.append(made)
            control.append(made.op)
        outputs = [draw(st.sampled_from(tensors)).name for _ in range(2)]
    return graph.as_graph_def(), outputs


@given(graphs())
def test_values_stay_and_nothing_superfluous_is_left(drawn: tuple[graph_pb2.GraphDef, list[str]]) -> None:
    graph_def, outputs = drawn
    before = graph_def.SerializeToString(deterministic=True)
    cleaned = clean_graph(graph_def, ["x"], outputs)
    assert graph_def.SerializeToString(deterministic=True) == before
    x = np.array([1.0, -2.0, 3.0], "float32")
    for value, expected in zip(evaluate(cleaned, outputs, x), evaluate(graph_def, outputs, x), strict=True):
        np.testing.assert_array_equal(value, expected)
    kept = nodes(cleaned)
    fetched = {output.split(":")[0] for output in outputs}
    assert not {"StopGradient", "PreventGradient", "Assert", "NoOp"} & set(kept.values())
    assert {name for name, op in kept.items() if op == "Identity"} <= fetched
    assert not any(reference.startswith("^") for node in cleaned.node for reference in node.input)
    assert clean_graph(cleaned, ["x"], outputs) == cleaned


def test_control_inputs_on_side_effects_stay() -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [3], name="x")
        noise = tf.random.normal([3], name="noise")
        with tf.control_dependencies([noise, tf.identity(x, name="pure")]):
            tf.identity(x, name="y")
    cleaned = clean_graph(graph.as_graph_def(), ["x"], ["y:0"])
    (y,) = [node for node in cleaned.node if node.name == "y"]
    assert list(y.input) == ["x", "^noise"]
    assert "RandomStandardNormal" in nodes(cleaned).values()
    assert "pure" not in nodes(cleaned)


def test_inputs_that_nothing_uses_stay() -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [3], name="x")
        tf.compat.v1.placeholder(tf.float32, [3], name="unused")
        tf.compat.v1.placeholder(tf.float32, [3], name="not_an_input")
        tf.negative(x, name="y")
    assert set(nodes(clean_graph(graph.as_graph_def(), ["x", "unused"], ["y:0"]))) == {"x", "unused", "y"}


def test_devices_and_stale_hints_go() -> None:
    graph_def = graph_pb2.GraphDef()
    x = graph_def.node.add(name="x", op="Placeholder", device="/device:GPU:7")
    x.attr["dtype"].type = FLOAT
    y = graph_def.node.add(name="y", op="Neg", input=["x"], device="/device:GPU:7")
    y.attr["T"].type = FLOAT
    y.attr["_class"].list.s.append(b"loc:@gone")
    y.attr["_gradient_op_type"].s = b"CustomGradient-1"
    cleaned = clean_graph(graph_def, ["x"], ["y:0"])
    assert evaluate(cleaned, ["y:0"], np.float32(2.0)) == [-2.0]
    assert all(not node.device for node in cleaned.node)
    assert set(cleaned.node[1].attr) == {"T"}


def test_functions_are_cleaned_and_those_that_nothing_calls_go() -> None:
    @tf.function(autograph=False)
    def branch(x: Any) -> Any:
        tf.debugging.assert_less(tf.cast(x, tf.int32), 1000)
        return x * 2.0

    @tf.function
    def unused(x: Any) -> Any:
        return x

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [], name="x")
        tf.identity(tf.cond(x > 0, lambda: branch(x), lambda: x - 1.0), name="y")
        unused(x)
    graph_def = graph.as_graph_def()
    cleaned = clean_graph(graph_def, ["x"], ["y:0"])
    assert len(cleaned.library.function) == 3 < len(graph_def.library.function)
    inner = {node.op for function in cleaned.library.function for node in function.node_def}
    assert not {"Assert", "NoOp", "StatefulPartitionedCall"} & inner
    assert {"StatelessIf"} <= set(nodes(cleaned).values())
    assert not any(function.signature.is_stateful for function in cleaned.library.function)
    assert evaluate(cleaned, ["y:0"], np.float32(3.0)) == [6.0]
    assert evaluate(cleaned, ["y:0"], np.float32(-3.0)) == [-4.0]


def test_functions_with_effects_keep_them(capfd: pytest.CaptureFixture[str]) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [], name="x")

        def talking() -> Any:
            with tf.control_dependencies([tf.print("taken")]):
                return x * 2.0

        tf.identity(tf.cond(x > 0, talking, lambda: x - 1.0), name="y")
    cleaned = clean_graph(graph.as_graph_def(), ["x"], ["y:0"])
    assert "If" in nodes(cleaned).values()
    assert evaluate(cleaned, ["y:0"], np.float32(3.0)) == [6.0]
    assert "taken" in capfd.readouterr().err


def test_recursive_functions_count_as_having_effects() -> None:
    graph_def = graph_pb2.GraphDef()
    function = graph_def.library.function.add()
    function.signature.name = "f"
    function.node_def.add(name="again", op="f")
    assert SideEffects(graph_def.library).of_function("f")
