"""The graph at the level of segments: what a report draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

BoxKind: TypeAlias = Literal["input", "segment", "tensorflow", "output"]


@dataclass(frozen=True, kw_only=True)
class GraphBox:
    """One box: an input, a segment, nodes that stay TensorFlow, or an output.

    Attributes:
        name: Unique among the boxes. That of a segment is the segment's name, under which the report tells what became
            of it.
        kind: What the box stands for.
        title: What a reader knows it by: the key of an input or output, the segment's name, or the most frequent ops.
        node_count: Compute nodes in it; 0 for an input.
        op_counts: Compute nodes by op, the most frequent first.
        categories: Nodes by the kind of reason for which they stay TensorFlow, the most frequent first.
        examples: Names of some of its nodes, or of all inputs or outputs that it stands for.
    """

    name: str
    kind: BoxKind
    title: str
    node_count: int = 0
    op_counts: Mapping[str, int] = field(default_factory=dict)
    categories: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GraphEdge:
    """All tensors from one box to another.

    Attributes:
        source: Name of the box that computes them.
        target: Name of the box that reads them.
        tensor_count: How many tensors there are; 0 where the target only waits for the source.
        tensors: The tensors, described as far as they are known; of many, the first.
    """

    source: str
    target: str
    tensor_count: int
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SegmentGraph:
    """The boxes and what flows between them; there is no cycle.

    Attributes:
        boxes: In topological order.
        edges: At most one from a box to another.
    """

    boxes: tuple[GraphBox, ...] = ()
    edges: tuple[GraphEdge, ...] = ()
