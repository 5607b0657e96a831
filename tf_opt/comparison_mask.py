"""Which elements of an output count where a mask says which tokens are real."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from tf_opt.errors import InvalidFeedError, did_you_mean
from tf_opt.feeds import Array
from tf_opt.frozen_graph import find_tensor
from tf_opt.tensor_info import TensorInfo, node_name

Mask: TypeAlias = str | Iterable[Any]
"""The name of the mask among the inputs, or one array [batch, sequence] for each feed."""


def masks_of_feeds(
    mask: Mask | None, feeds: Sequence[Mapping[str, Any]], inputs: Sequence[TensorInfo] | None
) -> list[Array | None]:
    """Returns the mask of each feed as booleans [batch, sequence]; None for each where there is no mask.

    Args:
        mask: See `Mask`.
        feeds: Checked feeds.
        inputs: Inputs of the graph that is compared; None where it is a function, whose feeds alone say what it takes.

    Raises:
        InvalidFeedError: The mask is no input, is missing for a feed, or is not [batch, sequence].
    """
    if mask is None:
        return [None] * len(feeds)
    if isinstance(mask, str):
        values = [_value(mask, feed, number, inputs) for number, feed in enumerate(feeds)]
        called = f"The mask {mask!r}"
    else:
        values = list(mask)
        called = "The mask"
        if len(values) != len(feeds):
            raise InvalidFeedError(
                f"There are {len(values)} masks for {len(feeds)} feeds. Give one array [batch, sequence] for each "
                "feed, or the name of the mask among the inputs."
            )
    return [_checked(np.asarray(value), called, number) for number, value in enumerate(values)]


def _value(mask: str, feed: Mapping[str, Any], number: int, inputs: Sequence[TensorInfo] | None) -> Any:
    if inputs is not None:
        info = find_tensor(inputs, mask)
        for name, value in feed.items():
            if info is not None and find_tensor(inputs, name) is info:
                return value
        known = [candidate for each in inputs for candidate in (each.key, each.name)]
        listed = ", ".join(repr(each.key) for each in inputs)
    else:
        for name, value in feed.items():
            if mask == name or node_name(mask) == node_name(name):
                return value
        known = list(feed)
        listed = ", ".join(map(repr, feed))
    raise InvalidFeedError(
        f"Feed {number} has no input {mask!r} to take the mask from.{did_you_mean(mask, known)} The inputs are: "
        f"{listed or 'none'}. Name one of them, or give one array [batch, sequence] for each feed."
    )


def _checked(array: Array, called: str, number: int) -> Array:
    if array.ndim != 2:
        raise InvalidFeedError(
            f"{called} of feed {number} has the shape {list(array.shape)}; expected [batch, sequence], not 0 where a "
            "token is real."
        )
    if array.dtype.kind not in "biuf":
        raise InvalidFeedError(
            f"{called} of feed {number} has dtype {array.dtype.name}; expected numbers or booleans, not 0 where a "
            "token is real."
        )
    return np.asarray(array != 0)


def check_mask_fits(mask: Array, number: int, feed: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """Checks that something in a feed or its outputs is laid out as the mask is; otherwise it belongs to another feed.

    Args:
        mask: Booleans [batch, sequence].
        number: Which feed it is.
        feed: Values by input.
        outputs: Values by output key.

    Raises:
        InvalidFeedError: No input and no output begins with the mask's dimensions.
    """
    shapes = {name: np.shape(value) for group in (feed, outputs) for name, value in group.items()}
    if not any(shape[:2] == mask.shape for shape in shapes.values()):
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise InvalidFeedError(
            f"The mask of feed {number} has the shape {list(mask.shape)}, with which no input and no output begins: "
            f"{listed}. Give the mask that belongs to the feed."
        )


def outputs_of_fixed_length(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> frozenset[str]:
    """Returns the keys of the outputs whose second dimension is declared fixed although the inputs leave theirs open.

    Such a dimension is not the sequence, even where it happens to be as long: a pooled output [batch, 384] of a
    sequence of 384 tokens has no entry for each token.
    """
    second = {info.shape[1] for info in inputs if info.shape is not None and len(info.shape) >= 2}
    if None not in second:
        return frozenset()  # Where the sequence is fixed too, its number says nothing.
    return frozenset(
        info.key for info in outputs if info.shape is not None and len(info.shape) >= 2 and info.shape[1] is not None
    )
