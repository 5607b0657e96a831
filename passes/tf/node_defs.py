"""Builds NodeDefs, and answers small questions about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import dtypes, op_def_registry, tensor_util

# Attributes that say nothing about what a node computes; two nodes that differ in them alone are equal.
_NOTES = frozenset({"_output_shapes", "_class", "_has_manual_control_dependencies", "grad_a", "grad_b"})


def make_node(name: str, op: str, inputs: Iterable[str] = (), *, device: str = "", **attributes: Any) -> NodeDef:
    """Returns a NodeDef.

    Args:
        name: Name of the node.
        op: Its op.
        inputs: References to its inputs.
        device: Device string; empty for none.
        attributes: A tf.DType becomes a type; bool, int, float, str, bytes and a list of int become what they are.

    Raises:
        TypeError: An attribute has another type.
    """
    node = NodeDef(name=name, op=op, input=list(inputs), device=device)
    for key, value in attributes.items():
        attribute = node.attr[key]
        if isinstance(value, dtypes.DType):
            attribute.type = value.as_datatype_enum
        elif isinstance(value, bool):  # before int: True is an int
            attribute.b = value
        elif isinstance(value, int):
            attribute.i = value
        elif isinstance(value, float):
            attribute.f = value
        elif isinstance(value, (str, bytes)):
            attribute.s = value.encode() if isinstance(value, str) else value
        elif isinstance(value, list):
            attribute.list.i.extend(value)
        else:
            raise TypeError(
                f"attribute {key!r} of {name!r} has type {type(value).__name__}; expected a DType, bool, ..."
            )
    return node


def make_constant(name: str, value: Any, dtype: Any, *, device: str = "") -> NodeDef:
    """Returns a Const node that holds `value` (anything numpy reads) as `dtype` (a tf.DType)."""
    node = make_node(name, "Const", device=device, dtype=dtype)
    array = np.asarray(value, dtype=dtype.as_numpy_dtype)
    node.attr["value"].tensor.CopyFrom(tensor_util.make_tensor_proto(array, dtype=dtype, shape=array.shape))
    return node


def constant_value(node: NodeDef | None) -> np.ndarray[Any, Any] | None:
    """Returns the array of a Const node; None for any other node."""
    if node is None or node.op != "Const":
        return None
    array: np.ndarray[Any, Any] = tensor_util.MakeNdarray(node.attr["value"].tensor)
    return array


def attribute_dtype(node: NodeDef, key: str) -> Any:
    """Returns the tf.DType of a type attribute."""
    return dtypes.as_dtype(node.attr[key].type)


def is_stateful(op: str) -> bool:
    """Whether an op has state or side effects; ops that are not registered count as stateful."""
    definition = op_def_registry.get(op)
    return definition is None or bool(definition.is_stateful)


def structure_key(node: NodeDef, inputs: Sequence[str] | None = None) -> tuple[object, ...]:
    """Returns a key that is equal for nodes that compute the same: op, device, inputs and attributes.

    Args:
        node: The node.
        inputs: Its inputs, where they are to be seen as others than those of the NodeDef.
    """
    attributes = tuple(
        (key, _constant_key(node) if key == "value" and node.op == "Const" else _attribute_key(node, key))
        for key in sorted(node.attr)
        if key not in _NOTES
    )
    return (node.op, node.device, tuple(node.input if inputs is None else inputs), attributes)


def _attribute_key(node: NodeDef, key: str) -> bytes:
    return bytes(node.attr[key].SerializeToString(deterministic=True))


def _constant_key(node: NodeDef) -> object:
    """Returns a key of a Const's value: one array has several encodings as a TensorProto."""
    array = constant_value(node)
    if array is None or array.dtype.hasobject:
        return _attribute_key(node, "value")
    return array.shape, array.dtype.str, array.tobytes()
