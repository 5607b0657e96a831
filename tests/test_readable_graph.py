"""The readable listing of a graph."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.small_graphs import engine_nodes, feed, mlp, two_towers
from tf_opt import errors
from tf_opt.passes.tf.node_defs import make_constant, make_node


def lines_of(text: str) -> dict[str, str]:
    """Returns the lines of nodes by the node's name."""
    stripped = [line.strip() for line in text.splitlines()]
    return {line[1:].split()[0]: line for line in stripped if line.startswith("%")}


@pytest.fixture(scope="module")
def optimized():
    options = {"engine": "openvino", "adopt": "always", "cache": False}
    return {
        keep: tf_opt.Tf2TrtOpt(**options, keep_fallback=keep).optimize_graph_def(two_towers(), ["right"], [feed()])
        for keep in (True, False)
    }


def test_every_node_has_a_line_behind_those_of_its_inputs():
    graph_def = mlp()
    names = list(lines_of(tf_opt.format_graph(graph_def, ["y"])))
    assert sorted(names) == sorted(node.name for node in graph_def.node)
    for node in graph_def.node:
        assert all(names.index(each) < names.index(node.name) for each in node.input)


def test_dtypes_shapes_constants_and_attributes():
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        weight = tf.constant(np.ones([512, 4], np.float32), name="weight")
        axis = tf.constant(1, name="axis")
        product = tf.matmul(x, weight, transpose_b=True, name="product")
        with tf.control_dependencies([tf.no_op(name="first")]):
            left, right = tf.split(product, 2, axis=axis, name="halves")
        tf.add(left, right, name="sum")
        tf.cast(tf.size(x), tf.int64, name="count")
    lines = lines_of(tf_opt.format_graph(graph.as_graph_def(), ["sum:0", "count"]))
    assert lines["x"] == "%x : float32[?, 4] = Placeholder()"
    assert lines["weight"] == "%weight : float32[512, 4] = Const {8.0 KiB}"
    assert lines["product"] == "%product : float32[?, 512] = MatMul(%x, %weight) {transpose_b=True}"
    assert lines["axis"] == "%axis : int32[] = 1"
    assert lines["halves"] == (
        "%halves : (float32[?, 256], float32[?, 256]) = Split(%axis, %product) {num_split=2} after %first"
    )
    assert lines["sum"] == "%sum : float32[?, 256] = AddV2(%halves, %halves:1)"
    assert lines["count"] == "%count : int64[] = Cast(%Size)"
    assert tf_opt.format_graph(graph.as_graph_def(), ["sum:0", "count"]).endswith("  return %sum, %count\n}\n")


def test_constants_show_small_values_and_cut_long_ones():
    graph_def = tf.compat.v1.GraphDef()
    graph_def.node.append(make_constant("axes", [0, 2], tf.int32))
    graph_def.node.append(make_constant("many", list(range(9)), tf.int64))
    graph_def.node.append(make_constant("root", 2**0.5, tf.float32))
    graph_def.node.append(make_constant("text", "x" * 500, tf.string))
    graph_def.node.append(make_constant("nothing", np.zeros([0, 3]), tf.float32))
    lines = lines_of(tf_opt.format_graph(graph_def, ["axes"]))
    assert lines["axes"].endswith("= [0, 2]")
    assert lines["root"].endswith("= 1.414214")
    assert lines["many"].startswith("%many : int64[9] = Const {")
    assert lines["nothing"].endswith("= Const {empty}")
    assert len(lines["text"]) < 100
    assert lines["text"].endswith("…")


def test_long_lists_are_cut():
    graph_def = tf.compat.v1.GraphDef()
    names = [f"part_{number}" for number in range(20)]
    graph_def.node.extend(make_constant(name, 1.0, tf.float32) for name in names)
    graph_def.node.append(make_node("sum", "AddN", names, T=tf.float32, N=20))
    line = lines_of(tf_opt.format_graph(graph_def))["sum"]
    assert line.endswith("%part_7, … 12 more)")


def test_engines_are_numbered_and_fallbacks_follow(optimized):
    text = tf_opt.format_graph(optimized[True], ["right"])
    assert "graph {  # 8 nodes, 2 engines, constants of 3.0 KiB" in text
    assert "  # engine 0: tf_opt_segment_0 [4 nodes, fp32, " in text
    line = lines_of(text)["tf_opt_segment_0"]
    expression = "tf_opt::openvino #0(%x; weights %weight) [4 nodes, fp32, "
    assert line.startswith(f"%tf_opt_segment_0 : float32[?, 48] = {expression}")
    assert line.endswith(" bytes]")
    functions = [line for line in text.splitlines() if line.startswith("function @")]
    assert len(functions) == 2
    assert functions[0].startswith("function @tf_opt_segment_0_fallback_")
    # The body has the shapes that the engine node is given, and every block ends at the left margin.
    assert "  %MatMul : float32[?, 48] = MatMul(%input_0, %weight_0)" in text
    assert "  return output_0 = %left" in text
    assert text.splitlines().count("}") == 3


def test_engine_without_a_fallback(optimized):
    text = tf_opt.format_graph(optimized[False], ["right"])
    assert "[4 nodes, fp32, " in text
    assert "function" not in text


def test_damaged_engine_is_still_listed(optimized):
    broken = tf.compat.v1.GraphDef.FromString(optimized[False].SerializeToString())
    for node in engine_nodes(broken):
        node.attr["engine"].s = b"nothing"
        del node.attr["_tf_opt_precision"]
    assert "[4 nodes, unreadable, 7 bytes]" in tf_opt.format_graph(broken, ["right"])


def test_while_loops_of_version_1():
    with tf.Graph().as_default() as graph:
        tf.compat.v1.disable_control_flow_v2()
        try:
            tf.compat.v1.while_loop(lambda i: i < 3, lambda i: i + 1, [tf.constant(0)], name="loop")
        finally:
            tf.compat.v1.enable_control_flow_v2()
    graph_def = graph.as_graph_def()
    lines = lines_of(tf_opt.format_graph(graph_def))
    assert len(lines) == len(graph_def.node)
    assert lines["loop/Merge"].endswith("= Merge(%loop/Enter, %loop/NextIteration)")
    assert "after %loop/Merge" in lines["loop/Less/y"]


def test_graphs_with_functions_that_call_each_other():
    @tf.function
    def inner(x):
        return x + 1.0

    @tf.function
    def outer(x):
        return inner(x) * 2.0

    graph_def = outer.get_concrete_function(tf.TensorSpec([2], tf.float32)).graph.as_graph_def()
    text = tf_opt.format_graph(graph_def)
    assert "f=@__inference_inner" in text
    assert "function @__inference_inner" in text
    assert "%x : float32[2] = Placeholder()" in text


def test_unknown_op_costs_dtypes_and_shapes_only():
    graph_def = tf.compat.v1.GraphDef()
    graph_def.node.append(make_constant("one", 1.0, tf.float32))
    graph_def.node.append(make_node("strange", "OpOfAnotherLibrary", ["one"], speed=3))
    text = tf_opt.format_graph(graph_def, ["one"])
    assert text.startswith("# without dtypes and shapes: The GraphDef uses ops that this process does not know: OpOf")
    assert "%strange = OpOfAnotherLibrary(%one) {speed=3}" in text


def test_bad_input():
    with pytest.raises(errors.InvalidGraphError, match="Expected a GraphDef, got int"):
        tf_opt.format_graph(3)
    with pytest.raises(errors.UnknownOutputError, match="no node 'yy'"):
        tf_opt.format_graph(mlp(), ["yy"])
