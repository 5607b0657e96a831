"""The values at a segment's border, for replaying it: an .npz of "feed_<n>.input_<i>", bounded in size."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from tf_opt.border_values import border_values
from tf_opt.errors import CalibrationError, DumpError
from tf_opt.feeds import Array, NormalizedFeed
from tf_opt.files import write_dump
from tf_opt.passes.tf.segment import Segment
from tf_opt.tensor_info import TensorInfo
from tf_opt.trial import representative_feeds
from tf_opt.weights import WeightStore

MAXIMUM_FEEDS = 8
"""Enough for the shapes that matter; those with most and fewest elements are among them."""

MAXIMUM_BYTES = 64 * 2**20
"""How large the values of one segment may be together."""


def write_feeds(
    path: Path,
    light: GraphDef,
    weights: WeightStore,
    segment: Segment,
    feeds: Sequence[NormalizedFeed],
    maximum_bytes: int = MAXIMUM_BYTES,
) -> tuple[bool, str]:
    """Writes what flows into a segment when the user's feeds run.

    Args:
        path: The file.
        light: The graph that the segment was found in.
        weights: Its constants.
        segment: The segment.
        feeds: The user's feeds by tensor name; one of each combination of shapes is taken.
        maximum_bytes: Feeds that would make it larger are left out.

    Returns:
        Whether there is a file, and why not or why not of all feeds.

    Raises:
        DumpError: The file cannot be written.
    """
    if not feeds:
        return False, "there were no feeds"
    chosen = representative_feeds(feeds, MAXIMUM_FEEDS)
    try:
        values = border_values(light, weights, segment, chosen)
    except CalibrationError as error:
        return False, str(error)
    arrays: dict[str, Any] = {}  # What savez takes by keyword besides arrays has another type.
    total = kept = 0
    for sample in values:
        size = sum(array.nbytes for array in sample.values())
        if total + size > maximum_bytes:
            continue
        arrays.update({f"feed_{kept}.{name}": array for name, array in sample.items()})
        total, kept = total + size, kept + 1
    left_out = len(values) - kept
    reason = f"{left_out} of {len(values)} feeds would make it larger than {maximum_bytes:,} bytes" if left_out else ""
    if not kept:
        return False, reason
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_dump(path, buffer.getvalue())
    return True, reason


def read_feeds(path: Path, inputs: Sequence[TensorInfo]) -> list[dict[str, Array]]:
    """Returns feeds of a segment by tensor name ("input_0:0").

    Args:
        path: What `write_feeds` wrote, or an .npz of one feed with the names "input_<i>".
        inputs: The segment's inputs.

    Raises:
        DumpError: The file cannot be read, or lacks an input.
    """
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DumpError(f"{path} cannot be read as an .npz: {error}.") from error
    feeds: list[dict[str, Array]] = []
    while any(name.startswith(f"feed_{len(feeds)}.") for name in arrays):
        feeds.append(_feed(path, arrays, f"feed_{len(feeds)}.", inputs))
    return feeds or [_feed(path, arrays, "", inputs)]


def _feed(path: Path, arrays: Mapping[str, Array], prefix: str, inputs: Sequence[TensorInfo]) -> dict[str, Array]:
    feed: dict[str, Array] = {}
    for number, info in enumerate(inputs):
        key = f"{prefix}input_{number}"
        if key not in arrays:
            raise DumpError(
                f"{path} has no array {key!r} (it holds {', '.join(sorted(arrays)) or 'nothing'}). Name the arrays "
                f"input_0 to input_{len(inputs) - 1}: {'; '.join(map(str, inputs))}."
            )
        dtype: Any = tf.as_dtype(info.dtype).as_numpy_dtype
        array = arrays[key]
        # NumPy stores element types that it does not know, such as bfloat16, as plain bytes.
        array = array.view(dtype) if array.dtype.kind == "V" else array
        if array.dtype != dtype:
            raise DumpError(f"{key!r} in {path} has dtype {array.dtype}; {info.name} takes {info.dtype}.")
        feed[f"input_{number}:0"] = array
    return feed
