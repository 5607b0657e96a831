from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys

import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper
from tf2onnx import utils
from tf2onnx.graph import Graph

from tf_opt.export import export_segment
from tf_opt.reproducible_model import make_reproducible, name_without_counters


def constant(name, value):
    return numpy_helper.from_array(np.asarray(value, np.float32), name)


def model_of(nodes, initializers, outputs=("output_0",)):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["unk__9", 4]) for name in ("input_0", *outputs)]
    graph = helper.make_graph(nodes, "segment", values[:1], values[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def with_branches(number, *, backwards):
    """Returns a model with an If whose branches read what lies outside, numbered from `number`, in either order."""

    def branch(name, op, first):
        inner = [
            helper.make_node("Relu", ["x__1:0"], [f"r__{number + first}"], name=f"r__{number + first}"),
            helper.make_node(
                op, [f"r__{number + first}", f"half__{number}"], [f"{name}__{number}"], name=f"f__{first}"
            ),
        ]
        output = helper.make_tensor_value_info(f"{name}__{number}", TensorProto.FLOAT, None)
        return helper.make_graph(inner[:: -1 if backwards else 1], f"{name}_graph__{number}", [], [output])

    nodes = [
        helper.make_node("Add", ["input_0", f"one__{number}"], ["x__1:0"], name="x__1"),
        helper.make_node("ReduceMax", ["x__1:0"], [f"largest__{number}:0"], name=f"largest__{number}", keepdims=0),
        helper.make_node("Greater", [f"largest__{number}:0", f"half__{number}"], [f"condition__{number}:0"], name="c"),
        helper.make_node(
            "If",
            [f"condition__{number}:0"],
            ["output_0"],
            name="If",
            then_branch=branch("then", "Add", 3),
            else_branch=branch("else", "Mul", 4),
        ),
        helper.make_node("Neg", ["input_0"], [f"unused__{number}"], name=f"unused__{number}"),
    ]
    constants = [constant(f"one__{number}", 1), constant(f"half__{number}", 0.5), constant(f"no__{number}", 3)]
    step = -1 if backwards else 1
    return model_of(nodes[::step], constants[::step])


def test_order_and_numbers_leave_no_trace():
    one, other = with_branches(17, backwards=False), with_branches(40, backwards=True)
    for model in (one, other):
        make_reproducible(model, {"x__1", "c", "If", "input_0", "output_0"})
        onnx.checker.check_model(model, full_check=True)
    assert one.SerializeToString() == other.SerializeToString()
    graph = one.graph
    assert [node.op_type for node in graph.node] == ["Add", "ReduceMax", "Greater", "If"]
    assert [node.name for node in graph.node] == ["x__1", "largest__1", "c", "If"]
    assert list(graph.node[0].input) == ["input_0", "x__1/input_1"]
    assert [tensor.name for tensor in graph.initializer] == ["x__1/input_1", "c/input_1"]
    assert [each.name for each in (*graph.input, *graph.output)] == ["input_0", "output_0"]
    branches = [attribute.g for attribute in graph.node[-1].attribute]
    assert [list(branch.node[-1].input)[1] for branch in branches] == ["c/input_1"] * 2
    dimensions = [value.type.tensor_type.shape.dim[0].dim_param for value in (*graph.input, *graph.output)]
    assert dimensions == ["unk__1", "unk__1"]


def test_constant_that_is_an_output_keeps_its_name():
    nodes = [helper.make_node("Add", ["input_0", "output_1"], ["output_0"], name="sum")]
    model = model_of(nodes, [constant("output_1", np.ones([1, 4]))], ("output_0", "output_1"))
    make_reproducible(model, {"input_0", "output_0", "output_1", "sum"})
    assert [tensor.name for tensor in model.graph.initializer] == ["output_1"]
    assert list(model.graph.node[0].input) == ["input_0", "output_1"]


def test_given_names_are_not_taken_twice():
    nodes = [
        helper.make_node("Relu", ["input_0"], ["a__7:0"], name="a__7"),
        helper.make_node("Exp", ["a__7:0"], ["a__1:0"], name="a__1"),
        helper.make_node("Add", ["a__1:0", "b__3"], ["b/input_1:0"], name="b/input_1"),
        helper.make_node("Mul", ["b/input_1:0", "c__4"], ["output_0"], name="b"),
    ]
    model = model_of(nodes, [constant("b__3", 2), constant("c__4", 3)])
    make_reproducible(model, {"input_0", "output_0", "a__1", "b", "b/input_1"})
    onnx.checker.check_model(model, full_check=True)
    assert [node.name for node in model.graph.node] == ["a__2", "a__1", "b/input_1", "b"]
    assert len({tensor.name for tensor in model.graph.initializer} | {"b/input_1"}) == 3


def test_a_chain_deeper_than_the_stack():
    count = 3 * sys.getrecursionlimit()
    names = ["input_0", *(f"x__{number}" for number in range(count)), "output_0"]
    nodes = [helper.make_node("Neg", [a], [b], name=b) for a, b in itertools.pairwise(names)]
    model = model_of(nodes[::-1], [])
    make_reproducible(model, {"input_0", "output_0"})
    assert [node.input[0] for node in model.graph.node] == ["input_0", *(node.output[0] for node in model.graph.node)][
        :-1
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dense__1", "dense__1"),
        ("dense__1__57", "dense__1"),
        ("dense__2", "dense"),
        ("const_fold_opt__116", "const_fold_opt"),
        ("shapes/x__4_shape__9", "shapes/x_shape"),
        ("a__b", "a__b"),
    ],
)
def test_name_without_counters(name, expected):
    assert name_without_counters(name, {"dense__1"}) == expected


def repetitive_graph():
    """Two attention-like layers with arithmetic on shapes, equal constants, and convolutions between transpositions."""
    random_numbers = np.random.default_rng(0)

    def weight(*shape):
        return tf.constant(random_numbers.normal(size=shape).astype(np.float32))

    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, None, 16], name="input_0")
        for number in range(2):
            with tf.name_scope(f"layer_{number}"):
                shape = tf.shape(x)
                heads = [
                    tf.transpose(tf.reshape(x @ weight(16, 16), [shape[0], shape[1], 4, 4]), [0, 2, 1, 3])
                    for _ in range(3)
                ]
                scores = tf.nn.softmax(tf.matmul(heads[0], heads[1], transpose_b=True) * 0.5)
                mixed = tf.transpose(tf.matmul(scores, heads[2]), [0, 2, 1, 3])
                x = x + tf.reshape(mixed, [shape[0], shape[1], 16]) * 0.5
        image = tf.reshape(x, [-1, 4, 4, 16])
        image = tf.nn.relu(tf.nn.conv2d(image, weight(3, 3, 16, 8), 1, "SAME") * weight(8) + weight(8))
        both = tf.nn.conv2d(image, weight(1, 1, 8, 8), 1, "SAME") * weight(8) + image
        tf.identity(tf.reduce_mean(both, [1, 2]), name="output_0")
        tf.identity(both, name="output_1")
    return graph.as_graph_def()


