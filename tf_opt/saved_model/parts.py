"""The callables of a SavedModel as graphs: which can be frozen, and which are the same graph under another name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tensorflow as tf

from tf_opt.errors import FreezeError, GraphNotFrozenError, InvalidGraphError, UnknownOpError
from tf_opt.freeze.function import freeze_light
from tf_opt.graph_digest import output_digests
from tf_opt.light_graph import LightGraph
from tf_opt.passes.tf.splice import ENGINE_OP
from tf_opt.saved_model.weights import WeightVariables


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A signature or endpoint that can be optimized.

    Attributes:
        name: The signature's key, or the attribute of the model.
        is_signature: Which of the two it is.
        function: The original concrete function.
        model: Its graph, frozen.
    """

    name: str
    is_signature: bool
    function: Any
    model: LightGraph

    @property
    def title(self) -> str:
        """What a report calls it."""
        return f"The {'signature' if self.is_signature else 'endpoint'} {self.name!r}"


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedGraph:
    """Parts that compute the same outputs of the same inputs.

    Attributes:
        parts: The first is the one that is optimized.
        output_keys: For each of the parts, the first one's output key for each of its own.
    """

    parts: list[Part] = field(default_factory=list)
    output_keys: list[Mapping[str, str]] = field(default_factory=list)

    @property
    def model(self) -> LightGraph:
        """What is optimized."""
        return self.parts[0].model

    @property
    def title(self) -> str:
        """What a report calls it."""
        return self.parts[0].title

    @property
    def signatures(self) -> list[str]:
        """Names of the signatures among the parts."""
        return [part.name for part in self.parts if part.is_signature]


def freeze_part(name: str, function: Any, *, is_signature: bool) -> Part:
    """Freezes a callable of a loaded SavedModel.

    Args:
        name: The signature's key, or the attribute of the model.
        function: Its concrete function.
        is_signature: Which of the two it is.

    Raises:
        FreezeError: It cannot be frozen, or has engines already.
    """
    try:
        model = freeze_light(function)
    except (InvalidGraphError, GraphNotFrozenError, UnknownOpError) as error:
        raise FreezeError(str(error)) from error
    functions = (node for each in model.graph_def.library.function for node in each.node_def)
    if any(node.op == ENGINE_OP for node in (*model.graph_def.node, *functions)):
        raise FreezeError("It has engines of tf_opt already. Optimize the SavedModel that it was made of instead.")
    if is_signature:
        model = _with_signature_keys(model, function)
    return Part(name=name, is_signature=is_signature, function=function, model=model)


def _with_signature_keys(model: LightGraph, function: Any) -> LightGraph:
    """Returns the graph with a signature's own output keys, which freezing makes into names."""
    structure = function.structured_outputs
    if not isinstance(structure, Mapping) or len(structure) != len(model.outputs):
        return model
    keys = sorted(map(str, structure))
    outputs = tuple(replace(info, key=key) for info, key in zip(model.outputs, keys, strict=True))
    return replace(model, outputs=outputs)


def share_graphs(parts: Iterable[Part], weights: WeightVariables) -> list[SharedGraph]:
    """Returns the parts in groups that compute the same, so that each is optimized once.

    Args:
        parts: The parts, the ones to lead a group first.
        weights: Knows digests of weights.
    """
    groups: list[tuple[SharedGraph, dict[str, str]]] = []
    for part in parts:
        model = part.model

        def weight_digest(name: str, model: LightGraph = model) -> str:
            return weights.digest(model.weights, name)

        digests = output_digests(model, weight_digest)
        for group, known in groups:
            if digests is not None and set(digests) == known.keys() and _takes_all(part, group):
                break
        else:
            group = SharedGraph()
            known = dict(zip(digests or (), (info.key for info in model.outputs), strict=False))
            groups.append((group, known))
        group.parts.append(part)
        keys = [info.key for info in model.outputs]
        # Two outputs may be one tensor, so that the keys lead from each part to the first and not back.
        same = [known[digest] for digest in digests] if digests is not None and len(group.parts) > 1 else keys
        group.output_keys.append(dict(zip(keys, same, strict=True)))
    return [group for group, _ in groups]


def _takes_all(part: Part, group: SharedGraph) -> bool:
    """Tells whether a part takes all inputs of a group; the graph may use fewer than that."""
    taken = {(info.key, info.dtype, info.shape) for info in part.model.inputs}
    return all((info.key, info.dtype, info.shape) in taken for info in group.model.inputs)


def tensor_specs(structure: Any) -> Sequence[Any] | None:
    """Returns the TensorSpecs of a function's arguments in order; None where it takes other tensors too."""
    leaves = tf.nest.flatten(structure)
    if any(isinstance(leaf, tf.TypeSpec) and not isinstance(leaf, tf.TensorSpec) for leaf in leaves):
        return None
    return [leaf for leaf in leaves if isinstance(leaf, tf.TensorSpec)]
