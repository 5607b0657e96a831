from __future__ import annotations

import tensorflow as tf

from tests.passes.tf.pass_testing import apply_pass, graph_of, node_of, only, ops, placeholder, weight
from tf_opt.passes.tf.collapse_tensordot import CollapseTensordot


def dense(x: tf.Tensor, columns: int, *, bias: bool = False, name: str = "y") -> tf.Tensor:
    """What Keras's Dense does to a tensor of rank 3."""
    shape, inner = tf.shape(x), x.shape[-1]
    product = tf.matmul(tf.reshape(x, [-1, inner]), weight("w", [inner, columns]))
    product = tf.nn.bias_add(product, weight("b", [columns])) if bias else product
    return tf.reshape(product, tf.stack([shape[0], shape[1], columns]), name=name)


def test_docstring_before_and_after() -> None:
    after = apply_pass(CollapseTensordot(), graph_of(lambda: dense(placeholder("x", [None, None, 8]), 6)), changed=True)
    assert ops(after) == {"Placeholder": 2, "BatchMatMulV2": 1}
    assert (node_of(after, "y").op, list(node_of(after, "y").input)) == ("BatchMatMulV2", ["x", "w"])


def test_bias_comes_along() -> None:
    def build() -> tf.Tensor:
        return dense(placeholder("x", [None, None, 8]), 6, bias=True)

    after = apply_pass(CollapseTensordot(), graph_of(build), changed=True)
    assert ops(after) == {"Placeholder": 3, "BatchMatMulV2": 1, "BiasAdd": 1}
    assert node_of(after, "y").op == "BiasAdd"


def test_split_columns_keep_one_reshape() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, None, 8])
        product = tf.matmul(tf.reshape(x, [-1, 8]), weight("w", [8, 6]))
        return tf.reshape(product, tf.stack([tf.shape(x)[0], tf.shape(x)[1], 2, 3]), name="y")

    after = apply_pass(CollapseTensordot(), graph_of(build), changed=True)
    assert node_of(after, node_of(after, "y").input[0]).op == "BatchMatMulV2"
    assert ops(after)["Reshape"] == 1


def test_merged_heads_keep_one_reshape() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, None, 2, 4])
        product = tf.matmul(tf.reshape(x, [-1, 8]), weight("w", [6, 8]), transpose_b=True)
        return tf.reshape(product, tf.stack([tf.shape(x)[0], tf.shape(x)[1], 6]), name="y")

    after = apply_pass(CollapseTensordot(), graph_of(build), changed=True)
    product = only(after, "BatchMatMulV2")
    assert product.attr["adj_y"].b
    assert node_of(after, product.input[0]).op == "Reshape"


def test_rows_that_are_split_otherwise_are_reshaped_first() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, 6, 8])
        product = tf.matmul(tf.reshape(x, [-1, 8]), weight("w", [8, 6]))
        return tf.reshape(product, tf.stack([tf.shape(x)[0], 3, 2, 6]), name="y")

    after = apply_pass(CollapseTensordot(), graph_of(build), changed=True, sizes=((2,), (0,), (5,)))
    assert node_of(after, only(after, "BatchMatMulV2").input[0]).op == "Reshape"


def test_a_result_of_rank_two_stays() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, None, 8])
        product = tf.matmul(tf.reshape(x, [-1, 8]), weight("w", [8, 6]))
        return tf.reshape(product, [-1, 12])

    apply_pass(CollapseTensordot(), graph_of(build), changed=False, sizes=((2, 3), (2, 2), (4, 5)))


def test_fetched_product_stays() -> None:
    def build() -> list[tf.Tensor]:
        x = placeholder("x", [None, None, 8])
        product = tf.matmul(tf.reshape(x, [-1, 8]), weight("w", [8, 6]))
        return [product, tf.reshape(product, tf.stack([tf.shape(x)[0], tf.shape(x)[1], 6]))]

    apply_pass(CollapseTensordot(), graph_of(build), changed=False)


def test_shared_product_stays_and_a_shared_flattening_does_not_hinder() -> None:
    def build() -> list[tf.Tensor]:
        x = placeholder("x", [None, None, 8])
        flat = tf.reshape(x, [-1, 8])
        shared = tf.matmul(flat, weight("w", [8, 6]))
        own = tf.matmul(flat, weight("v", [8, 6]))
        target = tf.stack([tf.shape(x)[0], tf.shape(x)[1], 6])
        return [tf.nn.relu(shared), tf.reshape(shared, target, name="a"), tf.reshape(own, target, name="b")]

    after = apply_pass(CollapseTensordot(), graph_of(build), changed=True)
    assert (node_of(after, "a").op, node_of(after, "b").op) == ("Reshape", "BatchMatMulV2")


def test_empty_tensors_keep_their_shapes() -> None:
    def build() -> tf.Tensor:
        return dense(dense(placeholder("x", [None, None, 8]), 6, bias=True, name="z"), 4)

    apply_pass(CollapseTensordot(), graph_of(build), changed=True, sizes=((2, 3), (0, 3), (2, 0), (0, 0)))


def test_rows_that_do_not_follow_without_columns_stay() -> None:
    def build() -> tf.Tensor:
        x, w = placeholder("x", [None, 8]), placeholder("w", [8, None])
        product = tf.matmul(tf.reshape(x, [-1, 8]), w)
        return tf.reshape(product, tf.stack([2, 3, tf.shape(w)[1]]))

    # With no columns, a product of any number of rows can be reshaped to [2, 3, 0].
    apply_pass(CollapseTensordot(), graph_of(build), changed=False, sizes=((6, 4), (6, 0), (5, 0)))
