"""Finds ranges, weight steps and bias corrections of convolutions.

A convolution's input has one range, that of all it was in the calibration feeds. What int8 does to the result is seen
by computing both: the patches that a filter reads, as rows, would take its size as often as the tensor's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from rich.progress import Progress

from tf_opt.quantization.calibration import Feed, not_finite, spread
from tf_opt.quantization.convolutions import Convolution
from tf_opt.quantization.observation import Observation, is_finite
from tf_opt.quantization.recipe import LayerRecipe
from tf_opt.quantization.search import grid_of, quantize_weight, weight_scales
from tf_opt.quantization.settings import QuantizationSettings

Array: TypeAlias = np.ndarray[Any, Any]

_JUDGED_FEEDS = 8
"""Feeds on which errors are computed: each costs all convolutions twice."""

_LARGEST_BIAS = 2**30
"""Largest integer that ONNX Runtime may have to make of a bias, in steps of the int8 sums."""


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """What int8 does to the result of a convolution, over all its places.

    Attributes:
        mean: Mean of quantized - original of each channel, [N].
        square: Mean of its square, [N].
        expected: Mean square of the original without its bias, [N].
    """

    mean: Array = field(repr=False)
    square: Array = field(repr=False)
    expected: Array = field(repr=False)

    def error(self, shift: Array | None) -> float:
        """Returns ||quantized + shift - original|| / ||original||."""
        square = self.square
        if shift is not None:
            square = square + 2 * shift * self.mean + shift**2
        size = float(self.expected.sum())
        return float(np.sqrt(max(float(square.sum()), 0.0) / size)) if size > 0 else 0.0


def quantize_convolutions(
    model: ir.Model,
    convolutions: Sequence[Convolution],
    feeds: Sequence[Feed],
    settings: QuantizationSettings,
    progress: Progress,
) -> list[LayerRecipe]:
    """Returns how convolutions are quantized; one whose input is always 0 is missing.

    Args:
        model: The segment; it is not changed.
        convolutions: What may be quantized.
        feeds: Arrays by graph input name.
        settings: Form of the result.
        progress: Where the work is shown.

    Raises:
        CalibrationError: ONNX Runtime cannot run the segment, or an activation is not finite.
    """
    ranges = _ranges(model, convolutions, feeds, settings.quantizes_results, progress)
    entries = []
    for convolution in convolutions:
        low, high = ranges[convolution.activation]
        if low == 0 and high == 0:
            continue
        grid = grid_of(low, high, settings.symmetric_activations)
        entry = LayerRecipe(
            position=convolution.position,
            name=convolution.name,
            scale=grid.scale,
            zero_point=grid.zero_point,
            smoothing=None,
            exponent=None,
            weight_scales=filter_scales(convolution, grid.scale, settings.weight_levels),
            bias_shift=None,
            error=0.0,
        )
        entries.append(_with_result(entry, convolution, ranges, settings))
    return judged(model, convolutions, entries, feeds, settings, progress)


def with_results(
    model: ir.Model,
    convolutions: Sequence[Convolution],
    entries: Sequence[LayerRecipe],
    feeds: Sequence[Feed],
    settings: QuantizationSettings,
    progress: Progress,
) -> list[LayerRecipe]:
    """Returns entries with the ranges of the results, where the engine needs those."""
    if not settings.quantizes_results:
        return list(entries)
    ranges = _ranges(model, convolutions, feeds, True, progress)
    by_position = {convolution.position: convolution for convolution in convolutions}
    return [_with_result(entry, by_position[entry.position], ranges, settings) for entry in entries]


def judged(
    model: ir.Model,
    convolutions: Sequence[Convolution],
    entries: Sequence[LayerRecipe],
    feeds: Sequence[Feed],
    settings: QuantizationSettings,
    progress: Progress,
) -> list[LayerRecipe]:
    """Returns entries with the errors that they cause and, where wanted, the shifts that take their means away."""
    by_position = {convolution.position: convolution for convolution in convolutions}
    chosen = [by_position[entry.position] for entry in entries]
    found = deviations(model, chosen, entries, settings.symmetric_activations, settings.weight_levels, feeds, progress)
    done = []
    for entry, deviation in zip(entries, found, strict=True):
        shift = -deviation.mean if settings.correct_bias else None
        done.append(replace(entry, bias_shift=shift, error=deviation.error(shift)))
    return done


def deviations(
    model: ir.Model,
    convolutions: Sequence[Convolution],
    entries: Sequence[LayerRecipe],
    symmetric: bool,
    levels: int,
    feeds: Sequence[Feed],
    progress: Progress,
) -> list[Deviation]:
    """Returns what int8 does to each convolution whose input is as it is in floating point, without bias shifts.

    Args:
        model: The segment; it is not changed.
        convolutions: The convolutions.
        entries: How they are quantized, in the same order.
        symmetric: Whether activations are int8 with zero point 0; otherwise they are uint8.
        levels: Largest absolute value of a quantized weight.
        feeds: Arrays by graph input name; some of them are run.
        progress: Where the work is shown.

    Raises:
        CalibrationError: ONNX Runtime cannot run the segment.
    """
    if not convolutions:
        return []
    observation = Observation(model)
    for index, (convolution, entry) in enumerate(zip(convolutions, entries, strict=True)):
        _compare(observation, convolution, entry, f"compared_{index}", symmetric, levels)
    feeds = [feeds[index] for index in spread(len(feeds), _JUDGED_FEEDS)]
    observed = observation.run(feeds, progress, "judge convolutions")
    found = []
    for index in range(len(convolutions)):
        mean, square, expected, size = (
            [run[_COMPARED * index + number] for run in observed] for number in range(_COMPARED)
        )
        found.append(
            Deviation(
                mean=np.average(mean, axis=0, weights=size).astype(np.float32),
                square=np.average(square, axis=0, weights=size).astype(np.float32),
                expected=np.average(expected, axis=0, weights=size).astype(np.float32),
            )
        )
    return found


def filter_scales(convolution: Convolution, activation_scale: float, levels: int) -> Array:
    """Returns the step of each filter, [N].

    Filters next to zero are given larger ones than they need: ONNX Runtime makes an int32 of the bias, in steps of
    activation times weight.

    Args:
        convolution: The convolution.
        activation_scale: Step of its quantized input.
        levels: Largest absolute value of a quantized weight.
    """
    matrix = convolution.matrix()
    scales = weight_scales(matrix, levels)
    if convolution.bias is None:
        return scales
    smallest = np.abs(convolution.bias) / (np.float32(activation_scale) * _LARGEST_BIAS)
    scales = np.where(matrix.any(axis=0), scales, smallest)
    return np.asarray(np.where(scales > 0, np.maximum(scales, smallest), 1.0), np.float32)


def quantized_filters(convolution: Convolution, scales: Array, levels: int) -> Array:
    """Returns the filters times their factors as int8, in the weight's shape."""
    quantized = quantize_weight(convolution.matrix(), scales, levels)
    return np.ascontiguousarray(quantized.T).reshape(convolution.shape)


