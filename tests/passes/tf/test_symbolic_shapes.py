from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.passes.tf.pass_testing import Graph, graph_of, placeholder, random_feed, weight
from tf_opt.passes.tf.symbolic_dims import Atom, Dim, Expression
from tf_opt.passes.tf.symbolic_shapes import SymbolicShapes


def shapes_of(build: Callable[[], Any]) -> tuple[SymbolicShapes, str]:
    graph_def, border = graph_of(build)
    return SymbolicShapes(graph_def, border), border.outputs[0]


def text(dims: Any) -> list[str]:
    return [str(dim) for dim in dims]


def x3() -> Any:
    return placeholder("x", [None, None, 8])


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: tf.nn.softmax(x3()), ["x:0[0]", "x:0[1]", "8"]),
        (lambda: x3() + weight("w", [8]), ["x:0[0]", "x:0[1]", "8"]),
        (lambda: tf.matmul(x3(), x3_other(), transpose_b=True), ["broadcast(x:0[0],y:0[0])", "x:0[1]", "y:0[1]"]),
        (lambda: tf.transpose(x3(), [2, 0, 1]), ["8", "x:0[0]", "x:0[1]"]),
        (lambda: tf.reshape(x3(), [-1, 8]), ["x:0[0]*x:0[1]", "8"]),
        (lambda: tf.reshape(x3(), [-1, 2, 2]), ["2*x:0[0]*x:0[1]", "2", "2"]),
        (lambda: tf.gather(weight("w", [9, 4]), tf.cast(x3(), tf.int32)), ["x:0[0]", "x:0[1]", "8", "4"]),
        (lambda: tf.concat([x3(), x3_other()], axis=1), ["x:0[0]", "(x:0[1]+y:0[1])", "8"]),
        (lambda: tf.reduce_mean(x3(), [1], keepdims=True), ["x:0[0]", "1", "8"]),
        (lambda: tf.reduce_mean(x3(), [0, -1]), ["x:0[1]"]),
        (lambda: tf.argmax(x3(), 1), ["x:0[0]", "8"]),
        (lambda: tf.stack([x3(), x3()], axis=1), ["x:0[0]", "2", "x:0[1]", "8"]),
        (lambda: tf.unstack(x3(), axis=2)[3], ["x:0[0]", "x:0[1]"]),
        (lambda: tf.split(x3(), 4, axis=2)[0], ["x:0[0]", "x:0[1]", "2"]),
        (lambda: tf.split(x3(), [3, 5], axis=2)[1], ["x:0[0]", "x:0[1]", "5"]),
        (lambda: tf.expand_dims(x3(), -2), ["x:0[0]", "x:0[1]", "1", "8"]),
        (lambda: tf.squeeze(x3()[:, None], [1]), ["x:0[0]", "x:0[1]", "8"]),
        (lambda: x3()[:, :, 1:3], ["x:0[0]", "x:0[1]", "2"]),
        (lambda: x3()[:, 0], ["x:0[0]", "8"]),
        (lambda: x3()[..., tf.newaxis], ["x:0[0]", "x:0[1]", "8", "1"]),
        (lambda: x3()[..., 0], ["x:0[0]", "x:0[1]"]),
        (lambda: x3()[tf.newaxis, :, ..., 1:3], ["1", "x:0[0]", "x:0[1]", "2"]),
        (lambda: x3()[:, :, ..., tf.newaxis, :], ["x:0[0]", "x:0[1]", "1", "8"]),
        (lambda: tf.slice(x3(), [0, 0, 2], [-1, -1, 3]), ["x:0[0]", "x:0[1]", "3"]),
        (lambda: tf.pad(x3(), [[0, 0], [1, 2], [0, 0]]), ["x:0[0]", "(3+x:0[1])", "8"]),
        (lambda: tf.tile(x3(), [1, 2, 1]), ["x:0[0]", "2*x:0[1]", "8"]),
        (lambda: tf.fill(tf.shape(x3())[:2], 0.5), ["x:0[0]", "x:0[1]"]),
        (lambda: tf.range(tf.shape(x3())[1]), ["x:0[1]"]),
        (lambda: tf.one_hot(tf.cast(x3(), tf.int32), 5), ["x:0[0]", "x:0[1]", "8", "5"]),
        (lambda: tf.raw_ops.Einsum(inputs=[x3(), x3_other()], equation="abc,adc->bd"), ["x:0[1]", "y:0[1]"]),
        (lambda: tf.nn.conv2d(image(), weight("w", [3, 3, 4, 6]), 1, "SAME"), ["i:0[0]", "i:0[1]", "i:0[2]", "6"]),
        (
            lambda: tf.nn.max_pool2d(image(), 2, 2, "VALID"),
            ["i:0[0]", "window(i:0[1],VALID,2,2,1)", "window(i:0[2],VALID,2,2,1)", "4"],
        ),
        (lambda: tf.where(tf.reduce_any(x3() > 0.0, 2, keepdims=True), x3_again(), 0.0), ["x:0[0]", "x:0[1]", "8"]),
    ],
)
def test_shape_rules(build: Callable[[], Any], expected: list[str]) -> None:
    shapes, output = shapes_of(build)
    shape = shapes.shape(output)
    assert shape is not None
    assert [label.replace("x_1:0", "x:0") for label in text(shape)] == expected


