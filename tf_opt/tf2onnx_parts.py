"""What an export calls of tf2onnx, in one place.

tf2onnx promises no interface below its command line and `tf2onnx.convert`, which alone can neither leave an optimizer's
failure an error nor keep the same of equal nodes each time. So its parts are called, all of them under public names,
and a release that moved one is an error that says so instead of segments that do not convert.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from tf_opt.errors import ExporterVersionError
from tf_opt.reproducible_model import name_without_counters

WORKING_VERSIONS = "tf2onnx>=1.17,<1.18"
"""The releases that have all of this, as pip takes them."""

_OPTIMIZERS = (
    "TransposeOptimizer",
    "UpsampleOptimizer",
    "ConstFoldOptimizer",
    "ConstDequantizeOptimizer",
    "LoopOptimizer",
    "MergeDuplicatedNodesOptimizer",  # Behind the first, which makes equal transpositions.
    "ReshapeOptimizer",
    "GlobalPoolOptimizer",
    "QDQOptimizer",
    "IdentityOptimizer",
    "BackToBackOptimizer",
    "EinsumOptimizer",
)
"""Classes of tf2onnx.optimizer in the order in which tf2onnx itself runs them."""

PARTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "handlers": ("tf2onnx.handler", "tf_op"),
        "process_tf_graph": ("tf2onnx.tfonnx", "process_tf_graph"),
        "optimize_graph": ("tf2onnx.optimizer", "optimize_graph"),
        "Select": ("tf2onnx.onnx_opset.controlflow", "Select"),
        **{name: ("tf2onnx.optimizer", name) for name in _OPTIMIZERS},
    }
)
"""Module and name of each part."""


def part(name: str) -> Any:
    """Returns a part of tf2onnx, which is imported now: that takes a second, and nothing else needs it.

    Args:
        name: A key of `PARTS`.

    Raises:
        ExporterVersionError: The installed tf2onnx does not have it.
    """
    module, attribute = PARTS[name]
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ExporterVersionError(
            f"tf_opt exports segments through {module}.{attribute}, which the installed tf2onnx {_version()} does not "
            f"give: {error}. Install a release that has it: pip install '{WORKING_VERSIONS}'"
        ) from error


def optimizers(known: Collection[str]) -> Mapping[str, Callable[[], Any]]:
    """Returns tf2onnx's optimizers, of which the one that merges equal nodes keeps the same of them each time.

    Args:
        known: Names of the nodes of the TensorFlow graph that is exported.

    Raises:
        ExporterVersionError: The installed tf2onnx lacks one.
    """
    found = {name: part(name) for name in _OPTIMIZERS}
    merging = found["MergeDuplicatedNodesOptimizer"]
    return {**found, "MergeDuplicatedNodesOptimizer": lambda: _MergingInOrder(merging(), known)}


class _MergingInOrder:
    """Of equal nodes the first is kept, and tf2onnx has its nodes in the order of sets: names give them another."""

    def __init__(self, merging: Any, known: Collection[str]) -> None:
        self._merging, self._known = merging, known

    def optimize(self, graph: Any, iteration: int) -> Any:
        _sort_nodes(graph, self._known)
        return self._merging.optimize(graph, iteration)

    @property
    def graph_been_opt(self) -> bool:
        return bool(self._merging.graph_been_opt)


def _sort_nodes(graph: Any, known: Collection[str]) -> None:
    bases = {node.name: name_without_counters(node.name, known) for node in graph.get_nodes()}
    graph.reset_nodes(sorted(graph.get_nodes(), key=lambda node: (bases[node.name], bases[node.name] != node.name)))
    for node in graph.get_nodes():
        for body in (node.get_body_graphs() or {}).values():
            _sort_nodes(body, known)


def _version() -> str:
    try:
        return importlib.metadata.version("tf2onnx")
    except importlib.metadata.PackageNotFoundError:
        return "(none)"
