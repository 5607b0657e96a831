from __future__ import annotations

from dataclasses import replace

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

import tf_opt
from tests.small_graphs import feed, mlp, two_towers
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.segment import segment_graph
from tf_opt.passes.tf.tensor_types import tensor_infos
from tf_opt.report.json import load_report
from tf_opt.report.optimization import OptimizationReport
from tf_opt.report.segment_graph import SegmentGraph
from tf_opt.segment_graph_builder import MAXIMUM_BORDER_BOXES, MAXIMUM_TENSORFLOW_BOXES, build_segment_graph
from tf_opt.tensor_info import node_name


def boxes_of(graph_def: GraphDef, outputs: list[str], supported: set[str], minimum: int = 1) -> SegmentGraph:
    """Segments a graph by the ops that are supported, and draws it."""
    inputs = [f"{node.name}:0" for node in graph_def.node if node.op == "Placeholder"]
    types = tensor_infos(graph_def)
    segmentation = segment_graph(
        graph_def,
        Border(inputs=tuple(map(node_name, inputs)), outputs=tuple(outputs)),
        is_supported=lambda node, *_: None if node.op in supported else "no",
        minimum_segment_size=minimum,
        tensor_types=types,
    )
    infos = [replace(types[name], key=node_name(name).upper()) for name in (*inputs, *outputs)]
    return build_segment_graph(graph_def, segmentation, infos[: len(inputs)], infos[len(inputs) :], types)


def check_topological(graph: SegmentGraph) -> None:
    place = {box.name: number for number, box in enumerate(graph.boxes)}
    assert len(place) == len(graph.boxes)
    for edge in graph.edges:
        assert place[edge.source] < place[edge.target]
    assert len({(edge.source, edge.target) for edge in graph.edges}) == len(graph.edges)


def test_boxes_and_edges_of_two_towers():
    graph = boxes_of(two_towers(), ["left:0", "right:0"], {"MatMul", "Relu", "Mul", "Softmax", "Transpose"})
    check_topological(graph)
    assert {box.name: (box.kind, box.title, box.node_count) for box in graph.boxes} == {
        "input:x": ("input", "X", 0),
        "tf_opt_segment_0": ("segment", "tf_opt_segment_0", 4),
        "tensorflow:between": ("tensorflow", "Betainc", 1),
        "tf_opt_segment_1": ("segment", "tf_opt_segment_1", 5),
        "output:left:0": ("output", "LEFT", 0),
        "output:right:0": ("output", "RIGHT", 0),
    }
    edges = {(edge.source, edge.target): edge.tensors for edge in graph.edges}
    assert edges["input:x", "tf_opt_segment_0"] == ("x:0 float32 [?, 16]",)
    assert edges["tf_opt_segment_0", "tensorflow:between"] == ("left:0 float32 [?, 48]",)
    assert edges["tf_opt_segment_0", "output:left:0"] == ("left:0 float32 [?, 48]",)
    assert edges["tensorflow:between", "tf_opt_segment_1"] == ("between:0 float32 [?, 48]",)
    between = next(box for box in graph.boxes if box.title == "Betainc")
    assert between.op_counts == {"Betainc": 1}
    assert between.categories == {"op not supported": 1}
    assert between.examples == ("between",)


def test_nodes_joined_by_an_edge_share_a_box_unless_a_path_leaves_it():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        first = tf.exp(tf.sin(x, name="sin"), name="exp")
        engine = tf.nn.relu(first, name="relu")
        # Joined with the two above by an edge, but also by a path through the segment.
        tf.add(engine, first, name="after")
    drawn = boxes_of(graph.as_graph_def(), ["after:0"], {"Relu"})
    check_topological(drawn)
    groups = [box.examples for box in drawn.boxes if box.kind == "tensorflow"]
    assert groups == [("sin", "exp"), ("after",)]
    assert {(edge.source, edge.target) for edge in drawn.edges} == {
        ("input:x", "tensorflow:sin"),
        ("tensorflow:sin", "tf_opt_segment_0"),
        ("tensorflow:sin", "tensorflow:after"),
        ("tf_opt_segment_0", "tensorflow:after"),
        ("tensorflow:after", "output:after:0"),
    }


def test_control_edges_are_edges_without_tensors():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        sine = tf.sin(x, name="sin")
        with tf.control_dependencies([sine]):
            tf.nn.relu(x, name="relu")
    drawn = boxes_of(graph.as_graph_def(), ["relu:0", "sin:0"], {"Relu"})
    (waiting,) = [edge for edge in drawn.edges if edge.source == "tensorflow:sin" and edge.target == "tf_opt_segment_0"]
    assert waiting.tensor_count == 0
    assert waiting.tensors == ()


