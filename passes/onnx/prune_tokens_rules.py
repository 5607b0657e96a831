"""Through which operators a slice can be moved: what has to be sliced in front of a node, so that its result is.

A rule returns, for each input, the axis along which it is to be sliced instead of the output, or None where the input
stays as it is; where the node depends on more than the slice, it returns None altogether.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from tf_opt.passes.onnx.nodes import attribute, attributes_of, axes_of, constant, optional_argument
from tf_opt.passes.onnx.shape_rules import SymbolicShape, SymbolicVector
from tf_opt.passes.onnx.symbolic_shapes import SymbolicShapes
from tf_opt.passes.onnx.taken_parts import is_whole, slice_parameters, taken_axes
from tf_opt.passes.onnx.token_layout import aligned_shapes, reshape_groups
from tf_opt.passes.onnx.token_rules import BINARY, MICROSOFT_ELEMENTWISE, UNARY
from tf_opt.passes.tf.symbolic_dims import Dim

END = 2**63 - 1
"""An end that lies behind every axis."""


@dataclass(frozen=True)
class Selection:
    """The positions start to end of one axis, with ONNX's meaning of negative numbers."""

    start: int
    end: int

    @property
    def is_single(self) -> bool:
        """Whether it is the first or the last position: of an axis of size 1, which broadcasts, that is all of it."""
        return (self.start, self.end) == (0, 1) or (self.start == -1 and self.end >= 2**31 - 1)


class SliceShapes:
    """The shapes that the rules read.

    Args:
        model: The model as it is.
    """

    def __init__(self, model: ir.Model) -> None:
        self._certain = SymbolicShapes(model)
        self._aligned = aligned_shapes(model)

    def shape(self, value: ir.Value | None) -> SymbolicShape | None:
        """Returns the dimensions, those that are combined somewhere taken to be equal; None where unknown.

        A Reshape of which that is not true fails or gives nonsense as it is; behind the slice it fails.
        """
        return self._aligned.shape(value)

    def vector(self, value: ir.Value | None) -> SymbolicVector | None:
        """Returns the entries of an integer vector, symbolically."""
        return self._aligned.vector(value)

    def is_equal(self, one: Dim, other: Dim) -> bool:
        """Whether two dimensions of `shape` are the same number."""
        return self._aligned.is_equal(one, other)

    def rank(self, value: ir.Value | None) -> int:
        """Returns the number of dimensions; 0 where it is not known, as rules are asked about known ones alone."""
        return self._aligned.rank(value) or 0

    def is_known(self, value: ir.Value) -> bool:
        """Whether the rank is known."""
        return self._aligned.shape(value) is not None

    def is_same_axis(self, value: ir.Value, axis: int, other: ir.Value, other_axis: int) -> bool:
        """Whether an axis certainly is as long as one of another tensor."""
        shape, other_shape = self._certain.shape(value), self._certain.shape(other)
        return shape is not None and other_shape is not None and shape[axis] == other_shape[other_axis]


InputAxes: TypeAlias = list["int | None"]
SliceRule: TypeAlias = Callable[[ir.Node, int, Selection, SliceShapes], "InputAxes | None"]


def input_axes(node: ir.Node, axis: int, selection: Selection, shapes: SliceShapes) -> InputAxes | None:
    """Returns along which axis each input is to be sliced; None where the slice cannot be moved in front of the node.

    Args:
        node: A node of which only the first output is read.
        axis: Axis of the output that is sliced.
        selection: The slice.
        shapes: Symbolic shapes.
    """
    rule = {"": _RULES, "com.microsoft": _MICROSOFT_RULES}.get(node.domain, {}).get(node.op_type)
    if rule is None or any(
        not shapes.is_known(value) for value in (*node.inputs, node.outputs[0]) if value is not None
    ):
        return None
    return rule(node, axis, selection, shapes)


def _first(node: ir.Node, axis: int) -> InputAxes:
    return [axis, *[None] * (len(node.inputs) - 1)]


