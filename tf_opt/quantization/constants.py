"""Tells which values of a graph are the same in each run, and computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

Array: TypeAlias = np.ndarray[Any, Any]

_MOVES = frozenset({"Concat", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators through which a weight is followed: they move values, and what they make of constants is constant."""

_ARITHMETIC: dict[str, Callable[..., Array]] = {
    "Add": np.add,
    "Div": np.divide,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
}
"""What a batch normalization does with its own constants."""


def is_constant(value: ir.Value | None, *, computed: bool = False) -> bool:
    """Whether a value is the same in each run: an initializer, or one that was only moved about.

    Args:
        value: The value; None is none.
        computed: Whether what simple arithmetic makes of constants counts too.
    """
    if value is None:
        return False
    if value.is_initializer():
        return not value.is_graph_input()
    node = value.producer()
    if node is None or node.domain:
        return False
    if node.op_type == "Constant":
        return True
    if node.op_type not in _MOVES and not (computed and node.op_type in _ARITHMETIC):
        return False
    return all(is_constant(each, computed=computed) for each in node.inputs)


def constant_array(value: ir.Value) -> Array:
    """Returns the values of a constant; see `is_constant`. What is big is read anew each time."""
    if value.is_initializer() and value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    if node is None:
        raise ValueError(f"{value.name!r} is no constant.")
    if node.op_type == "Constant":
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            raise ValueError(f"The constant {value.name!r} holds no tensor.")
        return tensor.numpy()
    arrays = [constant_array(each) for each in node.inputs if each is not None]
    if node.op_type in _ARITHMETIC:
        return _ARITHMETIC[node.op_type](*arrays)
    return _moved(node, arrays)


def constant_shape(value: ir.Value) -> tuple[int, ...]:
    """Returns the shape of a constant, without its values where that is possible."""
    if value.is_initializer() and value.const_value is not None:
        return tuple(value.const_value.shape.numpy())
    if value.shape is not None and value.shape.is_static():
        return tuple(value.shape.numpy())
    return tuple(constant_array(value).shape)


def _moved(node: ir.Node, arrays: Sequence[Array]) -> Array:
    values = arrays[0]
    if node.op_type == "Concat":
        return np.concatenate(arrays, axis=node.attributes["axis"].as_int())
    if node.op_type == "Transpose":
        permutation = node.attributes.get("perm")
        return np.transpose(values, None if permutation is None else permutation.as_ints())
    if node.op_type == "Reshape":
        target = [values.shape[axis] if size == 0 else int(size) for axis, size in enumerate(arrays[1])]
        return values.reshape(target)
    if node.op_type == "Unsqueeze":
        return np.expand_dims(values, tuple(int(axis) for axis in arrays[1]))
    if node.op_type == "Squeeze":
        return np.squeeze(values, tuple(int(axis) for axis in arrays[1]) if len(arrays) > 1 else None)
    return values
