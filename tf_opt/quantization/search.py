"""Chooses range and smoothing of each tensor by the error that they cause in the products that read it.

Smoothing multiplies each channel of the activation by a factor and divides the weight's rows by it, which changes
nothing but how well both fit their int8 grids. How much of it is good differs from tensor to tensor. It is judged on
rows that the ranges were not taken from: on the same rows the strongest smoothing always wins, and fits nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from tf_opt.quantization.calibration import ActivationSample
from tf_opt.quantization.layers import Layer
from tf_opt.quantization.recipe import LayerRecipe
from tf_opt.quantization.settings import QuantizationSettings

Array: TypeAlias = np.ndarray[Any, Any]

_SEARCHED_COLUMNS = 768
"""Output channels on which exponents are compared; all of them would take up to four times as long."""

_SMALLEST_SHARE = 1e-3
"""Channels below this share of the largest count as that: an empty channel would get an endless factor."""


_WORTH_SMOOTHING = 0.8
"""Smoothing is a multiplication in each run: it has to leave no more than this share of the error. On MiniLM that takes
away 9 of 25, and the mean cosine of 200 unseen sentences' embeddings stays 0.9976; at 0.5 it is 0.9953."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The numbers that an int8 activation can mean: (q - zero_point) * scale.

    Attributes:
        scale: Step.
        zero_point: The q that means 0.
        lowest: Smallest q.
        highest: Largest q.
    """

    scale: float
    zero_point: int
    lowest: int
    highest: int

    def round(self, values: Array) -> Array:
        """Returns what quantizing and dequantizing makes of `values`."""
        quantized: Array = np.rint(values * np.float32(1 / self.scale))
        quantized += np.float32(self.zero_point)
        np.clip(quantized, self.lowest, self.highest, out=quantized)
        quantized -= np.float32(self.zero_point)
        quantized *= np.float32(self.scale)
        return quantized


def grid_of(low: float, high: float, symmetric: bool) -> Grid:
    """Returns the grid that covers a range and has 0 on it exactly.

    Args:
        low: Smallest value.
        high: Largest value.
        symmetric: int8 with zero point 0; otherwise uint8.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    smallest = float(np.finfo(np.float32).tiny)
    if symmetric:
        scale = max(max(-low, high) / 127, smallest)
        return Grid(scale=float(np.float32(scale)), zero_point=0, **_bounds(symmetric))
    scale = float(np.float32(max((high - low) / 255, smallest)))
    return Grid(scale=scale, zero_point=min(255, round(-low / scale)), **_bounds(symmetric))


def weight_scales(matrix: Array, levels: int) -> Array:
    """Returns the step of each column, [N], of a matrix [K, N]."""
    largest = np.maximum(matrix.max(axis=0), -matrix.min(axis=0))
    # A column of zeros has any step; 1 / 0 would make it NaN.
    return np.asarray(np.where(largest > 0, largest / levels, 1.0), np.float32)


def quantize_weight(matrix: Array, scales: Array, levels: int) -> Array:
    """Returns a matrix [K, N] as int8 of these steps."""
    quantized = matrix / scales
    np.rint(quantized, out=quantized)
    np.clip(quantized, -levels, levels, out=quantized)
    return quantized.astype(np.int8)


def quantize_group(
    layers: Sequence[Layer], sample: ActivationSample, settings: QuantizationSettings
) -> list[LayerRecipe]:
    """Returns how the layers that read one tensor are quantized; empty where that tensor is always 0.

    Args:
        layers: They read the same tensor.
        sample: What flowed into them.
        settings: Form of the result and exponents to try.
    """
    if not (sample.low.any() or sample.high.any()):
        return []
    matrices = [layer.matrix() for layer in layers]
    matrix = np.concatenate(matrices, axis=1)
    exponent = _best_exponent(sample, matrix, settings)
    fitted = _fit(sample.low, sample.high, np.abs(matrix).max(axis=1), exponent, settings.symmetric_activations)
    rounded = fitted.round(sample.rows)
    recipes = []
    for layer, columns in zip(layers, matrices, strict=True):
        smoothed = columns if fitted.smoothing is None else columns / fitted.smoothing[:, None]
        scales = weight_scales(smoothed, settings.weight_levels)
        expected = sample.rows @ columns
        difference = _product(rounded, smoothed, scales, settings.weight_levels) - expected
        shift = -difference.mean(axis=0) if settings.correct_bias and layer.bias is not None else None
        if shift is not None:
            difference += shift
        recipes.append(
            LayerRecipe(
                position=layer.position,
                name=layer.name,
                scale=fitted.grid.scale,
                zero_point=fitted.grid.zero_point,
                smoothing=fitted.smoothing,
                exponent=exponent,
                weight_scales=scales,
                bias_shift=shift,
                error=_relative(difference, expected),
            )
        )
    return recipes