def _broadcast(
    values: Sequence[ir.Value | None], output: ir.Value, axis: int, selection: Selection, shapes: SliceShapes
) -> InputAxes | None:
    """The axes of operands that are broadcast to an axis of the output."""
    target = shapes.shape(output) or ()
    axes: InputAxes = []
    for value in values:
        shape = shapes.shape(value) or ()
        place = axis - (len(target) - len(shape))
        if place < 0 or shape[place] == 1:
            axes.append(None)
        elif selection.is_single or (value is not None and shapes.is_same_axis(value, place, output, axis)):
            axes.append(place)
        else:
            return None  # The operand may be broadcast along this axis, and then has no such position.
    return axes


def _elementwise(node: ir.Node, axis: int, selection: Selection, shapes: SliceShapes) -> InputAxes | None:
    return _broadcast(node.inputs, node.outputs[0], axis, selection, shapes)


def _unary(node: ir.Node, axis: int, selection: Selection, shapes: SliceShapes) -> InputAxes | None:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and shapes.rank(node.inputs[1]) != 0:
        return None
    return _first(node, axis)


def _vectorwise(node: ir.Node, axis: int, selection: Selection, shapes: SliceShapes) -> InputAxes | None:
    normalized = attribute(node, "axis", -1) % shapes.rank(node.inputs[0])
    is_one_axis = node.op_type in ("LogSoftmax", "Softmax")
    return _first(node, axis) if (axis != normalized if is_one_axis else axis < normalized) else None


def _reduction(node: ir.Node, axis: int, selection: Selection, shapes: SliceShapes) -> InputAxes | None:
    rank, axes = shapes.rank(node.inputs[0]), axes_of(node)
    if axes is None:
        return None
    reduced = {each % rank for each in axes}
    if attribute(node, "keepdims", 1):
        return None if axis in reduced else _first(node, axis)
    kept = [each for each in range(rank) if each not in reduced]
    return _first(node, kept[axis])


def _pool(node: ir.Node, axis: int, selection: Selection, shapes: SliceShapes) -> InputAxes | None:
    return _first(node, axis) if axis < 2 else None


def _matmul(node: ir.Node, axis: int, selection: Selection, shapes: SliceShapes) -> InputAxes | None:
    ranks = [shapes.rank(value) for value in node.inputs]
    rank = shapes.rank(node.outputs[0])
    if min(ranks) < 2 or axis == rank - 1:
        return None  # A slice of the last axis would slice the weights, which saves little and hides them.
    if axis == rank - 2:
        return [ranks[0] - 2, None]
    return _broadcast(node.inputs, node.outputs[0], axis, selection, shapes)


def _gemm(node: ir.Node, axis: int, selection: Selection, shapes: SliceShapes) -> InputAxes | None:
    bias = shapes.shape(optional_argument(node, 2)) or ()
    if axis != 0 or attribute(node, "transA", 0) or (len(bias) == 2 and bias[0] != 1):
        return None
    return _first(node, 0)


def _transpose(node: ir.Node, axis: int, selection: Selection, shapes: SliceShapes) -> InputAxes | None:
    order = attributes_of(node, "perm") or tuple(reversed(range(shapes.rank(node.inputs[0]))))
    return [order[axis]]


def _reshape(node: ir.Node, axis: int, selection: Selection, shapes: SliceShapes) -> InputAxes | None:
    source, target = shapes.shape(node.inputs[0]) or (), shapes.shape(node.outputs[0]) or ()
    for inner, outer in reshape_groups(source, target, shapes.is_equal):
        if outer == (axis,) and len(inner) == 1:
            axes = _first(node, inner[0])
            return axes if sliced_target(node, axis, inner[0], selection, shapes) is not None else None
    return None