def test_many_inputs_of_the_same_readers_share_a_box():
    graph = tf.Graph()
    count = MAXIMUM_BORDER_BOXES + 4
    with graph.as_default():
        features = [tf.compat.v1.placeholder(tf.float32, [2], name=f"x{i}") for i in range(count)]
        tf.nn.relu(tf.concat(features, 0, name="all"), name="y")
    drawn = boxes_of(graph.as_graph_def(), ["y:0"], {"Relu", "ConcatV2"})
    (box,) = [box for box in drawn.boxes if box.kind == "input"]
    assert box.title == f"{count} inputs"
    (edge,) = [edge for edge in drawn.edges if edge.source == box.name]
    assert edge.tensor_count == count


def test_a_large_rest_is_a_bounded_number_of_boxes():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [4], name="x")
        value = tf.nn.relu(x, name="r")
        branches = []
        for number in range(3 * MAXIMUM_TENSORFLOW_BOXES):
            # Each branch has another reader, so that no two have the same neighbours.
            branches.append(tf.nn.relu(tf.sin(value, name=f"sin_{number}"), name=f"relu_{number}"))
        tf.add_n(branches, name="y")
    drawn = boxes_of(graph.as_graph_def(), ["y:0"], {"Relu"})
    check_topological(drawn)
    rest = [box for box in drawn.boxes if box.kind == "tensorflow"]
    assert len(rest) <= MAXIMUM_TENSORFLOW_BOXES
    assert sum(box.node_count for box in rest) == 3 * MAXIMUM_TENSORFLOW_BOXES + 1


def test_loops_of_tensorflow_1_are_drawn_without_the_edge_that_closes_them():
    graph = tf.Graph()
    tf.compat.v1.disable_control_flow_v2()
    try:
        with graph.as_default():
            x = tf.compat.v1.placeholder(tf.float32, [4], name="x")
            looped = tf.compat.v1.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, tf.sin(v)), [0, x])[1]
            tf.identity(tf.nn.relu(looped), name="y")
    finally:
        tf.compat.v1.enable_control_flow_v2()
    drawn = boxes_of(graph.as_graph_def(), ["y:0"], {"Relu"})
    check_topological(drawn)
    assert {"input", "tensorflow", "segment", "output"} == {box.kind for box in drawn.boxes}


def test_an_input_with_a_default_is_an_input():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder_with_default(tf.ones([2, 4]), [None, 4], name="x")
        tf.nn.relu(x, name="y")
    drawn = boxes_of(graph.as_graph_def(), ["y:0"], {"Relu"})
    assert next((edge.source, edge.target) for edge in drawn.edges) == ("input:x", "tf_opt_segment_0")


def test_what_is_fed_and_fetched_at_once_is_an_edge():
    graph = tf.Graph()
    with graph.as_default():
        tf.compat.v1.placeholder(tf.float32, [4], name="x")
    drawn = boxes_of(graph.as_graph_def(), ["x:0"], set())
    assert [(edge.source, edge.target) for edge in drawn.edges] == [("input:x", "output:x:0")]


def test_reports_of_analyses_and_optimizations_have_their_graph():
    analysis = tf_opt.Tf2TrtOpt(engine="openvino").analyze(two_towers(), ["left", "right"])
    assert [box.kind for box in analysis.graph.boxes].count("segment") == len(analysis.segments) == 2
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", adopt="always", progress=False)
    optimizer.optimize_graph_def(mlp(), ["y"], [feed()])
    graph = optimizer.report.graph
    check_topological(graph)
    segments = [box.name for box in graph.boxes if box.kind == "segment"]
    assert segments == [segment.name for segment in optimizer.report.segments]
    loaded = load_report(optimizer.report.to_json())
    assert isinstance(loaded, OptimizationReport)
    assert loaded.graph == graph
    assert "tf_opt_segment_0" in optimizer.report.to_html()


def test_cached_results_bring_their_graph():
    graph_def, feeds = mlp(), [{"x:0": np.ones([2, 16], np.float32)}]
    reports = []
    for _ in range(2):
        optimizer = tf_opt.Tf2TrtOpt(engine="openvino", adopt="always", progress=False)
        optimizer.optimize_graph_def(graph_def, ["y"], feeds)
        reports.append(optimizer.report)
    assert reports[1].from_cache
    assert reports[1].graph == reports[0].graph
