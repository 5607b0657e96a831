"""Computes only the tokens that somebody reads: a classifier reads the first one of the last layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from tf_opt.passes.onnx.nodes import add_constant, insert, integers, rewrite
from tf_opt.passes.onnx.pass_base import OnnxPass
from tf_opt.passes.onnx.prune_tokens_rules import InputAxes, Selection, SliceShapes, input_axes, selected, sliced_target

_MINIMUM_RANK = 3
"""Slices of vectors and matrices are shape arithmetic."""

_WORTH_IT = frozenset(("Gemm", "MatMul"))
"""What has to be among the pruned nodes; without a product, moving a slice saves nothing."""


class PruneTokens(OnnxPass):
    """Moves a slice of positions in front of the work on the other positions. The result is exact.

    The slice goes up through all work that treats each position by itself, and through attention to the queries; keys
    and values stay whole. It stops where somebody reads the other positions too.

    Before:
        y = Add(MatMul(Softmax(MatMul(q(x), k(x))), v(x)), x)
        first = Gather(LayerNormalization(y), 0, axis=1)
    After:
        x0 = Slice(x, 0, 1)
        y = Add(MatMul(Softmax(MatMul(q(x0), k(x))), v(x)), x0)
        first = Squeeze(LayerNormalization(y))
    """

    name: ClassVar[str] = "prune_tokens"

    def run(self, model: ir.Model) -> int:
        """Returns the number of nodes that compute fewer positions now."""
        count = 0
        found = True
        while found:
            found = False
            shapes = SliceShapes(model)
            for value, axis, selection in _selections(model, shapes):
                region = _Region(value, axis, selection)
                region.grow(model.graph, shapes)
                if any(node.op_type in _WORTH_IT for node in region.nodes):
                    region.prune(model.graph, shapes)
                    count += len(region.nodes)
                    found = True  # The shapes have changed.
                    break
        return count


def _selections(model: ir.Model, shapes: SliceShapes) -> list[tuple[ir.Value, int, Selection]]:
    """What parts of which tensors are taken, the last ones first."""
    found: dict[tuple[ir.Value, int, Selection], None] = {}
    for node in reversed(list(model.graph)):
        value = node.inputs[0] if node.inputs else None
        taken = None if value is None or shapes.rank(value) < _MINIMUM_RANK else selected(node, shapes)
        if value is not None and taken is not None:
            axis, selection = taken
            found[value, axis, selection] = None
    return list(found)


@dataclass
class _Region:
    """What computes a tensor of which only a part is read.

    Attributes:
        value: The tensor.
        axis: The axis along which a part is read.
        selection: The part.
        nodes: The nodes that compute nothing but this tensor, the last one first, and which of their inputs are to be
            sliced along which axis.
        sliced: The tensors that they compute, and the axis along which each is sliced.
    """

    value: ir.Value
    axis: int
    selection: Selection
    nodes: dict[ir.Node, InputAxes] = field(default_factory=dict)
    sliced: dict[ir.Value, int] = field(default_factory=dict)

    def grow(self, graph: ir.Graph, shapes: SliceShapes) -> None:
        """Finds the nodes, from the tensor backwards."""
        for node in reversed(list(graph)):
            output = node.outputs[0]
            axis = self._axis_of(output, shapes)
            if axis is None or output.is_graph_output() or any(other.uses() for other in node.outputs[1:]):
                continue
            axes = input_axes(node, axis, self.selection, shapes)
            if axes is not None:
                self.nodes[node] = axes
                self.sliced[output] = axis

    def _axis_of(self, value: ir.Value, shapes: SliceShapes) -> int | None:
        """Returns the axis along which all readers of a tensor read the part alone."""
        axes = set()
        for usage in value.uses():
            if usage.node in self.nodes:
                axes.add(self.nodes[usage.node][usage.idx])
            elif value is self.value and usage.idx == 0 and selected(usage.node, shapes) == (self.axis, self.selection):
                axes.add(self.axis)
            else:
                return None
        return axes.pop() if len(axes) == 1 else None

    def prune(self, graph: ir.Graph, shapes: SliceShapes) -> None:
        """Slices what the nodes read, and takes away the slices of what they compute."""
        slices: dict[tuple[ir.Value, int], ir.Value] = {}
        for usage in self.value.uses():
            if usage.node not in self.nodes:
                self._drop(usage.node, graph, shapes)
        for node, axes in self.nodes.items():
            if node.op_type == "Reshape":
                self._retarget(node, axes, graph, shapes)
            for index, axis in enumerate(axes):
                value = node.inputs[index]
                if value is None or axis is None or self.sliced.get(value) == axis:
                    continue
                if (value, axis) not in slices:
                    slices[value, axis] = self._slice(value, axis, graph)
                node.replace_input_with(index, slices[value, axis])
        for value, axis in self.sliced.items():
            if value.shape is not None:
                dims = list(value.shape)
                value.shape = ir.Shape([*dims[:axis], 1 if self.selection.is_single else None, *dims[axis + 1 :]])

    def _retarget(self, node: ir.Node, axes: InputAxes, graph: ir.Graph, shapes: SliceShapes) -> None:
        """Gives a Reshape the size that is left along the sliced axis."""
        axis, inner, before = self.sliced[node.outputs[0]], axes[0], node.inputs[1]
        target = None if inner is None else sliced_target(node, axis, inner, self.selection, shapes)
        if target is None or before is None:
            raise ValueError(f"Reshape node {node.name!r} was taken for one that can be sliced")
        entries = integers(before)
        if entries is not None:
            kept = [old if new is None else new for old, new in zip(entries, target, strict=True)]
            after = add_constant(graph, np.asarray(kept, np.int64), "prune_tokens/target")
        else:
            size = add_constant(graph, np.asarray([target[axis]], np.int64), "prune_tokens/size")
            parts = [
                *([] if axis == 0 else [self._part(before, 0, axis, node, graph)]),
                size,
                *([] if axis == len(target) - 1 else [self._part(before, axis + 1, len(target), node, graph)]),
            ]
            after = insert(node, "Concat", parts, {"axis": 0}, name=f"{node.name}/target")
        node.replace_input_with(1, after)

    @staticmethod
    def _part(vector: ir.Value, start: int, end: int, node: ir.Node, graph: ir.Graph) -> ir.Value:
        bounds = [add_constant(graph, np.asarray([number], np.int64), "prune_tokens/bound") for number in (start, end)]
        return insert(node, "Slice", [vector, *bounds], name=f"{node.name}/target_from_{start}")

    def _drop(self, node: ir.Node, graph: ir.Graph, shapes: SliceShapes) -> None:
        """Makes a slice of the pruned tensor pass on all of it."""
        if shapes.rank(node.outputs[0]) == shapes.rank(self.value):
            rewrite(node, "Identity", [self.value])
        else:
            axes = add_constant(graph, np.asarray([self.axis], np.int64), "prune_tokens/axes")
            rewrite(node, "Squeeze", [self.value, axes])

    def _slice(self, value: ir.Value, axis: int, graph: ir.Graph) -> ir.Value:
        bounds = [
            add_constant(graph, np.asarray([number], np.int64), "prune_tokens/bound")
            for number in (self.selection.start, self.selection.end, axis)
        ]
        node = ir.node("Slice", [value, *bounds], name=f"{value.name}/prune_tokens")
        node.outputs[0].name = f"{value.name}/selected"
        producer = value.producer()
        if producer is not None:
            graph.insert_after(producer, node)
        else:
            graph.insert_before(graph[0], node)
        return node.outputs[0]