def sliced_target(
    node: ir.Node, axis: int, inner: int, selection: Selection, shapes: SliceShapes
) -> list[int | None] | None:
    """Returns the target of a Reshape behind the slice, None for each entry that stays; None where there is none.

    Args:
        node: The Reshape.
        axis: The sliced axis of its output.
        inner: The axis of its input that becomes that one.
        selection: The slice.
        shapes: Symbolic shapes.
    """
    given = shapes.vector(node.inputs[1])
    if attribute(node, "allowzero", 0) or (inner != axis and not selection.is_single):
        return None
    length = shapes.rank(node.outputs[0])
    if given is not None and len(given) == length and inner != axis and given[inner] == 0:
        return None  # It would copy the size that the slice changes.
    return [None if position != axis else (0 if inner == axis else 1) for position in range(length)]


def _squeeze(node: ir.Node, axis: int, selection: Selection, shapes: SliceShapes) -> InputAxes | None:
    axes, rank = axes_of(node), shapes.rank(node.inputs[0])
    if axes is None:
        return None
    dropped = {each % rank for each in axes}
    return _first(node, [each for each in range(rank) if each not in dropped][axis])


def _unsqueeze(node: ir.Node, axis: int, selection: Selection, shapes: SliceShapes) -> InputAxes | None:
    axes, rank = axes_of(node), shapes.rank(node.outputs[0])
    added = {each % rank for each in axes or ()}
    if axes is None or axis in added:
        return None
    return _first(node, axis - sum(each < axis for each in added))


def _concat(node: ir.Node, axis: int, selection: Selection, shapes: SliceShapes) -> InputAxes | None:
    return None if attribute(node, "axis", 0) % shapes.rank(node.outputs[0]) == axis else [axis] * len(node.inputs)


def _taking(node: ir.Node, axis: int, selection: Selection, shapes: SliceShapes) -> InputAxes | None:
    taken = taken_axes(node, shapes.rank(node.inputs[0]))
    if taken is None or axis in taken:
        return None
    if node.op_type == "Gather":
        shift = shapes.rank(node.inputs[1]) - 1
        if axis > taken[0]:
            return _first(node, axis - shift) if axis > taken[0] + shift else None
    return _first(node, axis)


_RULES: dict[str, SliceRule] = {
    **dict.fromkeys(BINARY, _elementwise),
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(("LayerNormalization", "LogSoftmax", "RMSNormalization", "Softmax"), _vectorwise),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _reduction),
    **dict.fromkeys(("Gather", "Slice"), _taking),
    "Concat": _concat,
    "Gemm": _gemm,
    "GlobalAveragePool": _pool,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

_MICROSOFT_RULES: dict[str, SliceRule] = dict.fromkeys(MICROSOFT_ELEMENTWISE, _elementwise)


def selected(node: ir.Node, shapes: SliceShapes) -> tuple[int, Selection] | None:
    """Returns which positions of which axis a node takes from its first input; None where it does anything else.

    Gather with one index counts too, whether it drops the axis or not.
    """
    rank = shapes.rank(node.inputs[0]) if node.inputs else 0
    if node.domain != "" or not rank or node.op_type not in ("Gather", "Slice"):
        return None
    taken = taken_axes(node, rank)
    if taken is None or len(taken) != 1:
        return None
    if node.op_type == "Slice":
        bounds = slice_bounds(node, rank)
        return None if bounds is None or bounds[2] != 1 else (taken[0], Selection(bounds[0], bounds[1]))
    index = constant(node.inputs[1], 1)
    if index is None or index.size != 1 or index.ndim > 1:
        return None
    start = int(index.reshape(()))
    return taken[0], Selection(start, END if start == -1 else start + 1)


def slice_bounds(node: ir.Node, rank: int) -> tuple[int, int, int] | None:
    """Returns start, end and step of a Slice that takes parts of one axis."""
    partial = [bounds for bounds in (slice_parameters(node, rank) or {}).values() if not is_whole(bounds)]
    return partial[0] if len(partial) == 1 else None
