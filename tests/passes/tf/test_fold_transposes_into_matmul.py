from __future__ import annotations

import tensorflow as tf

from tests.passes.tf.pass_testing import apply_pass, constant, graph_of, node_of, only, ops, placeholder
from tf_opt.passes.tf.fold_transposes_into_matmul import FoldTransposesIntoMatMul


def test_docstring_before_and_after() -> None:
    def build() -> tf.Tensor:
        q, k = placeholder("q", [None, None, 2, 4]), placeholder("k", [None, None, 2, 4])
        product = tf.matmul(tf.transpose(k, [0, 2, 1, 3]), tf.transpose(q, [0, 2, 3, 1]))
        return tf.transpose(product, [0, 1, 3, 2], name="scores")

    after = apply_pass(FoldTransposesIntoMatMul(), graph_of(build), changed=True)
    scores = node_of(after, "scores")
    operands = [node_of(after, reference) for reference in scores.input]
    assert (scores.op, scores.attr["adj_x"].b, scores.attr["adj_y"].b) == ("BatchMatMulV2", False, True)
    assert [operand.input[0] for operand in operands] == ["q", "k"]
    assert [constant(after, operand.input[1]) for operand in operands] == [[0, 2, 1, 3]] * 2
    assert ops(after)["Transpose"] == 2


def test_an_exchange_becomes_a_flag() -> None:
    def build() -> tf.Tensor:
        x, y = placeholder("x", [2, 4, 3]), placeholder("y", [2, 4, 5])
        return tf.matmul(tf.transpose(x, [0, 2, 1]), y, name="y_")

    after = apply_pass(FoldTransposesIntoMatMul(), graph_of(build), changed=True)
    assert only(after, "BatchMatMulV2").attr["adj_x"].b
    assert "Transpose" not in ops(after)


def test_the_usual_attention_stays() -> None:
    def build() -> tf.Tensor:
        q, k = placeholder("q", [None, None, 2, 4]), placeholder("k", [None, None, 2, 4])
        return tf.matmul(tf.transpose(q, [0, 2, 1, 3]), tf.transpose(k, [0, 2, 1, 3]), transpose_b=True)

    apply_pass(FoldTransposesIntoMatMul(), graph_of(build), changed=False)


def test_fetched_product_and_fetched_operand_stay() -> None:
    def build() -> list[tf.Tensor]:
        x, y = placeholder("x", [2, 4, 3]), placeholder("y", [2, 4, 5])
        operand = tf.transpose(x, [0, 2, 1])
        product = tf.matmul(operand, y)
        return [operand, product, tf.transpose(product, [0, 2, 1])]

    apply_pass(FoldTransposesIntoMatMul(), graph_of(build), changed=False)


def test_fetched_result_keeps_its_name_and_shared_transposes_stay() -> None:
    def build() -> list[tf.Tensor]:
        x, y = placeholder("x", [2, 4, 3]), placeholder("y", [2, 4, 5])
        operand = tf.transpose(x, [0, 2, 1], name="operand")
        product = tf.transpose(tf.matmul(operand, y), [0, 2, 1], name="product")
        return [product, tf.nn.relu(operand), tf.nn.relu(product)]

    after = apply_pass(FoldTransposesIntoMatMul(), graph_of(build), changed=True)
    assert node_of(after, "product").op == "BatchMatMulV2"
    assert node_of(after, "operand").op == "Transpose"


def test_complex_operands_stay() -> None:
    def build() -> tf.Tensor:
        x = tf.complex(placeholder("x", [2, 4, 3]), placeholder("y", [2, 4, 3]))
        return tf.abs(tf.matmul(tf.transpose(x, [0, 2, 1]), x))

    apply_pass(FoldTransposesIntoMatMul(), graph_of(build), changed=False)
