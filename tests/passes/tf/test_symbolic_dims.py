from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_opt.passes.tf.symbolic_dims import (
    Dim,
    Expression,
    broadcast,
    divide_exactly,
    is_nonnegative,
    label_of,
    symbol,
)

b, s = symbol("b"), symbol("s")

_expressions = st.recursive(
    st.sampled_from(["b", "s", "0", "1", "2", "3"]),
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda parts: f"({' '.join(parts)})"),
    max_leaves=8,
)


@given(_expressions, _expressions, st.integers(0, 9), st.integers(0, 9))
def test_equal_expressions_have_equal_values(first: str, second: str, batch: int, sequence: int) -> None:
    symbolic = [eval(text, {"b": b, "s": s}) for text in (first, second)]
    numbers = [eval(text, {"b": batch, "s": sequence}) for text in (first, second)]
    if symbolic[0] == symbolic[1]:
        assert numbers[0] == numbers[1]
        assert hash(symbolic[0]) == hash(symbolic[1])
        assert label_of(symbolic[0]) == label_of(symbolic[1])
    if is_nonnegative(symbolic[0]):
        assert numbers[0] >= 0
    assert evaluate(symbolic[0], batch, sequence) == numbers[0]


def evaluate(dim: Any, batch: int, sequence: int) -> int:
    if isinstance(dim, int):
        return dim
    values = {"b": batch, "s": sequence}
    return sum(coefficient * math.prod(values[atom.label] for atom in term) for term, coefficient in dim.terms)


@given(_expressions, st.sampled_from(["b", "s", "2", "(b * s)", "(3 * b)"]))
def test_products_divide_exactly(factor: str, divisor: str) -> None:
    names = {"b": b, "s": s}
    assert divide_exactly(eval(factor, names) * eval(divisor, names), eval(divisor, names)) == eval(factor, names)


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ((1, 1), 1),
        ((1, b), b),
        ((b, b), b),
        ((b, 7), 7),
        ((b * 2, 1, b + b), b * 2),
    ],
)
def test_broadcast(dims: tuple[Dim, ...], expected: Dim) -> None:
    assert broadcast(*dims) == expected


def test_broadcast_is_a_set() -> None:
    t = symbol("t")
    assert broadcast(b, s) == broadcast(s, b) != b
    assert broadcast(broadcast(b, s), t) == broadcast(b, broadcast(t, s)) == broadcast(t, b, s, b)
    assert broadcast(broadcast(b, s), 5) == 5


def test_division_and_remainder() -> None:
    assert (b * 6) // 3 == b * 2
    assert (b * s) // s == b
    assert (b * 4) % 2 == 0
    assert b // 2 == b // 2 != b % 2
    assert divide_exactly(b + 1, 2) is None
    assert divide_exactly(b, 0) is None


def test_is_nonnegative() -> None:
    assert is_nonnegative(b * s + 3)
    assert is_nonnegative(b // 2)
    assert not is_nonnegative(b - 1)
    assert not is_nonnegative((b - 1) // 2)


def test_what_cancels_becomes_an_int() -> None:
    assert (b + 3) - b == 3
    assert isinstance(b - b, int)
    assert isinstance(b + 0, Expression)
    assert -b + b * 2 == b
    assert 5 - b == -(b - 5)
