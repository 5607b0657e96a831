"""Finds the segments of a graph: acyclic clusters of nodes that an engine can run, and a reason for every other node.

    segment_graph: GraphDef ── judge each node ──► contexts ──► clusters ──► Segmentation
                               (eligibility.py)  (control_flow.py) (clusters.py)

Constants are no nodes of their own here. A small one is copied into each segment that reads it, so an edge to or from a
constant stands for edges to its control inputs; those become control inputs of the segment, because in a while loop or
a branch they are what makes the constant run there, or be dead, with the rest. A weight stays outside as an input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.errors import InvalidOptionError, UnknownOutputError, did_you_mean
from tf_opt.passes.tf.clusters import find_clusters
from tf_opt.passes.tf.control_flow import ExecutionContext, execution_contexts
from tf_opt.passes.tf.eligibility import (
    NodeRefusal,
    NodeRules,
    RefusalCategory,
    SupportCheck,
    is_compute_node,
    refuse_nodes,
)
from tf_opt.passes.tf.graph_view import GraphView, InputRef, parse_input
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.tensor_types import tensor_infos
from tf_opt.tensor_info import TensorInfo, node_name, tensor_name
from tf_opt.weights import is_weight

__all__ = ["NodeRefusal", "RefusalCategory", "Segment", "Segmentation", "segment_graph"]

SEGMENT_PREFIX = "tf_opt_segment_"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a graph that one engine node will stand for.

    Attributes:
        name: Name of the engine node to come, such as "tf_opt_segment_0".
        nodes: The compute nodes, in topological order.
        constants: Names of the small Const nodes that are copied into the segment.
        weights: The weight placeholders that the segment reads.
        inputs: The other tensors that come in.
        outputs: The tensors that are used outside or can be fetched; at least one.
        control_inputs: Names of the nodes outside that must run before.
        fetchable: Tensors of `nodes` and `constants` that the user can fetch. Where output k of a node is fetchable,
            `outputs` has all of its outputs up to k, so that a node of the same name can serve it.
    """

    name: str
    nodes: tuple[str, ...]
    constants: tuple[str, ...]
    weights: tuple[TensorInfo, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    control_inputs: tuple[str, ...]
    fetchable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Segmentation:
    """The segments of a graph, and why each other compute node is in none.

    Attributes:
        segments: In topological order.
        refusals: One for each compute node that is in no segment, in the order of the GraphDef.
        compute_node_count: Nodes that are no constant, placeholder or NoOp.
    """

    segments: tuple[Segment, ...]
    refusals: tuple[NodeRefusal, ...]
    compute_node_count: int

    @property
    def segmented_node_count(self) -> int:
        """Compute nodes that are in a segment."""
        return sum(len(segment.nodes) for segment in self.segments)

    @property
    def coverage(self) -> float:
        """Compute nodes in segments, as a fraction of all of them; 0 where there are none."""
        return self.segmented_node_count / self.compute_node_count if self.compute_node_count else 0.0

    def refusals_by_op(self) -> dict[str, int]:
        """Counts refused nodes by op, the most frequent first."""
        return dict(Counter(refusal.op for refusal in self.refusals).most_common())

    def refusals_by_category(self) -> dict[RefusalCategory, int]:
        """Counts refused nodes by the kind of reason, the most frequent first."""
        return dict(Counter(refusal.category for refusal in self.refusals).most_common())

    def describe(self) -> str:
        """Returns a text for a reader: the segments, then what stays in TensorFlow and why."""
        count = len(self.segments)
        lines = [
            f"{count} segment{'' if count == 1 else 's'} with {self.segmented_node_count} of {self.compute_node_count} "
            f"compute nodes ({self.coverage:.1%})"
        ]
        lines += [
            f"  {segment.name}: {len(segment.nodes)} nodes, {len(segment.inputs)} inputs, {len(segment.weights)} "
            f"weights, {len(segment.outputs)} outputs"
            for segment in self.segments
        ]
        if self.refusals:
            lines.append("Left in TensorFlow:")
        groups = Counter((refusal.category, refusal.op) for refusal in self.refusals)
        examples: dict[tuple[RefusalCategory, str], NodeRefusal] = {}
        for refusal in self.refusals:
            examples.setdefault((refusal.category, refusal.op), refusal)
        for (category, op), number in groups.most_common():
            example = examples[category, op]
            lines.append(f"  {number} x {op} ({category.value}), such as {example.node!r}: {example.reason}")
        return "\n".join(lines)


def segment_graph(
    graph_def: GraphDef,
    border: Border,
    *,
    is_supported: SupportCheck,
    minimum_segment_size: int = 3,
    supported_list: Collection[str] | None = None,
    denied_ops: Collection[str] = (),
    supported_nodes: Collection[str] | None = None,
    denied_nodes: Collection[str] = (),
    node_filter: Callable[[NodeDef], bool] | None = None,
    tensor_types: Mapping[str, TensorInfo] | None = None,
    group_of: Callable[[str], Hashable] | None = None,
) -> Segmentation:
    """Finds the segments of a graph.

    Args:
        graph_def: A light GraphDef; it is not changed.
        border: What the user feeds and fetches.
        is_supported: Returns None where the engine can run a node, else the reason why not; called with the node, its
            input tensors and its output tensors.
        minimum_segment_size: Segments of fewer compute nodes are not worth an engine.
        supported_list: Ops that may be in a segment (names or fnmatch patterns, as in the next three); None allows all.
        denied_ops: Ops that may not.
        supported_nodes: Node names that may be in a segment; None allows all.
        denied_nodes: Node names that may not.
        node_filter: Called with each NodeDef that nothing else refuses; returns whether it may be in a segment.
        tensor_types: The result of `tensor_infos(graph_def)`, where it is at hand.
        group_of: Called with the name of each node that is in question, after all of them were judged; nodes of
            different groups never share a segment. None: all are of one group.

    Returns:
        The segments, and one refusal for each compute node that is in none.

    Raises:
        InvalidOptionError: An option is not valid, or the user's filter raised.
        UnknownOutputError: `border.outputs` names a tensor that is not in the graph.
        InvalidGraphError: The graph is inconsistent.
        UnknownOpError: An op is not registered in this process.
    """
    if minimum_segment_size < 1:
        raise InvalidOptionError(f"minimum_segment_size={minimum_segment_size} must be at least 1; the default is 3.")
    rules = NodeRules(
        supported_list=supported_list,
        denied_ops=denied_ops,
        supported_nodes=supported_nodes,
        denied_nodes=denied_nodes,
        node_filter=node_filter,
    )
    builder = _SegmentBuilder(
        GraphView(graph_def), border, tensor_infos(graph_def) if tensor_types is None else tensor_types
    )
    refusals = builder.refuse(is_supported, rules)
    taken = set(builder.view.names)
    segments: list[Segment] = []
    for nodes in builder.clusters(refusals, group_of):
        segment = builder.segment(_free_name(taken), nodes)
        refused = _refuse_segment(segment, minimum_segment_size)
        if refused is None:
            segments.append(segment)
            taken.add(segment.name)
            continue
        category, reason = refused
        for name in nodes:
            refusals[name] = NodeRefusal(name, builder.view.op(name), reason, category)
    ordered = tuple(refusals[name] for name in builder.view.names if name in refusals)
    return Segmentation(tuple(segments), ordered, sum(map(is_compute_node, builder.view)))


def _free_name(taken: Collection[str]) -> str:
    number = 0
    while f"{SEGMENT_PREFIX}{number}" in taken:
        number += 1
    return f"{SEGMENT_PREFIX}{number}"


def _refuse_segment(segment: Segment, minimum_segment_size: int) -> tuple[RefusalCategory, str] | None:
    count = len(segment.nodes)
    nodes = f"{count} compute node{'' if count == 1 else 's'}"
    if not segment.inputs:
        return (
            RefusalCategory.NO_INPUTS,
            f"it is one of {nodes} that depend on constants alone; fold or prune them instead",
        )
    if count < minimum_segment_size:
        return (
            RefusalCategory.SEGMENT_TOO_SMALL,
            f"its segment would have {nodes}; minimum_segment_size is {minimum_segment_size}",
        )
    return None


class _SegmentBuilder:
    """What all segments of one graph share: the index, the types, the border."""

    def __init__(self, view: GraphView, border: Border, infos: Mapping[str, TensorInfo]) -> None:
        self.view = view
        self._infos = infos
        self._fed = frozenset(node_name(name) for name in border.inputs)
        self._fetched = tuple(tensor_name(name) for name in border.outputs)
        for name in self._fetched:
            if name not in infos:
                raise UnknownOutputError(f"The graph has no tensor {name!r}.{did_you_mean(name, infos)}")
        outputs_of: dict[str, list[TensorInfo]] = {}
        for name, info in infos.items():  # In the order of the output indices, as TensorFlow lists them.
            outputs_of.setdefault(node_name(name), []).append(info)
        self._outputs_of = {name: tuple(outputs) for name, outputs in outputs_of.items()}

    def refuse(self, is_supported: SupportCheck, rules: NodeRules) -> dict[str, NodeRefusal]:
        """Judges each compute node by itself."""
        return refuse_nodes(
            self.view,
            fed=self._fed,
            needed=self.view.reachable(node_name(name) for name in self._fetched),
            infos=self._infos,
            outputs_of=self._outputs_of,
            is_supported=is_supported,
            rules=rules,
        )

    def clusters(self, refused: Collection[str], group_of: Callable[[str], Hashable] | None) -> list[tuple[str, ...]]:
        """Groups the nodes that are not refused, each group in topological order."""
        names = [name for name in self.view.topological_order() if not self._is_copied(name)]
        numbers = {name: number for number, name in enumerate(names)}
        predecessors = [
            [numbers[source] for source in self._dependencies(name) if not self.view.is_back_edge(source)]
            for name in names
        ]
        run = execution_contexts(self.view)
        contexts: list[tuple[ExecutionContext, Hashable] | None] = []
        devices: list[str] = []
        canonical: dict[str, str] = {}
        for name in names:
            node = self.view.node(name)
            open_to_engines = is_compute_node(node) and name not in refused
            contexts.append((run[name], group_of(name) if group_of else None) if open_to_engines else None)
            if node.device not in canonical:
                canonical[node.device] = canonical_device(node.device)
            devices.append(canonical[node.device])
        found = find_clusters(predecessors, contexts, devices)
        return [tuple(names[number] for number in cluster) for cluster in found]

    def segment(self, name: str, nodes: tuple[str, ...]) -> Segment:
        """Describes what goes into and comes out of a group of nodes."""
        inside = frozenset(nodes)
        constants: dict[str, None] = {}
        weights: dict[str, TensorInfo] = {}
        inputs: dict[str, TensorInfo] = {}
        waits: dict[str, None] = {}
        for member in nodes:
            for reference in self.view.inputs(member):
                if self._is_copied(reference.node):
                    if not reference.is_control:
                        constants[reference.node] = None
                    waits.update(dict.fromkeys(self._anchors(reference.node)))
                elif reference.node in inside:
                    continue
                elif reference.is_control:
                    waits[reference.node] = None
                else:
                    kind = weights if is_weight(self.view.node(reference.node)) else inputs
                    kind[reference.tensor_name] = self._infos[reference.tensor_name]
        read = {node_name(tensor) for tensor in (*inputs, *weights)}
        outputs = tuple(self._outputs(nodes, inside))
        return Segment(
            name=name,
            nodes=nodes,
            constants=tuple(constants),
            weights=tuple(weights.values()),
            inputs=tuple(inputs.values()),
            outputs=outputs,
            control_inputs=tuple(wait for wait in waits if wait not in inside and wait not in read),
            fetchable=tuple(
                tensor
                for tensor in dict.fromkeys(self._fetched)
                if node_name(tensor) in inside or node_name(tensor) in constants
            ),
        )

    def _outputs(self, nodes: tuple[str, ...], inside: Collection[str]) -> Iterator[TensorInfo]:
        fetched: dict[str, int] = {}
        for tensor in self._fetched:
            reference = parse_input(tensor)
            fetched[reference.node] = max(fetched.get(reference.node, -1), reference.output_index)
        count = 0
        for name in nodes:
            used = {use.output_index for use in self.view.data_consumers(name) if use.node not in inside}
            used.update(range(fetched.get(name, -1) + 1))
            for index in sorted(used):
                count += 1
                yield self._infos[InputRef(name, index).tensor_name]
        if count == 0:
            # Only control edges leave the segment. The engine op has at least one output, which nothing reads then.
            yield self._outputs_of[nodes[-1]][0]

    def _is_copied(self, name: str) -> bool:
        """Whether a node is a constant that segments copy; not where the user feeds another value into it."""
        return self.view.op(name) == "Const" and name not in self._fed

    def _anchors(self, constant: str) -> Iterable[str]:
        """The nodes that a copied constant waits for, through other constants."""
        for source in self.view.control_inputs(constant):
            if self._is_copied(source):
                yield from self._anchors(source)
            else:
                yield source

    def _dependencies(self, name: str) -> Iterable[str]:
        for source in self.view.predecessors(name):
            if self._is_copied(source):
                yield from self._anchors(source)
            else:
                yield source


def canonical_device(device: str) -> str:
    """Returns one spelling for a device ("/cpu:0" and "/device:CPU:0" become equal); unreadable names are kept."""
    if not device:
        return ""
    try:
        return str(tf.DeviceSpec.from_string(device).to_string())
    except ValueError:
        return device
