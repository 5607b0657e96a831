from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.passes.tf.pass_testing import (
    apply_pass,
    check_same_behaviour,
    constant,
    graph_of,
    node_of,
    only,
    ops,
    placeholder,
)
from tests.passes.tf.test_symbolic_shapes import programs, shape_program
from tf_opt.passes.tf.fold_shape_arithmetic import FoldShapeArithmetic
from tf_opt.passes.tf.pass_base import Border


def test_docstring_before_and_after() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, None, 8])
        shape = tf.shape(x)
        t = tf.reshape(x, tf.stack([tf.reduce_prod(shape[:2]), 8]), name="t")
        return tf.reshape(t, tf.stack([shape[0], shape[1], 2, 4]), name="y")

    after = apply_pass(FoldShapeArithmetic(), graph_of(build), changed=True)
    assert constant(after, node_of(after, "t").input[1]) == [-1, 8]
    target = node_of(after, node_of(after, "y").input[1])
    assert target.op == "Pack"
    slices = [node_of(after, entry) for entry in target.input[:2]]
    assert [node.op for node in slices] == ["StridedSlice"] * 2
    assert [constant(after, node.input[1]) for node in slices] == [[0], [1]]
    assert only(after, "Shape").input == ["x"]
    assert "Prod" not in ops(after)


def test_flatten_gets_a_constant_target() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, 4, 6])
        return tf.reshape(x, tf.stack([tf.shape(x)[0], 24]))

    after = apply_pass(FoldShapeArithmetic(), graph_of(build), changed=True, sizes=((2,), (0,), (5,)))
    assert constant(after, only(after, "Reshape").input[1]) == [-1, 24]
    assert "Shape" not in ops(after)


def test_a_reshape_to_its_own_shape_goes() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, None, 8])
        return tf.nn.relu(tf.reshape(tf.nn.elu(x), tf.concat([tf.shape(x)[:2], [8]], 0)))

    assert ops(apply_pass(FoldShapeArithmetic(), graph_of(build), changed=True)) == {
        "Placeholder": 1,
        "Elu": 1,
        "Relu": 1,
    }


def test_a_broadcast_to_its_own_shape_goes() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, None])
        return tf.nn.relu(tf.broadcast_to(x, tf.shape(x)))

    assert "BroadcastTo" not in ops(apply_pass(FoldShapeArithmetic(), graph_of(build), changed=True))


def test_known_values_become_constants() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, 6])
        return tf.tile(x, tf.stack([1, tf.shape(x)[1] // 2]))

    after = apply_pass(FoldShapeArithmetic(), graph_of(build), changed=True)
    assert constant(after, only(after, "Tile").input[1]) == [1, 3]


def test_equal_vectors_and_providers_are_shared() -> None:
    def build() -> list[tf.Tensor]:
        x, y = placeholder("x", [None, None, 8]), placeholder("y", [None, None, 8])
        hidden = tf.nn.relu(x)
        first = tf.reshape(hidden, tf.stack([tf.shape(hidden)[0], tf.shape(hidden)[1], 2, 4]))
        second = tf.reshape(x * 2.0, tf.concat([tf.shape(tf.nn.elu(x))[:2], [2, 4]], 0))
        return [first, second, tf.fill([tf.shape(first)[1] * 3], 1.0), tf.fill([tf.shape(x)[1] * 3], 2.0), y]

    after = apply_pass(FoldShapeArithmetic(), graph_of(build), changed=True)
    counts = ops(after)
    assert (counts["Shape"], counts["StridedSlice"], counts["Mul"]) == (1, 2, 2)
    targets = {node.input[1] for node in after.node if node.op == "Reshape"}
    assert len(targets) == 1


def test_unknown_dimensions_of_several_inputs() -> None:
    def build() -> list[tf.Tensor]:
        x = placeholder("x", [None, None, 8])
        others = [placeholder(f"y{index}", [None, 8]) for index in range(2)]
        batch = tf.shape(x)[0]
        return [tf.reshape(y[None] * x[:1, :1], tf.stack([1, tf.shape(y)[0], 2, 4])) for y in others] + [
            tf.reshape(x, tf.stack([batch, tf.shape(x)[1], 2, 4])),
            tf.reshape(tf.tile(x, [1, 2, 1]), tf.stack([batch, tf.shape(x)[1] * 2, 8])),
        ]

    after = apply_pass(FoldShapeArithmetic(), graph_of(build))
    packs = [node for node in after.node if node.op == "Pack"]
    assert len(packs) == 1  # the last Reshape has the shape of its input
    assert ops(after)["StridedSlice"] >= 1


def test_a_value_that_is_fed_stays() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, 4])
        return tf.tile(x, placeholder("multiples", [2], tf.int32))

    apply_pass(FoldShapeArithmetic(), graph_of(build), changed=False)


def test_entries_that_may_be_minus_one_stay() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, 8])
        rows = tf.shape(x)[0] - 1  # -1 for an empty batch, which then means: infer
        return tf.reshape(x[1:], tf.stack([rows, 4, 2]))

    after = apply_pass(FoldShapeArithmetic(), graph_of(build), sizes=((3,), (1,), (6,)))
    assert ops(after)["Reshape"] == 1


