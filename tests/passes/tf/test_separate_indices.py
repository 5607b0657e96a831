from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.passes.tf.pass_testing import apply_pass, graph_of, ops, placeholder
from tf_opt.passes.tf.graph_view import GraphView
from tf_opt.passes.tf.separate_indices import SeparateIndices

TABLE = np.arange(400, dtype=np.float32).reshape(100, 4)


def positions(shared: bool = True) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns y of ids -> Shape -> Range -> Gather -> Reshape -> y, where the Reshape reads the length if `shared`."""
    ids = placeholder("ids", [None, None], tf.int32)
    length = tf.shape(ids, name="shape")[1]
    numbers = tf.range(length, name="range")
    gathered = tf.gather(tf.constant(TABLE), numbers, name="gather")
    target = tf.stack([length, 2, 2], name="target") if shared else tf.constant([-1, 2, 2])
    return tf.reshape(gathered, target, name="y"), numbers


def test_docstring_before_and_after() -> None:
    after = apply_pass(SeparateIndices(["gather"]), graph_of(lambda: positions()[0]), changed=True)
    view = GraphView(after)
    assert view.node("gather").input[1] == "range_outside"
    assert view.node("target").input[0] == "strided_slice"
    # What only the node outside read has moved, not doubled.
    counts = ops(after)
    assert (counts["Shape"], counts["StridedSlice"], counts["Range"]) == (2, 2, 1)


def test_arithmetic_that_only_the_node_outside_reads_stays() -> None:
    apply_pass(SeparateIndices(["gather"]), graph_of(lambda: positions(shared=False)[0]), changed=False)


def test_nothing_outside_changes_nothing() -> None:
    apply_pass(SeparateIndices([]), graph_of(lambda: positions()[0]), changed=False)


def test_fetched_index_keeps_its_name() -> None:
    after = apply_pass(SeparateIndices(["gather"]), graph_of(lambda: list(positions())), changed=True)
    assert {"range", "range_outside"} <= {node.name for node in after.node}


def test_two_nodes_outside_share_one_copy() -> None:
    def build() -> list[tf.Tensor]:
        y, numbers = positions()
        return [y, tf.gather(tf.constant(TABLE[:, 0]), numbers, name="other")]

    after = apply_pass(SeparateIndices(["gather", "other"]), graph_of(build), changed=True)
    view = GraphView(after)
    assert view.node("gather").input[1] == view.node("other").input[1] == "range_outside"
    assert ops(after)["Range"] == 1


def test_floating_point_arithmetic_is_not_copied() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, 4])
        doubled = x * 2.0
        return tf.sin(doubled, name="sin") + doubled

    apply_pass(SeparateIndices(["sin"]), graph_of(build), changed=False)


def test_types_of_tokens_that_are_filled_in_are_copied_with_their_shape() -> None:
    """What a model looks up where the user gives no token types must not take the shapes out of the engine."""

    def build() -> tf.Tensor:
        sizes = tf.shape(placeholder("ids", [None, None], tf.int32), name="shape")
        types = tf.fill(tf.stack([sizes[0], sizes[1]]), 0, name="types")
        gathered = tf.gather(tf.constant(TABLE), types, name="gather")
        return tf.reshape(gathered, tf.stack([sizes[0], sizes[1], 2, 2], name="target"), name="y")

    view = GraphView(apply_pass(SeparateIndices(["gather"]), graph_of(build), changed=True))
    assert view.node("gather").input[1] == "types_outside"
    assert not any(name.endswith("_outside") for name in view.node("target").input)


def test_distances_between_positions_are_copied_with_their_shape() -> None:
    """A bias by relative position is looked up by whether a position comes before another."""

    def build() -> list[tf.Tensor]:
        ids = placeholder("ids", [None, None], tf.int32)
        sizes = tf.shape(ids, name="shape")
        positions = tf.range(sizes[1])
        before = tf.less(-(positions[None] - positions[:, None]), 0, name="before")
        bias = tf.gather(tf.constant(TABLE[:, 0]), tf.cast(before, tf.int32) * 2, name="gather")
        return [tf.reshape(tf.cast(ids, tf.float32), tf.stack([sizes[0], 1, 1, sizes[1]], name="target")) + bias]

    view = GraphView(apply_pass(SeparateIndices(["gather"]), graph_of(build), changed=True))
    assert {"before_outside", "shape_outside"} <= set(view.names)
    assert not any(name.endswith("_outside") for name in view.node("target").input)


def test_comparisons_of_floating_point_numbers_are_not_copied() -> None:
    def build() -> list[tf.Tensor]:
        less = tf.less(placeholder("x", [None, 4]) * 2.0, 0.0)
        return [tf.cast(less, tf.float32, name="outside"), tf.logical_not(less)]

    apply_pass(SeparateIndices(["outside"]), graph_of(build), changed=False)
