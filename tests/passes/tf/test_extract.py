"""An extracted segment runs by itself, as a graph and as a function."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from tests.passes.tf.spliced_graphs import run, unless, v1, v1_graph
from tf_opt.errors import InvalidGraphError
from tf_opt.passes.tf.extract import extract_segment, segment_function
from tf_opt.passes.tf.graph_view import GraphView
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.segment import Segment, segment_graph
from tf_opt.tensor_info import TensorInfo
from tf_opt.weights import detach_weights, is_weight

WEIGHT = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)


def light_graph_and_segment() -> tuple[GraphDef, Segment]:
    """y, z = split(relu(sin(x) @ weight + 0.5)); sin stays outside."""
    with v1_graph() as graph, tf.device("/device:CPU:0"):
        x = v1.placeholder(tf.float32, [None, 8], name="x")
        hidden = tf.nn.relu(tf.matmul(tf.sin(x, name="s"), tf.constant(WEIGHT, name="weight")) + 0.5)
        with graph.colocate_with(x.op):
            first, second = tf.split(hidden, 2, axis=1, name="parts")
        tf.sin(first, name="y")
        tf.sin(second - first, name="z")
    light, _ = detach_weights(graph.as_graph_def(), 32)
    border = Border(("x",), ("y:0", "z:0"))
    (segment,) = segment_graph(light, border, is_supported=unless("Sin")).segments
    return light, segment


def expected(inputs: np.ndarray) -> list[np.ndarray]:
    first, second = np.split(np.maximum(inputs @ WEIGHT + 0.5, 0), 2, axis=1)
    return [first, second - first]


def test_extracted_segment_runs_by_itself() -> None:
    light, segment = light_graph_and_segment()
    before = light.SerializeToString(deterministic=True)
    extracted = extract_segment(light, segment)
    assert light.SerializeToString(deterministic=True) == before
    inputs = np.ones((3, 8), np.float32)
    results = run(extracted, {"input_0": inputs, "weight_0": WEIGHT}, ["output_0:0", "output_1:0"])
    for result, wanted in zip(results, expected(inputs), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-6)


def test_border_of_the_extracted_segment() -> None:
    light, segment = light_graph_and_segment()
    view = GraphView(extract_segment(light, segment))
    assert [node.name for node in view if node.op == "Placeholder"] == ["input_0", "weight_0"]
    assert [dim.size for dim in view.node("input_0").attr["shape"].shape.dim] == [-1, 8]
    assert [dim.size for dim in view.node("weight_0").attr["shape"].shape.dim] == [8, 4]
    assert is_weight(view.node("weight_0"))
    assert not is_weight(view.node("input_0"))
    assert view.op("output_0") == view.op("output_1") == "Identity"
    assert all(node.device == "" and "_class" not in node.attr for node in view)
    assert view.graph_def.versions == light.versions
    assert set(segment.nodes) | set(segment.constants) < set(view.names)


def test_unknown_rank_stays_unknown() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, None, name="x")
        tf.nn.relu(x, name="y")
    graph_def = graph.as_graph_def()
    border = Border(("x",), ("y:0",))
    (segment,) = segment_graph(graph_def, border, is_supported=unless(), minimum_segment_size=1).segments
    assert segment.inputs[0].shape is None
    assert GraphView(extract_segment(graph_def, segment)).node("input_0").attr["shape"].shape.unknown_rank


def test_control_edges_inside_are_kept_and_others_dropped() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, [4], name="x")
        three = tf.constant(3.0, name="three")
        with tf.control_dependencies([tf.sin(x, name="outside")]):
            a = tf.nn.relu(x, name="a")
        with tf.control_dependencies([a]):
            b = tf.multiply(x, three, name="b")
        tf.add(a, b, name="y")
    graph_def = graph.as_graph_def()
    border = Border(("x",), ("y:0",))
    (segment,) = segment_graph(graph_def, border, is_supported=unless("Sin")).segments
    assert segment.control_inputs == ("outside",)
    view = GraphView(extract_segment(graph_def, segment))
    assert list(view.node("a").input) == ["input_0"]
    assert list(view.node("b").input) == ["input_0", "three", "^a"]
    assert list(view.node("three").input) == []


def test_function_has_arguments_in_order() -> None:
    light, segment = light_graph_and_segment()
    function = segment_function(light, segment, "f")
    assert [(one.name, one.type) for one in function.signature.input_arg] == [("input_0", 1), ("weight_0", 1)]
    assert [one.name for one in function.signature.output_arg] == ["output_0", "output_1"]
    assert function.ret["output_0"] == "parts:output:0"
    assert {node.op for node in function.node_def} == {"MatMul", "AddV2", "Relu", "Split", "Sub", "Const"}


def test_function_with_default_attributes_left_out() -> None:
    light, segment = light_graph_and_segment()
    for node in light.node:
        for name in ("transpose_a", "transpose_b", "grad_a", "grad_b"):
            node.attr.pop(name, None)
    function = segment_function(light, segment, "defaults_left_out")
    with tf.Graph().as_default() as graph:
        library = GraphDef(versions=light.versions)
        library.library.function.append(function)
        for argument in function.signature.input_arg:
            node = library.node.add(name=argument.name, op="Placeholder")
            node.attr["dtype"].type = argument.type
        call = library.node.add(name="call", op="PartitionedCall", input=["input_0", "weight_0"])
        call.attr["f"].func.name = function.signature.name
        call.attr["Tin"].list.type.extend(argument.type for argument in function.signature.input_arg)
        call.attr["Tout"].list.type.extend(result.type for result in function.signature.output_arg)
        tf.graph_util.import_graph_def(library, name="")
        with v1.Session(graph=graph) as session:
            inputs = np.ones((2, 8), np.float32)
            results = session.run(["call:0", "call:1"], {"input_0:0": inputs, "weight_0:0": WEIGHT})
    for result, wanted in zip(results, expected(inputs), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-6)


def test_segment_of_another_graph_is_refused() -> None:
    light, segment = light_graph_and_segment()
    with pytest.raises(InvalidGraphError, match="not in the graph"):
        extract_segment(GraphDef(), segment)
    stale = Segment(
        name=segment.name,
        nodes=segment.nodes,
        constants=segment.constants,
        weights=(),
        inputs=(TensorInfo(name="x:0", dtype="float32"),),
        outputs=segment.outputs,
        control_inputs=(),
    )
    with pytest.raises(InvalidGraphError, match="neither in the segment nor one of its inputs"):
        extract_segment(light, stale)
