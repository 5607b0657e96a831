"""Brings two models to the same names, so that one feed serves both and their outputs are compared with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tf_opt.errors import InvalidFeedError, UnknownOutputError
from tf_opt.frozen_graph import GraphBorder
from tf_opt.tensor_info import TensorInfo

Graph = TypeVar("Graph", bound=GraphBorder)


def aligned(graph: Graph, reference: GraphBorder, path: Path, reference_path: Path) -> Graph:
    """Returns `graph` with the keys of `reference`.

    A tensor is known by its key, else by its name in the graph, which a frozen graph keeps where its keys are lost; a
    single one needs no name.

    Raises:
        InvalidFeedError: The inputs are not the same.
        UnknownOutputError: An output of the reference is missing.
    """
    inputs = _renamed(graph.inputs, reference.inputs)
    if inputs is None or len(graph.inputs) != len(reference.inputs):
        raise InvalidFeedError(
            f"The models take different inputs, so that one feed cannot serve both: {reference_path} takes "
            f"{_listed(reference.inputs)}; {path} takes {_listed(graph.inputs)}."
        )
    for info, wanted in zip(inputs, reference.inputs, strict=True):
        if info.dtype != wanted.dtype or not _may_be_equal(info, wanted):
            raise InvalidFeedError(
                f"The models take different inputs: {wanted.key!r} is {_described(wanted)} in {reference_path}, and "
                f"{_described(info)} in {path}."
            )
    outputs = _renamed(graph.outputs, reference.outputs)
    if outputs is None:
        raise UnknownOutputError(
            f"The models have different outputs: {reference_path} has {_listed(reference.outputs)}; {path} has "
            f"{_listed(graph.outputs)}. Choose with --output or --signature what both have."
        )
    return replace(graph, inputs=inputs, outputs=outputs)


def _renamed(infos: Sequence[TensorInfo], reference: Sequence[TensorInfo]) -> tuple[TensorInfo, ...] | None:
    """Returns, in the order of `reference`, the entries that stand for its own, with its keys; None where one lacks."""
    by_key = {info.key: info for info in infos}
    by_name = {info.name: info for info in infos}
    found = []
    for wanted in reference:
        match = by_key.get(wanted.key) or by_name.get(wanted.name)
        if match is None and len(infos) == len(reference) == 1:
            match = infos[0]
        if match is None:
            return None
        found.append(replace(match, key=wanted.key))
    return tuple(found) if len({info.name for info in found}) == len(found) else None


def _may_be_equal(a: TensorInfo, b: TensorInfo) -> bool:
    if a.shape is None or b.shape is None:
        return True
    return len(a.shape) == len(b.shape) and all(
        first is None or second is None or first == second for first, second in zip(a.shape, b.shape, strict=True)
    )


def _described(info: TensorInfo) -> str:
    return f"{info.dtype} {'?' if info.shape is None else [('?' if size is None else size) for size in info.shape]}"


def _listed(infos: Sequence[TensorInfo]) -> str:
    return ", ".join(f"{info.key!r}" for info in infos) or "nothing"
