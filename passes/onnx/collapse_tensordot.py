"""Multiplies by a matrix without flattening the leading dimensions first."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from tf_opt.passes.onnx.nodes import argument, insert, is_inner, producer, rewrite
from tf_opt.passes.onnx.pass_base import OnnxPass
from tf_opt.passes.onnx.symbolic_shapes import SymbolicShapes

PRODUCT_SUFFIX = "/unflattened"
"""What the name of a product gets that is written anew in front of its bias."""


class CollapseTensordot(OnnxPass):
    """Drops the Reshapes around a product with a matrix, where the second one undoes the first.

    An Add of a vector between the two comes along.

    Before, for x of shape [b, s, 8] and a weight of shape [8, 6]:
        y = Reshape(Add(MatMul(Reshape(x, [-1, 8]), weight), bias), [b, s, 6])
    After:
        y = Add(MatMul(x, weight), bias)
    """

    name: ClassVar[str] = "collapse_tensordot"

    def run(self, model: ir.Model) -> int:
        """See `OnnxPass.run`."""
        if not any(node.op_type == "Reshape" for node in model.graph):
            return 0
        shapes = SymbolicShapes(model)
        return sum(
            _collapse(node, shapes)
            for node in list(model.graph)
            if node.op_type == "Reshape" and node.domain == "" and node.graph is not None
        )


def _collapse(last: ir.Node, shapes: SymbolicShapes) -> bool:
    summed = argument(last, 0)
    add = producer(summed, "Add")
    result = summed if add is None else argument(add, 0)
    matmul = producer(result, "MatMul")
    if matmul is None or not is_inner(summed) or not is_inner(result):
        return False
    first, weight = producer(matmul.inputs[0], "Reshape"), argument(matmul, 1)
    if first is None:
        return False
    source = argument(first, 0)
    before, after, matrix = shapes.shape(source), shapes.shape(last.outputs[0]), shapes.shape(weight)
    if before is None or after is None or matrix is None or len(matrix) != 2 or shapes.rank(first.outputs[0]) != 2:
        return False
    if not before or before[-1] != matrix[0] or after != (*before[:-1], matrix[1]):
        return False
    if add is None:
        rewrite(last, "MatMul", [source, weight])
        return True
    bias = argument(add, 1)
    if shapes.rank(bias) != 1:
        return False
    product = insert(last, "MatMul", [source, weight], name=f"{matmul.name}{PRODUCT_SUFFIX}")
    shapes.set_shape(product, after)
    rewrite(last, "Add", [product, bias])
    return True
