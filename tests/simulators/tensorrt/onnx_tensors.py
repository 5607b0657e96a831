"""What is known about the tensors of an ONNX model before it runs, in its graph and in those inside of its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import onnx


@dataclass(frozen=True)
class Scope:
    """The tensors that a graph's nodes can name: its own, and those of the graphs around it."""

    types: dict[str, int] = field(default_factory=dict)
    """The element types that were found."""

    ranks: dict[str, int] = field(default_factory=dict)
    """The ranks that were found."""

    constants: frozenset[str] = frozenset()
    """The tensors that do not depend on what is fed."""

    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def inside(self, graph: onnx.GraphProto) -> Scope:
        """Returns the scope of a graph inside of this one's."""
        types, ranks = dict(self.types), dict(self.ranks)
        for value in (*graph.input, *graph.output, *graph.value_info):
            tensor = value.type.tensor_type
            if tensor.elem_type:
                types[value.name] = tensor.elem_type
            if tensor.HasField("shape"):
                ranks[value.name] = len(tensor.shape.dim)
        for initializer in graph.initializer:
            types[initializer.name] = initializer.data_type
            ranks[initializer.name] = len(initializer.dims)
        own = {initializer.name: initializer for initializer in graph.initializer}
        return Scope(
            types, ranks, self.constants | _constant_names(graph, self.constants), {**self.initializers, **own}
        )

    def values(self, name: str) -> npt.NDArray[Any] | None:
        """Returns an initializer's values, None where there is none of this name with data."""
        initializer = self.initializers.get(name)
        if initializer is None or initializer.external_data:
            return None
        return onnx.numpy_helper.to_array(initializer)


@dataclass(frozen=True)
class Place:
    """A node and where it stands."""

    node: onnx.NodeProto
    scope: Scope
    index: int
    """Which node of the model's graph this is, or is inside of."""

    outermost: onnx.NodeProto
    """That node."""


def places(model: onnx.ModelProto) -> Iterator[Place]:
    """Yields all nodes of a model, those inside of a node behind it."""
    graph = inferred(model).graph
    scope = Scope().inside(graph)
    for index, node in enumerate(graph.node):
        yield from _places(node, scope, index, node)


def _places(node: onnx.NodeProto, scope: Scope, index: int, outermost: onnx.NodeProto) -> Iterator[Place]:
    yield Place(node, scope, index, outermost)
    for body in bodies(node):
        inside = scope.inside(body)
        for inner in body.node:
            yield from _places(inner, inside, index, outermost)


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Returns the graphs inside of a node."""
    return [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with the types and shapes that ONNX's inference finds, at every depth."""
    for with_values in (True, False):
        try:
            return onnx.shape_inference.infer_shapes(model, data_prop=with_values)
        except Exception:
            continue
    return model


def _constant_names(graph: onnx.GraphProto, outer: frozenset[str]) -> frozenset[str]:
    """Returns the tensors of a graph that do not depend on what is fed."""
    known = {*outer, *(initializer.name for initializer in graph.initializer)}
    for node in graph.node:
        # What a body reads from around it is not among its node's inputs.
        deterministic = not node.op_type.startswith("Random") and not bodies(node)
        if deterministic and all(name in known for name in node.input if name):
            known.update(node.output)
    return frozenset(known)
