"""From a segment in floating point and calibration feeds to the same segment in int8.

feeds ── select ──► collect ──► search ──► Recipe ── apply ──► model with QuantizeLinear / DequantizeLinear
                       └────── cache ───────┘
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir
from rich.progress import Progress

from tf_opt.errors import CalibrationError
from tf_opt.quantization.cache import cache_key, read_recipe, write_recipe
from tf_opt.quantization.calibration import Feed, collect, digest_of, select_feeds
from tf_opt.quantization.convolution_search import judged, quantize_convolutions, with_results
from tf_opt.quantization.layers import (
    AnyLayer,
    Layer,
    SkippedLayer,
    convolutions_of,
    find_layers,
    groups_of,
    products_of,
)
from tf_opt.quantization.nncf_calibration import nncf_recipe
from tf_opt.quantization.recipe import LayerRecipe, Recipe
from tf_opt.quantization.rewrite import apply_recipe
from tf_opt.quantization.search import layer_error, quantize_group
from tf_opt.quantization.settings import QuantizationSettings


@dataclass(frozen=True, kw_only=True)
class QuantizationResult:
    """A quantized segment, and what was done to it.

    Attributes:
        model: The segment with QuantizeLinear and DequantizeLinear nodes. Its int8 weights are computed when they are
            read; constants that were not quantized are the original's.
        original: The segment that was quantized.
        layers: What `find_layers` found to quantize.
        recipe: How each layer was quantized, with its error.
        skipped: Matrix products and convolutions that stay in floating point, and why.
        notes: What the user should know of the calibration data, and of work that stays in floating point.
        from_cache: Whether the recipe was read instead of made.
        seconds: How long it took.
    """

    model: ir.Model = field(repr=False)
    original: ir.Model = field(repr=False)
    layers: tuple[AnyLayer, ...] = field(repr=False)
    recipe: Recipe = field(repr=False)
    skipped: tuple[SkippedLayer, ...]
    notes: tuple[str, ...]
    from_cache: bool
    seconds: float

    @property
    def quantized_layers(self) -> tuple[str, ...]:
        """Names of the quantized layers, in the graph's order."""
        return tuple(layer.name for layer in self.recipe.layers)


