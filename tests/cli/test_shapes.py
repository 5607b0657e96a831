"""Shapes as they are written on a command line."""

from __future__ import annotations

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from tf_opt.cli.shapes import ShapeSpecification, combinations, parse_shape, parse_shapes, parse_sizes

ranges = st.tuples(st.integers(1, 500), st.integers(0, 500)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def written(sizes: list[tuple[int, int]]) -> str:
    return "x".join(str(low) if low == high else f"{low}..{high}" for low, high in sizes)


@given(st.lists(ranges, max_size=4))
def test_what_is_written_is_read(sizes: list[tuple[int, int]]) -> None:
    assert parse_shape(f"input_ids={written(sizes)}") == ShapeSpecification("input_ids", tuple(sizes))


@given(st.lists(st.lists(ranges, max_size=3), min_size=1, max_size=3))
def test_combinations_reach_both_ends_and_stay_between(inputs: list[list[tuple[int, int]]]) -> None:
    shapes = [ShapeSpecification(f"input{number}", tuple(sizes)) for number, sizes in enumerate(inputs)]
    found = combinations(shapes)
    assert len(found) <= 5
    for shape in shapes:
        for axis, (low, high) in enumerate(shape.sizes):
            sizes = {each[shape.name][axis] for each in found}
            assert {low, high} <= sizes
            assert min(sizes) == low
            assert max(sizes) == high


def test_equal_ranges_go_together() -> None:
    found = combinations(parse_shapes(["a=1..8x4", "b=1..8"]))
    assert [(each["a"], each["b"]) for each in found] == [((1, 4), (1,)), ((8, 4), (8,)), ((3, 4), (3,))]


def test_two_ranges_meet_at_their_ends() -> None:
    found = [each["ids"] for each in combinations(parse_shapes(["ids=1..8x16..384"]))]
    assert found == [(1, 16), (1, 384), (8, 16), (8, 384), (3, 78)]


def test_nothing_given_is_one_empty_choice() -> None:
    assert combinations(()) == [{}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1x16", "names no input"),
        ("=1x16", "names no input"),
        ("ids=1xtwelve", "'twelve' in 'ids=1xtwelve' is no size"),
        ("ids=1x", "'' in 'ids=1x' is no size"),
        ("ids=1..x16", "'1..' in"),
        ("ids=8..1x16", "has to go upwards"),
        ("ids=0x16", "sizes begin with 1"),
        ("ids=0..4x16", "sizes begin with 1"),
        ("ids=-1x16", "'-1' in"),
        ("ids=1,8x16", "'1,8' in"),
    ],
)
def test_malformed_shapes_are_refused(text: str, message: str) -> None:
    with pytest.raises(typer.BadParameter, match=r".") as raised:
        parse_shape(text)
    assert message in str(raised.value)


def test_an_input_has_one_shape() -> None:
    with pytest.raises(typer.BadParameter, match="'ids' has two shapes"):
        parse_shapes(["ids=1x16", "ids=8x16"])


def test_lists_of_sizes() -> None:
    assert parse_sizes("1, 8,8", "--batch") == (1, 8)
    assert parse_sizes(None, "--batch") == (None,)
    for text in ("", "0", "1,,8", "a", "1.5", "-1"):
        with pytest.raises(typer.BadParameter, match="no list of sizes"):
            parse_sizes(text, "--batch")
