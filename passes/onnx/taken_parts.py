"""Which parts of a tensor Slice, Gather and Split take."""

from __future__ import annotations

import onnx_ir as ir

from tf_opt.passes.onnx.nodes import BEYOND_EVERY_AXIS, attribute, constant, integers, optional_argument


def taken_axes(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """Returns the axes along which Slice, Gather or Split takes parts; None where they are computed."""
    if node.op_type in ("Gather", "Split"):
        return (attribute(node, "axis", 0) % rank,)
    parameters = slice_parameters(node, rank)
    if parameters is None:
        return None
    return tuple(axis for axis, bounds in parameters.items() if not is_whole(bounds))


def takes_one(node: ir.Node, rank: int) -> bool:
    """Whether a Gather or Slice along one axis takes a single position that is known."""
    if node.op_type == "Gather":
        index = constant(node.inputs[1], 1)
        return index is not None and index.size == 1
    partial = [bounds for bounds in (slice_parameters(node, rank) or {}).values() if not is_whole(bounds)]
    if len(partial) != 1:
        return False
    start, end, step = partial[0]
    return step == 1 and (
        (start >= 0 and end == start + 1) or (start < -1 and end == start + 1) or (start == -1 and end >= 2**31 - 1)
    )


def slice_parameters(node: ir.Node, rank: int) -> dict[int, tuple[int, int, int]] | None:
    """Returns start, end and step by axis; None where they are computed."""
    starts, ends, axes, steps = (integers(optional_argument(node, index)) for index in range(1, 5))
    if starts is None or ends is None:
        return None
    if axes is None:
        if optional_argument(node, 3) is not None:
            return None
        axes = tuple(range(len(starts)))
    if steps is None:
        if optional_argument(node, 4) is not None:
            return None
        steps = (1,) * len(starts)
    bounds = zip(axes, starts, ends, steps, strict=True)
    return {axis % rank: (start, end, step) for axis, start, end, step in bounds}


def is_whole(bounds: tuple[int, int, int]) -> bool:
    """Whether a slice takes all of its axis."""
    start, end, step = bounds
    return start == 0 and step == 1 and end >= BEYOND_EVERY_AXIS
