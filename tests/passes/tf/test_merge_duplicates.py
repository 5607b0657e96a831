from __future__ import annotations

import tensorflow as tf

from tests.passes.tf.pass_testing import apply_pass, graph_of, node_of, only, ops, placeholder, weight
from tf_opt.passes.tf.merge_duplicates import MergeDuplicates


def test_docstring_before_and_after() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, 4])
        return tf.add(tf.nn.relu(x, name="a"), tf.nn.relu(x, name="b"))

    after = apply_pass(MergeDuplicates(), graph_of(build), changed=True)
    assert only(after, "AddV2").input == ["a", "a"]
    assert ops(after)["Relu"] == 1


def test_other_attributes_inputs_and_dtypes_are_not_equal() -> None:
    def build() -> list[tf.Tensor]:
        x, y = placeholder("x", [4, 4]), placeholder("y", [4, 4])
        pairs = [tf.matmul(x, y), tf.matmul(x, y, transpose_b=True), tf.matmul(y, x)]
        return [
            tf.add_n(pairs),
            tf.constant(0, tf.int32),
            tf.constant(0, tf.int64),
            tf.constant(-0.0),
            tf.constant(0.0),
        ]

    apply_pass(MergeDuplicates(), graph_of(build), changed=False)


def test_chains_merge_in_one_run() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, 4])
        return tf.add(tf.exp(tf.nn.relu(x) * 2.0), tf.exp(tf.nn.relu(x) * 2.0))

    assert ops(apply_pass(MergeDuplicates(), graph_of(build), changed=True)) == {
        "Placeholder": 1,
        "Const": 1,
        "Relu": 1,
        "Mul": 1,
        "Exp": 1,
        "AddV2": 1,
    }


def test_random_numbers_and_weights_are_never_merged() -> None:
    def build() -> list[tf.Tensor]:
        x = placeholder("x", [2, 4])
        noise = tf.random.uniform([2, 4]) - tf.random.uniform([2, 4])
        product = tf.matmul(x, weight("first", [4, 4])) + tf.matmul(x, weight("second", [4, 4]))
        return [product, tf.cast(tf.reduce_any(tf.not_equal(noise, 0.0)), tf.int32)]

    after = apply_pass(MergeDuplicates(), graph_of(build))
    assert (ops(after)["RandomUniform"], ops(after)["MatMul"]) == (2, 2)


def test_the_fetched_one_stays() -> None:
    def build() -> list[tf.Tensor]:
        x = placeholder("x", [None, 4])
        first, fetched = tf.nn.relu(x, name="first"), tf.nn.relu(x, name="fetched")
        return [fetched, tf.add(first, 1.0, name="y")]

    after = apply_pass(MergeDuplicates(), graph_of(build), changed=True)
    assert node_of(after, "y").input[0] == "fetched"
    assert ops(after)["Relu"] == 1


def test_both_fetched_both_stay() -> None:
    def build() -> list[tf.Tensor]:
        x = placeholder("x", [None, 4])
        return [tf.nn.relu(x), tf.nn.relu(x)]

    apply_pass(MergeDuplicates(), graph_of(build), changed=False)


def test_shared_outputs_of_a_node_with_several() -> None:
    def build() -> list[tf.Tensor]:
        x = placeholder("x", [None, 4])
        left, right = tf.split(x, 2, axis=1), tf.split(x, 2, axis=1)
        return [tf.add(left[0], right[1]), tf.add(left[1], right[0])]

    assert ops(apply_pass(MergeDuplicates(), graph_of(build), changed=True))["Split"] == 1
