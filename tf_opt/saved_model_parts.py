"""The callables of a SavedModel as graphs: which can be frozen, and which are the same graph under another name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tf_opt.errors import FreezeError, GraphNotFrozenError, InvalidGraphError, UnknownOpError
from tf_opt.freeze_function import freeze_concrete_function
from tf_opt.graph_digest import output_digests
from tf_opt.light_graph import LightGraph, light_graph
from tf_opt.passes.tf.splice import ENGINE_OP
from tf_opt.saved_model_weights import WeightVariables
from tf_opt.tensor_info import TensorInfo


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A signature or endpoint that can be optimized.

    Attributes:
        name: Its key, or the attribute's name.
        function: The original concrete function.
        model: Its graph, frozen.
    """

    name: str
    function: Any
    model: LightGraph


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedGraph:
    """Parts that compute the same outputs of the same inputs.

    Attributes:
        parts: The first is the one that is optimized.
        output_keys: For each further part, the first one's output key for each of its own.
    """

    parts: list[Part]
    output_keys: dict[str, Mapping[str, str]]

    @property
    def model(self) -> LightGraph:
        """What is optimized."""
        return self.parts[0].model


def freeze_part(name: str, function: Any) -> Part:
    """Freezes a callable of a loaded SavedModel.

    Raises:
        FreezeError: It cannot be frozen, or has engines already.
    """
    try:
        frozen = freeze_concrete_function(function)
    except (InvalidGraphError, GraphNotFrozenError, UnknownOpError) as error:
        raise FreezeError(str(error)) from error
    model = light_graph(frozen)
    functions = (node for each in model.graph_def.library.function for node in each.node_def)
    if any(node.op == ENGINE_OP for node in (*model.graph_def.node, *functions)):
        raise FreezeError("It has engines of tf_opt already. Optimize the original SavedModel instead.")
    return Part(name=name, function=function, model=_with_signature_keys(model, function))


def _with_signature_keys(model: LightGraph, function: Any) -> LightGraph:
    """Returns the graph with a signature's own output keys, which freezing makes into names."""
    structure = function.structured_outputs
    if not isinstance(structure, Mapping) or len(structure) != len(model.outputs):
        return model
    if not all(isinstance(leaf, tf.TensorSpec) or tf.is_tensor(leaf) for leaf in structure.values()):
        return model
    outputs = tuple(
        TensorInfo(name=info.name, dtype=info.dtype, shape=info.shape, key=str(key))
        for info, key in zip(model.outputs, sorted(structure), strict=True)
    )
    return LightGraph(graph_def=model.graph_def, weights=model.weights, inputs=model.inputs, outputs=outputs)


def share_graphs(parts: Mapping[str, Part] | list[Part], weights: WeightVariables) -> list[SharedGraph]:
    """Returns the parts in groups that compute the same, so that each is optimized once.

    Args:
        parts: The parts, the ones to lead a group first.
        weights: Knows digests of weights.
    """
    groups: list[tuple[SharedGraph, dict[str, str] | None, set[tuple[Any, ...]]]] = []
    for part in parts.values() if isinstance(parts, Mapping) else parts:
        model = part.model
        digests = output_digests(model, lambda name, model=model: weights.digest(model.weights, name))  # type: ignore[misc]
        by_digest = None if digests is None else dict(zip(digests, (info.key for info in model.outputs), strict=True))
        inputs = {(info.key, info.dtype, info.shape) for info in model.inputs}
        for group, leader_digests, leader_inputs in groups:
            if (
                by_digest is not None
                and leader_digests is not None
                and by_digest.keys() == leader_digests.keys()
                and leader_inputs <= inputs
            ):
                group.parts.append(part)
                # Two outputs may be one tensor, so the keys go from the part to the leader.
                group.output_keys[part.name] = {
                    info.key: leader_digests[digest] for digest, info in zip(digests or (), model.outputs, strict=True)
                }
                break
        else:
            groups.append((SharedGraph(parts=[part], output_keys={}), by_digest, inputs))
    return [group for group, _, _ in groups]
