"""Writes canonical attention blocks as ONNX Runtime's MultiHeadAttention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from tf_opt.passes.onnx.attention import HEADS_TO_FRONT, KEYS_TO_BACK, AttentionBlock, find_attention, unsplit
from tf_opt.passes.onnx.attention_masks import AttentionMasks
from tf_opt.passes.onnx.nodes import (
    add_constant,
    argument,
    attribute,
    attributes_of,
    insert,
    is_inner,
    owner,
    producer,
    rewrite,
)
from tf_opt.passes.onnx.pass_base import OnnxPass
from tf_opt.passes.onnx.symbolic_shapes import SymbolicShapes
from tf_opt.passes.tf.symbolic_dims import product

DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class _Surroundings:
    """An attention block with the splitting and joining of heads around it.

    Attributes:
        query: [batch, queries, heads * size].
        key: [batch, keys, heads * size].
        value: [batch, keys, heads * size], perhaps of another size.
        condition: What keeps values, [batch, 1, 1, keys]; None where all stay.
        heads: Number of heads.
        end: The Reshape that joins the heads.
    """

    query: ir.Value
    key: ir.Value
    value: ir.Value
    condition: ir.Value | None
    heads: int
    end: ir.Node


class MultiHeadAttention(OnnxPass):
    """Replaces canonical attention blocks by MultiHeadAttention, and with them the Transposes of heads.

    Left alone: blocks whose query, key and value are not split off tensors of three dimensions, blocks with a Where
    that is no addition of a mask, and all blocks of a model with float64 in it, for which there is no kernel.

    Before, for q, k, v of shape [b, s, 8], split into 2 heads:
        Q = Transpose(Reshape(q, [0, 0, 2, 4]))    K, V likewise
        y = Reshape(Transpose(MatMul(Softmax(Add(Mul(MatMul(Q, K), 0.5), mask)), V)), [0, 0, 8])
    After:
        y = com.microsoft.MultiHeadAttention<num_heads=2, scale=0.5>(q, k, v, , , Expand(mask, [1, 1, s, s]))
    """

    name: ClassVar[str] = "multi_head_attention"

    def run(self, model: ir.Model) -> int:
        """See `OnnxPass.run`."""
        if not any(node.op_type == "Softmax" for node in model.graph) or _has_double(model):
            return 0
        shapes = SymbolicShapes(model)
        masks = AttentionMasks(shapes)
        conditions: dict[ir.Value, ir.Value] = {}
        count = 0
        for block in find_attention(model, shapes):
            found = _surroundings(block, shapes)
            if found is None or not masks.is_additive(block):
                continue
            mask = masks.additive(block, found.query, found.key, 1)
            value = found.value
            if found.condition is not None:
                value = _zeroed(found.value, found.condition, block, conditions)
            attributes = {"num_heads": found.heads, "scale": float(block.scale)}
            inputs = [found.query, found.key, value] + ([] if mask is None else [None, None, mask])
            rewrite(found.end, "MultiHeadAttention", inputs, attributes, DOMAIN)
            count += 1
        if count:
            model.opset_imports.setdefault(DOMAIN, 1)
        return count


def _has_double(model: ir.Model) -> bool:
    """Whether a model may compute in float64 anywhere."""
    declared = (*model.graph.inputs, *model.graph.initializers.values())
    return any(value.dtype is ir.DataType.DOUBLE for value in declared) or any(
        node.op_type == "Cast" and attribute(node, "to", 0) == ir.DataType.DOUBLE.value for node in model.graph
    )


def _surroundings(block: AttentionBlock, shapes: SymbolicShapes) -> _Surroundings | None:
    split, condition = block.value, None
    zeroing = producer(split, "Where")
    if zeroing is not None:
        turned = producer(zeroing.inputs[0], "Transpose")
        if turned is None or attributes_of(turned, "perm") != (0, 1, 3, 2):
            return None
        condition, split = argument(turned, 0), argument(zeroing, 1)
        shape = shapes.shape(condition)
        if shape is None or len(shape) != 4 or shape[1:3] != (1, 1):
            return None
    query = unsplit(block.query, HEADS_TO_FRONT, shapes)
    key = unsplit(block.key, KEYS_TO_BACK, shapes)
    value = unsplit(split, HEADS_TO_FRONT, shapes)
    shape, end = shapes.shape(block.query), _joining(block, shapes)
    if query is None or key is None or value is None or shape is None or end is None or not isinstance(shape[1], int):
        return None
    return _Surroundings(query, key, value, condition, shape[1], end)


def _joining(block: AttentionBlock, shapes: SymbolicShapes) -> ir.Node | None:
    """Returns the Reshape that joins the heads of a block's output; None without one."""
    output = block.output.outputs[0]
    for op_type in ("Transpose", "Reshape"):
        if not is_inner(output):
            return None
        (usage,) = output.uses()
        if usage.node.op_type != op_type or usage.node.domain != "" or usage.idx != 0:
            return None
        if op_type == "Transpose" and attributes_of(usage.node, "perm") != HEADS_TO_FRONT:
            return None
        output = usage.node.outputs[0]
    end = output.producer()
    apart, joined = (None, None) if end is None else (shapes.shape(end.inputs[0]), shapes.shape(output))
    if apart is None or joined is None or joined != (*apart[:2], product(apart[2:])):
        return None
    return end


def _zeroed(value: ir.Value, condition: ir.Value, block: AttentionBlock, made: dict[ir.Value, ir.Value]) -> ir.Value:
    """Returns values of [batch, keys, columns] of which those are 0 for which a condition does not hold."""
    zeroing = producer(block.value, "Where")
    if zeroing is None:
        raise ValueError(f"the values of {block.output.name!r} are not set to 0")
    if condition not in made:
        turned = producer(zeroing.inputs[0], "Transpose")
        target = add_constant(owner(zeroing), np.array([0, -1, 1], np.int64), "target_0_-1_1")
        name = f"{zeroing.name}/condition"
        made[condition] = insert(turned or zeroing, "Reshape", [condition, target], name=name)
    zero = argument(zeroing, 2)
    return insert(zeroing, "Where", [made[condition], value, zero], name=f"{zeroing.name}/columns")
