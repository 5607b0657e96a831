"""Shapes as a user writes them: "input_ids=1..8x16..384"."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import typer

HINT = "expected NAME=SIZExSIZE, where a size is a number or a range, such as input_ids=1..8x16..384."

Range: TypeAlias = tuple[int, int]
"""Smallest and largest size of a dimension; equal where it is fixed."""

_MOST_RANGES_WITH_ALL_CORNERS = 2
"""With more, the number of combinations grows faster than what they say."""


@dataclass(frozen=True)
class ShapeSpecification:
    """The shapes of one input.

    Attributes:
        name: The input.
        sizes: One range a dimension.
    """

    name: str
    sizes: tuple[Range, ...]


def parse_shape(text: str) -> ShapeSpecification:
    """Returns "input_ids=1..8x16..384" as an input with ranges.

    Raises:
        typer.BadParameter: It is written otherwise, or a range is empty.
    """
    name, separator, written = text.partition("=")
    if not separator or not name.strip():
        raise typer.BadParameter(f"{text!r} names no input; {HINT}", param_hint="--shape")
    # A scalar has no dimensions at all: "name=".
    parts = written.strip().split("x") if written.strip() else []
    return ShapeSpecification(name.strip(), tuple(_range(part, text) for part in parts))


def parse_shapes(texts: Sequence[str]) -> tuple[ShapeSpecification, ...]:
    """Returns what `parse_shape` does for each; an input that is named twice is refused."""
    found: dict[str, ShapeSpecification] = {}
    for text in texts:
        shape = parse_shape(text)
        if shape.name in found:
            raise typer.BadParameter(f"the input {shape.name!r} has two shapes; give one.", param_hint="--shape")
        found[shape.name] = shape
    return tuple(found.values())


def _range(part: str, text: str) -> Range:
    matched = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", part.strip())
    if matched is None:
        raise typer.BadParameter(f"{part!r} in {text!r} is no size; {HINT}", param_hint="--shape")
    low, high = int(matched[1]), int(matched[2] or matched[1])
    if low > high or high < 1:
        raise typer.BadParameter(
            f"{part!r} in {text!r} is no range of sizes: it has to go upwards, and sizes begin with 1.",
            param_hint="--shape",
        )
    if low < 1:
        raise typer.BadParameter(f"{part!r} in {text!r} begins with 0; sizes begin with 1.", param_hint="--shape")
    return low, high


def combinations(shapes: Sequence[ShapeSpecification]) -> list[dict[str, tuple[int, ...]]]:
    """Returns the shapes by input that stand for the ranges: the smallest, the largest, and one between.

    Equal ranges go together, so that `a=1..8x4` and `b=1..8` always have one batch. With two different ranges, the
    smallest of each is also combined with the largest of the other.
    """
    ranges = list(dict.fromkeys(size for shape in shapes for size in shape.sizes if size[0] < size[1]))
    between = tuple(_between(*each) for each in ranges)
    if not ranges:
        choices: list[tuple[int, ...]] = [()]
    elif len(ranges) <= _MOST_RANGES_WITH_ALL_CORNERS:
        choices = [*itertools.product(*ranges), between]
    else:
        choices = [tuple(low for low, _ in ranges), between, tuple(high for _, high in ranges)]
    # 1..2 has nothing between.
    return [
        {
            shape.name: tuple(chosen[ranges.index(size)] if size in ranges else size[0] for size in shape.sizes)
            for shape in shapes
        }
        for chosen in dict.fromkeys(choices)
    ]


def _between(low: int, high: int) -> int:
    """Returns the geometric mean: sizes of batches and sequences are spread by factors."""
    return min(max(round(math.sqrt(low * high)), low), high)


def parse_sizes(text: str | None, option: str) -> tuple[int | None, ...]:
    """Returns "1,8" as numbers; (None,) where nothing is given.

    Raises:
        typer.BadParameter: It is written otherwise.
    """
    if text is None:
        return (None,)
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[1-9]\d*", part) for part in parts):
        raise typer.BadParameter(
            f"{text!r} is no list of sizes; expected numbers of at least 1 such as 1,8.", param_hint=option
        )
    return tuple(dict.fromkeys(int(part) for part in parts))
