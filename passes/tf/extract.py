"""Takes a segment out of its graph: as a GraphDef of its own for the exporter, and as a function for the fallback.

Before (segment of Mul and Relu; y is used outside):

    x ──► Mul ──► Relu "y" ──► ...
    w ──────┘

After:

    input_0 ──► Mul ──► Relu "y" ──► output_0
    weight_0 ─────┘
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf
from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.framework.op_def_pb2 import OpDef
from tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto

from tf_opt.errors import InvalidGraphError, UnknownOpError
from tf_opt.passes.tf.graph_view import InputRef, format_input, parse_input
from tf_opt.passes.tf.segment import Segment
from tf_opt.passes.tf.tensor_types import op_definition
from tf_opt.tensor_info import Shape, TensorInfo
from tf_opt.weights import WEIGHT_ATTRIBUTE

INPUT_PREFIX, WEIGHT_PREFIX, OUTPUT_PREFIX = "input_", "weight_", "output_"
"""Names of the arguments and results of a segment: input_0, input_1, ..., in the order of the Segment's tuples."""


def dtype_enum(dtype: str) -> int:
    """Returns TensorFlow's DataType number for a dtype's name."""
    return int(tf.as_dtype(dtype).as_datatype_enum)


def shape_proto(shape: Shape) -> TensorShapeProto:
    """Turns a static shape into a TensorShapeProto."""
    if shape is None:
        return TensorShapeProto(unknown_rank=True)
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=-1 if size is None else size) for size in shape])


def extract_segment(graph_def: GraphDef, segment: Segment) -> GraphDef:
    """Returns a segment as a standalone light graph.

    Inputs become Placeholders "input_<i>", weights Placeholders "weight_<i>" that are still marked as weights, and each
    output i gets an Identity "output_<i>". The nodes in between keep their names, unless they have one of these names
    themselves. Devices, colocation and edges to nodes outside are dropped.

    Args:
        graph_def: The light graph that the segment was found in; it is not changed.
        segment: One of its segments.

    Raises:
        InvalidGraphError: The segment is not one of this graph.
    """
    nodes = {node.name: node for node in graph_def.node}
    for name in (*segment.constants, *segment.nodes):
        if name not in nodes:
            raise InvalidGraphError(
                f"{segment.name} has a node {name!r} that is not in the graph. Extract a segment from the GraphDef it "
                "was found in; segment again after a pass has changed the graph."
            )
    result = GraphDef()
    result.versions.CopyFrom(graph_def.versions)
    arguments = {info.tensor_name: info for info in _arguments(segment)}
    inner_names = _inner_names(segment)
    for argument in arguments.values():
        placeholder = result.node.add(name=argument.name, op="Placeholder")
        placeholder.attr["dtype"].type = dtype_enum(argument.info.dtype)
        placeholder.attr["shape"].shape.CopyFrom(shape_proto(argument.info.shape))
        if argument.is_weight:
            placeholder.attr[WEIGHT_ATTRIBUTE].b = True
    members = frozenset(segment.nodes)
    for name in (*segment.constants, *segment.nodes):
        node = result.node.add()
        node.CopyFrom(nodes[name])
        node.name = inner_names[name]
        node.device = ""
        node.attr.pop("_class", None)
        del node.input[:]
        for text in nodes[name].input:
            reference = parse_input(text)
            if reference.is_control:
                # What comes from outside is waited for by the engine node; constants need no anchor in here.
                if reference.node in members and name in members:
                    node.input.append(f"^{inner_names[reference.node]}")
            elif reference.tensor_name in arguments:
                node.input.append(arguments[reference.tensor_name].name)
            elif reference.node in inner_names:
                node.input.append(format_input(InputRef(inner_names[reference.node], reference.output_index)))
            else:
                raise InvalidGraphError(
                    f"Node {name!r} of {segment.name} reads {text!r}, which is neither in the segment nor one of its "
                    "inputs. Extract a segment from the GraphDef it was found in."
                )
    for number, output in enumerate(segment.outputs):
        reference = parse_input(output.name)
        identity = result.node.add(name=f"{OUTPUT_PREFIX}{number}", op="Identity")
        identity.input.append(format_input(InputRef(inner_names[reference.node], reference.output_index)))
        identity.attr["T"].type = dtype_enum(output.dtype)
    return result


