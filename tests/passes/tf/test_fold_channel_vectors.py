from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tests.passes.tf.pass_testing import (
    Graph,
    apply_pass,
    constant,
    graph_of,
    node_of,
    only,
    ops,
    placeholder,
    random_feed,
    weight,
)
from tf_opt.passes.tf.fold_channel_vectors import FoldChannelVectors
from tf_opt.weights import is_weight

SIZES = (2, 6, 6)
"""Batch, height and width of the images."""


def image(channels: int = 3) -> Any:
    return placeholder("x", [None, None, None, channels])


def convolution(source: Any, channels: int = 512, name: str = "kernel") -> Any:
    return tf.nn.conv2d(source, weight(name, [1, 1, source.shape[-1], channels]), 1, "SAME")


def batch_normalization(source: Any, prefix: str = "") -> Any:
    """As Keras 3 traces it, but for a variance that random weights cannot make negative."""
    gamma, beta, mean, deviation = (weight(f"{prefix}{each}", [512]) for each in ("gamma", "beta", "mean", "deviation"))
    variance = tf.reshape(tf.square(deviation), [1, 1, 1, 512])
    scale = tf.math.rsqrt(variance + 1e-3) * gamma
    return source * scale + (beta - mean * scale)


def values_of(graph: Graph) -> Callable[[str], Any]:
    """The values that the checks feed the weights with."""
    feed = random_feed(graph[0], SIZES)
    return lambda name: feed[f"{name}:0"]


def applied(build: Callable[[], Any], *, changed: bool) -> Any:
    graph = graph_of(build)
    return apply_pass(FoldChannelVectors(values_of(graph)), graph, changed=changed, sizes=[SIZES])


def test_docstring_before_and_after() -> None:
    graph = graph_of(lambda: convolution(image()) * (weight("gamma", [512]) * 2.0) + weight("beta", [512]))
    after = apply_pass(FoldChannelVectors(values_of(graph)), graph, changed=True, sizes=[SIZES])
    product, total = only(after, "Mul"), only(after, "AddV2")
    assert node_of(after, product.input[0]).op == "Conv2D"
    np.testing.assert_allclose(constant(after, product.input[1]), values_of(graph)("gamma") * 2)
    np.testing.assert_allclose(constant(after, total.input[1]), values_of(graph)("beta"))
    assert is_weight(node_of(after, "kernel"))


def test_a_batch_normalization_becomes_one_product_and_one_sum() -> None:
    def build() -> Any:
        biased = tf.nn.bias_add(convolution(image()), weight("bias", [512]))
        return tf.nn.relu(batch_normalization(tf.nn.max_pool2d(biased, 2, 2, "SAME")))

    found = ops(applied(build, changed=True))
    assert (found["BiasAdd"], found["Mul"], found["AddV2"], found["Rsqrt"], found["Sub"]) == (1, 1, 1, 0, 0)
    assert found["Placeholder"] == 2  # The image and the kernel.


def test_a_vector_may_have_axes_of_size_one() -> None:
    after = applied(lambda: convolution(image()) * weight("gamma", [1, 1, 1, 512]), changed=True)
    assert np.shape(constant(after, only(after, "Mul").input[1])) == (1, 1, 1, 512)


def test_shared_vectors_stay_weights_for_those_that_are_behind_no_convolution() -> None:
    def build() -> Any:
        gamma = weight("gamma", [512])
        # The sum of both inputs is computed without any convolution.
        features = placeholder("features", [None, 512]) * gamma
        return [convolution(image()) * gamma, features, tf.identity(gamma)]

    after = applied(build, changed=True)
    products = [node for node in after.node if node.op == "Mul"]
    kinds = {node_of(after, node.input[0]).op: node_of(after, node.input[1]).op for node in products}
    assert kinds == {"Conv2D": "Const", "Placeholder": "Placeholder"}


def test_what_computes_with_a_vector_alone_can_be_fetched() -> None:
    def build() -> Any:
        scale = tf.square(weight("gamma", [512]), name="scale")
        return [convolution(image()) * scale, scale]

    applied(build, changed=True)


def test_without_a_convolution_nothing_changes() -> None:
    applied(lambda: tf.nn.bias_add(placeholder("x", [None, 512]), weight("bias", [512])), changed=False)


def test_vectors_before_a_convolution_and_behind_products_stay() -> None:
    def build() -> Any:
        rows = tf.reduce_mean(convolution(image(512) * weight("before", [512])), [1, 2])
        return tf.matmul(rows, weight("matrix", [512, 64])) + weight("bias", [64])

    applied(build, changed=False)


def test_what_is_no_vector_stays() -> None:
    applied(lambda: convolution(placeholder("x", [None, 6, 6, 3])) + weight("map", [6, 6, 512]), changed=False)


def test_both_sides_of_a_shortcut() -> None:
    def build() -> Any:
        start = convolution(image(), name="first")
        left = batch_normalization(convolution(start, name="second"), "left/")
        return tf.nn.relu(left + batch_normalization(start, "right/"))

    found = ops(applied(build, changed=True))
    assert (found["Conv2D"], found["Mul"], found["AddV2"]) == (2, 2, 3)
