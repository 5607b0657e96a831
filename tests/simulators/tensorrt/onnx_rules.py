"""What the simulated parser and builder accept of an ONNX model.

The lists follow NVIDIA's documentation of the parser. A node that passes here can still be refused by the real parser,
whose support is not simulated beyond this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from tests.simulators.tensorrt.onnx_tensors import Scope, bodies, places

UNSUPPORTED_OPERATORS = frozenset(
    "Unique Compress BitwiseAnd BitwiseOr BitwiseXor BitwiseNot BitShift MatMulInteger ConvInteger "
    "DynamicQuantizeLinear QLinearMatMul QLinearConv SequenceAt SequenceConstruct SequenceEmpty SequenceErase "
    "SequenceInsert SequenceLength SequenceMap SplitToSequence ConcatFromSequence StringConcat StringNormalizer "
    "StringSplit Optional OptionalGetElement OptionalHasElement Multinomial DFT STFT MaxUnpool TfIdfVectorizer "
    "RegexFullMatch MelWeightMatrix Col2Im Det AffineGrid CenterCropPad ImageDecoder SoftmaxCrossEntropyLoss "
    "NegativeLogLikelihoodLoss".split()
)

DATA_DEPENDENT_OPERATORS = frozenset(("NonZero", "NonMaxSuppression"))

_TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.INT4: "INT4",
    # Cast when the model is read.
    TensorProto.DOUBLE: "FLOAT",
}

# Inputs whose values are shapes: operator and the input's position.
_SHAPE_POSITIONS = {
    "Reshape": (1,),
    "Expand": (1,),
    "Tile": (1,),
    "ConstantOfShape": (0,),
    "Slice": (1, 2),
    "Range": (0, 1, 2),
    "Resize": (3,),
    "TopK": (1,),
    "Pad": (1,),
    "Split": (1,),
    "EyeLike": (),
}

# Inputs that have to be known when the engine is built.
_CONSTANT_POSITIONS = {
    "Slice": (3, 4),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "Pad": (3,),
    "CumSum": (1,),
    "OneHot": (1,),
    "ReduceSum": (1,),
    "ReduceMean": (1,),
    "ReduceMax": (1,),
    "ReduceMin": (1,),
    "ReduceProd": (1,),
    "ReduceL1": (1,),
    "ReduceL2": (1,),
    "ReduceSumSquare": (1,),
    "ReduceLogSum": (1,),
    "ReduceLogSumExp": (1,),
}

MAXIMUM_RANK = 8

_MAXIMUM_TOP_COUNT = 3840


@dataclass(frozen=True)
class Refusal:
    """Why a model is refused: a member of ErrorCode, a sentence, and the node."""

    code: str
    sentence: str
    node: int = -1
    name: str = ""
    operator: str = ""


def data_type_name(element_type: int) -> str | None:
    """Returns the DataType's name for an ONNX element type, None where TensorRT has none."""
    return _TYPES.get(element_type)


