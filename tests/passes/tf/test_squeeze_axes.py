from __future__ import annotations

import tensorflow as tf

from tests.passes.tf.pass_testing import apply_pass, graph_of, only, placeholder
from tf_opt.passes.tf.squeeze_axes import SqueezeAxes


def test_docstring_before_and_after() -> None:
    after = apply_pass(SqueezeAxes(), graph_of(lambda: tf.squeeze(placeholder("x", [1, 1, 1, 64]))), changed=True)
    assert list(only(after, "Squeeze").attr["squeeze_dims"].list.i) == [0, 1, 2]


def test_an_unknown_dimension_could_be_one() -> None:
    apply_pass(SqueezeAxes(), graph_of(lambda: tf.squeeze(placeholder("x", [None, 1, 4]))), changed=False)


def test_given_axes_stay() -> None:
    apply_pass(SqueezeAxes(), graph_of(lambda: tf.squeeze(placeholder("x", [1, 1, 4]), [0])), changed=False)


def test_fetched_and_shared() -> None:
    def build() -> list[tf.Tensor]:
        squeezed = tf.squeeze(placeholder("x", [4, 1]), name="squeezed")
        return [squeezed, tf.nn.relu(squeezed), tf.nn.elu(squeezed)]

    after = apply_pass(SqueezeAxes(), graph_of(build), changed=True)
    assert only(after, "Squeeze").name == "squeezed"
