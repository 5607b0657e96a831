"""Brings attention blocks into one form, wherever a library scales and however it masks."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from tf_opt.passes.onnx.attention import HEADS_TO_FRONT, AttentionBlock, find_attention
from tf_opt.passes.onnx.nodes import (
    add_constant,
    argument,
    attributes_of,
    bypass,
    insert,
    integers,
    is_inner,
    owner,
    producer,
    real_constant,
    remove_unread,
    scalar,
)
from tf_opt.passes.onnx.pass_base import OnnxPass
from tf_opt.passes.onnx.symbolic_shapes import SymbolicShapes


class CanonicalAttention(OnnxPass):
    """Writes each attention block as MatMul, Mul by a number, masks, Softmax, MatMul.

    * Scalings of the query, of the key and of the scores become one Mul of the scores.
    * A mask stands on the right of its Add; a number that is added to all scores goes, since Softmax does not see it.
    * Where(condition, softmax, 0) with a condition that is the same for all queries goes: the values are set to 0
      instead, which are fewer than the probabilities.
    * The Reshape that joins the heads takes batch and sequence from its input. This supposes that a mask has the batch
      of the scores or 1: a single query with a batch of masks came out as a sequence, and comes out as a batch.

    Before, for q, k, v of shape [b, s, 8]:
        Softmax(Add(mask, MatMul(Transpose(Reshape(Mul(q, 0.5), [0, 0, 2, 4])), K))) @ V
    After:
        Softmax(Add(Mul(MatMul(Transpose(Reshape(q, [0, 0, 2, 4])), K), 0.5), mask)) @ V
    """

    name: ClassVar[str] = "canonical_attention"
    requires: ClassVar[frozenset[str]] = frozenset({"shapes_folded"})
    ensures: ClassVar[frozenset[str]] = frozenset({"canonical_attention"})

    def run(self, model: ir.Model) -> int:
        """See `OnnxPass.run`."""
        if not any(node.op_type == "Softmax" for node in model.graph):
            return 0
        shapes = SymbolicShapes(model)
        turned: dict[ir.Value, ir.Value] = {}
        count = 0
        for block in find_attention(model, shapes):
            changed = _zero_values(block, shapes, turned)
            changed |= _gather_scalings(block)
            changed |= _order_masks(block)
            changed |= _drop_numbers(block)
            changed |= _join(block, shapes)
            count += changed
        return count


def _gather_scalings(block: AttentionBlock) -> bool:
    """Makes all scalings one Mul behind the first product, the number on its right."""
    if not block.scalings:
        return False
    if len(block.scalings) == 1:
        (scaling,) = block.scalings
        if scaling.node.op_type == "Mul" and scaling.operand == 0 and scaling.source is block.scores.outputs[0]:
            return False
    scale, dtype = block.scale, block.scalings[0].dtype
    for scaling in block.scalings:
        bypass(scaling.node, scaling.source)
    if math.isclose(scale, 1.0, rel_tol=1e-12):
        return True
    scores = block.scores.outputs[0]
    (usage,) = scores.uses()
    number = real_constant(owner(block.scores), scale, dtype, f"{block.scores.name}/scale")
    scaled = insert(usage.node, "Mul", [scores, number], name=f"{block.scores.name}/scaled")
    usage.node.replace_input_with(usage.idx, scaled)
    return True


def _order_masks(block: AttentionBlock) -> bool:
    """Puts the masks on the right of their Adds."""
    turned = [masking.node for masking in block.maskings if masking.fill is None and masking.operand == 1]
    for node in turned:
        left, right = argument(node, 0), argument(node, 1)
        node.replace_input_with(0, right)
        node.replace_input_with(1, left)
    return bool(turned)


def _drop_numbers(block: AttentionBlock) -> bool:
    """Drops finite numbers that are added to all scores alike."""
    changed = False
    for masking in block.maskings:
        number = scalar(masking.mask, 4) if masking.fill is None else None
        if number is not None and math.isfinite(number):
            changed |= bypass(masking.node, argument(masking.node, 0))
    return changed


def _zero_values(block: AttentionBlock, shapes: SymbolicShapes, turned: dict[ir.Value, ir.Value]) -> bool:
    """Sets values to 0 in place of their probabilities, where the condition does not depend on the query.

    The sum over the keys of where(condition, p, 0) * v is the one of p * where(condition, v, 0).
    """
    if block.zeroing is None:
        return False
    condition = block.zeroing.mask
    shape = shapes.shape(condition)
    if shape is None or len(shape) != 4 or shape[2] != 1:
        return False
    if condition not in turned:
        turned[condition] = insert(
            block.zeroing.node, "Transpose", [condition], {"perm": [0, 1, 3, 2]}, name=f"{block.zeroing.node.name}/keys"
        )
    zero = argument(block.zeroing.node, 2)
    name = f"{block.output.name}/values"
    values = insert(block.output, "Where", [turned[condition], block.value, zero], name=name)
    shapes.set_shape(values, shapes.shape(block.value))
    bypass(block.zeroing.node, block.softmax.outputs[0])
    block.output.replace_input_with(1, values)
    return True


def _join(block: AttentionBlock, shapes: SymbolicShapes) -> bool:
    """Lets the Reshape that joins the heads copy batch and sequence from its input."""
    output = block.output.outputs[0]
    if not is_inner(output):
        return False
    (usage,) = output.uses()
    transpose = usage.node
    if producer(transpose.outputs[0], "Transpose") is None or attributes_of(transpose, "perm") != HEADS_TO_FRONT:
        return False
    if not is_inner(transpose.outputs[0]):
        return False
    (usage,) = transpose.outputs[0].uses()
    reshape = usage.node
    if reshape.op_type != "Reshape" or reshape.domain != "" or usage.idx != 0:
        return False
    target, query, value = shapes.vector(reshape.inputs[1]), shapes.shape(block.query), shapes.shape(block.value)
    if target is None or query is None or value is None or len(target) != 3 or integers(reshape.inputs[1]) is not None:
        return False
    heads, size = query[1], value[3]
    if not isinstance(heads, int) or not isinstance(size, int) or target[2] not in (heads * size, -1):
        return False
    if target[0] != query[0] or target[1] not in (query[2], -1) or target.count(-1) > 1:
        return False
    before = [argument(reshape, 1)]
    joined = add_constant(owner(reshape), np.array([0, 0, heads * size], np.int64), f"target_0_0_{heads * size}")
    reshape.replace_input_with(1, joined)
    remove_unread(before)
    return True