def refusals(model: onnx.ModelProto, opset_limits: tuple[int, int]) -> list[Refusal]:
    """Returns all reasons for which the parser refuses a model."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    lowest, highest = opset_limits
    if not lowest <= opset <= highest:
        return [Refusal("UNSUPPORTED_GRAPH", f"opset {opset} is outside of the supported {lowest} to {highest}")]
    border = {value.name for value in (*model.graph.input, *model.graph.output)}
    found = [refusal for value in graph_inputs(model.graph) for refusal in _input_refusals(value)]
    for place in places(model):
        inside = "" if place.node is place.outermost else f" ({place.node.name or place.node.op_type!r} in a subgraph)"
        found += (
            Refusal(code, sentence + inside, place.index, place.outermost.name, place.outermost.op_type)
            for code, sentence in _node_faults(place.node, place.scope, border)
        )
    return found


def _input_refusals(value: onnx.ValueInfoProto) -> Iterator[Refusal]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        sentence = f"the rank of the network input {value.name!r} is unknown"
        yield Refusal("UNSUPPORTED_NODE_SHAPE", sentence, name=value.name)
    elif len(tensor.shape.dim) > MAXIMUM_RANK:
        sentence = (
            f"the network input {value.name!r} has {len(tensor.shape.dim)} dimensions; {MAXIMUM_RANK} are the most"
        )
        yield Refusal("UNSUPPORTED_NODE_SHAPE", sentence, name=value.name)
    if tensor.elem_type not in _TYPES:
        name = TensorProto.DataType.Name(tensor.elem_type)
        yield Refusal("UNSUPPORTED_NODE_DATATYPE", f"input {value.name!r} is {name}", name=value.name)


def _node_faults(node: onnx.NodeProto, scope: Scope, border: set[str]) -> Iterator[tuple[str, str]]:
    """Yields code and sentence of each reason to refuse a node."""
    if (operator := _unsupported(node)) is not None:
        yield "UNSUPPORTED_NODE", f"no importer registered for op: {operator}; not supported"
        return
    if node.op_type == "If" and len({_output_ranks(body) for body in bodies(node)}) > 1:
        yield "UNSUPPORTED_NODE_SHAPE", "the branches of an If have outputs of different ranks"
    tensors = dict.fromkeys((*node.input, *node.output))
    for name in tensors:
        element_type = scope.types.get(name, TensorProto.FLOAT)
        if element_type not in _TYPES:
            type_name = TensorProto.DataType.Name(element_type)
            yield "UNSUPPORTED_NODE_DATATYPE", f"tensor {name!r} is {type_name}, which is not supported"
            return
    for name in tensors:
        if (rank := scope.ranks.get(name, 0)) > MAXIMUM_RANK:
            sentence = f"tensor {name!r} has {rank} dimensions; {MAXIMUM_RANK} are the most"
            yield "UNSUPPORTED_NODE_SHAPE", sentence
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        yield from _quantization_faults(node, scope)
    for name in tensors:
        allowed = node.op_type in ("Cast", "QuantizeLinear", "DequantizeLinear", "Identity") and name in border
        if scope.types.get(name) == TensorProto.UINT8 and not allowed:
            yield "UNSUPPORTED_NODE_DATATYPE", f"UINT8 tensor {name!r} is used inside the network"
    for position in _CONSTANT_POSITIONS.get(node.op_type, ()):
        if position < len(node.input) and node.input[position] and node.input[position] not in scope.constants:
            yield "UNSUPPORTED_NODE_INPUT", f"input {position} ({node.input[position]!r}) must be a constant"
    count = scope.values(node.input[1]) if node.op_type == "TopK" else None
    if count is not None and count.max() >= _MAXIMUM_TOP_COUNT:
        yield "UNSUPPORTED_NODE_ATTR", f"K is {count.max()}; it must be less than {_MAXIMUM_TOP_COUNT}"


def _quantization_faults(node: onnx.NodeProto, scope: Scope) -> Iterator[tuple[str, str]]:
    values = node.output if node.op_type == "QuantizeLinear" else node.input[:1]
    quantized = (*values, *node.input[2:3])
    for name in quantized:
        if scope.types.get(name, TensorProto.INT8) not in (
            TensorProto.INT8,
            TensorProto.INT4,
            TensorProto.FLOAT8E4M3FN,
        ):
            type_name = TensorProto.DataType.Name(scope.types[name])
            yield (
                "UNSUPPORTED_NODE_DATATYPE",
                f"{node.op_type} to or from {type_name}; int8, int4 and fp8 are supported",
            )
            return
    if len(node.input) > 2 and (zero_point := scope.values(node.input[2])) is not None and zero_point.any():
        yield "INVALID_NODE", "only symmetric quantization is supported: the zero point has to be zero"


def _unsupported(node: onnx.NodeProto) -> str | None:
    """Returns the name of a node's operator where there is no importer for it, None where there is one."""
    if node.op_type not in UNSUPPORTED_OPERATORS and node.domain in ("", "ai.onnx"):
        return None
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def _output_ranks(graph: onnx.GraphProto) -> tuple[int, ...]:
    return tuple(len(value.type.tensor_type.shape.dim) for value in graph.output)


def graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Returns the inputs that are no initializers."""
    weights = {initializer.name for initializer in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def complete_outputs(model: onnx.ModelProto) -> None:
    """Gives outputs that are declared without a shape the one that is inferred, as the parser finds it by itself."""
    incomplete = [value for value in model.graph.output if not value.type.tensor_type.HasField("shape")]
    if not incomplete:
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    except Exception:
        return
    shapes = {
        value.name: value.type.tensor_type.shape for value in inferred if value.type.tensor_type.HasField("shape")
    }
    for value in incomplete:
        if value.name in shapes:
            value.type.tensor_type.shape.CopyFrom(shapes[value.name])


def shape_inputs(graph: onnx.GraphProto) -> set[str]:
    """Returns the network inputs whose values decide about shapes."""
    producers = {name: node for node in graph.node for name in node.output}
    todo = [
        node.input[position]
        for node in graph.node
        for position in _SHAPE_POSITIONS.get(node.op_type, ())
        if position < len(node.input)
    ]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen or not name:
            continue
        seen.add(name)
        node = producers.get(name)
        # A tensor's shape does not depend on its values, and how many values NonZero finds is found out on the GPU.
        if node is not None and node.op_type not in ("Shape", "Size", *DATA_DEPENDENT_OPERATORS):
            todo += node.input
    return seen & {value.name for value in graph_inputs(graph)}


def data_dependent(graph: onnx.GraphProto) -> set[str]:
    """Returns the tensors whose shapes may depend on values that only the GPU knows."""
    found: set[str] = set()
    for node in graph.node:
        if node.op_type in DATA_DEPENDENT_OPERATORS or any(name in found for name in node.input):
            found.update(node.output)
    return found