def quantize_segment(
    model: ir.Model,
    calibration: Iterable[Feed],
    settings: QuantizationSettings | None = None,
    *,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> QuantizationResult:
    """Quantizes the matrix products and convolutions of a segment to int8.

    Args:
        model: A segment in canonical form, or as it was exported; it is not changed.
        calibration: Arrays by graph input name (`input_<i>`), one mapping a feed; they should look like what the model
            will be served.
        settings: How to quantize; None takes the defaults, which are for OpenVINO.
        cache_dir: Where calibration results are kept; None keeps none.
        progress: Where the work is shown; None shows nothing.

    Raises:
        CalibrationError: Nothing can be quantized, or a feed does not fit the segment.
    """
    started = time.perf_counter()
    settings = settings or QuantizationSettings()
    progress = progress or Progress(disable=True)
    folder = None if cache_dir is None else Path(cache_dir)
    layers, skipped = find_layers(model, settings)
    if not layers:
        raise CalibrationError(f"No matrix product or convolution of the segment can be quantized. {_reasons(skipped)}")
    feeds, notes = select_feeds(model, calibration, settings)
    key = "" if folder is None else cache_key(model, layers, digest_of(feeds), settings)
    stored = read_recipe(folder, key, layers)
    if stored is None:
        recipe = _calibrate(model, layers, feeds, settings, notes, progress)
        write_recipe(folder, key, recipe)
    else:
        recipe = stored
    positions = {entry.position for entry in recipe.layers}
    unused = [
        SkippedLayer(name=layer.name, op=layer.node.op_type, reason="what it reads was 0 in all calibration feeds")
        for layer in layers
        if layer.position not in positions
    ]
    return QuantizationResult(
        model=apply_recipe(model, layers, recipe),
        original=model,
        layers=tuple(layers),
        recipe=recipe,
        skipped=(*skipped, *unused),
        notes=(*recipe.notes, *_note_of_convolutions(model, (*skipped, *unused))),
        from_cache=stored is not None,
        seconds=time.perf_counter() - started,
    )


def _note_of_convolutions(model: ir.Model, skipped: Sequence[SkippedLayer]) -> tuple[str, ...]:
    """Returns how many convolutions stay in floating point, and why."""
    count = Counter(node.op_type for node in model.graph if not node.domain)
    reasons = Counter(each.reason for each in skipped if each.op == "Conv")
    if count["ConvTranspose"]:
        reasons["transposed convolutions are not quantized"] = count["ConvTranspose"]
    staying, total = sum(reasons.values()), count["Conv"] + count["ConvTranspose"]
    if not staying:
        return ()
    verb = "stays" if staying == 1 else "stay"
    listed = "; ".join(f"{reason} ({number})" for reason, number in reasons.most_common())
    return (f"{staying} of {total} convolutions {verb} in floating point: {listed}.",)


def _calibrate(
    model: ir.Model,
    layers: Sequence[AnyLayer],
    feeds: Sequence[Feed],
    settings: QuantizationSettings,
    notes: tuple[str, ...],
    progress: Progress,
) -> Recipe:
    if settings.method == "nncf":
        entries = _entries_of_nncf(model, layers, feeds, settings, progress)
    else:
        entries = _search(model, layers, feeds, settings, progress)
    if not entries:
        raise CalibrationError(
            "All that flows into the segment's matrix products and convolutions is 0 in the calibration feeds. Give "
            "feeds like those that the model will be served."
        )
    return Recipe(
        layers=tuple(sorted(entries, key=lambda entry: entry.position)),
        symmetric=settings.symmetric_activations,
        weight_levels=settings.weight_levels,
        samples_first=settings.samples_first,
        notes=notes,
    )


def _search(
    model: ir.Model,
    layers: Sequence[AnyLayer],
    feeds: Sequence[Feed],
    settings: QuantizationSettings,
    progress: Progress,
) -> list[LayerRecipe]:
    products, convolutions = products_of(layers), convolutions_of(layers)
    entries: list[LayerRecipe] = []
    if convolutions:
        entries += quantize_convolutions(model, convolutions, feeds, settings, progress)
    if not products:
        return entries
    groups = groups_of(products)
    samples = collect(model, groups, feeds, progress)
    task = progress.add_task("quantize", total=len(groups))
    while groups:
        # Taken out of the lists, so that the memory of each sample is free when it has been used.
        group, sample = groups.pop(), samples.pop()
        entries += quantize_group(group, sample, _without_smoothing_of_shared(settings, group, products))
        progress.advance(task)
    progress.remove_task(task)
    return entries


def _entries_of_nncf(
    model: ir.Model,
    layers: Sequence[AnyLayer],
    feeds: Sequence[Feed],
    settings: QuantizationSettings,
    progress: Progress,
) -> list[LayerRecipe]:
    """Returns what nncf found, with the errors that it causes."""
    task = progress.add_task("nncf", total=None)
    entries = {entry.position: entry for entry in nncf_recipe(model, layers, feeds, settings)}
    progress.remove_task(task)
    convolutions = [each for each in convolutions_of(layers) if each.position in entries]
    if convolutions:
        found = [entries[each.position] for each in convolutions]
        found = with_results(model, convolutions, found, feeds, settings, progress)
        found = judged(model, convolutions, found, feeds, settings, progress)
        entries |= {entry.position: entry for entry in found}
    groups = groups_of([layer for layer in products_of(layers) if layer.position in entries])
    samples = collect(model, groups, feeds, progress) if groups else []
    for group, sample in zip(groups, samples, strict=True):
        for layer in group:
            entry = entries[layer.position]
            error = layer_error(layer, entry, settings.symmetric_activations, settings.weight_levels, sample.rows)
            entries[layer.position] = replace(entry, error=error)
    return list(entries.values())


def _without_smoothing_of_shared(
    settings: QuantizationSettings, group: Sequence[Layer], layers: Sequence[Layer]
) -> QuantizationSettings:
    """Returns settings without smoothing where a weight serves other groups too, which would each need a copy of it."""
    inside = {layer.position for layer in group}
    shared = {layer.weight for layer in layers if layer.position not in inside}
    return replace(settings, smoothing=()) if any(layer.weight in shared for layer in group) else settings


def _reasons(skipped: Sequence[SkippedLayer]) -> str:
    if not skipped:
        return "It has none."
    listed = "; ".join(f"{each.name}: {each.reason}" for each in skipped[:5])
    return f"Reasons: {listed}{'; ...' if len(skipped) > 5 else ''}."
