"""Writes the targets of Reshape and Expand as constants, and drops the ones that change nothing."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from tf_opt.passes.onnx.nodes import (
    BEYOND_EVERY_AXIS,
    add_constant,
    argument,
    attribute,
    bypass,
    integers,
    optional_argument,
    owner,
    producer,
    remove_unread,
)
from tf_opt.passes.onnx.pass_base import OnnxPass
from tf_opt.passes.onnx.shape_rules import SymbolicShape
from tf_opt.passes.onnx.symbolic_shapes import SymbolicShapes


class FoldShapes(OnnxPass):
    """Replaces shape arithmetic that a symbolic analysis can read.

    * A Reshape whose dimensions are numbers or those of its input at the same place gets a constant target, with 0 for
      the latter: "take the input's". A -1 is written only where the graph has one itself, or beside numbers above 0:
      elsewhere it would fail for empty tensors.
    * A Reshape of a Reshape reads the inner one's input.
    * A Reshape or Expand to the shape that the input has goes, and so does a Slice that takes all of its input, as
      `mask[..., tf.newaxis]` leaves one behind.

    Before, for x of shape [b, s, 8]:
        y = Reshape(x, Concat(Slice(Shape(x), [0], [1]), [-1], [2], [4]))
    After:
        y = Reshape(x, [0, 0, 2, 4])
    """

    name: ClassVar[str] = "fold_shapes"
    ensures: ClassVar[frozenset[str]] = frozenset({"shapes_folded"})

    def run(self, model: ir.Model) -> int:
        """See `OnnxPass.run`."""
        count = sum(_drop_whole_slice(node) for node in list(model.graph))
        if not any(node.op_type in ("Reshape", "Expand") for node in model.graph):
            return count
        shapes = SymbolicShapes(model)
        targets: dict[tuple[int, ...], ir.Value] = {}
        for node in list(model.graph):
            if node.graph is None or node.domain != "" or node.op_type not in ("Reshape", "Expand"):
                continue
            source, after = argument(node, 0), shapes.shape(node.outputs[0])
            if after is None:
                continue
            if after == shapes.shape(source) and bypass(node, source):
                count += 1
            elif node.op_type == "Reshape":
                count += _fold_target(node, after, shapes, targets)
        return count


def _drop_whole_slice(node: ir.Node) -> bool:
    if node.domain != "" or node.op_type != "Slice":
        return False
    starts, ends, steps = (integers(optional_argument(node, index)) for index in (1, 2, 4))
    if starts is None or ends is None or (steps is None and optional_argument(node, 4) is not None):
        return False
    is_whole = not any(starts) and min(ends) >= BEYOND_EVERY_AXIS and set(steps or (1,)) == {1}
    return is_whole and bypass(node, argument(node, 0))


def _fold_target(
    node: ir.Node, after: SymbolicShape, shapes: SymbolicShapes, targets: dict[tuple[int, ...], ir.Value]
) -> bool:
    """Gives a Reshape a constant target and the earliest input that it can have; returns whether anything changed."""
    given = shapes.vector(node.inputs[1])
    has_minus_one = given is not None and -1 in given
    chosen: tuple[ir.Value, tuple[int, ...]] | None = None
    source: ir.Value = argument(node, 0)
    while True:
        target = _constant_target(shapes.shape(source), after, has_minus_one)
        if target is not None:
            chosen = source, target
        inner = producer(source, "Reshape")
        if inner is None:
            break
        source = argument(inner, 0)
    if chosen is None:
        return False
    source, target = chosen
    is_same = source is node.inputs[0]
    if is_same and integers(node.inputs[1]) is not None:
        return False  # Constant already, and as good as ours.
    before = [argument(node, 0), argument(node, 1)]
    if target not in targets:
        targets[target] = add_constant(owner(node), np.array(target, np.int64), f"target_{'_'.join(map(str, target))}")
    node.replace_input_with(0, source)
    node.replace_input_with(1, targets[target])
    if attribute(node, "allowzero", 0):
        del node.attributes["allowzero"]
    remove_unread(before)
    return True


def _constant_target(before: SymbolicShape | None, after: SymbolicShape, has_minus_one: bool) -> tuple[int, ...] | None:
    """Returns the target of a Reshape from one symbolic shape to another; None where a constant cannot say it."""
    target: list[int] = []
    unknown = []
    for axis, dim in enumerate(after):
        if isinstance(dim, int):
            target.append(dim)
        elif before is not None and axis < len(before) and before[axis] == dim:
            target.append(0)
        else:
            unknown.append(axis)
            target.append(-1)
    numbers_are_positive = all(dim > 0 for dim in after if isinstance(dim, int))
    if len(unknown) > 1 or not numbers_are_positive:
        return None
    if unknown and not has_minus_one and 0 in target:
        return None
    return tuple(target)
