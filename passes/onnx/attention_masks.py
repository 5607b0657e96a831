"""Makes of an attention block's masks the one tensor that attention operators add to the scores."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import onnx_ir as ir

from tf_opt.passes.onnx.attention import AttentionBlock, Masking
from tf_opt.passes.onnx.nodes import add_constant, argument, constant, insert, owner, producer
from tf_opt.passes.onnx.shape_rules import broadcast_shapes
from tf_opt.passes.onnx.symbolic_shapes import SymbolicShapes

_SURELY_ZERO = -1e4
"""A number that makes a probability 0 when it is added to a score, as long as scores differ by less than 9,900."""


class AttentionMasks:
    """Masks of a model's attention blocks; blocks that share a mask share what is made of it."""

    def __init__(self, shapes: SymbolicShapes) -> None:
        """Keeps the shapes of the graph."""
        self._shapes = shapes
        self._made: dict[Hashable, ir.Value] = {}

    def is_additive(self, block: AttentionBlock) -> bool:
        """Whether all of a block's masks can be added to the scores."""
        return block.zeroing is None and all(
            self._shapes.shape(masking.mask) is not None and (masking.fill is None or _is_addable(block, masking))
            for masking in block.maskings
        )

    def additive(self, block: AttentionBlock, query: ir.Value, key: ir.Value, axis: int) -> ir.Value | None:
        """Returns the sum of a block's masks with queries and keys as its last two dimensions; None without masks.

        Kernels take a mask that is the same for all heads or for the whole batch, but not one for all queries.

        Args:
            block: A block for which `is_additive` holds.
            query: A tensor with the queries on `axis`.
            key: A tensor with the keys on `axis`.
            axis: Where both count.
        """
        total: ir.Value | None = None
        for masking in block.maskings:
            mask = self._added(masking)
            total = mask if total is None else self._node(masking.node, "Add", total, mask)
        if total is None:
            return None
        shape, queries, keys = (self._shapes.shape(value) for value in (total, query, key))
        if shape is None or queries is None or keys is None:
            raise ValueError(f"no shapes are known around the attention of {block.output.name!r}")
        if shape[-2:] == (queries[axis], keys[axis]) and len(shape) == 4:
            return total
        made: Hashable = ("expanded", total, queries[axis], keys[axis])
        if made not in self._made:
            last = block.maskings[-1].node
            ones = add_constant(owner(last), np.ones(2, np.int64), "mask_of_all")
            sizes = [
                insert(last, "Shape", [value], {"start": axis, "end": axis + 1}, name=f"{last.name}/{what}")
                for value, what in ((query, "queries"), (key, "keys"))
            ]
            target = insert(last, "Concat", [ones, *sizes], {"axis": 0}, name=f"{last.name}/shape")
            self._made[made] = insert(last, "Expand", [total, target], name=f"{last.name}/expanded")
        return self._made[made]

    def _added(self, masking: Masking) -> ir.Value:
        """Returns what a masking adds to the scores."""
        if masking.fill is None:
            return masking.mask
        fill = argument(masking.node, 2)
        number = constant(fill)
        if number is None:
            raise ValueError(f"Where node {masking.node.name!r} fills with no constant")
        made: Hashable = ("zero", number.dtype)
        if made not in self._made:
            dtype = ir.DataType.from_numpy(number.dtype)
            self._made[made] = add_constant(owner(masking.node), np.zeros((), number.dtype), "no_mask", dtype)
        return self._node(masking.node, "Where", masking.mask, self._made[made], fill)

    def _node(self, before: ir.Node, op_type: str, *inputs: ir.Value) -> ir.Value:
        """Returns the node's output, adding the node in front of another one where there is none like it yet."""
        made: Hashable = (op_type, inputs)
        if made not in self._made:
            value = insert(before, op_type, inputs, name=f"{before.name}/mask")
            shapes = [shape for shape in map(self._shapes.shape, inputs) if shape is not None]
            self._shapes.set_shape(value, broadcast_shapes(shapes))
            self._made[made] = value
        return self._made[made]


def _is_addable(block: AttentionBlock, masking: Masking) -> bool:
    """Whether a Where that replaces scores can be an addition.

    In a row where some score stays, a probability of 0 comes out either way. In a row where none does, the Where gives
    equal probabilities and the addition does not; that is the same only if all these values are set to 0.
    """
    if masking.fill is None or masking.fill > _SURELY_ZERO:
        return False
    zeroed = producer(block.value, "Where")
    turned = None if zeroed is None else producer(zeroed.inputs[0], "Transpose")
    return turned is not None and turned.inputs[0] is masking.mask
