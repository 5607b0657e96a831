"""What ONNX's operator definitions say of element types: which inputs and outputs share one, and which are allowed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from tf_opt.passes.onnx.nodes import optional_argument

_SHAPE_READERS = frozenset({"Shape", "Size"})

_FIRST_BODY_OUTPUT = {"If": ("then_branch", 0), "Loop": ("body", 1), "Scan": ("body", 0)}
"""In which attribute the body of control flow is, and which of its outputs is the node's first one."""

_MICROSOFT_OPS = frozenset(
    {"Attention", "BiasGelu", "FastGelu", "FusedMatMul", "Gelu", "MultiHeadAttention", "QuickGelu"}
)
"""Operators of the domain com.microsoft whose definition allows both 16-bit types for all their real inputs and
outputs at once. The onnx package does not know them; ONNX Runtime's schemas do."""


@dataclass(frozen=True)
class SharedType:
    """The inputs and outputs of a node that have to change their element type together.

    Attributes:
        inputs: Indices of inputs.
        outputs: Indices of outputs.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class ElementTypes:
    """Element types of the values of the main graph, where the model states them or they follow from definitions.

    Passes that add nodes seldom say which types these have.
    """

    def __init__(self, model: ir.Model) -> None:
        """Reads every node once, in order."""
        self._opset = model.opset_imports.get("", 0)
        self._types: dict[ir.Value, ir.DataType] = {}
        for node in model.graph:
            for index, value in enumerate(node.outputs):
                found = self._inferred(node, index) if value.dtype is None else value.dtype
                if found is not None:
                    self._types[value] = found

    def of(self, value: ir.Value | None) -> ir.DataType | None:
        """Returns the element type of a value, None where it is not known."""
        if value is None:
            return None
        if value.dtype is not None:
            return value.dtype
        if value.const_value is not None:
            return value.const_value.dtype
        return self._types.get(value)

    def is_float(self, value: ir.Value | None) -> bool:
        """Whether a value is of 32-bit floating type."""
        return self.of(value) is ir.DataType.FLOAT

    def shared(self, node: ir.Node, target: ir.DataType) -> SharedType | None:
        """Returns which inputs and outputs of a node become `target` if its work does.

        Inputs with a type of their own, such as indices, keep it. None where the operator's definition
        at the model's opset does not allow `target`, where a type is not known, or where no output is of type float.
        """
        if node.domain == "com.microsoft":
            if node.op_type not in _MICROSOFT_OPS:
                return None
            return SharedType(self._floats(node.inputs), self._floats(node.outputs))
        schema = _schema(node.op_type, self._opset) if node.domain == "" else None
        outputs = self._floats(node.outputs)
        if schema is None or not outputs:
            return None
        parameters = {_formal(schema.outputs, index).type_str for index in outputs}
        if node.op_type == "Attention":
            # Values, and a mask that is no boolean, may differ from queries in type, but OpenVINO refuses it.
            parameters |= {"T2"} | ({"U"} if self.is_float(optional_argument(node, 3)) else set())
        name = f"tensor({target.name.lower()})"
        if not all(name in _allowed(schema, parameter) for parameter in parameters):
            return None
        inputs = []
        for index, value in enumerate(node.inputs):
            if value is not None and _formal(schema.inputs, index).type_str in parameters:
                if not self.is_float(value):
                    return None
                inputs.append(index)
        return SharedType(tuple(inputs), outputs) if inputs else None

    def _floats(self, values: Sequence[ir.Value | None]) -> tuple[int, ...]:
        return tuple(index for index, value in enumerate(values) if self.is_float(value))

    def _inferred(self, node: ir.Node, output: int) -> ir.DataType | None:
        if node.domain == "com.microsoft":
            return self.of(node.inputs[0]) if output == 0 and node.op_type in _MICROSOFT_OPS else None
        if node.domain != "":
            return None
        if node.op_type == "Cast":
            return ir.DataType(node.attributes["to"].as_int())
        if node.op_type in _FIRST_BODY_OUTPUT:
            body, first = _FIRST_BODY_OUTPUT[node.op_type]
            return node.attributes[body].as_graph().outputs[first + output].dtype
        if node.op_type == "Constant":
            tensor = ir.convenience.get_const_tensor(node.outputs[0])
            return None if tensor is None else tensor.dtype
        schema = _schema(node.op_type, self._opset)
        if schema is None:
            return None
        parameter = _formal(schema.outputs, output).type_str
        allowed = _allowed(schema, parameter)
        for index, value in enumerate(node.inputs):
            if value is not None and _formal(schema.inputs, index).type_str == parameter:
                return self.of(value)
        # ONNX's textual names of tensor types are onnx_ir's, in lower case.
        return ir.DataType[next(iter(allowed))[7:-1].upper()] if len(allowed) == 1 else None


def reads_shape_only(node: ir.Node) -> bool:
    """Whether a node asks for the dimensions of its input and takes any element type."""
    return node.domain == "" and node.op_type in _SHAPE_READERS


@functools.cache
def _schema(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _formal(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> onnx.defs.OpSchema.FormalParameter:
    """Returns the formal parameter of an input or output; the last one stands for all that follow."""
    return parameters[min(index, len(parameters) - 1)]


def _allowed(schema: onnx.defs.OpSchema, parameter: str) -> frozenset[str]:
    for constraint in schema.type_constraints:
        if constraint.type_param_str == parameter:
            return frozenset(constraint.allowed_type_strs)
    return frozenset({parameter}) if parameter.startswith("tensor(") else frozenset()
