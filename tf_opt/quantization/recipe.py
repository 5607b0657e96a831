"""What calibration finds out: enough to quantize the same segment again without any data.

It holds scales, not weights: those are quantized when they are read, from the constants that the graph has anyway.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

FORMAT_VERSION = 3
"""Raised whenever the meaning of the stored bytes or the choice changes: an entry of another version is not read."""

_MAGIC = b"tf_opt int8 recipe\n"
_NUMBERS = ("position", "name", "scale", "zero_point", "exponent", "error", "result_scale", "result_zero_point")
_ARRAYS = ("smoothing", "weight_scales", "bias_shift")


@dataclass(frozen=True, kw_only=True)
class LayerRecipe:
    """How one matrix product or convolution is quantized.

    Attributes:
        position: Index of the node in the graph.
        name: Name of the layer in the graph that was calibrated.
        scale: Step of the quantized activation.
        zero_point: The quantized activation that means 0.
        smoothing: What each channel of the activation is multiplied by first, and the weight's rows are divided by,
            [K]; None for nothing, as for all convolutions.
        exponent: The smoothing exponent that it came from; None where there is none.
        weight_scales: Step of the quantized weight for each output channel, [N].
        bias_shift: What is added to the bias, [N]; None for nothing.
        error: ||quantized - original|| / ||original|| of the layer's output on a part of the calibration data.
        result_scale: Step of the quantized result, for engines whose convolutions need one; None where it is none.
        result_zero_point: The quantized result that means 0.
    """

    position: int
    name: str
    scale: float
    zero_point: int
    smoothing: Array | None = field(repr=False)
    exponent: float | None
    weight_scales: Array = field(repr=False)
    bias_shift: Array | None = field(repr=False)
    error: float
    result_scale: float | None = None
    result_zero_point: int = 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a segment is quantized.

    Attributes:
        layers: Matrix products and convolutions, in the graph's order.
        symmetric: Whether activations are int8 with zero point 0; otherwise they are uint8.
        weight_levels: Largest absolute value of a quantized weight.
        samples_first: Whether a convolution whose strides pass over places reads what was sampled before.
        notes: What calibration noticed.
    """

    layers: tuple[LayerRecipe, ...]
    symmetric: bool
    weight_levels: int
    samples_first: bool = False
    notes: tuple[str, ...] = ()

    def without(self, names: Collection[str]) -> Recipe:
        """Returns the recipe without the layers of these names."""
        return replace(self, layers=tuple(layer for layer in self.layers if layer.name not in names))

    def renamed(self, names: Sequence[str]) -> Recipe:
        """Returns the recipe with other names for its layers, in order."""
        pairs = zip(self.layers, names, strict=True)
        return replace(self, layers=tuple(replace(layer, name=name) for layer, name in pairs))

    def to_bytes(self) -> bytes:
        """Returns the recipe with a checksum in front."""
        header = {
            "version": FORMAT_VERSION,
            "symmetric": self.symmetric,
            "weight_levels": self.weight_levels,
            "samples_first": self.samples_first,
            "notes": list(self.notes),
            "layers": [{name: getattr(layer, name) for name in _NUMBERS} for layer in self.layers],
        }
        arrays = {
            f"{index}_{name}": value
            for index, layer in enumerate(self.layers)
            for name in _ARRAYS
            if (value := getattr(layer, name)) is not None
        }
        stream = io.BytesIO()
        np.savez(stream, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
        content = stream.getvalue()
        return _MAGIC + hashlib.sha256(content).digest() + content

    @classmethod
    def from_bytes(cls, stored: bytes) -> Recipe:
        """Reads what `to_bytes` wrote.

        Raises:
            ValueError: The bytes are damaged, or of another version.
        """
        start = len(_MAGIC) + hashlib.sha256().digest_size
        content = stored[start:]
        if stored[: len(_MAGIC)] != _MAGIC or stored[len(_MAGIC) : start] != hashlib.sha256(content).digest():
            raise ValueError("The stored calibration result is damaged.")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays.pop("header").tobytes())
        if header["version"] != FORMAT_VERSION:
            raise ValueError(f"The stored calibration result has version {header['version']}, not {FORMAT_VERSION}.")
        layers = []
        for index, entry in enumerate(header["layers"]):
            found: dict[str, Any] = {name: arrays.get(f"{index}_{name}") for name in _ARRAYS}
            layers.append(LayerRecipe(**entry, **found))
        return cls(
            layers=tuple(layers),
            symmetric=header["symmetric"],
            weight_levels=header["weight_levels"],
            samples_first=header["samples_first"],
            notes=tuple(header["notes"]),
        )
