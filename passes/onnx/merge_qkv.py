"""Multiplies by the weights of query, key and value at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from tf_opt.passes.onnx.nodes import (
    add_constant,
    argument,
    insert,
    insert_node,
    is_constant,
    is_inner,
    owner,
    producer,
    remove_unread,
)
from tf_opt.passes.onnx.pass_base import OnnxPass
from tf_opt.passes.onnx.symbolic_shapes import SymbolicShapes


@dataclass(frozen=True)
class _Projection:
    """MatMul(source, weight), perhaps with a bias.

    Attributes:
        matmul: The product.
        bias: What is added to it; None without one.
        result: The product with its bias.
        columns: How many columns the weight has.
    """

    matmul: ir.Node
    bias: ir.Value | None
    result: ir.Value
    columns: int


class MergeQkv(OnnxPass):
    """Replaces the products of one tensor with several matrices by one product, whose columns are then split.

    The merged matrix is a concatenation in the graph: no weight is read here, and an engine computes it once, when it
    loads. Merged are products of which each is followed by a bias, or none, and which all have the same width of
    columns up to a factor of 4, as query, key and value have.

    Before, for a tensor x and weights of shape [8, 8]:
        q = Add(MatMul(x, wq), bq)    k = Add(MatMul(x, wk), bk)    v = Add(MatMul(x, wv), bv)
    After:
        q, k, v = Split<axis=-1>(Add(MatMul(x, Concat(wq, wk, wv)), Concat(bq, bk, bv)), [8, 8, 8])
    """

    name: ClassVar[str] = "merge_qkv"

    def run(self, model: ir.Model) -> int:
        """See `OnnxPass.run`."""
        shapes = SymbolicShapes(model)
        groups: dict[ir.Value, list[_Projection]] = {}
        for node in model.graph:
            if node.op_type == "MatMul" and node.domain == "":
                projection = _projection(node, shapes)
                if projection is not None:
                    groups.setdefault(argument(node, 0), []).append(projection)
        count = 0
        for source, projections in groups.items():
            if len(projections) > 1 and _is_alike(projections):
                _merge(source, projections)
                count += 1
        return count


def _projection(node: ir.Node, shapes: SymbolicShapes) -> _Projection | None:
    weight, result = argument(node, 1), node.outputs[0]
    matrix = shapes.shape(weight)
    if (
        not (is_constant(weight) or _is_reshaped_constant(weight))
        or matrix is None
        or len(matrix) != 2
        or not isinstance(matrix[1], int)
    ):
        return None
    if result.is_graph_output() or (shapes.rank(argument(node, 0)) or 0) < 2:
        return None
    bias: ir.Value | None = None
    if is_inner(result):
        (usage,) = result.uses()
        operand = usage.node.inputs[1] if len(usage.node.inputs) == 2 else None
        if producer(usage.node.outputs[0], "Add") is not None and usage.idx == 0 and is_constant(operand):
            if shapes.shape(operand) != (matrix[1],) or usage.node.outputs[0].is_graph_output():
                return None
            bias, result = operand, usage.node.outputs[0]
    return _Projection(node, bias, result, matrix[1])


def _is_reshaped_constant(value: ir.Value) -> bool:
    """Whether a value is a constant but for a Reshape, as weights of a layer with separate heads are."""
    reshape = producer(value, "Reshape")
    return reshape is not None and is_constant(reshape.inputs[0]) and is_constant(reshape.inputs[1])


def _weight(projection: _Projection, before: ir.Node) -> ir.Value:
    """Returns the weight of a product as a value that is known in front of a node."""
    weight = argument(projection.matmul, 1)
    reshape = producer(weight, "Reshape")
    if reshape is None:
        return weight
    return insert(before, "Reshape", list(reshape.inputs), name=f"{projection.matmul.name}/weight")


def _is_alike(projections: list[_Projection]) -> bool:
    widths = [projection.columns for projection in projections]
    biased = [projection.bias is not None for projection in projections]
    return max(widths) <= 4 * min(widths) and len(set(biased)) == 1


def _merge(source: ir.Value, projections: list[_Projection]) -> None:
    first = projections[0].matmul
    graph = owner(first)
    weights = [_weight(projection, first) for projection in projections]
    weight = insert(first, "Concat", weights, {"axis": 1}, name=f"{first.name}/weights")
    merged = insert(first, "MatMul", [source, weight], name=f"{first.name}/merged")
    biases = [projection.bias for projection in projections if projection.bias is not None]
    if biases:
        bias = insert(first, "Concat", biases, {"axis": 0}, name=f"{first.name}/biases")
        merged = insert(first, "Add", [merged, bias], name=f"{first.name}/biased")
    widths = [projection.columns for projection in projections]
    sizes = add_constant(graph, np.array(widths, np.int64), f"{first.name}/widths")
    name = f"{first.name}/split"
    split = insert_node(first, "Split", [merged, sizes], {"axis": -1}, name=name, outputs=len(projections))
    for projection, part in zip(projections, split.outputs, strict=True):
        projection.result.replace_all_uses_with(part)
        remove_unread([projection.result])