def _with_result(
    entry: LayerRecipe,
    convolution: Convolution,
    ranges: dict[ir.Value, tuple[float, float]],
    settings: QuantizationSettings,
) -> LayerRecipe:
    if not settings.quantizes_results:
        return entry
    low, high = ranges[convolution.activated]
    # A result that was always 0 may be anything later; any step is as good.
    grid = grid_of(low, high if low or high else 1.0, settings.symmetric_activations)
    return replace(entry, result_scale=grid.scale, result_zero_point=grid.zero_point)


def _ranges(
    model: ir.Model, convolutions: Iterable[Convolution], feeds: Sequence[Feed], results: bool, progress: Progress
) -> dict[ir.Value, tuple[float, float]]:
    """Returns smallest and largest number of what convolutions read, and of what they compute where `results`."""
    readers: dict[ir.Value, str] = {}
    for convolution in convolutions:
        readers.setdefault(convolution.activation, convolution.name)
        if results:
            readers.setdefault(convolution.activated, convolution.name)
    observation = Observation(model)
    for index, original in enumerate(readers):
        value = observation.value(original)
        for op in ("ReduceMin", "ReduceMax", "ReduceSum"):
            observation.show(observation.reduce(op, value, None, f"range_{index}_{op}"), [])
    observed = observation.run(feeds, progress, "calibrate convolutions")
    ranges = {}
    for index, (original, name) in enumerate(readers.items()):
        low, high, total = (np.asarray([run[3 * index + number] for run in observed]) for number in range(3))
        # The total, because ONNX Runtime's smallest and largest value pass over NaN.
        if not is_finite((low, high, total)):
            raise not_finite(name)
        ranges[original] = (float(low.min()), float(high.max()))
    return ranges


def _compare(
    observation: Observation, convolution: Convolution, entry: LayerRecipe, name: str, symmetric: bool, levels: int
) -> None:
    """Shows mean and mean square of the difference that int8 makes, mean square of the original, and its size."""

    def constant(suffix: str, array: Any) -> ir.Value:
        return observation.constant(np.asarray(array), f"{name}_{suffix}")

    def add(op: str, inputs: Sequence[ir.Value], suffix: str, attributes: Any = ()) -> ir.Value:
        return observation.add(op, inputs, f"{name}_{suffix}", attributes)

    scale = constant("scale", np.float32(entry.scale))
    zero_point = constant("zero_point", (np.int8 if symmetric else np.uint8)(entry.zero_point))
    quantized = add("QuantizeLinear", [observation.value(convolution.activation), scale, zero_point], "quantized")
    activation = add("DequantizeLinear", [quantized, scale, zero_point], "activation")
    filters = constant("filters", quantized_filters(convolution, entry.weight_scales, levels))
    scales = constant("scales", entry.weight_scales)
    weight = observation.add("DequantizeLinear", [filters, scales], f"{name}_weight", {"axis": 0}, near=quantized)
    attributes = list(convolution.node.attributes.values())
    computed = add("Conv", [activation, weight], "computed", attributes)
    original = observation.value(convolution.result)
    if convolution.bias is not None:
        bias = convolution.bias.reshape(-1, *(1,) * (len(convolution.shape) - 2))
        original = add("Sub", [original, constant("bias", bias)], "original")
    difference = add("Sub", [computed, original], "difference")
    squares = [add("Mul", [value, value], f"{value.name}_square") for value in (difference, original)]
    places = [axis for axis in range(len(convolution.shape)) if axis != 1]
    for number, value in enumerate((difference, *squares)):
        observation.show(observation.reduce("ReduceMean", value, places, f"{name}_{number}"), [convolution.channels])
    observation.show(add("Size", [difference], "size"), [], ir.DataType.INT64)


_COMPARED = 4  # What is shown for each convolution.