def test_fetched_nodes_keep_their_names() -> None:
    def build() -> list[tf.Tensor]:
        x = placeholder("x", [None, None, 8])
        shape = tf.shape(x, name="shape")
        target = tf.stack([shape[0], shape[1], 8], name="target")
        return [shape, target, tf.reshape(x, target, name="same"), tf.reduce_prod(target[:2], name="product")]

    after = apply_pass(FoldShapeArithmetic(), graph_of(build), changed=True)
    assert (node_of(after, "same").op, node_of(after, "same").input) == ("Identity", ["x"])


def test_int64_shapes_keep_their_dtype() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, None, 8])
        shape = tf.shape(x, out_type=tf.int64)
        return tf.reshape(x, tf.stack([shape[0], shape[1], 2, 4]))

    after = apply_pass(FoldShapeArithmetic(), graph_of(build), changed=True)
    assert only(after, "Pack").attr["T"].type == tf.int64.as_datatype_enum


def test_shared_arithmetic_with_a_reader_that_is_no_shape() -> None:
    def build() -> list[tf.Tensor]:
        x = placeholder("x", [None, None, 8])
        count = tf.reduce_prod(tf.shape(x)[:2])
        return [tf.reshape(x, tf.stack([count, 8])), tf.reduce_sum(x) / tf.cast(count, tf.float32)]

    after = apply_pass(FoldShapeArithmetic(), graph_of(build), changed=True)
    assert constant(after, only(after, "Reshape").input[1]) == [-1, 8]
    assert node_of(after, only(after, "Cast").input[0]).op == "Mul"


def test_nothing_reads_the_shape_of_what_depends_on_it() -> None:
    """A provider has to come before its reader, or the graph would have a cycle."""

    def build() -> list[tf.Tensor]:
        x, y = placeholder("x", [None, 4]), placeholder("y", [None, 4])
        early = tf.fill([tf.shape(x)[0]], 1.0)
        total = x + y
        return [early, tf.reshape(total, tf.stack([tf.shape(total)[0], 2, 2]))]

    apply_pass(FoldShapeArithmetic(), graph_of(build))


@settings(max_examples=40, deadline=None)
@given(programs, st.data())
def test_random_shape_arithmetic(program: list[tuple[str, int, int, int]], data: Any) -> None:
    graph_def, border = shape_program(program)
    fetched = data.draw(st.sets(st.sampled_from(border.outputs), min_size=1))
    partial = Border(border.inputs, tuple(sorted(fetched)))
    result = FoldShapeArithmetic().run(graph_def, partial)
    check_same_behaviour(graph_def, result.graph_def, partial, sizes=((2, 3), (0, 1), (4, 0)))
    assert not FoldShapeArithmetic().run(result.graph_def, partial).changed


EMPTY_SIZES = ((2, 3), (0, 3), (2, 0), (0, 0), (1, 0))


def swapped(x: tf.Tensor) -> list[tf.Tensor]:
    return [tf.shape(x)[1], tf.shape(x)[0], 8]


@pytest.mark.parametrize(
    "target",
    [
        lambda x: [tf.shape(x)[0], tf.shape(x)[1], 2, 4],
        lambda x: [tf.shape(x)[0] * tf.shape(x)[1], 8],
        lambda x: [tf.shape(x)[0], tf.shape(x)[1] * 8],
        lambda x: [tf.shape(x)[0], -1],
        lambda x: [-1, tf.shape(x)[1], 4],
        lambda x: [tf.shape(x)[0], -1, 2, 4],
        lambda x: [-1, 4],
        swapped,
    ],
)
def test_empty_tensors_keep_their_shapes(target: Callable[[tf.Tensor], list[Any]]) -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, None, 8])
        return tf.reshape(tf.nn.relu(x), tf.stack(target(x)))

    apply_pass(FoldShapeArithmetic(), graph_of(build), sizes=EMPTY_SIZES)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(3)), st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_random_targets_of_empty_tensors(order: list[int], batch: int, sequence: int, merge: bool) -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, None, 8])
        dims = [tf.shape(x)[axis] for axis in order]
        return tf.reshape(tf.nn.relu(x), tf.stack([dims[0] * dims[1], dims[2]] if merge else dims))

    apply_pass(FoldShapeArithmetic(), graph_of(build), sizes=((batch, sequence),))
