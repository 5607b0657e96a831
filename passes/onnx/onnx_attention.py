"""Writes canonical attention blocks as ONNX's Attention."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from tf_opt.onnx_target import ATTENTION_OPSET
from tf_opt.passes.onnx.attention import HEADS_TO_FRONT, KEYS_TO_BACK, find_attention
from tf_opt.passes.onnx.attention_masks import AttentionMasks
from tf_opt.passes.onnx.nodes import argument, attributes_of, insert, producer, rewrite
from tf_opt.passes.onnx.pass_base import OnnxPass
from tf_opt.passes.onnx.symbolic_shapes import SymbolicShapes


class OnnxAttention(OnnxPass):
    """Replaces canonical attention blocks by Attention of four dimensions, which needs opset 23.

    Left alone: blocks with a Where that is no addition of a mask.

    Before, for q, k, v of shape [b, heads, s, size]:
        y = MatMul(Softmax(Add(Mul(MatMul(q, Transpose<perm=[0, 1, 3, 2]>(k)), 0.125), mask)), v)
    After:
        y = Attention<scale=0.125>(q, k, v, Expand(mask, [1, 1, s, s]))
    """

    name: ClassVar[str] = "onnx_attention"

    def run(self, model: ir.Model) -> int:
        """See `OnnxPass.run`."""
        if model.opset_imports.get("", 0) < ATTENTION_OPSET or not _has_softmax(model):
            return 0
        shapes = SymbolicShapes(model)
        masks = AttentionMasks(shapes)
        count = 0
        for block in find_attention(model, shapes):
            if not masks.is_additive(block):
                continue
            key = _keys_in_rows(block.key, block.scores, shapes)
            mask = masks.additive(block, block.query, key, 2)
            inputs = [block.query, key, block.value] + ([] if mask is None else [mask])
            rewrite(block.output, "Attention", inputs, {"scale": float(block.scale)})
            count += 1
        return count


def _has_softmax(model: ir.Model) -> bool:
    return any(node.op_type == "Softmax" for node in model.graph)


def _keys_in_rows(key: ir.Value, scores: ir.Node, shapes: SymbolicShapes) -> ir.Value:
    """Returns the keys as [batch, heads, keys, size]."""
    transpose = producer(key, "Transpose")
    source, order = key, [0, 1, 3, 2]
    if transpose is not None:
        if attributes_of(transpose, "perm") == (0, 1, 3, 2):
            return argument(transpose, 0)
        if attributes_of(transpose, "perm") == KEYS_TO_BACK:
            source, order = argument(transpose, 0), list(HEADS_TO_FRONT)
    rows = insert(scores, "Transpose", [source], {"perm": order}, name=f"{scores.name}/keys")
    shape = shapes.shape(source)
    shapes.set_shape(rows, None if shape is None else tuple(shape[axis] for axis in order))
    return rows
