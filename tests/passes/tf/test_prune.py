from __future__ import annotations

import tensorflow as tf

from tests.passes.tf.pass_testing import apply_pass, graph_of, node_of, ops, placeholder, weight
from tf_opt.passes.tf.prune import Prune


def test_docstring_before_and_after() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, 4])
        b = tf.nn.relu(tf.identity(x, name="a"), name="b")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 100.0), data=[x], name="check")
        tf.nn.relu(x, name="unused")
        with tf.control_dependencies([check]):
            group = tf.no_op(name="n")
        with tf.control_dependencies([group]):
            return tf.identity(b, name="y")

    after = apply_pass(Prune(), graph_of(build), changed=True)
    assert [(node.name, node.op, list(node.input)) for node in after.node] == [
        ("x", "Placeholder", []),
        ("b", "Relu", ["x"]),
        ("y", "Identity", ["b"]),
    ]


def test_leaves_a_clean_graph_alone() -> None:
    apply_pass(Prune(), graph_of(lambda: tf.nn.relu(placeholder("x", [None, 4]))), changed=False)


def test_each_pass_through_op_goes() -> None:
    def build() -> list[tf.Tensor]:
        x = placeholder("x", [None, 4])
        y = tf.raw_ops.PreventGradient(input=tf.stop_gradient(tf.raw_ops.Snapshot(input=x)))
        y = tf.debugging.check_numerics(y, "bad")
        first, second = tf.identity_n([y, x])
        with_default = tf.compat.v1.placeholder_with_default(tf.constant([2.0] * 4), [4])
        return [tf.nn.relu(tf.raw_ops.Cast(x=first * with_default, DstT=tf.float32)), tf.nn.elu(second)]

    assert ops(apply_pass(Prune(), graph_of(build), changed=True)) == {
        "Placeholder": 1,
        "Const": 1,
        "Mul": 1,
        "Relu": 1,
        "Elu": 1,
    }


def test_fetched_pass_through_keeps_its_name() -> None:
    def build() -> list[tf.Tensor]:
        x = placeholder("x", [None, 4])
        fetched = tf.identity(tf.identity(x), name="fetched")
        return [fetched, tf.nn.relu(fetched, name="y")]

    after = apply_pass(Prune(), graph_of(build), changed=True)
    assert ops(after) == {"Placeholder": 1, "Identity": 1, "Relu": 1}
    assert node_of(after, "fetched").input == ["x"]


def test_shared_identity() -> None:
    def build() -> list[tf.Tensor]:
        shared = tf.identity(placeholder("x", [None, 4]))
        return [tf.nn.relu(shared), tf.nn.elu(shared)]

    assert "Identity" not in ops(apply_pass(Prune(), graph_of(build), changed=True))


def test_inputs_stay_and_unused_weights_go() -> None:
    def build() -> tf.Tensor:
        placeholder("unused_input", [None, 2])
        weight("unused_weight", [4, 4])
        return tf.nn.relu(placeholder("x", [None, 4]), name="y")

    after = apply_pass(Prune(), graph_of(build), changed=True)
    assert [node.name for node in after.node] == ["unused_input", "x", "y"]


def test_control_edge_from_a_side_effect_stays() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, 4])
        printed = tf.raw_ops.PrintV2(input=tf.constant(""), output_stream="log(info)", end="", name="printed")
        with tf.control_dependencies([printed]):
            ordered = tf.identity(x, name="ordered")
        return tf.nn.relu(ordered, name="y")

    after = apply_pass(Prune(), graph_of(build))
    assert node_of(after, "ordered").input == ["x", "^printed"]
    assert node_of(after, "y").input == ["ordered"]


def test_colocation_with_a_dropped_node_goes() -> None:
    graph_def, border = graph_of(lambda: tf.nn.relu(tf.identity(placeholder("x", [None, 4]), name="a"), name="y"))
    (relu,) = [node for node in graph_def.node if node.name == "y"]
    relu.attr["_class"].list.s.append(b"loc:@a")
    after = apply_pass(Prune(), (graph_def, border), changed=True)
    assert "_class" not in node_of(after, "y").attr
