"""Multiplies by the weights of query, key and value at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from tf_opt.passes.onnx.nodes import (
    add_constant,
    argument,
    attribute,
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
        dequantize: What makes the weight of an integer one with a scale for each column; None where it is stored as it
            is multiplied.
    """

    matmul: ir.Node
    bias: ir.Value | None
    result: ir.Value
    columns: int
    dequantize: ir.Node | None


class MergeQkv(OnnxPass):
    """Replaces the products of one tensor with several matrices by one product, whose columns are then split.

    The merged matrix is a concatenation in the graph: no weight is read here, and an engine computes it once, when it
    loads. Merged are products of which each is followed by a bias, or none, and which all have the same width of
    columns up to a factor of 4, as query, key and value have. Weights in int8 are merged as they are stored.

    Before, for a tensor x and weights of shape [8, 8]:
        q = Add(MatMul(x, wq), bq)    k = Add(MatMul(x, wk), bk)    v = Add(MatMul(x, wv), bv)
    After:
        q, k, v = Split<axis=-1>(Add(MatMul(x, Concat(wq, wk, wv)), Concat(bq, bk, bv)), [8, 8, 8])
    And for weights w = DequantizeLinear<axis=1>(i, s):
        q, k, v = Split<axis=-1>(..MatMul(x, DequantizeLinear<axis=1>(Concat(iq, ik, iv), Concat(sq, sk, sv)))..)
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
    dequantize = _dequantize_by_column(weight, shapes)
    if (
        not (is_constant(weight) or _is_reshaped_constant(weight) or dequantize is not None)
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
    return _Projection(node, bias, result, matrix[1], dequantize)


def _dequantize_by_column(weight: ir.Value, shapes: SymbolicShapes) -> ir.Node | None:
    """Returns the node that makes a weight of a constant of integers and of a scale for each of its columns."""
    node = producer(weight, "DequantizeLinear")
    if node is None or not all(is_constant(value) for value in node.inputs):
        return None
    if shapes.rank(argument(node, 1)) != 1 or attribute(node, "axis", 1) not in (1, -1):
        return None
    # Scales of blocks, and other result types, exist in newer operator sets.
    return None if attribute(node, "block_size", 0) or attribute(node, "output_dtype", 0) else node


def _is_reshaped_constant(value: ir.Value) -> bool:
    """Whether a value is a constant but for a Reshape, as weights of a layer with separate heads are."""
    reshape = producer(value, "Reshape")
    return reshape is not None and is_constant(reshape.inputs[0]) and is_constant(reshape.inputs[1])


def _weight(projections: list[_Projection], before: ir.Node) -> ir.Value:
    """Returns the columns of all weights as one weight that is known in front of a node."""
    name = f"{before.name}/weights"
    nodes = [projection.dequantize for projection in projections if projection.dequantize is not None]
    if not nodes:
        return insert(before, "Concat", [_plain_weight(each, before) for each in projections], {"axis": 1}, name=name)
    inputs = [insert(before, "Concat", [argument(node, 0) for node in nodes], {"axis": 1}, name=f"{name}/quantized")]
    for index, kind in enumerate(("scales", "zero_points")[: len(nodes[0].inputs) - 1], start=1):
        vectors = [argument(node, index) for node in nodes]
        inputs.append(insert(before, "Concat", vectors, {"axis": 0}, name=f"{name}/{kind}"))
    return insert(before, "DequantizeLinear", inputs, {"axis": 1}, name=name)


def _plain_weight(projection: _Projection, before: ir.Node) -> ir.Value:
    weight = argument(projection.matmul, 1)
    reshape = producer(weight, "Reshape")
    if reshape is None:
        return weight
    return insert(before, "Reshape", list(reshape.inputs), name=f"{projection.matmul.name}/weight")


def _is_alike(projections: list[_Projection]) -> bool:
    widths = [projection.columns for projection in projections]
    biased = {projection.bias is not None for projection in projections}
    stored = {_storage(projection) for projection in projections}
    return max(widths) <= 4 * min(widths) and len(biased) == 1 and len(stored) == 1


def _storage(projection: _Projection) -> tuple[object, ...]:
    """Returns what the weights of products that are merged have to have in common."""
    node = projection.dequantize
    return () if node is None else tuple(argument(node, index).dtype for index in range(len(node.inputs)))


def _merge(source: ir.Value, projections: list[_Projection]) -> None:
    first = projections[0].matmul
    graph = owner(first)
    merged = insert(first, "MatMul", [source, _weight(projections, first)], name=f"{first.name}/merged")
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