def segment_function(
    graph_def: GraphDef, segment: Segment, name: str, weights: Sequence[TensorInfo] | None = None
) -> FunctionDef:
    """Returns a segment as a function: its arguments are the inputs, then the weights; results output_0...

    Args:
        graph_def: The light graph that the segment was found in; it is not changed.
        segment: One of its segments.
        name: Name of the function.
        weights: What the function is given after the inputs: the segment's weights in any order, and others among them
            that it does not read. None: the segment's weights in their own order.

    Raises:
        InvalidGraphError: The segment is not one of this graph, or `weights` lacks one that it reads.
        UnknownOpError: A node has an op that is not registered.
    """
    body = extract_segment(graph_def, segment)
    function = FunctionDef()
    function.signature.name = name
    own = {argument.tensor_name: argument for argument in _arguments(segment) if argument.is_weight}
    given = segment.weights if weights is None else weights
    missing = own.keys() - {info.name for info in given}
    if missing:
        raise InvalidGraphError(f"{segment.name} reads the weights {sorted(missing)}, which its function is not given.")
    for argument in _arguments(segment):
        if not argument.is_weight:
            function.signature.input_arg.add(name=argument.name, type=dtype_enum(argument.info.dtype))
    taken = {node.name for node in body.node}
    for info in given:
        argument_name = own[info.name].name if info.name in own else _unused_name(taken)
        function.signature.input_arg.add(name=argument_name, type=dtype_enum(info.dtype))
    for number, output in enumerate(segment.outputs):
        function.signature.output_arg.add(name=f"{OUTPUT_PREFIX}{number}", type=dtype_enum(output.dtype))
    # Names of tensors as function bodies spell them: an argument by its name, others by the op's output argument.
    tensors = {InputRef(argument.name, 0): argument.name for argument in _arguments(segment)}
    inner = body.node[len(tensors) : len(body.node) - len(segment.outputs)]
    for node in inner:
        for index, output_name in enumerate(_output_names(node)):
            tensors[InputRef(node.name, index)] = f"{node.name}:{output_name}"
    for node in inner:
        copy = function.node_def.add()
        copy.CopyFrom(node)
        del copy.input[:]
        for text in node.input:
            reference = parse_input(text)
            copy.input.append(text if reference.is_control else tensors[reference])
    for identity in body.node[len(body.node) - len(segment.outputs) :]:
        function.ret[identity.name] = tensors[parse_input(identity.input[0])]
    return function


def _unused_name(taken: set[str]) -> str:
    """Returns a name for an argument that nothing reads, and adds it to `taken`."""
    name = next(name for number in itertools.count() if (name := f"unused_{number}") not in taken)
    taken.add(name)
    return name


class _Argument:
    def __init__(self, name: str, info: TensorInfo, *, is_weight: bool) -> None:
        self.name = name
        self.info = info
        self.is_weight = is_weight
        self.tensor_name = info.name


def _arguments(segment: Segment) -> Iterator[_Argument]:
    for number, info in enumerate(segment.inputs):
        yield _Argument(f"{INPUT_PREFIX}{number}", info, is_weight=False)
    for number, info in enumerate(segment.weights):
        yield _Argument(f"{WEIGHT_PREFIX}{number}", info, is_weight=True)


def _inner_names(segment: Segment) -> Mapping[str, str]:
    """Gives nodes that are called like an argument or a result another name."""
    own = (*segment.constants, *segment.nodes)
    taken = {argument.name for argument in _arguments(segment)}
    taken.update(f"{OUTPUT_PREFIX}{number}" for number in range(len(segment.outputs)))
    used = taken | set(own)
    names: dict[str, str] = {}
    for name in own:
        new, count = name, 0
        while new in taken or (new != name and new in used):
            count += 1
            new = f"{name}_inner_{count}"
        used.add(new)
        names[name] = new
    return names


def _definition(node: NodeDef) -> OpDef:
    definition: OpDef | None = op_definition(node.op)
    if definition is None:
        raise UnknownOpError(
            f"Node {node.name!r} has the op {node.op!r}, which is not registered in this process. Load the library "
            "that registers it first."
        )
    return definition


def _output_names(node: NodeDef) -> Iterator[str]:
    """Yields "argument:index" for each output of a node, in order."""
    for argument in _definition(node).output_arg:
        count = 1
        if argument.number_attr:
            count = node.attr[argument.number_attr].i
        elif argument.type_list_attr:
            count = len(node.attr[argument.type_list_attr].list.type)
        for index in range(count):
            yield f"{argument.name}:{index}"
