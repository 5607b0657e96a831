from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.passes.tf.pass_testing import apply_pass, constant, graph_of, node_of, ops, placeholder, weight
from tf_opt.passes.tf.lower_einsum import LowerEinsum, parse_equation


def einsum(equation: str, *operands: tf.Tensor, name: str | None = None) -> tf.Tensor:
    return tf.raw_ops.Einsum(inputs=list(operands), equation=equation, name=name)


def test_docstring_before_and_after() -> None:
    def build() -> tf.Tensor:
        return einsum("abc,cde->abde", placeholder("x", [None, None, 8]), weight("w", [8, 2, 4]), name="y")

    after = apply_pass(LowerEinsum(), graph_of(build), changed=True)
    result = node_of(after, "y")
    product = node_of(after, result.input[0])
    left, right = (node_of(after, reference) for reference in product.input)
    assert (result.op, product.op, left.op, right.op) == ("Reshape", "MatMul", "Reshape", "Reshape")
    assert (left.input[0], constant(after, left.input[1])) == ("x", [-1, 8])
    assert (right.input[0], constant(after, right.input[1])) == ("w", [8, 8])
    entries = [node_of(after, reference) for reference in node_of(after, result.input[1]).input]
    assert [entry.op for entry in entries] == ["StridedSlice", "StridedSlice", "Const", "Const"]


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("ab,bc->ac", [None, 3], [3, 5]),
        ("abcd,cde->abe", [None, None, 2, 4], [2, 4, 6]),
        ("aecd,abcd->acbe", [None, None, 2, 4], [None, None, 2, 4]),
        ("acbe,aecd->abcd", [None, 2, 3, 5], [None, 5, 2, 4]),
        ("cde,abc->abde", [8, 2, 4], [None, None, 8]),
        ("ab,b->a", [None, 3], [3]),
        ("abc,abc->a", [None, 3, 4], [None, 3, 4]),
        ("bc,abc->ab", [3, 4], [None, 3, 4]),
        ("ba,bc->ca", [3, None], [3, 5]),
    ],
)
def test_equations(equation: str, left: list[int | None], right: list[int | None]) -> None:
    def build() -> tf.Tensor:
        return einsum(equation, placeholder("x", left), placeholder("y", right))

    after = apply_pass(LowerEinsum(), graph_of(build), changed=True, sizes=((2, 3), (1, 1), (4, 2)))
    assert "Einsum" not in ops(after)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ab->ba", [[None, 3]]),
        ("aa,ab->b", [[3, 3], [3, 4]]),
        ("ab,cd->ac", [[2, 3], [4, 5]]),
        ("a,b->ab", [[None], [3]]),
        ("...a,ab->...b", [[None, 3], [3, 4]]),
        ("ab,bc,cd->ad", [[2, 3], [3, 4], [4, 5]]),
    ],
)
def test_equations_that_stay(equation: str, shapes: list[list[int | None]]) -> None:
    def build() -> tf.Tensor:
        return einsum(equation, *(placeholder(f"x{index}", shape) for index, shape in enumerate(shapes)))

    if equation.count(",") == 2:  # the kernel takes two operands at most; the pass must not trip over three
        assert parse_equation(equation) is None
        return
    apply_pass(LowerEinsum(), graph_of(build), changed=False)


def test_fetched_and_shared_operand() -> None:
    def build() -> list[tf.Tensor]:
        x = tf.nn.relu(placeholder("x", [None, None, 8]), name="shared")
        return [x, einsum("abc,cd->abd", x, weight("w", [8, 4]), name="first"), tf.nn.elu(x)]

    after = apply_pass(LowerEinsum(), graph_of(build), changed=True)
    assert node_of(after, "first").op == "Reshape"


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_equations(data: st.DataObject) -> None:
    labels = "abcde"
    left = data.draw(st.permutations(labels).map(lambda order: "".join(order)).flatmap(_prefix))
    right = data.draw(st.permutations(labels).map(lambda order: "".join(order)).flatmap(_prefix))
    shared = [label for label in left if label in right]
    kept = data.draw(st.lists(st.sampled_from(shared), unique=True)) if shared else []
    result = data.draw(st.permutations([*(set(left) ^ set(right)), *kept]))
    unknown = data.draw(st.sets(st.sampled_from(labels)))
    size = {label: index + 2 for index, label in enumerate(labels)}

    def shape(operand: str) -> list[int | None]:
        return [None if label in unknown else size[label] for label in operand]

    equation = f"{left},{right}->{''.join(result)}"
    graph = graph_of(lambda: einsum(equation, placeholder("x", shape(left)), placeholder("y", shape(right))))
    changed = LowerEinsum().run(*graph).graph_def
    random = np.random.default_rng(0)
    operands = {"x:0": left, "y:0": right}
    feed = {name: random.normal(size=[size[label] for label in operand]) for name, operand in operands.items()}
    outputs = []
    for graph_def in (graph[0], changed):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            tf.graph_util.import_graph_def(graph_def, name="")
            outputs.append(session.run(graph[1].outputs[0], feed))
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)


def _prefix(order: str) -> st.SearchStrategy[str]:
    return st.integers(1, 4).map(lambda count: order[:count])


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("abc,cde->abde", [None, None, 8], [8, 2, 4]),
        ("abcd,cde->abe", [None, None, 2, 4], [2, 4, 6]),
        ("aecd,abcd->acbe", [None, None, 2, 4], [None, None, 2, 4]),
        ("acbe,aecd->abcd", [None, 2, None, 5], [None, 5, 2, 4]),
        ("abcd,abe->acde", [None, None, 2, 3], [None, None, 4]),
        ("cab,cde->abde", [8, None, None], [8, 2, 4]),
    ],
)
def test_empty_operands(equation: str, left: list[int | None], right: list[int | None]) -> None:
    def build() -> tf.Tensor:
        return einsum(equation, placeholder("x", left), placeholder("y", right))

    after = apply_pass(LowerEinsum(), graph_of(build), changed=True, sizes=((2, 3, 2), (0, 3, 3), (2, 0, 0), (0, 0, 0)))
    assert "Einsum" not in ops(after)
