"""Which layers lose most by int8, and how to take them back."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir
from rich.progress import Progress

from tf_opt.errors import CalibrationError, nearest_names
from tf_opt.quantization.calibration import Feed, collect, select_feeds
from tf_opt.quantization.convolution_search import deviations
from tf_opt.quantization.layers import convolutions_of, groups_of, products_of
from tf_opt.quantization.quantize import QuantizationResult
from tf_opt.quantization.rewrite import apply_recipe
from tf_opt.quantization.search import layer_error
from tf_opt.quantization.settings import QuantizationSettings


def rank_layers(
    original: ir.Model, result: QuantizationResult, calibration: Iterable[Feed] | None = None
) -> list[tuple[str, float]]:
    """Returns the quantized layers with their errors, the worst first.

    The error is local: ||quantized - original|| / ||original|| of a layer's output, with the layer's input as it is in
    floating point. It leaves out what errors of earlier layers do to it.

    Args:
        original: The segment in floating point.
        result: What `quantize_segment` made of it.
        calibration: Feeds to judge by; None takes the errors that were found while calibrating, which costs nothing.

    Raises:
        CalibrationError: A feed does not fit the segment.
    """
    entries = {entry.position: entry for entry in result.recipe.layers}
    if calibration is None:
        errors = {entry.name: entry.error for entry in entries.values()}
    else:
        feeds, _ = select_feeds(original, calibration, QuantizationSettings())
        recipe, progress = result.recipe, Progress(disable=True)
        quantized = [layer for layer in result.layers if layer.position in entries]
        groups = groups_of(products_of(quantized))
        samples = collect(original, groups, feeds, progress) if groups else []
        errors = {
            layer.name: layer_error(layer, entries[layer.position], recipe.symmetric, recipe.weight_levels, sample.rows)
            for group, sample in zip(groups, samples, strict=True)
            for layer in group
        }
        convolutions = convolutions_of(quantized)
        chosen = [entries[convolution.position] for convolution in convolutions]
        found = deviations(original, convolutions, chosen, recipe.symmetric, recipe.weight_levels, feeds, progress)
        for entry, deviation in zip(chosen, found, strict=True):
            errors[entry.name] = deviation.error(entry.bias_shift)
    return sorted(errors.items(), key=lambda pair: -pair[1])


def revert_layers(result: QuantizationResult, names: Collection[str]) -> ir.Model:
    """Returns the segment with these layers in floating point and the others quantized as they were.

    Args:
        result: What `quantize_segment` made.
        names: Layers, as `rank_layers` names them.

    Raises:
        CalibrationError: A name is that of no quantized layer.
    """
    known = set(result.quantized_layers)
    unknown = [name for name in names if name not in known]
    if unknown:
        near = nearest_names(unknown[0], known)
        raise CalibrationError(
            f"{unknown} are no quantized layers of the segment."
            f"{f' Near {unknown[0]!r} are {near}.' if near else ''} `rank_layers` lists them all."
        )
    return apply_recipe(result.original, result.layers, result.recipe.without(set(names)))