def layer_error(layer: Layer, entry: LayerRecipe, symmetric: bool, levels: int, rows: Array) -> float:
    """Returns ||quantized - original|| / ||original|| of a layer's output.

    Args:
        layer: The layer.
        entry: How it is quantized.
        symmetric: Whether activations are int8 with zero point 0; otherwise they are uint8.
        levels: Largest absolute value of a quantized weight.
        rows: What flows into the layer, [R, K].
    """
    matrix = layer.matrix()
    grid = Grid(scale=entry.scale, zero_point=entry.zero_point, **_bounds(symmetric))
    rounded = _Fitted(smoothing=entry.smoothing, grid=grid).round(rows)
    smoothed = matrix if entry.smoothing is None else matrix / entry.smoothing[:, None]
    expected = rows @ matrix
    difference = _product(rounded, smoothed, entry.weight_scales, levels) - expected
    if entry.bias_shift is not None:
        difference += entry.bias_shift
    return _relative(difference, expected)


def _product(rounded: Array, matrix: Array, scales: Array, levels: int) -> Array:
    """Returns what the int8 kernel computes of rounded rows and a matrix in floating point."""
    return np.asarray((rounded @ quantize_weight(matrix, scales, levels).astype(np.float32)) * scales)


def _bounds(symmetric: bool) -> dict[str, int]:
    return {"lowest": -128, "highest": 127} if symmetric else {"lowest": 0, "highest": 255}


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """An activation's factors and grid."""

    smoothing: Array | None = field(repr=False)
    grid: Grid

    def round(self, rows: Array) -> Array:
        return self.grid.round(rows if self.smoothing is None else rows * self.smoothing)


def _fit(low: Array, high: Array, weight_range: Array, exponent: float | None, symmetric: bool) -> _Fitted:
    """Returns factors and grid for an activation whose channels have these ranges."""
    if exponent is None:
        return _Fitted(smoothing=None, grid=grid_of(float(low.min()), float(high.max()), symmetric))
    activation_range = _floored(np.maximum(high, -low))
    factors = _floored(weight_range) ** (1 - exponent) / activation_range**exponent
    factors = (factors / np.sqrt(factors.max() * factors.min())).astype(np.float32)
    return _Fitted(
        smoothing=factors, grid=grid_of(float((low * factors).min()), float((high * factors).max()), symmetric)
    )


def _floored(ranges: Array) -> Array:
    ranges = ranges.astype(np.float64)
    return np.asarray(np.maximum(ranges, max(float(ranges.max()) * _SMALLEST_SHARE, float(np.finfo(np.float32).tiny))))


def _best_exponent(sample: ActivationSample, matrix: Array, settings: QuantizationSettings) -> float | None:
    """Returns the exponent whose ranges, taken from one half of the rows, do best on the other.

    None where smoothing does no better, or so little that it is not worth its multiplication.
    """
    rows, middle = sample.rows, len(sample.rows) // 2
    candidates: list[float | None] = [None, *settings.smoothing]
    if middle == 0 or len(candidates) == 1:
        return None
    weight_range = np.abs(matrix).max(axis=1)
    step = -(-matrix.shape[1] // _SEARCHED_COLUMNS)
    columns = np.ascontiguousarray(matrix[:, ::step])
    halves = (rows[:middle], rows[middle:])
    folds = [(ranges, judged, judged @ columns) for ranges, judged in (halves, halves[::-1])]
    errors = []
    for exponent in candidates:
        error = 0.0
        for ranges, judged, expected in folds:
            fitted = _fit(
                ranges.min(axis=0), ranges.max(axis=0), weight_range, exponent, settings.symmetric_activations
            )
            smoothed = columns if fitted.smoothing is None else columns / fitted.smoothing[:, None]
            scales = weight_scales(smoothed, settings.weight_levels)
            difference = _product(fitted.round(judged), smoothed, scales, settings.weight_levels) - expected
            if settings.correct_bias:
                difference -= difference.mean(axis=0)
            error += _relative(difference, expected)
        errors.append(error)
    best = int(np.argmin(errors))
    return candidates[best] if errors[best] < _WORTH_SMOOTHING * errors[0] else None


def _relative(difference: Array, expected: Array) -> float:
    """Returns ||difference|| / ||expected||."""
    size = float(np.linalg.norm(expected))
    return float(np.linalg.norm(difference)) / size if size > 0 else 0.0
