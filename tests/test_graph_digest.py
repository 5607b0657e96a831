"""Equal digests for graphs that compute the same under other names, and for no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tf_opt.freeze.function import freeze_light
from tf_opt.graph_digest import output_digests
from tf_opt.saved_model.weights import WeightVariables

WEIGHT = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)


def digests(call: Any, *specs: Any) -> Any:
    """Digests of a function's outputs, by key."""
    specs = specs or (tf.TensorSpec([None, 32], tf.float32, name="x"),)
    model = freeze_light(tf.function(call, autograph=False).get_concrete_function(*specs))
    weights = WeightVariables()
    found = output_digests(model, lambda name: weights.digest(model.weights, name))
    return None if found is None else dict(zip((info.key for info in model.outputs), found, strict=True))


def dense(x: Any) -> Any:
    return tf.nn.relu(x @ WEIGHT + 0.0)


def test_names_say_nothing() -> None:
    def renamed(x: Any) -> Any:
        with tf.name_scope("elsewhere"):
            tf.reduce_sum(x)  # Read by nothing.
            return tf.nn.relu(tf.matmul(x, WEIGHT, name="product") + 0.0, name="result")

    assert digests(dense) == digests(renamed)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: tf.nn.relu(x @ (WEIGHT + 1) + 0.0),
        lambda x: tf.nn.relu(x @ WEIGHT + 1.0),
        lambda x: tf.nn.elu(x @ WEIGHT + 0.0),
        lambda x: tf.nn.relu(tf.matmul(x, WEIGHT, transpose_b=True) + 0.0),
        lambda x: tf.nn.relu(0.0 + x @ WEIGHT),
    ],
    ids=["weight", "constant", "op", "attribute", "order of inputs"],
)
def test_what_makes_a_difference(other: Any) -> None:
    assert digests(dense) != digests(other)


def test_inputs_are_known_by_their_keys() -> None:
    a, b = (tf.TensorSpec([4], tf.float32, name=name) for name in "ab")
    found = digests(lambda first, second: {"difference": first - second, "back": second - first}, a, b)
    assert found == digests(lambda first, second: {"difference": second - first, "back": first - second}, b, a)
    assert found["difference"] != found["back"]
    assert found["difference"] != digests(lambda first, second: {"difference": first - second}, b, a)["difference"]
    longer = (tf.TensorSpec([5], tf.float32, name="a"), tf.TensorSpec([5], tf.float32, name="b"))
    assert digests(lambda first, second: first - second, a, b) != digests(lambda c, d: c - d, *longer)


def test_bodies_of_loops_count() -> None:
    def loop(step: float) -> Any:
        def call(x: Any) -> Any:
            return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y + step), (0, x))[1]

        return call

    assert digests(loop(1.0)) == digests(loop(1.0))
    assert digests(loop(1.0)) != digests(loop(2.0))
