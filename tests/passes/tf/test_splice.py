"""Spliced graphs are valid, and give the same results when the fallback functions run in place of engines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tests.passes.tf.spliced_graphs import (
    SHAPE,
    check_splice,
    engine_nodes,
    everything,
    run,
    splice_all,
    unless,
    v1,
    v1_graph,
    value,
    with_fallback_calls,
)
from tf_opt.errors import InvalidGraphError
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.segment import segment_graph
from tf_opt.passes.tf.splice import EngineNode, splice_segments
from tf_opt.tensor_info import TensorInfo
from tf_opt.weights import attach_weights, detach_weights, is_weight


def nodes_by_name(graph_def: GraphDef) -> dict[str, Any]:
    return {node.name: node for node in graph_def.node}


def test_segment_becomes_one_node() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        y = tf.nn.relu(tf.matmul(x, tf.constant(value())) + 1.0, name="y")
        tf.sin(y, name="z")
    segmentation, spliced = check_splice(graph.as_graph_def(), ["z:0"], {"x": value(1)}, is_supported=unless("Sin"))
    (engine,) = engine_nodes(spliced)
    assert engine.name == segmentation.segments[0].name == "tf_opt_segment_0"
    assert list(engine.input) == ["x", "Const"]
    assert engine.attr["runtime"].s == b"none"
    assert engine.attr["engine"].s == b"engine"
    assert engine.attr["segment_name"].s == b"tf_opt_segment_0"
    assert engine.attr["maximum_cached_engines"].i == 16
    assert [dim.size for dim in engine.attr["output_shapes"].list.shape[0].dim] == [-1, 4]
    # The small constant 1.0 lives in the fallback only; the weight is still a node.
    assert set(nodes_by_name(spliced)) == {"x", "Const", "tf_opt_segment_0", "z"}
    (function,) = spliced.library.function
    assert function.signature.name == engine.attr["fallback"].func.name
    assert function.signature.name.startswith("tf_opt_segment_0_fallback")
    assert [argument.name for argument in function.signature.input_arg] == ["input_0", "weight_0"]
    assert [argument.name for argument in function.signature.output_arg] == ["output_0"]


def test_fetched_node_keeps_its_name() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        a = tf.identity(tf.nn.relu(x, name="a"), name="again")
        tf.negative(a, name="b")
    outputs = ["a:0", "b:0", "again:0", "x:0"]
    segmentation, spliced = check_splice(graph.as_graph_def(), outputs, {"x": value()})
    nodes = nodes_by_name(spliced)
    assert [nodes[name].op for name in ("a", "b", "again")] == ["Identity"] * 3
    assert segmentation.segments[0].fetchable == ("a:0", "b:0", "again:0")


def test_second_output_is_fetched_by_name_and_index() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        first, second, third, _ = tf.split(tf.nn.relu(x), 4, name="parts")
        tf.add(first, third, name="sum")
        tf.negative(second, name="negative")
    segmentation, spliced = check_splice(graph.as_graph_def(), ["parts:1", "sum:0", "negative:0"], {"x": value()})
    served = nodes_by_name(spliced)["parts"]
    assert served.op == "IdentityN"
    assert len(served.input) == 2
    assert [info.name for info in segmentation.segments[0].outputs] == ["parts:0", "parts:1", "sum:0", "negative:0"]


def test_identity_n_and_top_k_are_spliced_with_all_their_outputs() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        values, indices = tf.math.top_k(tf.nn.relu(x), k=2, name="top")
        both = tf.identity_n([values, indices], name="both")
        tf.sin(both[0], name="s")
        tf.add(both[1], indices, name="t")
    check_splice(graph.as_graph_def(), ["s:0", "t:0", "top:1"], {"x": value()}, is_supported=unless("Sin"))


def test_same_tensor_feeds_twice() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        s = tf.sin(x)
        tf.matmul(s + s, s, name="y")
    segmentation, spliced = check_splice(graph.as_graph_def(), ["y:0"], {"x": value()}, is_supported=unless("Sin"))
    assert [info.name for info in segmentation.segments[0].inputs] == ["Sin:0"]
    assert list(engine_nodes(spliced)[0].input) == ["Sin"]


def test_fetchable_and_shared_constants_stay() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        fetched = tf.constant(2.0, name="fetched")
        shared = tf.constant(3.0, name="shared")
        own = tf.constant(4.0, name="own")
        y = x * fetched + shared - own
        tf.add(tf.sin(y), shared, name="z")
    graph_def = graph.as_graph_def()
    _, spliced = check_splice(
        graph_def, ["z:0", "fetched:0"], {"x": value()}, is_supported=unless("Sin"), minimum_segment_size=2
    )
    assert {"fetched", "shared"} <= set(nodes_by_name(spliced))
    assert "own" not in nodes_by_name(spliced)


def test_weight_shared_by_two_segments_is_one_node() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        weight = tf.constant(value(3), name="weight")
        middle = tf.sin(tf.nn.relu(tf.matmul(x, weight)))
        tf.nn.relu(tf.matmul(middle, weight), name="y")
    segmentation, spliced = check_splice(graph.as_graph_def(), ["y:0"], {"x": value()}, is_supported=unless("Sin"))
    assert [[info.name for info in segment.weights] for segment in segmentation.segments] == [["weight:0"]] * 2
    assert [list(node.input) for node in engine_nodes(spliced)] == [["x", "weight"], ["Sin", "weight"]]


def test_engine_reads_derived_weights_and_the_fallback_its_own() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        first = tf.matmul(x, tf.constant(value(3), name="weight"))
        tf.add(tf.matmul(first, tf.constant(value(4), name="other")), 1.0, name="y")
    light, store = detach_weights(graph.as_graph_def(), 4)
    segmentation = segment_graph(light, Border(("x",), ("y:0",)), is_supported=everything, minimum_segment_size=1)
    (segment,) = segmentation.segments
    derived = TensorInfo(name="tf_opt_segment_0/weight_0:0", dtype="int8", shape=SHAPE)
    other = next(info for info in segment.weights if info.name == "other:0")
    engine = EngineNode(segment=segment, runtime="none", engine=b"engine", weights=(derived, other))
    spliced = splice_segments(light, [engine])
    nodes = nodes_by_name(spliced)
    # The engine's own weights come first, in the order of its `weight_<i>`; then what only the fallback reads.
    assert list(nodes["tf_opt_segment_0"].input) == ["x", "tf_opt_segment_0/weight_0", "other", "weight"]
    assert is_weight(nodes["tf_opt_segment_0/weight_0"])
    assert nodes["tf_opt_segment_0/weight_0"].attr["dtype"].type == tf.int8.as_datatype_enum
    constant = NodeDef(name="tf_opt_segment_0/weight_0", op="Const")
    constant.attr["dtype"].type = tf.int8.as_datatype_enum
    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.ones(SHAPE, np.int8)))
    runnable = with_fallback_calls(attach_weights(spliced, store.extended({constant.name: constant})))
    (expected,) = run(graph.as_graph_def(), {"x": value()}, ["y:0"])
    np.testing.assert_allclose(run(runnable, {"x": value()}, ["y:0"])[0], expected, rtol=1e-5)

    alone = splice_segments(light, [replace(engine, keep_fallback=False)])
    assert list(nodes_by_name(alone)["tf_opt_segment_0"].input) == ["x", "tf_opt_segment_0/weight_0", "other"]


def test_control_edges_are_kept() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 10.0), data=[x], name="check")
        with tf.control_dependencies([check]):
            y = tf.nn.relu(tf.identity(x)) * 2.0
        with tf.control_dependencies([y]):
            tf.sin(x, name="after")
        tf.negative(y, name="y")
    _, spliced = check_splice(
        graph.as_graph_def(),
        ["after:0", "y:0"],
        {"x": value()},
        is_supported=unless("Sin", "Less", "All"),
    )
    nodes = nodes_by_name(spliced)
    assert "^tf_opt_segment_0" in nodes["after"].input
    assert list(nodes["tf_opt_segment_0"].input) == ["x", "^check"]
    runnable = with_fallback_calls(spliced)
    with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
        run(runnable, {"x": value() + 20}, ["y:0"])


def test_way_through_a_constant_counts() -> None:
    # relu ─► Sin ─► (control) constant ─► y, and relu ─► y: copying the constant must not hide the way over Sin.
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        a = tf.nn.relu(x, name="a")
        with tf.control_dependencies([tf.sin(a, name="between")]):
            constant = tf.constant(2.0, name="constant")
        with tf.control_dependencies([constant]):
            also = tf.constant(3.0, name="also")
        tf.add(a * constant, a * also, name="y")
    segmentation, _ = check_splice(graph.as_graph_def(), ["y:0"], {"x": value()}, is_supported=unless("Sin"))
    assert [segment.nodes for segment in segmentation.segments] == [("a",), ("mul", "mul_1", "y")]
    assert segmentation.segments[1].control_inputs == ("between",)


def test_segment_with_control_consumers_only_has_an_output() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        with tf.control_dependencies([tf.nn.relu(x * 2.0)]):
            tf.sin(x, name="y")
    segmentation, spliced = check_splice(graph.as_graph_def(), ["y:0"], {"x": value()}, is_supported=unless("Sin"))
    assert len(segmentation.segments[0].outputs) == 1
    assert list(nodes_by_name(spliced)["y"].input) == ["x", "^tf_opt_segment_0"]


def test_node_called_like_an_argument() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="input_1")
        a = tf.nn.relu(x, name="input_0")
        b = tf.negative(a, name="output_0")
        tf.multiply(b, tf.constant(value(2), name="output_1"), name="weight_0")
    check_splice(graph.as_graph_def(), ["weight_0:0", "output_0:0"], {"input_1": value()})


def test_some_of_the_segments_can_be_spliced() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        tf.nn.relu(tf.sin(tf.nn.relu(tf.sin(tf.nn.relu(x)))), name="y")
    graph_def = graph.as_graph_def()
    segmentation = segment_graph(
        graph_def, Border(("x",), ("y:0",)), is_supported=unless("Sin"), minimum_segment_size=1
    )
    assert len(segmentation.segments) == 3
    middle = [EngineNode(segment=segmentation.segments[1], runtime="none", engine=b"", specialize_after=3)]
    spliced = splice_segments(graph_def, middle)
    assert [node.name for node in engine_nodes(spliced)] == ["tf_opt_segment_1"]
    assert engine_nodes(spliced)[0].attr["specialize_after"].i == 3
    (expected,) = run(graph_def, {"x": value()}, ["y:0"])
    np.testing.assert_allclose(run(with_fallback_calls(spliced), {"x": value()}, ["y:0"])[0], expected, rtol=1e-5)


def test_without_fallback_the_segment_is_not_kept() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        tf.nn.relu(x, name="y")
    graph_def = graph.as_graph_def()
    segmentation = segment_graph(graph_def, Border(("x",), ("y:0",)), is_supported=everything, minimum_segment_size=1)
    node = EngineNode(segment=segmentation.segments[0], runtime="none", engine=b"", keep_fallback=False)
    spliced = splice_segments(graph_def, [node])
    # TensorFlow wants a function that exists; the op knows this one by its name.
    assert [function.signature.name for function in spliced.library.function] == ["tf_opt_no_fallback"]
    assert engine_nodes(spliced)[0].attr["fallback"].func.name == "tf_opt_no_fallback"


def test_library_and_versions_are_kept() -> None:
    @tf.function(input_signature=[tf.TensorSpec(SHAPE, tf.float32)])
    def twice(x: tf.Tensor) -> tf.Tensor:
        return x * 2.0

    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        tf.nn.relu(twice(tf.nn.relu(x)), name="y")
    graph_def = graph.as_graph_def()
    _, spliced = check_splice(graph_def, ["y:0"], {"x": value()})
    before = {function.signature.name for function in graph_def.library.function}
    assert before < {function.signature.name for function in spliced.library.function}


def test_colocation_with_a_node_that_is_gone_is_dropped() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        inner = tf.nn.relu(tf.nn.relu(x, name="first"), name="second")
        with graph.colocate_with(inner.op):
            tf.sin(inner, name="y")
    graph_def = graph.as_graph_def()
    assert nodes_by_name(graph_def)["y"].attr["_class"].list.s == [b"loc:@second"]
    _, spliced = check_splice(graph_def, ["y:0"], {"x": value()}, is_supported=unless("Sin"))
    assert "_class" not in nodes_by_name(spliced)["y"].attr


def test_segment_of_another_graph_is_refused() -> None:
    def segmented(name: str) -> tuple[GraphDef, EngineNode]:
        with v1_graph() as graph:
            tf.nn.relu(v1.placeholder(tf.float32, SHAPE, name="x"), name=name)
        graph_def = graph.as_graph_def()
        border = Border(("x",), (f"{name}:0",))
        segmentation = segment_graph(graph_def, border, is_supported=everything, minimum_segment_size=1)
        return graph_def, EngineNode(segment=segmentation.segments[0], runtime="none", engine=b"")

    graph_def, own = segmented("a")
    _, other = segmented("b")
    with pytest.raises(InvalidGraphError, match=r"'b' that is not in the graph"):
        splice_segments(graph_def, [other])
    with pytest.raises(InvalidGraphError, match="already has a node"):
        splice_segments(graph_def, [own, own])
    with pytest.raises(InvalidGraphError, match="already has a node"):
        splice_segments(splice_segments(graph_def, [own]), [own])


def test_spliced_graph_can_be_segmented_again() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        tf.nn.relu(tf.sin(tf.nn.relu(x)), name="y")
    graph_def = graph.as_graph_def()
    border = Border(("x",), ("y:0",))
    only_first = segment_graph(
        graph_def, border, is_supported=everything, minimum_segment_size=1, supported_nodes=["Relu"]
    )
    once = with_fallback_calls(splice_all(graph_def, only_first))
    again = segment_graph(once, border, is_supported=unless("Sin"), minimum_segment_size=1)
    assert [segment.name for segment in again.segments] == ["tf_opt_segment_1"]
    twice = with_fallback_calls(splice_all(once, again))
    (expected,) = run(graph_def, {"x": value()}, ["y:0"])
    np.testing.assert_allclose(run(twice, {"x": value()}, ["y:0"])[0], expected, rtol=1e-5)
