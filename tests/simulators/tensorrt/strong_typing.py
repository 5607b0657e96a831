"""What a strongly typed network does not allow: one operation over different types."""

from __future__ import annotations

import functools
from collections import defaultdict

import onnx
from onnx import TensorProto

from tests.simulators.tensorrt.onnx_rules import Refusal
from tests.simulators.tensorrt.onnx_tensors import Place, places

# ONNX lets the exponent's type be another one; TensorRT computes it as it does a sum.
_ONE_TYPE_THOUGH_ONNX_ALLOWS_MORE = frozenset(("Pow",))


def mixed_types(model: onnx.ModelProto) -> Refusal | None:
    """Returns the first operation over different types, at whatever depth."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    for place in places(model):
        for found in _types_by_variable(place, opset).values():
            if len(found) > 1:
                names = ", ".join(sorted(TensorProto.DataType.Name(one) for one in found))
                sentence = f"{place.node.op_type} over the types {names} in a strongly typed network"
                return Refusal("INVALID_NODE", sentence, place.index, place.node.name, place.node.op_type)
    return None


def _types_by_variable(place: Place, opset: int) -> dict[str, set[int]]:
    """Returns the types of a node's inputs, by the type variable that its operator's schema gives each of them."""
    found: dict[str, set[int]] = defaultdict(set)
    variables = _input_variables(place.node.op_type, opset)
    for position, name in enumerate(place.node.input):
        # Inputs beyond the last one of the schema are more of a variadic one.
        variable = variables[min(position, len(variables) - 1)] if variables else ""
        if variable and name in place.scope.types:
            found[variable].add(place.scope.types[name])
    return found


@functools.cache
def _input_variables(operator: str, opset: int) -> tuple[str, ...]:
    """Returns the type variable of each input of an operator, "" where it has none."""
    try:
        schema = onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        return ()
    if operator in _ONE_TYPE_THOUGH_ONNX_ALLOWS_MORE:
        return ("T",)
    variables = {constraint.type_param_str for constraint in schema.type_constraints}
    return tuple(one.type_str if one.type_str in variables and one.is_homogeneous else "" for one in schema.inputs)
