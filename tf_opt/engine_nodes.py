"""What can be said of an engine node without running it, wherever its engine is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorflow.core.framework import graph_pb2, node_def_pb2

from tf_opt.engines.blob import EngineBlob
from tf_opt.errors import EngineBlobCorruptError, EngineBlobVersionError
from tf_opt.passes.tf.splice import ENGINE_OP, NO_FALLBACK, NODE_COUNT_ATTRIBUTE, PRECISION_ATTRIBUTE

ASSETS = "assets"
"""Where a SavedModel has its assets, says TensorFlow."""

STORED_ENGINES_ATTRIBUTE = "stored_engines"
"""1 where the node takes its engine as an input instead of holding it."""

ENGINE_FILE_ATTRIBUTE = "_tf_opt_engine_file"
"""Name of the file among the assets of the SavedModel that such an input is read from, for readers of the graph."""


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """One engine node.

    Attributes:
        name: The node's name.
        runtime: What runs it.
        library_version: Version of the library that it was built with; empty where it cannot be read.
        precision: What it computes in; empty where that is not said.
        nodes: How many nodes it stands for; None where that is not said.
        stored_bytes: Size of the stored engine, without weights.
        fallback: Whether it has its original nodes beside it.
        problem: Why the engine cannot be read; empty where it can.
    """

    name: str
    runtime: str
    library_version: str
    precision: str
    nodes: int | None
    stored_bytes: int
    fallback: bool
    problem: str = ""


def engine_facts(node: node_def_pb2.NodeDef, assets: Path | None = None) -> EngineFacts:
    """Returns what is known of an engine node.

    Args:
        node: The node.
        assets: Where its SavedModel has its assets; None for a graph of no SavedModel.
    """
    engine, problem = _stored(node, assets)
    header: Mapping[str, Any] = {}
    if not problem:
        try:
            header = EngineBlob.unpack(engine).header
        except (EngineBlobCorruptError, EngineBlobVersionError) as error:
            problem = str(error)
    return EngineFacts(
        name=node.name,
        runtime=node.attr["runtime"].s.decode(errors="replace"),
        library_version=str(header.get("library_version", "")),
        precision=node.attr[PRECISION_ATTRIBUTE].s.decode() if PRECISION_ATTRIBUTE in node.attr else "",
        nodes=int(node.attr[NODE_COUNT_ATTRIBUTE].i) if NODE_COUNT_ATTRIBUTE in node.attr else None,
        stored_bytes=len(engine),
        fallback=node.attr["fallback"].func.name not in ("", NO_FALLBACK),
        problem=problem,
    )


def engine_bytes(*graph_defs: graph_pb2.GraphDef) -> int:
    """Returns the size of the engines in the nodes of graphs; those that are equal count once."""
    return sum(map(len, {node.attr["engine"].s for graph in graph_defs for node in graph.node if node.op == ENGINE_OP}))


def engine_is_input(node: node_def_pb2.NodeDef) -> bool:
    """Tells whether an engine node takes its engine as an input."""
    return STORED_ENGINES_ATTRIBUTE in node.attr and bool(node.attr[STORED_ENGINES_ATTRIBUTE].i)


def data_input_count(node: node_def_pb2.NodeDef) -> int:
    """Returns how many inputs and weights an engine node has; behind them comes its engine, where that is an input."""
    return len(node.attr["InT"].list.type) + len(node.attr["WeightT"].list.type)


def _stored(node: node_def_pb2.NodeDef, assets: Path | None) -> tuple[bytes, str]:
    """Returns the engine, and why it cannot be had."""
    if not engine_is_input(node):
        return node.attr["engine"].s, ""
    file = node.attr[ENGINE_FILE_ATTRIBUTE].s.decode(errors="replace") if ENGINE_FILE_ATTRIBUTE in node.attr else ""
    if assets is None or Path(file).name != file or not file:
        return (
            b"",
            "The node takes its engine as an input, and does not say which file of a SavedModel it is read from.",
        )
    try:
        return (assets / file).read_bytes(), ""
    except OSError as error:
        return b"", (
            f"{assets / file} cannot be read: {error.strerror or error}. Copy the SavedModel's folder as a whole, with "
            "its assets, or convert the original model again."
        )
