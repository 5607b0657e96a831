from __future__ import annotations

import tensorflow as tf

from tests.passes.tf.pass_testing import apply_pass, graph_of, node_of, only, ops, placeholder, weight
from tf_opt.passes.tf.merge_reshapes import MergeReshapes


def test_docstring_before_and_after() -> None:
    def build() -> list[tf.Tensor]:
        w, x = weight("w", [64]), placeholder("x", [None, 8])
        a = tf.squeeze(tf.reshape(w, [1, 1, 1, 64]), [0, 1, 2])
        return [tf.nn.relu(a, name="a"), tf.reshape(tf.expand_dims(x, 1), [-1, 2, 4], name="b")]

    after = apply_pass(MergeReshapes(), graph_of(build), changed=True)
    assert node_of(after, "a").input == ["w"]
    assert node_of(after, "b").input[0] == "x"
    assert "ExpandDims" not in ops(after)


def test_unknown_dimensions_that_are_provably_restored() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, None, 8])
        restored = tf.reshape(tf.reshape(x, [-1, 8]), tf.stack([tf.shape(x)[0], tf.shape(x)[1], 8]))
        return tf.nn.relu(restored)

    assert "Reshape" not in ops(apply_pass(MergeReshapes(), graph_of(build), changed=True))


def test_other_dimensions_are_not_restored() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, None, 8])
        return tf.nn.relu(tf.expand_dims(tf.reshape(x, [-1, 4, 2]), 1))

    apply_pass(MergeReshapes(), graph_of(build), changed=False)


def test_fetched_ends_and_middles_keep_their_names() -> None:
    def build() -> list[tf.Tensor]:
        middle = tf.reshape(placeholder("x", [4, 6]), [24], name="middle")
        return [middle, tf.reshape(middle, [4, 6], name="end")]

    after = apply_pass(MergeReshapes(), graph_of(build), changed=True)
    assert (node_of(after, "end").op, list(node_of(after, "end").input)) == ("Identity", ["x"])
    assert node_of(after, "middle").op == "Reshape"


def test_shared_middle_stays_for_its_other_reader() -> None:
    def build() -> list[tf.Tensor]:
        middle = tf.reshape(placeholder("x", [4, 6]), [24])
        return [tf.nn.softmax(middle), tf.reshape(middle, [2, 12], name="end")]

    after = apply_pass(MergeReshapes(), graph_of(build), changed=True)
    assert node_of(after, "end").input[0] == "x"
    assert only(after, "Softmax").input[0] != "x"


def test_a_middle_whose_shape_is_read_is_not_read_through() -> None:
    def build() -> list[tf.Tensor]:
        middle = tf.reshape(placeholder("x", [None, 4, 6]), [-1, 8, 3], name="middle")
        return [tf.shape(middle), tf.reshape(middle, [-1, 12], name="end")]

    apply_pass(MergeReshapes(), graph_of(build), changed=False, sizes=((2,), (0,), (3,)))
