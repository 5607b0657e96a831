"""Checks the calibration feeds, and collects what flows into each matrix product when they run.

Only a sample of rows and each channel's range leave the session.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from rich.progress import Progress

from tf_opt.errors import CalibrationError
from tf_opt.quantization.layers import Layer
from tf_opt.quantization.observation import Observation, is_finite
from tf_opt.quantization.settings import QuantizationSettings

Array: TypeAlias = np.ndarray[Any, Any]
Feed: TypeAlias = Mapping[str, Array]

SAMPLED_ROWS = 512
"""Rows of each tensor that are kept for the search. The mean cosine of MiniLM's embeddings was 0.9967 with 128, 0.9971
with 256, 0.9977 with 512 and 0.9976 with 1024."""

FEWEST_ROWS = 160
"""Below this a note says that there are too few. The worst of 200 sentence embeddings of MiniLM had a cosine to the
original of 0.985 with ranges from 126 tokens, and of 0.994 to 0.996 with those from 178 to 900."""

_ROWS_OF_A_SAMPLE = 32
"""Where there are convolutions, a sample counts as so many rows at most: an image has as many as places, and two of
them say more than one twice as large."""


@dataclass(frozen=True, kw_only=True)
class ActivationSample:
    """What flowed into the layers that read one tensor.

    Attributes:
        rows: Some rows, evenly spread over the feeds, [R, K].
        low: Smallest value of each channel over all rows, [K].
        high: Largest, [K].
    """

    rows: Array = field(repr=False)
    low: Array = field(repr=False)
    high: Array = field(repr=False)


def select_feeds(
    model: ir.Model, calibration: Iterable[Feed], settings: QuantizationSettings
) -> tuple[list[dict[str, Array]], tuple[str, ...]]:
    """Returns the feeds to calibrate with, and what is to be said about them.

    Of a list, feeds are taken evenly spaced; an iterator is read until there are enough.

    Args:
        model: The segment; says names, dtypes and shapes of its inputs.
        calibration: Arrays by graph input name, one mapping a feed.
        settings: How many feeds and rows to use.

    Raises:
        CalibrationError: There is no feed, or one does not fit the inputs.
    """
    if isinstance(calibration, Mapping):
        raise CalibrationError("The calibration data is a single mapping; expected a list of them, one for each feed.")
    is_convolutional = any(not node.domain and node.op_type == "Conv" for node in model.graph)

    def row_count(feed: Feed) -> int:
        return _row_count(feed, is_convolutional)

    if isinstance(calibration, Sequence):
        chosen = [_checked(model, calibration[index]) for index in spread(len(calibration), settings.maximum_samples)]
        total = sum(map(row_count, chosen))
        if total > settings.maximum_rows:
            fitting = max(1, len(chosen) * settings.maximum_rows // total)
            chosen = [chosen[index] for index in spread(len(chosen), fitting)]
    else:
        chosen, total = [], 0
        for feed in calibration:
            chosen.append(_checked(model, feed))
            total += row_count(chosen[-1])
            if len(chosen) >= settings.maximum_samples or total >= settings.maximum_rows:
                break
    if not chosen:
        raise CalibrationError(
            "There is no calibration feed, so the ranges of int8 are unknown. Give feeds like those that the model "
            "will be served; some dozens of sentences are enough."
        )
    return chosen, _notes(chosen, sum(map(row_count, chosen)))


def digest_of(feeds: Sequence[Feed]) -> str:
    """Returns a hash of the values of all feeds."""
    digest = hashlib.sha256()
    for feed in feeds:
        digest.update(_digest(feed))
    return digest.hexdigest()


def collect(
    model: ir.Model, groups: Sequence[Sequence[Layer]], feeds: Sequence[Feed], progress: Progress
) -> list[ActivationSample]:
    """Runs the feeds and returns what flowed into each group of layers, in the groups' order.

    Args:
        model: The segment; it is not changed.
        groups: Layers that read the same tensor, each group once.
        feeds: Arrays by graph input name.
        progress: Where the work is shown.

    Raises:
        CalibrationError: ONNX Runtime cannot run the segment, or an activation is not finite.
    """
    observation = Observation(model)
    rows_per_feed = -(-SAMPLED_ROWS // len(feeds))
    for index, group in enumerate(groups):
        value = observation.value(group[0].activation)
        _observe(observation, value, group[0].shape[0], f"observed_{index}", rows_per_feed)
    observed = observation.run(feeds, progress, "calibrate")
    samples = []
    for index, group in enumerate(groups):
        seen = (run[_OBSERVED * index : _OBSERVED * (index + 1)] for run in observed)
        rows, low, high, total = zip(*seen, strict=True)
        sample = ActivationSample(rows=np.concatenate(rows), low=np.min(low, axis=0), high=np.max(high, axis=0))
        # The total, because ONNX Runtime's smallest and largest value pass over NaN.
        if not is_finite((*total, sample.low, sample.high)):
            raise not_finite(group[0].name)
        samples.append(sample)
    return samples


def not_finite(layer: str) -> CalibrationError:
    """Returns the error for a layer that reads what is not finite."""
    return CalibrationError(
        f"What flows into {layer} is not finite in the calibration feeds. Feed values that the original model handles, "
        f"or deny the node (denied_nodes=['{layer}'])."
    )


def spread(count: int, wanted: int) -> list[int]:
    """Returns `wanted` indices below `count`, evenly spaced."""
    if count <= wanted:
        return list(range(count))
    return [index * count // wanted for index in range(wanted)]


def _row_count(feed: Feed, is_convolutional: bool) -> int:
    """Returns how many rows a feed brings: an id or an entry of a mask is one each, floating point has a row last."""

    def rows(array: Array) -> int:
        if array.dtype.kind in "iub":
            return int(array.size)
        count: int = array.size // max(1, array.shape[-1])
        most: int = array.shape[0] * _ROWS_OF_A_SAMPLE
        return min(count, most) if is_convolutional else count

    return max((rows(array) for array in feed.values() if array.ndim), default=1)


def _checked(model: ir.Model, feed: Feed) -> dict[str, Array]:
    """Returns the feed's arrays, checked against the inputs."""
    if not isinstance(feed, Mapping):
        raise CalibrationError(f"A calibration feed is a {type(feed).__name__}; expected arrays by input name.")
    expected = {str(value.name): value for value in model.graph.inputs}
    missing, unknown = sorted(set(expected) - set(feed)), sorted(set(feed) - set(expected))
    if missing or unknown:
        raise CalibrationError(
            f"A calibration feed has the inputs {sorted(feed)}; the segment has {sorted(expected)}. "
            f"Missing: {missing or 'none'}; unknown: {unknown or 'none'}."
        )
    checked = {}
    for name, value in expected.items():
        array = np.asarray(feed[name])
        dtype = None if value.dtype is None else value.dtype.numpy()
        if dtype is not None and array.dtype != dtype:
            raise CalibrationError(f"The calibration feed for {name} is {array.dtype}; the segment takes {dtype}.")
        if value.shape is not None and not _fits(array.shape, value.shape):
            raise CalibrationError(
                f"The calibration feed for {name} has shape {list(array.shape)}; the segment takes {value.shape}."
            )
        if not array.size:
            raise CalibrationError(
                f"The calibration feed for {name} has shape {list(array.shape)}, which is nothing. Leave it out."
            )
        checked[name] = array
    return checked


