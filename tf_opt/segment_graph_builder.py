"""Draws a graph in few boxes: its inputs and outputs, its segments, and what stays TensorFlow between them.

    x ─► Cast ─► [segment 0] ─► Betainc ─► Sub ─► [segment 1] ─► y
                            └─────────────────────┘

becomes

    (x) ─► (Cast) ─► (segment 0) ─► (Betainc, Sub) ─► (segment 1) ─► (y)
                               └─────────────────────┘

Nodes that stay TensorFlow share a box where an edge joins them and no path leaves the box and comes back, so that the
boxes have no cycle either. Constants and weights have no boxes: a report gives their size with each segment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import TypeAlias

from tensorflow.core.framework.graph_pb2 import GraphDef

from tf_opt.passes.tf.clusters import AcyclicGraph, find_clusters
from tf_opt.passes.tf.eligibility import FEEDABLE_OPS, is_compute_node
from tf_opt.passes.tf.graph_view import GraphView
from tf_opt.passes.tf.segment import Segmentation
from tf_opt.report.segment_graph import BoxKind, GraphBox, GraphEdge, SegmentGraph
from tf_opt.tensor_info import TensorInfo, node_name
from tf_opt.weights import is_weight

MAXIMUM_TENSORFLOW_BOXES = 24
"""More boxes of nodes that stay TensorFlow than this are put together by their depth in the graph."""

MAXIMUM_BORDER_BOXES = 8
"""More inputs (or outputs) than this that are read by (or come from) the same boxes share one."""

MAXIMUM_NAMES = 12
"""How many nodes, or tensors of an edge, are listed by name."""

_Unit: TypeAlias = tuple[BoxKind, str]
"""What becomes a box, or a part of one: a segment, an input, an output, or one node that stays TensorFlow."""


def build_segment_graph(
    light: GraphDef,
    segmentation: Segmentation,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    tensor_types: Mapping[str, TensorInfo],
) -> SegmentGraph:
    """Returns the boxes of a graph and what flows between them.

    Args:
        light: The graph that was segmented; it is not changed.
        segmentation: Its segments, and the reason for every other node.
        inputs: What the user feeds.
        outputs: What the user fetches.
        tensor_types: What is known of the tensors, by name.
    """
    return _Builder(light, segmentation, inputs, outputs, tensor_types).build()


class _Builder:
    """The units of one graph, and the boxes they are put into."""

    def __init__(
        self,
        light: GraphDef,
        segmentation: Segmentation,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        tensor_types: Mapping[str, TensorInfo],
    ) -> None:
        self._view = GraphView(light)
        self._types = tensor_types
        self._outputs = outputs
        self._titles = {("output", info.name): info.key for info in outputs}
        self._titles |= {("input", node_name(info.name)): info.key for info in inputs}
        self._members: dict[_Unit, list[str]] = {}
        self._unit_of: dict[str, _Unit] = {}
        self._categories = {refusal.node: refusal.category.value for refusal in segmentation.refusals}
        segment_of = {name: segment.name for segment in segmentation.segments for name in segment.nodes}
        fed = {node_name(info.name) for info in inputs}
        for node in self._view:
            if node.name in fed or node.op in FEEDABLE_OPS:
                unit: _Unit = ("input", node.name)
            elif node.name in segment_of:
                unit = ("segment", segment_of[node.name])
            elif node.op == "Const" or is_weight(node):
                continue
            else:
                unit = ("tensorflow", node.name)
            self._unit_of[node.name] = unit
            self._members.setdefault(unit, []).append(node.name)

    def build(self) -> SegmentGraph:
        """Goes from units to boxes in four steps, each over fewer boxes than the one before."""
        units = [*self._members, *(("output", info.name) for info in self._outputs)]
        tensors = self._tensors()
        units, box_of = _joined(units, tensors)
        box_of = _merged(units, tensors, box_of, _same_neighbours)
        if len({box for unit, box in box_of.items() if unit[0] == "tensorflow"}) > MAXIMUM_TENSORFLOW_BOXES:
            box_of = _merged(units, tensors, box_of, _same_depth)
            box_of = _merged(units, tensors, box_of, _same_neighbours)
        edges: dict[tuple[_Unit, _Unit], dict[str, None]] = {}
        for (source, target), names in tensors.items():
            if box_of[source] != box_of[target]:
                edges.setdefault((box_of[source], box_of[target]), {}).update(names)
        parts: dict[_Unit, list[_Unit]] = {}
        for unit in units:
            parts.setdefault(box_of[unit], []).append(unit)
        order = _topological(list(parts), edges)
        names_of = {box: _box_name(box) for box in order}
        return SegmentGraph(
            boxes=tuple(self._box(names_of[box], parts[box]) for box in order),
            edges=tuple(
                GraphEdge(
                    source=names_of[source],
                    target=names_of[target],
                    tensor_count=len(names),
                    tensors=tuple(map(self._described, list(names)[:MAXIMUM_NAMES])),
                )
                for (source, target), names in edges.items()
            ),
        )

    def _tensors(self) -> dict[tuple[_Unit, _Unit], dict[str, None]]:
        """Returns the tensors between units that differ; none where one only waits for the other."""
        found: dict[tuple[_Unit, _Unit], dict[str, None]] = {}
        for name, target in self._unit_of.items():
            for reference in self._view.inputs(name):
                source = self._unit_of.get(reference.node)
                # The edge that closes a v1 while loop would be the only one that goes back.
                if source is None or source == target or self._view.is_back_edge(reference.node):
                    continue
                names = found.setdefault((source, target), {})
                if not reference.is_control:
                    names[reference.tensor_name] = None
        for info in self._outputs:
            if (source := self._unit_of.get(node_name(info.name))) is not None:
                found[source, ("output", info.name)] = {info.name: None}
        return found

    def _described(self, tensor: str) -> str:
        return str(self._types.get(tensor, tensor))

    def _box(self, name: str, parts: Sequence[_Unit]) -> GraphBox:
        kind = parts[0][0]
        nodes = [node for part in parts for node in self._members.get(part, ())]
        computing = [node for node in nodes if is_compute_node(self._view.node(node))]
        ops = dict(Counter(self._view.op(node) for node in computing).most_common())
        categories = dict(
            Counter(self._categories[node] for node in computing if node in self._categories).most_common()
        )
        if kind in ("input", "output"):
            keys = [self._titles.get(part, part[1]) for part in parts]
            title = keys[0] if len(keys) == 1 else f"{len(keys)} {kind}s"
            return GraphBox(name=name, kind=kind, title=title, examples=tuple(keys[:MAXIMUM_NAMES]))
        title = parts[0][1] if kind == "segment" else ", ".join([*list(ops)[:2], *(["…"] if len(ops) > 2 else [])])
        return GraphBox(
            name=name,
            kind=kind,
            title=title or "NoOp",
            node_count=len(computing),
            op_counts=ops,
            categories=categories,
            examples=tuple(computing[:MAXIMUM_NAMES]),
        )


def _box_name(first: _Unit) -> str:
    kind, name = first
    return name if kind == "segment" else f"{kind}:{name}"


def _topological(boxes: Sequence[_Unit], edges: Collection[tuple[_Unit, _Unit]]) -> list[_Unit]:
    """Returns the boxes, each after those that it depends on."""
    numbers = {box: number for number, box in enumerate(boxes)}
    successors: list[set[int]] = [set() for _ in boxes]
    for source, target in edges:
        successors[numbers[source]].add(numbers[target])
    rank = AcyclicGraph(successors).rank
    return sorted(boxes, key=lambda box: rank[numbers[box]])


def _joined(units: Sequence[_Unit], tensors: Collection[tuple[_Unit, _Unit]]) -> tuple[list[_Unit], dict[_Unit, _Unit]]:
    """Joins nodes that stay TensorFlow along edges. Returns the units in topological order and the box of each."""
    order = _topological(units, tensors)
    numbers = {unit: number for number, unit in enumerate(order)}
    predecessors: list[list[int]] = [[] for _ in order]
    for source, target in tensors:
        predecessors[numbers[target]].append(numbers[source])
    contexts: list[Hashable | None] = ["tensorflow" if unit[0] == "tensorflow" else None for unit in order]
    box_of = {unit: unit for unit in order}
    for cluster in find_clusters(predecessors, contexts):
        box_of.update({order[number]: order[cluster[0]] for number in cluster})
    return order, box_of


_Neighbours: TypeAlias = Mapping[_Unit, Collection[_Unit]]


def _merged(
    units: Sequence[_Unit],
    tensors: Collection[tuple[_Unit, _Unit]],
    box_of: Mapping[_Unit, _Unit],
    key_of: Callable[[Sequence[_Unit], _Neighbours, _Neighbours], Mapping[_Unit, Hashable]],
) -> dict[_Unit, _Unit]:
    """Puts boxes of one key together; `key_of` sees to it that no path joins two boxes of the same key."""
    boxes = list(dict.fromkeys(box_of[unit] for unit in units))
    before: dict[_Unit, dict[_Unit, None]] = {box: {} for box in boxes}
    after: dict[_Unit, dict[_Unit, None]] = {box: {} for box in boxes}
    edges = {(box_of[source], box_of[target]): None for source, target in tensors}
    for source, target in edges:
        if source != target:
            before[target][source] = None
            after[source][target] = None
    keys = key_of(_topological(boxes, [edge for edge in edges if edge[0] != edge[1]]), before, after)
    first: dict[Hashable, _Unit] = {}
    for box in boxes:
        first.setdefault(keys[box], box)
    return {unit: first[keys[box_of[unit]]] for unit in units}


def _same_neighbours(order: Sequence[_Unit], before: _Neighbours, after: _Neighbours) -> dict[_Unit, Hashable]:
    """Gives boxes one key that read from the same and are read by the same; inputs and outputs where they are many.

    No path joins two such boxes: its second box would be read by the last one too, and so be part of a cycle.
    """
    keys: dict[_Unit, Hashable] = {
        box: (box[0], frozenset(before[box]), frozenset(after[box])) if box[0] != "segment" else box for box in order
    }
    counts = Counter(keys.values())
    return {
        box: box if box[0] in ("input", "output") and counts[key] <= MAXIMUM_BORDER_BOXES else key
        for box, key in keys.items()
    }


def _same_depth(order: Sequence[_Unit], before: _Neighbours, after: _Neighbours) -> dict[_Unit, Hashable]:
    """Gives TensorFlow's boxes of the same depth one key: a path always leads to a greater depth."""
    depth: dict[_Unit, int] = {}
    for box in order:
        depth[box] = 1 + max((depth[source] for source in before[box]), default=-1)
    return {box: depth[box] if box[0] == "tensorflow" else box for box in order}
