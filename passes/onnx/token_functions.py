"""Finds the tensors that are a function of the mask, and what they are where the mask is 0 and where it is 1.

Attention never reads the mask itself but something made of it, in as many ways as there are models:

    (1 - mask) * -10000        0 at a token, -10000 at padding
    Where(mask, scores, -1e9)

They need not be told apart: the arithmetic is carried out for both values of the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from tf_opt.passes.onnx.nodes import constant
from tf_opt.passes.onnx.token_facts import MaskFunction
from tf_opt.passes.onnx.token_layout import TokenLayout

_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Add": np.add,
    "And": np.logical_and,
    "Div": np.divide,
    "Equal": np.equal,
    "Exp": np.exp,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Identity": lambda operand: operand,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Log": np.log,
    "Max": np.maximum,
    "Min": np.minimum,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "Pow": np.power,
    "Sign": np.sign,
    "Sub": np.subtract,
    "Where": np.where,
    "Xor": np.logical_xor,
}

_MOVING = frozenset("Expand Reshape Squeeze Transpose Unsqueeze".split())


class MaskFunctions:
    """The functions of the mask among a model's tensors; `visit` the nodes in order."""

    def __init__(self, layout: TokenLayout) -> None:
        """Knows the mask itself."""
        self._layout = layout
        batch = None if layout.batch == 1 else layout.batch_axis
        self._functions = {layout.mask: MaskFunction(batch, layout.sequence_axis, 0.0, 1.0)}

    def get(self, value: ir.Value | None) -> MaskFunction | None:
        """Returns the function that a tensor is; None where it is none."""
        return None if value is None else self._functions.get(value)

    def visit(self, node: ir.Node) -> None:
        """Notes the function that a node of one output computes, if it does."""
        if node.domain != "" or not any(self.get(value) is not None for value in node.inputs):
            return
        found: MaskFunction | None = None
        if node.op_type in _MOVING:
            first = self.get(node.inputs[0])
            found = None if first is None else first.moved(self._layout.moved_axes(node))
        elif node.op_type == "Cast":
            first = self.get(node.inputs[0])
            dtype = ir.DataType(node.attributes["to"].as_int()).numpy()
            found = None if first is None else _evaluated(lambda operand: operand.astype(dtype), [first])
        elif node.op_type in _ARITHMETIC:
            found = self._elementwise(node)
        if found is not None:
            self._functions[node.outputs[0]] = found

    def _elementwise(self, node: ir.Node) -> MaskFunction | None:
        rank = self._layout.shapes.rank(node.outputs[0])
        if rank is None:
            return None
        operands: list[MaskFunction | float] = []
        for value in node.inputs:
            function, number = self.get(value), constant(value, 1)
            if function is not None:
                offset = rank - (self._layout.shapes.rank(value) or 0)
                moved = function.moved({axis: axis + offset for axis in range(rank - offset)})
                if moved is None:
                    return None
                operands.append(moved)
            elif number is not None and number.dtype.kind in "fiubV":
                operands.append(float(number.reshape(())))
            else:
                return None
        return _evaluated(_ARITHMETIC[node.op_type], operands)


def _evaluated(operation: Callable[..., Any], operands: Sequence[MaskFunction | float]) -> MaskFunction | None:
    """Returns the result of an operation on functions of the same axes and numbers."""
    functions = [operand for operand in operands if isinstance(operand, MaskFunction)]
    first = functions[0]
    if any((each.batch_axis, each.sequence_axis) != (first.batch_axis, first.sequence_axis) for each in functions):
        return None
    with np.errstate(all="ignore"):  # Where the mask has one of the values, 1 / 0 may be what the model computes.
        padded, real = (
            float(operation(*(np.float64(_at(operand, is_padded)) for operand in operands)))
            for is_padded in (True, False)
        )
    return MaskFunction(first.batch_axis, first.sequence_axis, padded, real)


def _at(operand: MaskFunction | float, is_padded: bool) -> float:
    if isinstance(operand, MaskFunction):
        return operand.padded if is_padded else operand.real
    return operand
