"""Puts the bias of a matrix product directly behind it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from tf_opt.passes.onnx.nodes import (
    add_constant,
    argument,
    attribute,
    constant,
    insert,
    is_constant,
    is_inner,
    owner,
    producer,
    rewrite,
)
from tf_opt.passes.onnx.pass_base import OnnxPass
from tf_opt.passes.onnx.symbolic_shapes import SymbolicShapes
from tf_opt.passes.tf.symbolic_dims import product


class BiasAfterMatMul(OnnxPass):
    """Writes a product with a bias as Add(MatMul(x, weight), bias), the bias being a vector on the right.

    That is what engines make one kernel of. A bias behind a Reshape that splits or keeps the columns moves in front of
    it.

    Before, for x of shape [b, s, 8] and a weight of shape [8, 6]:
        y = Add(Reshape(MatMul(x, weight), [0, 0, 2, 3]), bias of shape [2, 3])
    After:
        y = Reshape(Add(MatMul(x, weight), bias of shape [6]), [0, 0, 2, 3])
    """

    name: ClassVar[str] = "bias_after_matmul"

    def run(self, model: ir.Model) -> int:
        """See `OnnxPass.run`."""
        if not any(node.op_type == "MatMul" for node in model.graph):
            return 0
        shapes = SymbolicShapes(model)
        return sum(
            _move(node, shapes)
            for node in list(model.graph)
            if node.op_type == "Add" and node.domain == "" and node.graph is not None
        )


def _move(add: ir.Node, shapes: SymbolicShapes) -> bool:
    """Rewrites one Add; returns whether anything changed."""
    for index in (0, 1):
        value, bias = argument(add, index), argument(add, 1 - index)
        reshape = producer(value, "Reshape")
        result = value if reshape is None else argument(reshape, 0)
        product_node = producer(result, "MatMul")
        if product_node is None or not is_constant(bias) or not (is_inner(value) and is_inner(result)):
            continue
        columns = shapes.last(result)
        if columns is None or shapes.rank(argument(product_node, 1)) != 2:
            return False
        rank = shapes.rank(result) or 0
        if reshape is None:
            return _order(add, index, bias, columns, rank, shapes)
        return _move_in_front(add, reshape, result, bias, columns, shapes)
    return False


def _order(add: ir.Node, index: int, bias: ir.Value, columns: int, rank: int, shapes: SymbolicShapes) -> bool:
    """Makes the bias of Add(MatMul, bias) a vector, and its second operand."""
    shape = shapes.shape(bias)
    if not shape or len(shape) > rank or product(shape) != columns or shape[-1] != columns:
        return False
    if index == 0 and len(shape) == 1:
        return False
    result = argument(add, index)
    add.replace_input_with(0, result)
    add.replace_input_with(1, _vector(bias, columns, add, shapes))
    return True


def _move_in_front(
    add: ir.Node, reshape: ir.Node, result: ir.Value, bias: ir.Value, columns: int, shapes: SymbolicShapes
) -> bool:
    """Makes Reshape(Add(MatMul, bias)) of Add(Reshape(MatMul), bias)."""
    before, after, shape = shapes.shape(result), shapes.shape(reshape.outputs[0]), shapes.shape(bias)
    if before is None or after is None or not shape:
        return False
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    # The last dimensions of the reshaped tensor have to be the columns, in order, and the bias has to cover them all.
    if len(shape) > len(after) or after[-len(shape) :] != shape or product(shape) != columns:
        return False
    if (shapes.rank(bias) or 0) > len(after):
        return False
    target = argument(reshape, 1)
    vector = _vector(bias, columns, add, shapes)
    summed = insert(add, "Add", [result, vector], name=f"{add.name}/columns")
    shapes.set_shape(summed, before)
    rewrite(add, "Reshape", [summed, target], {"allowzero": attribute(reshape, "allowzero", 0)})
    return True


def _vector(bias: ir.Value, columns: int, before: ir.Node, shapes: SymbolicShapes) -> ir.Value:
    """Returns the bias with one dimension."""
    if shapes.rank(bias) == 1:
        return bias
    array = constant(bias)
    if array is not None:
        vector = add_constant(owner(before), array.reshape(-1), f"{bias.name}/columns")
    else:
        target = add_constant(owner(before), np.array([columns], np.int64), f"{before.name}/columns/target")
        vector = insert(before, "Reshape", [bias, target], name=f"{before.name}/bias")
    shapes.set_shape(vector, (columns,))
    return vector