def test_export_does_not_depend_on_the_order_in_sets(monkeypatch):
    order = random.Random(0)

    def shuffled(method):
        def found(*arguments, **keywords):
            nodes = method(*arguments, **keywords)
            order.shuffle(nodes)
            return nodes

        return found

    graph_def = repetitive_graph()
    first = export_segment(graph_def).model
    onnx.checker.check_model(first, full_check=True)
    for method in ("extract_sub_graph_nodes", "find_output_consumers"):
        monkeypatch.setattr(Graph, method, shuffled(getattr(Graph, method)))
    for _ in range(3):
        monkeypatch.setattr(utils, "INTERNAL_NAME", order.randrange(100_000))
        again = export_segment(graph_def).model
        assert onnx.printer.to_text(again) == onnx.printer.to_text(first)
        assert again.SerializeToString() == first.SerializeToString()


_IN_A_PROCESS = """
import sys

import tensorflow as tf

from tf_opt.export import export_segment

with open(sys.argv[1], "rb") as file:
    graph_def = tf.compat.v1.GraphDef.FromString(file.read())
with open(sys.argv[2], "wb") as file:
    file.write(export_segment(graph_def).model.SerializeToString())
"""


@pytest.mark.slow
def test_another_process_exports_the_same_bytes(tmp_path):
    graph_def = repetitive_graph()
    given, exported = tmp_path / "graph.pb", tmp_path / "model.onnx"
    given.write_bytes(graph_def.SerializeToString())
    command = [sys.executable, "-c", _IN_A_PROCESS, str(given), str(exported)]
    # Another seed than this process has, whose own is any number.
    subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "1"}, check=True, capture_output=True)
    assert exported.read_bytes() == export_segment(graph_def).model.SerializeToString()