def x3_other() -> Any:
    return placeholder("y", [None, None, 8])


def x3_again() -> Any:
    return tf.compat.v1.get_default_graph().get_tensor_by_name("x:0") * 2.0


def image() -> Any:
    return placeholder("i", [None, None, None, 4])


def test_operands_of_different_inputs_may_broadcast() -> None:
    shapes, output = shapes_of(lambda: placeholder("x", [None]) + placeholder("y", [None]))
    assert text(shapes.shape(output) or ()) == ["broadcast(x:0[0],y:0[0])"]


def test_an_unknown_op_gives_fresh_dimensions() -> None:
    shapes, output = shapes_of(lambda: tf.unique(placeholder("x", [None], tf.int32)).y)
    assert text(shapes.shape(output) or ()) == [f"{output}[0]"]


def test_a_size_that_may_be_negative_is_not_taken_for_a_dimension() -> None:
    def build() -> Any:
        x = placeholder("x", [None, 8])
        return tf.reshape(x, tf.stack([tf.shape(x)[0] - 1, 4, 2]))

    shapes, output = shapes_of(build)
    assert text(shapes.shape(output) or ()) == [f"{output}[0]", "4", "2"]  # -1 for a batch of 0 infers another size


def test_values_stop_at_the_range_of_the_dtype() -> None:
    shapes, output = shapes_of(lambda: tf.constant([2**30]) * 4)
    assert shapes.value(output) is None


def test_nothing_is_known_in_a_loop() -> None:
    def build() -> Any:
        return tf.compat.v1.while_loop(
            lambda i, y: i < 3,
            lambda i, y: (i + tf.shape(y)[0] * 0 + 1, tf.concat([y, y], 0)),
            [0, placeholder("x", [2])],
            shape_invariants=[tf.TensorShape([]), tf.TensorShape([None])],
        )[1]

    tf.compat.v1.disable_control_flow_v2()
    try:
        shapes, output = shapes_of(build)
    finally:
        tf.compat.v1.enable_control_flow_v2()
    assert shapes.governed
    assert shapes.shape(output) is None  # a v1 Exit says nothing, and no rule guesses
    assert all(shapes.value(name) is None for name in shapes.governed)


Make = Callable[[Any, Any, int], Any]

# Each takes two int32 vectors (or scalars as vectors of one entry) and a small number, and gives a vector.
STEPS: dict[str, Make] = {
    "add": lambda a, b, k: a[:1] + b,
    "subtract": lambda a, b, k: tf.maximum(a - k, 0),
    "multiply": lambda a, b, k: a * b[:1],
    "floordiv": lambda a, b, k: a // (k + 1),
    "mod": lambda a, b, k: a % (k + 1),
    "minimum": lambda a, b, k: tf.minimum(a[:1], b[-1:]),
    "concat": lambda a, b, k: tf.concat([a, b], 0)[-4:],
    "prod": lambda a, b, k: tf.reduce_prod(a, keepdims=True),
    "sum": lambda a, b, k: tf.reshape(tf.reduce_sum(b), [1]),
    "max": lambda a, b, k: tf.expand_dims(tf.reduce_max(a), 0),
    "slice": lambda a, b, k: tf.concat([a, b], 0)[:: k + 1],
    "reverse": lambda a, b, k: a[::-1],
    "gather": lambda a, b, k: tf.gather(a, [0, 0]),
    "pack": lambda a, b, k: tf.stack([a[0], k, b[-1]]),
    "unpack": lambda a, b, k: tf.stack(tf.unstack(tf.concat([a, b], 0)[:2])[::-1]),
    "split": lambda a, b, k: tf.split(tf.concat([a[:1], b[:1]], 0), 2)[k % 2],
    "cast": lambda a, b, k: tf.cast(tf.cast(a, tf.int64) + k, tf.int32),
    "fill": lambda a, b, k: tf.fill([k % 3 + 1], a[0]),
    "tile": lambda a, b, k: tf.tile(a[:2], [2]),
    "size": lambda a, b, k: tf.reshape(tf.size(tf.zeros(tf.maximum(tf.minimum(a, 3), 1))), [1]),
    "rank": lambda a, b, k: a[:1] + tf.rank(a),
    "negate": lambda a, b, k: -(1 - a),
    "transpose": lambda a, b, k: tf.reshape(tf.transpose(tf.stack([a[:1], b[:1]])), [-1]),
    "squeeze": lambda a, b, k: tf.squeeze(a[None], [0]),
    "broadcast": lambda a, b, k: tf.broadcast_to(a[:1], [k + 1]),
    "range": lambda a, b, k: tf.range(k + 1) + a[:1],
}

