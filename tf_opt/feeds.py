"""Checks what a user feeds before TensorFlow sees it, and brings it into one form: arrays by tensor name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from tf_opt.errors import InvalidFeedError, did_you_mean
from tf_opt.frozen_graph import find_tensor
from tf_opt.tensor_info import TensorInfo

Array: TypeAlias = np.ndarray[Any, Any]

Feed: TypeAlias = Mapping[str, Any]
"""Values by input: a key ("input_ids"), a node ("input_ids") or a tensor ("input_ids:0"); arrays, tensors or lists."""

NormalizedFeed: TypeAlias = dict[str, Array]
"""Arrays by tensor name ("input_ids:0"), one for each input, of exactly its dtype."""


def check_feeds(feeds: Iterable[Feed], inputs: Sequence[TensorInfo]) -> list[NormalizedFeed]:
    """Returns a list of feeds in normal form.

    Args:
        feeds: One mapping a call.
        inputs: The inputs of the graph.

    Raises:
        InvalidFeedError: There is no feed, or one does not fit; the message says which, and how to fix it.
    """
    if isinstance(feeds, Mapping):
        raise InvalidFeedError("Expected a list of feeds, got one mapping. Write [feed].")
    if not isinstance(feeds, Iterable):
        raise InvalidFeedError(f"Expected a list of feeds, got {type(feeds).__name__}. Write [feed].")
    normalized = []
    for index, feed in enumerate(feeds):
        try:
            normalized.append(normalize_feed(feed, inputs))
        except InvalidFeedError as error:
            raise InvalidFeedError(f"Feed {index}: {error}") from error
    if not normalized:
        raise InvalidFeedError(
            "The list of feeds is empty. Pass at least one mapping from input names to arrays; "
            "tf_opt.random_feeds(graph) makes some."
        )
    return normalized


def normalize_feed(feed: Feed, inputs: Sequence[TensorInfo]) -> NormalizedFeed:
    """Returns `feed` as arrays by tensor name, in the order of `inputs`.

    Arrays must have the exact dtype. Python values and lists become the input's dtype where nothing is lost; floating
    point numbers may be rounded to the input's precision.

    Raises:
        InvalidFeedError: An input is missing, unknown or fed twice, or a value has the wrong dtype, rank or shape.
    """
    if not isinstance(feed, Mapping):
        raise InvalidFeedError(
            f"Expected a mapping from input names to arrays, got {type(feed).__name__}. Write "
            f"{{{', '.join(repr(info.key) + ': ...' for info in inputs)}}}."
        )
    names = ", ".join(repr(info.key) for info in inputs)
    values: dict[str, Any] = {}
    for name, value in feed.items():
        info = find_tensor(inputs, str(name))
        if info is None:
            candidates = [candidate for each in inputs for candidate in (each.key, each.name)]
            raise InvalidFeedError(
                f"The graph has no input {name!r}.{did_you_mean(str(name), candidates)} Its inputs: {names or 'none'}."
            )
        if info.name in values:
            raise InvalidFeedError(
                f"The input {info.key!r} is fed twice, the second time as {name!r}. Keep one of the two."
            )
        values[info.name] = value
    missing = [info.key for info in inputs if info.name not in values]
    if missing:
        listed = ", ".join(repr(key) for key in missing)
        raise InvalidFeedError(f"The feed lacks {listed}. The graph takes {names}; feed all of them.")
    return {info.name: _checked_array(values[info.name], info) for info in inputs}


def feed_shapes(feed: Mapping[str, Array]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Returns (name, shape) of each array: a hashable description of what a feed looks like."""
    return tuple((name, tuple(int(size) for size in array.shape)) for name, array in feed.items())


def _checked_array(value: Any, info: TensorInfo) -> Array:
    array = _array(value, info)
    if info.shape is None:
        return array
    expected = f"[{', '.join('?' if size is None else str(size) for size in info.shape)}]"
    if array.ndim != len(info.shape):
        hint = ""
        if array.ndim == len(info.shape) - 1:
            hint = " Add the batch dimension with array[None]."
        raise InvalidFeedError(
            f"The input {info.key!r} has rank {array.ndim} (shape {list(array.shape)}), expected rank "
            f"{len(info.shape)} (shape {expected}).{hint}"
        )
    for axis, (size, fixed) in enumerate(zip(array.shape, info.shape, strict=True)):
        if fixed is not None and size != fixed:
            raise InvalidFeedError(
                f"The input {info.key!r} has shape {list(array.shape)}, expected {expected}: dimension {axis} must "
                f"be {fixed}. Pad, cut or reshape the array, or freeze the model with None in that dimension."
            )
    return array


def _array(value: Any, info: TensorInfo) -> Array:
    expected = np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype)
    if tf.is_tensor(value):
        if not hasattr(value, "numpy"):
            raise InvalidFeedError(
                f"The input {info.key!r} is fed with the symbolic tensor {value.name!r}, which has no value. Feed an "
                "array."
            )
        value = value.numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if info.dtype == "string" and array.dtype.kind in "OSU":
            return array.astype(object)
        if array.dtype != expected:
            raise InvalidFeedError(
                f"The input {info.key!r} has dtype {array.dtype.name}, expected {info.dtype}. Convert it with "
                f'.astype("{info.dtype}").'
            )
        return array
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InvalidFeedError(
            f"The input {info.key!r} is no array: {error}. Rows must have one length; pad them."
        ) from error
    return _converted(array, expected, info)


def _converted(array: Array, expected: np.dtype[Any], info: TensorInfo) -> Array:
    """Brings an array of Python values to the input's dtype, where that loses nothing."""
    if info.dtype == "string" and array.dtype.kind in "OSU":
        return array.astype(object)
    number = tf.as_dtype(info.dtype)
    kind = array.dtype.kind
    if array.size == 0 or array.dtype == expected or (kind == "f" and (number.is_floating or number.is_complex)):
        return array.astype(expected)
    if kind in "iu" and number.is_integer:
        if number.min <= array.min() and array.max() <= number.max:
            return array.astype(expected)
        raise InvalidFeedError(
            f"The input {info.key!r} has values from {array.min()} to {array.max()}, which {info.dtype} does not hold "
            f"({number.min} to {number.max}). Correct the values."
        )
    if kind in "iu" and (number.is_floating or number.is_complex):
        converted = array.astype(expected)
        if np.array_equal(converted.astype(np.complex128 if number.is_complex else np.float64), array):
            return converted
    raise InvalidFeedError(
        f"The input {info.key!r} is fed with Python values of dtype {array.dtype.name}, which do not convert to "
        f"{info.dtype} "
        f'without loss. Feed an array: numpy.asarray(values).astype("{info.dtype}") if that is what you mean.'
    )
