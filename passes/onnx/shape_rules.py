"""How the shape of a node's output follows from its inputs, where the rule is more than "same" or "broadcast".

A rule notes what it knows and nothing else; it may assume that the model is valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

import onnx_ir as ir

from tf_opt.passes.onnx.nodes import attribute, attributes_of, axes_of, integers, optional_argument
from tf_opt.passes.tf.symbolic_dims import Dim, broadcast, divide_exactly, is_nonnegative, product

SymbolicShape: TypeAlias = tuple[Dim, ...]
SymbolicVector: TypeAlias = tuple[Dim, ...]
"""The entries of an integer tensor, flattened; a scalar has one."""


class KnownShapes(Protocol):
    """What a rule may ask, and where it notes what it found."""

    def shape(self, value: ir.Value | None) -> SymbolicShape | None:
        """Returns the dimensions of a value; None where its rank is not known."""

    def vector(self, value: ir.Value | None) -> SymbolicVector | None:
        """Returns the entries of an integer tensor of rank 0 or 1."""

    def set_shape(self, value: ir.Value, shape: SymbolicShape | None) -> None:
        """Notes a shape."""

    def unknown(self, node: ir.Node, axis: int, output: int = 0) -> Dim:
        """Returns a new unknown for a dimension of an output of `node`."""


ShapeRule: TypeAlias = Callable[[KnownShapes, ir.Node, Sequence["SymbolicShape | None"]], None]


def broadcast_shapes(shapes: Iterable[SymbolicShape]) -> SymbolicShape:
    """Returns the shape that broadcasting gives, by ONNX's (and NumPy's) rules."""
    listed = list(shapes)
    rank = max((len(shape) for shape in listed), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in listed]
    return tuple(broadcast(*dims) for dims in zip(*padded, strict=True))


def _matmul(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    left, right = shapes[0], shapes[1]
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return
    batch = broadcast_shapes([left[:-2], right[:-2]])
    known.set_shape(node.outputs[0], (*batch, left[-2], right[-1]))


def _gemm(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    left, right = shapes[0], shapes[1]
    if left is not None and right is not None and len(left) == len(right) == 2:
        rows = left[1] if attribute(node, "transA", 0) else left[0]
        known.set_shape(node.outputs[0], (rows, right[0] if attribute(node, "transB", 0) else right[1]))


def _reshape(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    source, target = shapes[0], known.vector(node.inputs[1])
    if target is None:
        length = known.shape(node.inputs[1])
        if length is not None and len(length) == 1 and isinstance(length[0], int):
            known.set_shape(node.outputs[0], tuple(known.unknown(node, axis) for axis in range(length[0])))
        return
    dims: list[Dim] = []
    for axis, entry in enumerate(target):
        if entry == 0 and not attribute(node, "allowzero", 0):
            dims.append(source[axis] if source is not None and axis < len(source) else known.unknown(node, axis))
        elif entry == -1 or is_nonnegative(entry):
            dims.append(entry)
        else:
            dims.append(known.unknown(node, axis))
    if -1 in dims:
        position = dims.index(-1)
        rest = product(dims[:position] + dims[position + 1 :])
        inferred = None if source is None or rest == 0 else divide_exactly(product(source), rest)
        dims[position] = known.unknown(node, position) if inferred is None else inferred
    known.set_shape(node.outputs[0], tuple(dims))


def _transpose(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    if (source := shapes[0]) is not None:
        order = attributes_of(node, "perm") or tuple(reversed(range(len(source))))
        known.set_shape(node.outputs[0], tuple(source[axis] for axis in order))


def _squeeze(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    axes = axes_of(node)
    if (source := shapes[0]) is not None and axes is not None:
        dropped = {axis % len(source) for axis in axes}
        known.set_shape(node.outputs[0], tuple(dim for axis, dim in enumerate(source) if axis not in dropped))


def _unsqueeze(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    axes = axes_of(node)
    if (source := shapes[0]) is not None and axes is not None:
        rank = len(source) + len(axes)
        added, rest = {axis % rank for axis in axes}, iter(source)
        known.set_shape(node.outputs[0], tuple(1 if axis in added else next(rest) for axis in range(rank)))


def _concat(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    parts = [shape for shape in shapes if shape is not None]
    if len(parts) != len(shapes) or not parts[0]:
        return
    axis = attribute(node, "axis", 0) % len(parts[0])
    total: Dim = 0
    for part in parts:
        total = total + part[axis]
    known.set_shape(node.outputs[0], (*parts[0][:axis], total, *parts[0][axis + 1 :]))


def _slice(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    source = shapes[0]
    if source is None:
        return
    starts, ends = (integers(optional_argument(node, index)) for index in (1, 2))
    axes = integers(node.inputs[3]) if optional_argument(node, 3) is not None else tuple(range(len(starts or ())))
    has_steps = optional_argument(node, 4) is not None
    if axes is None:
        known.set_shape(node.outputs[0], tuple(known.unknown(node, axis) for axis in range(len(source))))
        return
    steps = integers(node.inputs[4]) if has_steps else (1,) * len(axes)
    dims = list(source)
    for position, axis in enumerate(axis % len(source) for axis in axes):
        if starts is None or ends is None or steps is None:
            dims[axis] = known.unknown(node, axis)
            continue
        size, start, end, step = source[axis], starts[position], ends[position], steps[position]
        if isinstance(size, int):
            dims[axis] = len(range(*slice(start, end, step).indices(size))) if step > 0 else known.unknown(node, axis)
        elif (start, step) != (0, 1) or end < 2**31 - 1:
            dims[axis] = known.unknown(node, axis)
    known.set_shape(node.outputs[0], tuple(dims))


def _gather(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    source, chosen = shapes[0], shapes[1]
    if source and chosen is not None:
        axis = attribute(node, "axis", 0) % len(source)
        known.set_shape(node.outputs[0], (*source[:axis], *chosen, *source[axis + 1 :]))


def _shape(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    if (source := shapes[0]) is not None:
        end = node.attributes.get("end")
        entries = source[attribute(node, "start", 0) : None if end is None else end.as_int()]
        known.set_shape(node.outputs[0], (len(entries),))


def _filled(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    target = known.vector(node.inputs[0 if node.op_type == "ConstantOfShape" else 1])
    if target is None or not all(is_nonnegative(entry) for entry in target):
        return
    if node.op_type == "ConstantOfShape":
        known.set_shape(node.outputs[0], target)
    elif shapes[0] is not None:
        known.set_shape(node.outputs[0], broadcast_shapes([shapes[0], target]))


def _windows(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    if (source := shapes[0]) is None or len(source) < 3:
        return
    channels: Dim = source[1]
    if node.op_type == "Conv":
        channels = shapes[1][0] if shapes[1] else known.unknown(node, 1)
    elif node.op_type in ("ConvInteger", "QLinearConv"):
        channels = known.unknown(node, 1)
    spatial = tuple(known.unknown(node, axis) for axis in range(2, len(source)))
    known.set_shape(node.outputs[0], (source[0], channels, *spatial))


def _global_pool(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    if (source := shapes[0]) is not None:
        known.set_shape(node.outputs[0], (*source[:2], *(1 for _ in source[2:])))


def _split(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    if not (source := shapes[0]):
        return
    axis, count = attribute(node, "axis", 0) % len(source), len(node.outputs)
    sizes: Sequence[Dim] | None = integers(optional_argument(node, 1))
    if sizes is None and optional_argument(node, 1) is None and isinstance(source[axis], int):
        even = divide_exactly(source[axis], count)
        sizes = None if even is None else (even,) * count
    for index, value in enumerate(node.outputs):
        size = known.unknown(node, axis, index) if sizes is None or index >= len(sizes) else sizes[index]
        known.set_shape(value, (*source[:axis], size, *source[axis + 1 :]))


def _same_rank(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    if (source := shapes[0]) is not None:
        known.set_shape(node.outputs[0], tuple(known.unknown(node, axis) for axis in range(len(source))))


def _flatten(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    if (source := shapes[0]) is not None:
        axis = attribute(node, "axis", 1)
        axis = axis + len(source) if axis < 0 else axis
        known.set_shape(node.outputs[0], (product(source[:axis]), product(source[axis:])))


def _range(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    start, limit, delta = (known.vector(value) for value in node.inputs)
    is_counting = start == (0,) and delta == (1,) and limit is not None and is_nonnegative(limit[0])
    known.set_shape(node.outputs[0], (limit[0] if is_counting and limit is not None else known.unknown(node, 0),))


def _attention(known: KnownShapes, node: ir.Node, shapes: Sequence[SymbolicShape | None]) -> None:
    query, value = shapes[0], shapes[2]
    if query is not None and value is not None and len(query) == len(value) == 4:
        known.set_shape(node.outputs[0], (*query[:3], value[3]))


SHAPE_RULES: dict[str, ShapeRule] = {
    "Attention": _attention,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Expand": _filled,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "Pad": _same_rank,
    "Range": _range,
    "Reshape": _reshape,
    "Resize": _same_rank,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _same_rank,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    **dict.fromkeys(("AveragePool", "Conv", "ConvInteger", "LpPool", "MaxPool", "QLinearConv"), _windows),
    **dict.fromkeys(("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"), _global_pool),
}
"""The rule of each operator that has one."""