programs = st.lists(
    st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9), st.integers(0, 9), st.integers(0, 3)),
    min_size=1,
    max_size=7,
)


def shape_program(program: list[tuple[str, int, int, int]]) -> Graph:
    """A graph of random arithmetic on the shapes of two inputs; fetches every vector that it computes."""

    def build() -> list[Any]:
        x, y = placeholder("x", [None, None, 3]), placeholder("y", [None, 2])
        vectors = [tf.shape(x), tf.shape(y), tf.shape(x)[1:2]]
        for step, first, second, number in program:
            vector = STEPS[step](vectors[first % len(vectors)], vectors[second % len(vectors)], number)
            vectors.append(tf.reshape(vector, [-1])[:4])
        return vectors

    return graph_of(build)


@settings(max_examples=40, deadline=None)
@given(programs, st.integers(0, 4), st.integers(0, 4))
def test_values_agree_with_the_session(program: list[tuple[str, int, int, int]], batch: int, sequence: int) -> None:
    graph_def, border = shape_program(program)
    shapes = SymbolicShapes(graph_def, border)
    tensors = [f"{name}:0" for name in shapes.position if shapes.value(name) is not None]
    assert tensors
    feed = random_feed(graph_def, [batch, sequence])
    sizes = {f"{name}[{axis}]": size for name, value in feed.items() for axis, size in enumerate(value.shape)}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.graph_util.import_graph_def(graph_def, name="")
        values = {tensor: shapes.value(tensor) for tensor in tensors}
        # A size that no rule derives is a symbol of its own: what the tensor it belongs to really has.
        inner = {label for value in values.values() for label in labels(value)} - set(sizes)
        for label in inner:
            tensor, axis = label.removesuffix("]").split("[")
            sizes[label] = session.run(tensor, feed).shape[int(axis)]
        for tensor, actual in zip(tensors, session.run(tensors, feed), strict=True):
            value = values[tensor]
            assert value is not None
            assert value.shape == actual.shape
            expected = [evaluate(entry, sizes) for entry in value.ravel().tolist()]
            np.testing.assert_array_equal(actual.ravel(), expected, err_msg=f"{tensor}: {value}")


def labels(value: Any) -> set[str]:
    """The labels of all symbols in an array of symbolic dimensions."""
    found: set[str] = set()
    pending = [entry for entry in value.ravel().tolist() if isinstance(entry, Expression)]
    while pending:
        for monomial, _ in pending.pop().terms:
            for atom in monomial:
                if atom.operation == "symbol":
                    found.add(atom.label)
                pending.extend(operand for operand in atom.operands if isinstance(operand, Expression))
    return found


def evaluate(dim: Dim, sizes: dict[str, int]) -> int:
    """The number that a symbolic dimension stands for."""
    if not isinstance(dim, Expression):
        return dim
    total = 0
    for monomial, coefficient in dim.terms:
        for atom in monomial:
            coefficient *= evaluate_atom(atom, sizes)
        total += coefficient
    return total


def evaluate_atom(atom: Atom, sizes: dict[str, int]) -> int:
    if atom.operation == "symbol":
        return sizes[atom.label]
    operands = [evaluate(operand, sizes) for operand in atom.operands]
    if atom.operation == "broadcast":
        return next((size for size in operands if size != 1), 1)
    functions: dict[str, Callable[[int, int], int]] = {
        "floordiv": lambda left, right: left // right,
        "mod": lambda left, right: left % right,
        "minimum": min,
        "maximum": max,
    }
    return functions[atom.operation](*operands)
