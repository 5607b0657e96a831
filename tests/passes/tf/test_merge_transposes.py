from __future__ import annotations

import tensorflow as tf

from tests.passes.tf.pass_testing import apply_pass, constant, graph_of, node_of, only, ops, placeholder
from tf_opt.passes.tf.merge_transposes import MergeTransposes


def test_docstring_before_and_after() -> None:
    def build() -> list[tf.Tensor]:
        x, y = placeholder("x", [None, 3, 4]), placeholder("y", [None, 3, 4, 5])
        a = tf.transpose(x, [0, 1, 2])
        return [tf.nn.relu(a), tf.transpose(tf.transpose(y, [0, 2, 1, 3]), [0, 1, 3, 2], name="joined")]

    after = apply_pass(MergeTransposes(), graph_of(build), changed=True)
    assert only(after, "Relu").input == ["x"]
    joined = only(after, "Transpose")
    assert (joined.name, joined.input[0], constant(after, joined.input[1])) == ("joined", "y", [0, 2, 3, 1])


def test_transposes_that_undo_each_other_go() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, 3, 4])
        return tf.nn.relu(tf.transpose(tf.transpose(x, [2, 0, 1]), [1, 2, 0]))

    assert "Transpose" not in ops(apply_pass(MergeTransposes(), graph_of(build), changed=True))


def test_a_permutation_that_is_fed_stays() -> None:
    def build() -> tf.Tensor:
        return tf.transpose(placeholder("x", [4, 4]), 1 - placeholder("order", [2], tf.int32) * 0 - tf.range(2))

    apply_pass(MergeTransposes(), graph_of(build), changed=False)


def test_fetched_transposes_keep_their_names() -> None:
    def build() -> list[tf.Tensor]:
        inner = tf.transpose(placeholder("x", [None, 3, 4]), [0, 2, 1], name="inner")
        return [inner, tf.transpose(inner, [0, 2, 1], name="back")]

    after = apply_pass(MergeTransposes(), graph_of(build), changed=True)
    assert (node_of(after, "inner").op, node_of(after, "back").op) == ("Transpose", "Identity")
    assert node_of(after, "back").input == ["x"]


def test_shared_transpose_stays_for_its_other_reader() -> None:
    def build() -> list[tf.Tensor]:
        shared = tf.transpose(placeholder("x", [None, 3, 4]), [0, 2, 1], name="shared")
        return [tf.nn.relu(shared), tf.transpose(shared, [1, 0, 2], name="joined")]

    after = apply_pass(MergeTransposes(), graph_of(build), changed=True)
    assert ops(after)["Transpose"] == 2
    assert node_of(after, "joined").input[0] == "x"
