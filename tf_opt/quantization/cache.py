"""Keeps calibration results on disk, so that the same segment with the same data is calibrated once.

The key covers what the result depends on: the graph without its names, the values of all constants, the feeds, the
settings, and the versions of what computes. Names are left out because they differ between two exports of one graph.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx_ir as ir

from tf_opt.files import write_bytes
from tf_opt.quantization.layers import AnyLayer
from tf_opt.quantization.recipe import FORMAT_VERSION, Recipe
from tf_opt.quantization.settings import QuantizationSettings

logger = logging.getLogger(__name__)

_PACKAGES = ("nncf", "numpy", "onnxruntime")

_SETTINGS_IN_LAYERS = ("denied_ops", "denied_nodes", "minimum_weight_elements")
"""Settings that only choose layers. These are in the key, so that equal choices share an entry."""


def cache_key(model: ir.Model, layers: Sequence[AnyLayer], feeds_digest: str, settings: QuantizationSettings) -> str:
    """Returns the name of the entry for these layers of a segment.

    Args:
        model: The segment; the values of all its constants are read once.
        layers: What is quantized.
        feeds_digest: Hash of the calibration data.
        settings: How it is quantized.
    """
    options = {name: value for name, value in settings.as_dict().items() if name not in _SETTINGS_IN_LAYERS}
    versions = {package: _version(package) for package in _PACKAGES}
    digest = hashlib.sha256(f"{FORMAT_VERSION} {options} {versions} {feeds_digest}\n".encode())
    digest.update(_graph_digest(model))
    digest.update(str([layer.position for layer in layers]).encode())
    return digest.hexdigest()


def read_recipe(folder: Path | None, key: str, layers: Sequence[AnyLayer]) -> Recipe | None:
    """Returns the entry with the names that the layers have now; None where there is none or it is damaged."""
    if folder is None:
        return None
    path = _path(folder, key)
    names = {layer.position: layer.name for layer in layers}
    try:
        recipe = Recipe.from_bytes(path.read_bytes())
        return recipe.renamed([names[layer.position] for layer in recipe.layers])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("The calibration result %s is ignored and made anew: %s", path, error)
        return None


def write_recipe(folder: Path | None, key: str, recipe: Recipe) -> None:
    """Stores an entry. A folder that cannot be written to costs the entry, not the result."""
    if folder is None:
        return
    path = _path(folder, key)
    try:
        write_bytes(path, recipe.to_bytes())
    except OSError as error:
        logger.warning("The calibration result could not be kept in %s: %s", path, error)


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key}.int8"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _graph_digest(model: ir.Model) -> bytes:
    """Returns a hash of nodes, their wiring and all constants, that knows no names but those of the inputs."""
    graph = model.graph
    digest = hashlib.sha256(str(sorted(model.opset_imports.items())).encode())
    numbers: dict[ir.Value | None, str] = {None: "none"}
    for value in graph.inputs:
        numbers[value] = str(value.name)
        digest.update(f"{value.name} {value.dtype} {_sizes(value.shape)}\n".encode())
    for index, node in enumerate(graph):
        for source in node.inputs:
            if source is not None and source not in numbers and source.const_value is not None:
                numbers[source] = f"constant {len(numbers)}"
                digest.update(f"{source.const_value.dtype} {source.const_value.shape}\n".encode())
                digest.update(np.ascontiguousarray(source.const_value.numpy()).tobytes())
        for number, output in enumerate(node.outputs):
            numbers[output] = f"{index}:{number}"
        inputs = [numbers.get(value, "outside") for value in node.inputs]
        digest.update(f"{node.domain} {node.op_type} {inputs}\n".encode())
        for name in sorted(node.attributes):
            attribute = ir.serde.serialize_attribute(node.attributes[name])
            digest.update(attribute.SerializeToString(deterministic=True))
    digest.update(str([numbers[value] for value in graph.outputs]).encode())
    return digest.digest()


def _sizes(shape: ir.Shape | None) -> list[int | None] | None:
    """Returns the known dimensions; the names of the others are the exporter's."""
    return None if shape is None else [dim if isinstance(dim, int) else None for dim in shape]
