"""Makes feeds that mean something: ids that exist in their embedding table, masks of ones and then zeros.

What an input means is read off the graph where the graph says it, and off its name where it does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tf_opt.errors import InvalidFeedError, InvalidOptionError, UnfeedableInputError, did_you_mean
from tf_opt.feeds import Array
from tf_opt.frozen_graph import FrozenGraph, find_tensor
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.input_roles import InputRole, find_roles
from tf_opt.tensor_info import Shape, TensorInfo

DEFAULT_BATCH = 2
DEFAULT_SEQUENCE = 16

_UNBOUNDED_IDS = 100
"""Integers that index nothing that is known stay below this, which also the smallest dtype holds."""


def random_feeds(
    graph: FrozenGraph | graph_pb2.GraphDef,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    batch: int | None = None,
    sequence: int | None = None,
    count: int = 1,
    seed: int = 0,
) -> list[dict[str, Array]]:
    """Returns random feeds that respect what the inputs mean.

    - Integers that index a constant table (embeddings) lie below its size; other integers lie below 100.
    - Inputs that are used or named as a mask are ones of a random length, at least 1, and then zeros, in the last
      dimension.
    - Floating point inputs are normally distributed, uint8 inputs (images) cover 0 to 255, booleans and strings are
      random.

    No integer feed is all one value where its range and size allow more.

    Args:
        graph: The graph whose inputs to make feeds for.
        shapes: Full shapes by input (key or name). An input that is left out takes the shape of one given with the
            same static shape, so that {"input_ids": (8, 128)} serves the mask too.
        batch: Size of an unknown first dimension; 2 by default.
        sequence: Size of an unknown second dimension; 16 by default.
        count: Number of feeds.
        seed: The same seed gives the same feeds.

    Returns:
        Mappings from input keys to arrays.

    Raises:
        InvalidFeedError: A shape does not fit its input, or names none.
        UnfeedableInputError: An input cannot be made up: it is of unknown rank or dtype, or has unknown dimensions
            besides the first two.
        InvalidOptionError: A size or the count is below 1.
    """
    for name, value in (("batch", batch), ("sequence", sequence), ("count", count)):
        if value is not None and value < 1:
            raise InvalidOptionError(f"{name} must be at least 1, got {value}.")
    frozen = graph if isinstance(graph, FrozenGraph) else frozen_from_graph_def(graph)
    given = _given_shapes(frozen.inputs, shapes or {})
    plan = [(info, _shape(info, given, batch or DEFAULT_BATCH, sequence or DEFAULT_SEQUENCE)) for info in frozen.inputs]
    roles = find_roles(frozen.graph_def, [info.name for info in frozen.inputs])
    generator = np.random.default_rng(seed)
    return [
        {info.key: _made_up(info, shape, roles[info.name], generator) for info, shape in plan} for _ in range(count)
    ]


def _given_shapes(inputs: Sequence[TensorInfo], shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    given: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        info = find_tensor(inputs, name)
        if info is None:
            known = [candidate for each in inputs for candidate in (each.key, each.name)]
            raise InvalidFeedError(
                f"The graph has no input {name!r}.{did_you_mean(name, known)} Its inputs: "
                f"{', '.join(repr(each.key) for each in inputs) or 'none'}."
            )
        sizes = tuple(int(size) for size in shape)
        fits = info.shape is None or (
            len(sizes) == len(info.shape)
            and all(fixed is None or size == fixed for size, fixed in zip(sizes, info.shape, strict=True))
        )
        if not fits or any(size < 0 for size in sizes):
            raise InvalidFeedError(
                f"The shape {list(sizes)} does not fit the input {info}. Give a shape that it accepts."
            )
        given[info.name] = sizes
    return given


def _shape(info: TensorInfo, given: Mapping[str, tuple[int, ...]], batch: int, sequence: int) -> tuple[int, ...]:
    if info.name in given:
        return given[info.name]
    for sizes in given.values():
        if _accepts(info.shape, sizes) and info.shape is not None and None in info.shape:
            return sizes
    if info.shape is None or any(size is None for size in info.shape[2:]):
        raise UnfeedableInputError(
            f"The input {info} has dimensions that cannot be made up. Give a shape for {info.key!r}."
        )
    sizes = tuple(
        size if size is not None else (batch if axis == 0 else sequence) for axis, size in enumerate(info.shape)
    )
    # A batch that was given by another input's shape holds for all of them.
    if given and info.shape and info.shape[0] is None:
        first = next(iter(given.values()))
        sizes = (first[0] if first else batch, *sizes[1:])
    return sizes


def _accepts(static: Shape, sizes: Sequence[int]) -> bool:
    return (
        static is not None
        and len(static) == len(sizes)
        and all(fixed is None or size == fixed for size, fixed in zip(sizes, static, strict=True))
    )


def _made_up(info: TensorInfo, shape: tuple[int, ...], role: InputRole, generator: np.random.Generator) -> Array:
    try:
        return _values(info, shape, role, generator)
    except (ValueError, OverflowError, MemoryError) as error:  # What NumPy says of sizes beyond the memory.
        raise InvalidFeedError(
            f"The input {info.key!r} cannot be made up in the shape {list(shape)}: {error}. Give smaller sizes."
        ) from error


def _values(info: TensorInfo, shape: tuple[int, ...], role: InputRole, generator: np.random.Generator) -> Array:
    dtype = tf.as_dtype(info.dtype)
    name = info.key.lower()
    array_dtype = np.dtype(dtype.as_numpy_dtype)
    if dtype == tf.string:
        words = np.array([f"word{number}".encode() for number in range(_UNBOUNDED_IDS)], dtype=object)
        return np.asarray(words[generator.integers(0, len(words), shape)], dtype=object)
    if (role.is_mask or "mask" in name) and role.limit is None:
        return _mask(shape, generator).astype(array_dtype)
    if dtype.is_bool:
        return np.asarray(generator.integers(0, 2, shape)).astype(bool)
    if dtype.is_integer:
        if role.limit is None and dtype == tf.uint8:
            return np.asarray(generator.integers(0, 256, shape)).astype(np.uint8)
        limit = min(role.limit or _UNBOUNDED_IDS, int(dtype.max) + 1)
        segments = "type" in name or "segment" in name
        return _integers(limit, shape, generator, ascending=segments).astype(array_dtype)
    if dtype.is_complex:
        return (generator.normal(size=shape) + 1j * generator.normal(size=shape)).astype(array_dtype)
    if dtype.is_floating:
        return np.asarray(generator.normal(size=shape)).astype(array_dtype)
    raise UnfeedableInputError(f"The input {info} is of a dtype that cannot be made up. Feed it by hand.")


def _mask(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Returns ones and then zeros along the last dimension; a mask of rank 0 or 1 keeps everything."""
    if len(shape) < 2 or 0 in shape:
        return np.ones(shape)
    lengths = generator.integers(1, shape[-1] + 1, shape[:1])
    row = np.arange(shape[-1]) < lengths.reshape((-1,) + (1,) * (len(shape) - 1))
    return np.array(np.broadcast_to(row, shape))


def _integers(limit: int, shape: tuple[int, ...], generator: np.random.Generator, *, ascending: bool) -> Array:
    values = np.asarray(generator.integers(0, limit, shape))
    if values.size > 1 and limit > 1 and values.min() == values.max():
        # All the same says little about a graph (and all zeros is what a bug often gives): change one.
        values.reshape(-1)[-1] = (values.reshape(-1)[0] + 1) % limit
    if ascending and values.ndim:
        values = np.sort(values, axis=-1)  # Segments follow one another.
    return values
