"""Computes nothing for padding: the real tokens of a batch are packed, and only attention sees all positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import onnx_ir as ir

from tf_opt.passes.onnx.nodes import producer, remove_unread
from tf_opt.passes.onnx.pass_base import OnnxPass
from tf_opt.passes.onnx.skip_padding_index import GraphWriter, TokenIndex
from tf_opt.passes.onnx.skip_padding_plan import Mode, Plan, Planner
from tf_opt.passes.onnx.taken_parts import slice_parameters
from tf_opt.passes.onnx.token_facts import ORIGINAL, Rows
from tf_opt.passes.onnx.token_layout import TokenLayout, token_layout
from tf_opt.passes.onnx.token_rules import refuse


class SkipPadding(OnnxPass):
    """Packs tokens by a mask, so that work grows with the real tokens instead of batch × sequence.

    Outputs keep their shapes. Their values at real positions are the original's; padded positions of what was packed
    are 0. A position that is picked from a sequence (the first token, for a classifier) is 0 where it is padding.

    Before:
        y = MatMul(x, w)                      x [batch, sequence, 384]
        scores = Add(MatMul(q, k), (1 - mask) * -10000)
        z = MatMul(Softmax(scores), v)
    After:
        p = Gather(Reshape(x, [-1, 384]), places)                 [1, tokens, 384]
        y = Gather(Squeeze(MatMul(p, w)), index)                  [batch, sequence, 384], for attention only
        scores, z as before, and z packed again for the next product

    Args:
        mask: Name of the graph input of shape [batch, sequence] (axes of size 1 between the two are allowed) that is
            not 0 where a token is. Any numeric element type, or bool.

    Attributes:
        changed_outputs: Names of the outputs that the latest run changed at padded positions, or in rows whose picked
            position is padding. What reads them besides the user must not mix positions either.
    """

    name: ClassVar[str] = "skip_padding"

    def __init__(self, mask: str) -> None:
        """See the class."""
        self.mask = mask
        self.changed_outputs: tuple[str, ...] = ()

    def run(self, model: ir.Model) -> int:
        """Returns the number of matrix products that were packed.

        Raises:
            SkipPaddingError: A real token could depend on a padded position, or the mask cannot be found. The model
                is then as it was.
        """
        self.changed_outputs = ()
        layout = token_layout(model, self.mask)
        if layout.sequence == 1:
            return 0
        planner = Planner(model, layout)
        plan = planner.plan()
        if not plan.products:
            return 0
        _refuse_outputs(model, plan, layout)
        changed = [value for value in model.graph.outputs if not plan.facts.get(value, ORIGINAL).is_original]
        self.changed_outputs = tuple(str(value.name) for value in changed)
        _Packing(model.graph, layout, planner, plan).apply()
        return plan.products


def _refuse_outputs(model: ir.Model, plan: Plan, layout: TokenLayout) -> None:
    for value in model.graph.outputs:
        node = value.producer()
        if plan.seen(value).rows is Rows.CHOSEN and layout.sequence_axes_of(value) and node is not None:
            refuse(node, "gives every token a part of one that may be padding.")


class _Packing:
    """Carries out a plan."""

    def __init__(self, graph: ir.Graph, layout: TokenLayout, planner: Planner, plan: Plan) -> None:
        self._graph = graph
        self._layout = layout
        self._planner = planner
        self._plan = plan
        self._writer = GraphWriter(graph)
        self._index = TokenIndex(self._writer, layout, self._roots())
        # By original value. A packed node's own output is the packed tensor.
        self._full: dict[ir.Value, ir.Value] = {}
        self._packed: dict[tuple[ir.Value, str], ir.Value] = {}
        self._filled: dict[ir.Value, ir.Value] = {}

    def apply(self) -> None:
        """Changes the graph."""
        shapes = [value.shape for value in self._graph.outputs]
        unread: list[ir.Value] = []
        for node, mode in self._plan.modes.items():
            before = [value for value in node.inputs if value is not None]
            if mode is Mode.PACKED:
                self._pack(node)
            elif mode is Mode.CHOSEN:
                self._choose(node)
            elif mode is Mode.SHAPE:
                self._shape(node)
            elif not self._reshape(node):
                for index, value in enumerate(node.inputs):
                    if value is not None:
                        node.replace_input_with(index, self._for_all(value))
            unread += [*before, *node.outputs]
        for position, shape in enumerate(shapes):
            self._finish(position, shape)
        remove_unread(unread)
        remove_unread(value for node in self._writer.nodes for value in node.outputs)
        self._graph.sort()

    def _roots(self) -> list[ir.Value]:
        """Original tensors that are packed, but for those that are computed from packed ones."""
        roots: dict[ir.Value, None] = {}
        for node, mode in self._plan.modes.items():
            if mode is Mode.PACKED:
                for value in node.inputs:
                    source = None if value is None else self._pair_of(value)
                    if source is not None and self._is_root(source):
                        roots[source] = None
        return list(roots)

    def _is_root(self, value: ir.Value) -> bool:
        return (
            value not in self._plan.derived
            and self._plan.facts.get(value, ORIGINAL).is_original
            and self._layout.leading(value) == "pair"
        )

    def _pair_of(self, value: ir.Value) -> ir.Value:
        """Returns the tensor [batch, sequence, ...] that an original tensor [batch × sequence, ...] was made of."""
        reshape = producer(value, "Reshape")
        source = None if reshape is None else reshape.inputs[0]
        is_joined = (
            source is not None
            and self._plan.facts.get(value, ORIGINAL).is_original
            and self._layout.leading(value) == "merged"
            and self._layout.leading(source) == "pair"
            and self._layout.tail(source, "pair") == self._layout.tail(value, "merged")
        )
        return source if is_joined and source is not None else value

    def _pack(self, node: ir.Node) -> None:
        plan, output = self._plan, node.outputs[0]
        leading = plan.packed[output]
        for index in range(len(node.inputs) if self._planner.is_elementwise(node) or node.op_type == "Concat" else 1):
            value = node.inputs[index]
            if value is None or value in plan.packed:
                continue
            kind = self._planner.operand(value, output, leading)
            if kind is not None and kind != "as it is":
                node.replace_input_with(index, self._packed_operand(value, kind, output))
        if node.op_type == "Reshape":
            tail = self._layout.tail(output, leading)
            lead = [1, -1] if leading == "pair" else [-1]
            node.replace_input_with(1, self._writer.integers([*lead, *tail]))
            node.attributes.pop("allowzero", None)
        for value in node.outputs:
            tail = self._layout.tail(value, leading)
            lead_dims: list[int | None] = [1, None] if leading == "pair" else [None]
            if value.shape is not None:
                value.shape = ir.Shape([*lead_dims, *tail])

    def _packed_operand(self, value: ir.Value, kind: str, output: ir.Value) -> ir.Value:
        key = (value, kind)
        if key in self._packed:
            return self._packed[key]
        source = self._full.get(value, value)
        rank = self._layout.shapes.rank(value) or 0
        if kind == "positions":
            axis = 1 - ((self._layout.shapes.rank(output) or 0) - rank)
            packed = self._index.by_position(source, axis)
        elif kind == "rows":
            packed = self._index.by_row(source, rank)
        elif kind == "pair":
            packed = self._index.packed(source, "pair", self._is_root(value), self._layout.tail(value, "pair"))
        elif (pair := self._pair_of(value)) is not value:
            # By way of its axes of rows and positions, of which either may be 1 where the mask's is not.
            lead = self._packed_operand(pair, "pair", output)
            packed = self._writer.add("Squeeze", [lead, self._writer.integers([0])], "packed")
        else:
            packed = self._index.packed(source, "merged", False, self._layout.tail(value, "merged"))
        self._packed[key] = packed
        return packed

    def _reshape(self, node: ir.Node) -> bool:
        """Reshapes a tensor whose first axes stay rows and positions, as splitting and joining heads does.

        Its size along them is the input's, whatever the target was computed from. With that said by a constant,
        attention is recognized around it.

        Returns:
            Whether the node is such a one.
        """
        source = node.inputs[0]
        if node.op_type != "Reshape" or source is None or self._layout.leading(node.outputs[0]) != "pair":
            return False
        shape, packed = self._layout.shapes.shape(source) or (), self._plan.packed.get(source)
        if packed == "merged" and not self._plan.facts[source].zero:
            full = self._index.unpacked(source, "merged", self._index.index)
        elif shape[:2] == (self._layout.batch, self._layout.sequence):
            full = self._for_all(source)
        else:
            return False
        node.replace_input_with(0, full)
        node.replace_input_with(1, self._writer.integers([0, 0, *self._layout.tail(node.outputs[0], "pair")]))
        node.attributes.pop("allowzero", None)
        return True

    def _for_all(self, value: ir.Value) -> ir.Value:
        """Returns a tensor with all positions, as a node that is not packed reads it."""
        if value not in self._plan.packed:
            return self._full.get(value, value)
        leading = self._plan.packed[value]
        if value not in self._full:
            self._full[value] = self._index.unpacked(value, leading)
        facts = self._plan.facts[value]
        return self._with_zeros(value) if facts.zero else self._full[value]

    def _with_zeros(self, value: ir.Value) -> ir.Value:
        """Returns a tensor with all positions, 0 at each one whose value differs from the original's."""
        if value in self._filled:
            return self._filled[value]
        layout, rank = self._layout, self._layout.shapes.rank(value) or 0
        leading = self._plan.packed.get(value)
        result = self._full.get(value, value)
        for axis in sorted(self._plan.facts[value].wrong):
            shape = layout.shapes.shape(value) or ()
            batch_axis = layout.batch_axis_of(value)
            is_merged = leading == "merged" or (batch_axis is None and shape[axis] != layout.sequence)
            axes = (None, axis) if is_merged or layout.batch == 1 else (batch_axis, axis)
            result = self._index.filled(result, value, rank, axes)
        self._filled[value] = result
        return result

    def _choose(self, node: ir.Node) -> None:
        """Picks among the numbers of the tokens instead of among the tokens."""
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        rank = self._layout.shapes.rank(source) or 0
        readers = list(output.uses())
        real = self._chosen_of(node, self._index.real, rank)
        if source in self._plan.packed:
            numbers = self._chosen_of(node, self._index.index, rank)
            chosen = self._index.unpacked(source, "pair", numbers)
        else:
            node.replace_input_with(0, self._full.get(source, source))
            chosen = output
        chosen_rank = self._layout.shapes.rank(output) or 0
        self._redirect(
            output, self._index.where(real, chosen, chosen, range(chosen_rank - rank + 2, chosen_rank)), readers
        )

    def _chosen_of(self, node: ir.Node, value: ir.Value, rank: int) -> ir.Value:
        """Applies a node that picks positions to a tensor [batch, sequence]."""
        if node.op_type == "Gather":
            return self._writer.add("Gather", [value, node.inputs[1]], "chosen", {"axis": 1})
        bounds = (slice_parameters(node, rank) or {})[1]
        start, end, step = (self._writer.integers([entry]) for entry in bounds)
        return self._writer.add("Slice", [value, start, end, self._writer.integers([1]), step], "chosen")

    def _redirect(self, value: ir.Value, replacement: ir.Value, readers: Sequence[Any]) -> None:
        self._full[value] = replacement
        for reader in readers:
            reader.node.replace_input_with(reader.idx, replacement)

    def _shape(self, node: ir.Node) -> None:
        value, output = node.inputs[0], node.outputs[0]
        assert value is not None
        shape = self._layout.shapes.shape(value) or ()
        start = node.attributes.get("start")
        end = node.attributes.get("end")
        wanted = shape[None if start is None else start.as_int() : None if end is None else end.as_int()]
        sizes = [self._index.size(dim) for dim in wanted]
        if value not in self._plan.packed or not wanted or None in sizes:
            node.replace_input_with(0, self._for_all(value))
            return
        self._redirect(output, self._writer.add("Concat", sizes, "shape", {"axis": 0}), list(output.uses()))

    def _finish(self, position: int, shape: ir.Shape | None) -> None:
        """Gives a graph output all positions, 0 at padded ones, and the shape that was declared."""
        value = self._graph.outputs[position]
        facts = self._plan.facts.get(value, ORIGINAL)
        if value in self._plan.packed or facts.wrong:
            self._for_all(value)
            result = self._with_zeros(value)
        else:
            result = self._full.get(value, value)
        if result is value:
            return
        name = value.name or ""
        value.name = self._writer.unused(f"{name}/tokens")
        result.name, result.shape, result.type = name, shape, value.type
        self._graph.outputs[position] = result
