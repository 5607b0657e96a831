"""Puts engine nodes in place of segments.

Before (a segment of b and c; c can be fetched):

    x ──► b ──► c ──► d

After:

    x ──► tf_opt_segment_0 ──┬──► d
          (TfOptEngine)      └──► c (Identity, for fetching)

The segment lives on as the function that the engine node falls back to. Weights stay nodes of the graph: the engine
node reads them as inputs, so they are stored once however many segments share them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.errors import InvalidGraphError
from tf_opt.passes.tf.extract import dtype_enum, segment_function, shape_proto
from tf_opt.passes.tf.graph_view import GraphView, InputRef, format_input, parse_input
from tf_opt.passes.tf.segment import Segment
from tf_opt.tensor_info import TensorInfo, node_name
from tf_opt.weights import WEIGHT_ATTRIBUTE

NO_FALLBACK = "tf_opt_no_fallback"
"""The op takes a function whose name contains this for none; see kNoFallback in tf_opt/ops/engine_op.cc."""

ENGINE_OP = "TfOptEngine"
"""The op of tf_opt/ops that runs an engine."""

NODE_COUNT_ATTRIBUTE, PRECISION_ATTRIBUTE = "_tf_opt_nodes", "_tf_opt_precision"
"""What a reader of the graph wants to know of an engine. TensorFlow ignores attributes with a leading underscore."""

COLOCATION_ATTRIBUTE, COLOCATION_PREFIX = "_class", b"loc:@"


@dataclass(frozen=True, kw_only=True)
class EngineNode:
    """A segment, and what its engine node gets as attributes.

    Attributes:
        segment: The segment to replace.
        runtime: Name of the runtime that loads the engine.
        engine: The engine blob.
        weights: The constants that the engine reads, as `weight_<i>` in this order: weights of the segment, and derived
            ones, which are no nodes of the graph yet. None: the segment's weights.
        maximum_cached_engines: How many engines for single shapes the op keeps beside the general one.
        specialize_after: After how many runs of one shape the op builds an engine for it; 0 for never.
        keep_fallback: Whether the segment is kept as a function for shapes that the engine does not take.
        device: Where the node is placed, unless nodes of the segment ask for a device; empty for anywhere.
        precision: What the engine computes in, for readers of the graph; empty for nothing said.
    """

    segment: Segment
    runtime: str
    engine: bytes
    weights: tuple[TensorInfo, ...] | None = None
    maximum_cached_engines: int = 16
    specialize_after: int = 0
    keep_fallback: bool = True
    device: str = ""
    precision: str = ""

    @property
    def all_weights(self) -> tuple[TensorInfo, ...]:
        """What the node is given as weights: those of the engine, then those that only the fallback reads."""
        if self.weights is None:
            return self.segment.weights
        if not self.keep_fallback:
            return self.weights
        known = {info.name for info in self.weights}
        return (*self.weights, *(info for info in self.segment.weights if info.name not in known))


def splice_segments(graph_def: GraphDef, replacements: Sequence[EngineNode]) -> GraphDef:
    """Returns the graph with an engine node in place of each given segment.

    Nodes that can be fetched keep their name, as an Identity or IdentityN. Constants that only the replaced segments
    read are dropped; weights that nothing reads any more stay, as splicing does not know what is fetched. Derived
    weights become weight placeholders. Some or all of the segments of one segmentation may be given, in any order.

    Args:
        graph_def: The light graph that the segments were found in; it is not changed.
        replacements: The segments to replace.

    Returns:
        A new GraphDef with the same versions, and the fallback functions added to the same library.

    Raises:
        InvalidGraphError: A segment is not one of this graph, or two share a node.
    """
    result = GraphDef()
    result.versions.CopyFrom(graph_def.versions)
    result.library.CopyFrom(graph_def.library)
    names = _NewNames(graph_def, replacements)
    nodes = {node.name: node for node in graph_def.node}
    placed: set[str] = set()
    for node in graph_def.node:
        replacement = names.replacement_of.get(node.name)
        if replacement is None:
            kept = result.node.add()
            kept.CopyFrom(node)
            _set_inputs(kept, names.translate(node.input))
        elif replacement.segment.name not in placed:
            placed.add(replacement.segment.name)
            result.node.extend(_derived_weights(replacement, nodes))
            device = _device(replacement.segment, nodes) or replacement.device
            engine = _engine_node(replacement, names, device)
            add = _add_fallback if replacement.keep_fallback else _add_no_fallback
            engine.attr["fallback"].func.name = add(result, graph_def, replacement)
            result.node.append(engine)
            result.node.extend(_fetchable_nodes(replacement.segment, engine.device))
    _drop_unused_constants(result, replacements)
    _drop_stale_colocation(result)
    GraphView(result).topological_order()  # Checks names, inputs and cycles.
    return result


class _NewNames:
    """Where the outputs of replaced nodes are found afterwards."""

    def __init__(self, graph_def: GraphDef, replacements: Sequence[EngineNode]) -> None:
        existing = {node.name for node in graph_def.node}
        self.replacement_of: dict[str, EngineNode] = {}
        self._outputs: dict[InputRef, InputRef] = {}
        for replacement in replacements:
            segment = replacement.segment
            if segment.name in existing:
                raise InvalidGraphError(
                    f"The graph already has a node {segment.name!r}. Segment the GraphDef that is to be spliced: "
                    "segments are named so that they do not clash with it."
                )
            existing.add(segment.name)
            for name in segment.nodes:
                if name not in existing:
                    raise InvalidGraphError(
                        f"{segment.name} has a node {name!r} that is not in the graph. Splice into the GraphDef in "
                        "which the segments were found."
                    )
                if name in self.replacement_of:
                    raise InvalidGraphError(
                        f"Node {name!r} is in {self.replacement_of[name].segment.name} and in {segment.name}. Splice "
                        "segments of one segmentation, each once."
                    )
                self.replacement_of[name] = replacement
            for number, output in enumerate(segment.outputs):
                self._outputs[parse_input(output.name)] = InputRef(segment.name, number)

    def translate(self, inputs: Iterable[str]) -> Iterator[InputRef]:
        """Yields the references that stand for `inputs` in the new graph."""
        for text in inputs:
            reference = parse_input(text)
            if reference.node not in self.replacement_of:
                yield reference
            elif reference.is_control:
                yield reference._replace(node=self.replacement_of[reference.node].segment.name)
            elif reference in self._outputs:
                yield self._outputs[reference]
            else:
                raise InvalidGraphError(
                    f"{reference.tensor_name} is used outside of {self.replacement_of[reference.node].segment.name}, "
                    "but is none of its outputs. Splice into the GraphDef in which the segments were found."
                )


def _set_inputs(node: NodeDef, references: Iterable[InputRef]) -> None:
    """Sets the inputs: data in order, then each control input once."""
    data: list[str] = []
    control: dict[str, None] = {}
    for reference in references:
        if reference.is_control:
            control[format_input(reference)] = None
        else:
            data.append(format_input(reference))
    del node.input[:]
    node.input.extend([*data, *control])


def _device(segment: Segment, nodes: Mapping[str, NodeDef]) -> str:
    """The device that some nodes of the segment ask for; segmentation sees to it that they agree."""
    return next((nodes[name].device for name in segment.nodes if nodes[name].device), "")


def _engine_node(replacement: EngineNode, names: _NewNames, device: str) -> NodeDef:
    segment = replacement.segment
    node = NodeDef(name=segment.name, op=ENGINE_OP, device=device)
    read = [info.name for info in (*segment.inputs, *replacement.all_weights)]
    _set_inputs(node, names.translate([*read, *(f"^{name}" for name in segment.control_inputs)]))
    types = {"InT": segment.inputs, "WeightT": replacement.all_weights, "OutT": segment.outputs}
    for attribute, infos in types.items():
        _set_types(node, attribute, infos)
    node.attr["segment_name"].s = segment.name.encode()
    node.attr["runtime"].s = replacement.runtime.encode()
    node.attr["engine"].s = replacement.engine
    node.attr["fallback"].func.name = ""
    node.attr["output_shapes"].list.shape.extend(shape_proto(info.shape) for info in segment.outputs)
    node.attr["maximum_cached_engines"].i = replacement.maximum_cached_engines
    node.attr["specialize_after"].i = replacement.specialize_after
    node.attr[NODE_COUNT_ATTRIBUTE].i = len(segment.nodes)
    if replacement.precision:
        node.attr[PRECISION_ATTRIBUTE].s = replacement.precision.encode()
    return node


def _derived_weights(replacement: EngineNode, nodes: Mapping[str, NodeDef]) -> Iterator[NodeDef]:
    """Yields the weight placeholders that the engine reads and the graph has not got yet."""
    for info in replacement.weights or ():
        name = node_name(info.name)
        if name in nodes:
            continue
        placeholder = NodeDef(name=name, op="Placeholder")
        placeholder.attr["dtype"].type = dtype_enum(info.dtype)
        placeholder.attr["shape"].shape.CopyFrom(shape_proto(info.shape))
        placeholder.attr[WEIGHT_ATTRIBUTE].b = True
        yield placeholder


def _set_types(node: NodeDef, attribute: str, infos: Iterable[TensorInfo]) -> None:
    node.attr[attribute].list.SetInParent()  # An empty list is a value too; without it the attribute has none.
    node.attr[attribute].list.type.extend(dtype_enum(info.dtype) for info in infos)


def _add_fallback(result: GraphDef, graph_def: GraphDef, replacement: EngineNode) -> str:
    """Adds the fallback function; returns its name.

    Function names are shared by all graphs of a process that TensorFlow runs eagerly, and a second function of one name
    is an error there. So the name carries a digest of the function: equal names mean equal functions.
    """
    segment = replacement.segment
    function = segment_function(graph_def, segment, f"{segment.name}_fallback", replacement.all_weights)
    digest = hashlib.sha256(function.SerializeToString(deterministic=True)).hexdigest()[:16]
    function.signature.name = f"{segment.name}_fallback_{digest}"
    if function.signature.name not in {other.signature.name for other in result.library.function}:
        result.library.function.append(function)
    return str(function.signature.name)


def _add_no_fallback(result: GraphDef, graph_def: GraphDef, replacement: EngineNode) -> str:
    """Adds the function whose name tells the op that there is no fallback; returns its name.

    An empty name would say the same to the op, but TensorFlow's loader of SavedModels follows the names of functions,
    and takes an empty one for a cycle.
    """
    if NO_FALLBACK not in {function.signature.name for function in result.library.function}:
        function = result.library.function.add()
        function.signature.name = NO_FALLBACK
        function.node_def.add(name="nothing", op="NoOp")
    return NO_FALLBACK


def _fetchable_nodes(segment: Segment, device: str) -> Iterator[NodeDef]:
    """Yields the nodes that serve fetchable outputs under their old names."""
    numbers = {output.name: number for number, output in enumerate(segment.outputs)}
    fetched: dict[str, int] = {}
    for tensor in segment.fetchable:
        reference = parse_input(tensor)
        if reference.node not in segment.constants:
            fetched[reference.node] = max(fetched.get(reference.node, 0), reference.output_index)
    for name, highest in fetched.items():
        places = [numbers[InputRef(name, index).tensor_name] for index in range(highest + 1)]
        node = NodeDef(name=name, op="IdentityN" if highest else "Identity", device=device)
        node.input.extend(format_input(InputRef(segment.name, place)) for place in places)
        if highest:
            _set_types(node, "T", [segment.outputs[place] for place in places])
        else:
            node.attr["T"].type = dtype_enum(segment.outputs[places[0]].dtype)
        yield node


def _drop_unused_constants(graph_def: GraphDef, replacements: Sequence[EngineNode]) -> None:
    """Drops the constants that were copied into segments and that nothing else reads."""
    candidates = {name for replacement in replacements for name in replacement.segment.constants}
    candidates -= {node_name(tensor) for replacement in replacements for tensor in replacement.segment.fetchable}
    uses = Counter(parse_input(text).node for node in graph_def.node for text in node.input)
    nodes = {node.name: node for node in graph_def.node if node.name in candidates}
    unused = [name for name in nodes if not uses[name]]
    dropped = set()
    while unused:
        name = unused.pop()
        dropped.add(name)
        for text in nodes[name].input:
            source = parse_input(text).node
            uses[source] -= 1
            if not uses[source] and source in nodes:
                unused.append(source)
    if dropped:
        kept = [node for node in graph_def.node if node.name not in dropped]
        del graph_def.node[:]
        graph_def.node.extend(kept)


def _drop_stale_colocation(graph_def: GraphDef) -> None:
    """Removes wishes to be placed beside a node that is gone: TensorFlow refuses a graph that has one."""
    names = {node.name.encode() for node in graph_def.node}
    for node in graph_def.node:
        if COLOCATION_ATTRIBUTE not in node.attr:
            continue
        wishes = list(node.attr[COLOCATION_ATTRIBUTE].list.s)
        valid = [wish for wish in wishes if wish.removeprefix(COLOCATION_PREFIX) in names]
        if not valid:
            del node.attr[COLOCATION_ATTRIBUTE]
        elif len(valid) < len(wishes):
            del node.attr[COLOCATION_ATTRIBUTE].list.s[:]
            node.attr[COLOCATION_ATTRIBUTE].list.s.extend(valid)