def _fits(sizes: tuple[int, ...], shape: ir.Shape) -> bool:
    return len(sizes) == len(shape) and all(
        not isinstance(wanted, int) or size == wanted for size, wanted in zip(sizes, shape, strict=True)
    )


def _digest(feed: Feed) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(feed):
        array = np.ascontiguousarray(feed[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.digest()


def _notes(feeds: Sequence[Feed], rows: int) -> tuple[str, ...]:
    notes = []
    if rows < FEWEST_ROWS:
        notes.append(
            f"Only {rows} rows (tokens) in {len(feeds)} feeds were given for calibration; ranges of int8 found on "
            f"fewer than {FEWEST_ROWS} are too narrow for what comes later. Give more feeds."
        )
    return (*notes, *_note_of_sameness(feeds))


def _note_of_sameness(feeds: Sequence[Feed]) -> tuple[str, ...]:
    """Returns what is the same in all feeds and should not be."""
    by_name = {name: [feed[name] for feed in feeds if feed[name].size] for name in feeds[0]}
    given = [arrays for arrays in by_name.values() if arrays]
    hint = "Give feeds like those that the model will be served."
    if any(array.size > 1 for arrays in given for array in arrays) and all(
        _is_filled([array]) for arrays in given for array in arrays
    ):
        return (
            "Every input is filled with one number in all calibration feeds; ranges of int8 found on them mean "
            f"nothing. {hint}",
        )
    if any(_has_one_row(arrays) for arrays in given) and all(_is_filled(each) or _has_one_row(each) for each in given):
        return (
            "Every input has the same row at all places of all calibration feeds, as a text of one word has; ranges of "
            f"int8 found on them mean little. {hint}",
        )
    if len(feeds) > 1 and len({_digest(feed) for feed in feeds}) == 1:
        return (f"All {len(feeds)} calibration feeds are equal, so they tell no more than one. Give different ones.",)
    samples = {
        name: [sample for array in arrays for sample in np.atleast_1d(array)] for name, arrays in by_name.items()
    }
    count = max((len(each) for each in samples.values()), default=0)
    if count > 1 and all(np.array_equal(sample, each[0]) for each in samples.values() for sample in each):
        return (f"All {count} samples in the calibration feeds are equal, so they tell no more than one. {hint}",)
    return ()


def _is_filled(arrays: Sequence[Array]) -> bool:
    return all((array == arrays[0].flat[0]).all() for array in arrays)


def _has_one_row(arrays: Sequence[Array]) -> bool:
    """Whether all rows of floating point numbers are the same one, and there are several."""
    if any(array.ndim < 2 or array.dtype.kind in "iub" for array in arrays):
        return False
    rows = [array.reshape(-1, array.shape[-1]) for array in arrays]
    first = rows[0][0]
    return sum(map(len, rows)) > 1 and all(len(each[0]) == len(first) and (each == first).all() for each in rows)


def _observe(observation: Observation, value: ir.Value, channels: int, name: str, rows_per_feed: int) -> None:
    """Shows some rows, and smallest, largest and sum of each channel of `value`."""

    def constant(suffix: str, *numbers: int) -> ir.Value:
        return observation.constant(np.asarray(numbers, np.int64), f"{name}_{suffix}")

    def add(op: str, inputs: Sequence[ir.Value], suffix: str, **attributes: int) -> ir.Value:
        return observation.add(op, inputs, f"{name}_{suffix}", attributes)

    flat = add("Reshape", [value, constant("shape", -1, channels)], "flat")
    count = add("Shape", [flat], "count", start=0, end=1)
    # An odd step: with an even one, every sequence of a usual length would be sampled at the same few positions.
    half = add("Div", [count, constant("wanted", 2 * rows_per_feed)], "half")
    even = add("Mul", [half, constant("two", 2)], "even")
    step = add("Add", [even, constant("one", 1)], "step")
    start, axis, end = constant("start", 0), constant("axis", 0), constant("end", np.iinfo(np.int64).max)
    observation.show(add("Slice", [flat, start, end, axis, step], "rows"), [None, channels])
    for op, suffix in (("ReduceMin", "low"), ("ReduceMax", "high"), ("ReduceSum", "total")):
        observation.show(observation.reduce(op, flat, [0], f"{name}_{suffix}"), [channels])


_OBSERVED = 4  # What is shown for each group: rows, the two extremes and the sum.
