"""The nodes that say where the real tokens are, made once for a graph, and those that pack and unpack a tensor.

For a mask [batch, sequence] with T real tokens:

    places    [2, T]               row and position of each token, in order
    index     [batch, sequence]    number of the token at each position; at a padded position that of a token of the
                                   same row, so that nothing of one row ever reaches another, not even an infinity

A packed tensor is [1, T, ...] where the original is [batch, sequence, ...], and [T, ...] where it is
[batch × sequence, ...]: ranks and the numbers of the other axes stay, and with them most nodes. There is always at
least one token, because engines disagree on empty tensors: without any, the first position counts as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from tf_opt.passes.onnx.nodes import Array, add_constant
from tf_opt.passes.onnx.token_layout import Leading, TokenLayout
from tf_opt.passes.tf.symbolic_dims import Dim

_PREFIX = "skip_padding"

_COMPARABLE = (ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64)
"""Element types that every engine compares with Equal; others are cast to float first."""


class GraphWriter:
    """Adds nodes to a graph; `graph.sort()` puts them into order at the end.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.nodes: list[ir.Node] = []
        self._constants: dict[tuple[object, ...], ir.Value] = {}
        self._counts: dict[str, int] = {}
        self._taken = {value.name for node in graph for value in node.outputs} | set(graph.initializers)

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        what: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """Adds a node of one output, which is named by `what` it is, and returns the output."""
        name = self.unused(f"{_PREFIX}/{what}")
        node = ir.node(op_type, list(inputs), attributes or {}, name=name)
        node.outputs[0].name = name
        self.graph.append(node)
        self.nodes.append(node)
        return node.outputs[0]

    def unused(self, name: str) -> str:
        """Returns the name, with a number where it is taken."""
        candidate, count = name, self._counts.get(name, 0)
        while candidate in self._taken:
            count += 1
            candidate = f"{name}_{count}"
        self._counts[name] = count
        self._taken.add(candidate)
        return candidate

    def constant(self, array: Array, what: str, dtype: ir.DataType | None = None) -> ir.Value:
        """Adds a constant, which is named by `what` it is, and returns it."""
        return add_constant(self.graph, array, self.unused(f"{_PREFIX}/{what}"), dtype)

    def integers(self, entries: Sequence[int] | int) -> ir.Value:
        """Returns a constant of int64, a vector or a scalar."""
        array = np.asarray(entries, np.int64)
        key = (array.shape, *array.ravel().tolist())
        if key not in self._constants:
            self._constants[key] = self.constant(array, "constant")
        return self._constants[key]

    def zero_like(self, value: ir.Value) -> ir.Value:
        """Returns a scalar 0 of the element type of `value`."""
        if value.dtype is None:
            key: tuple[object, ...] = ("float zero",)
        else:
            key = ("zero", value.dtype)
        if key not in self._constants:
            dtype = value.dtype or ir.DataType.FLOAT
            self._constants[key] = self.constant(np.asarray(0, dtype.numpy()), "no_value", dtype)
        zero = self._constants[key]
        return zero if value.dtype is not None else self.add("CastLike", [zero, value], "zero")


class TokenIndex:
    """Where the real tokens are.

    Args:
        writer: Adds the nodes.
        layout: The mask and its axes.
        roots: Original tensors that begin with the axes of batch and sequence. Where the mask has one row or one
            position for several of theirs, it is broadcast to them, as the model itself does.
    """

    def __init__(self, writer: GraphWriter, layout: TokenLayout, roots: Sequence[ir.Value]) -> None:
        self._writer = writer
        self._layout = layout
        self._roots = roots

    @cached_property
    def sizes(self) -> ir.Value:
        """[2]: the number of rows and of positions."""
        layout, add, integers = self._layout, self._writer.add, self._writer.integers
        known = [layout.shapes.size(dim) for dim in (layout.batch, layout.sequence)]
        if known[0] is not None and known[1] is not None:
            return integers([known[0], known[1]])
        shape = add("Shape", [layout.mask], "mask_shape")
        sizes = [add("Gather", [shape, integers([layout.batch_axis, layout.sequence_axis])], "mask_sizes")]
        sizes += [
            add("Slice", [add("Shape", [root], "shape"), integers([0]), integers([2])], "sizes") for root in self._roots
        ]
        return sizes[0] if len(sizes) == 1 else add("Max", sizes, "sizes")

    @cached_property
    def real(self) -> ir.Value:
        """[batch, sequence], bool: where the tokens are."""
        return self._writer.add("Cast", [self._ones], "real", {"to": ir.DataType.BOOL.value})

    @cached_property
    def _ones(self) -> ir.Value:
        """[batch, sequence], int64: 1 where a token is, 0 elsewhere."""
        writer, layout = self._writer, self._layout
        mask, dtype = layout.mask, layout.mask.dtype
        inner = list(range(1, layout.sequence_axis))
        if inner:
            mask = writer.add("Squeeze", [mask, writer.integers(inner)], "mask")
        if dtype is not ir.DataType.BOOL:
            if dtype not in _COMPARABLE:
                dtype = ir.DataType.FLOAT
                mask = writer.add("Cast", [mask], "mask", {"to": dtype.value})
            zero = writer.constant(np.asarray(0, dtype.numpy()), "no_token", dtype)
            mask = writer.add("Not", [writer.add("Equal", [mask, zero], "is_padding")], "is_real")
        ones = writer.add("Cast", [mask], "ones", {"to": ir.DataType.INT64.value})
        # The Reshape changes nothing; it says to readers of the graph that there are two axes.
        return writer.add("Reshape", [writer.add("Expand", [ones, self.sizes], "expanded"), self.sizes], "all_ones")

    @cached_property
    def _limit(self) -> ir.Value:
        """[1]: the number of tokens; 1 where there is none but a position that can stand in for one."""
        add, integers = self._writer.add, self._writer.integers
        # By the size of what was found, not by a sum of the mask: TensorRT takes sizes only from shapes.
        count = add("Slice", [add("Shape", [self._found], "found_shape"), integers([1]), integers([2])], "count")
        positions = add("ReduceProd", [self.sizes], "positions", {"axes": [0]} if self._is_old else None)
        return add("Max", [count, add("Min", [positions, integers([1])], "least")], "limit")

    @property
    def _is_old(self) -> bool:
        """Whether ReduceProd takes its axes as an attribute, as it does below opset 18."""
        return (self._writer.graph.opset_imports.get("") or 0) < 18

    @cached_property
    def _found(self) -> ir.Value:
        """[2, T]: row and position of each token; empty where there is none."""
        return self._writer.add("NonZero", [self._ones], "found")

    @cached_property
    def places(self) -> ir.Value:
        """[2, T]: row and position of each token."""
        writer = self._writer
        origin = writer.constant(np.zeros((2, 1), np.int64), "origin")
        padded = writer.add("Concat", [self._found, origin], "places", {"axis": 1})
        padded = writer.add("Reshape", [padded, writer.integers([2, -1])], "places")  # Says that there are two axes.
        return writer.add("Slice", [padded, writer.integers([0]), self._limit, writer.integers([1])], "places")

    @cached_property
    def token_rows(self) -> ir.Value:
        """[1, T]: the row of each token."""
        return self._writer.add(
            "Slice", [self.places, *(self._writer.integers([entry]) for entry in (0, 1, 0))], "token_rows"
        )

    @cached_property
    def token_positions(self) -> ir.Value:
        """[1, T]: the position of each token in its row."""
        return self._writer.add(
            "Slice", [self.places, *(self._writer.integers([entry]) for entry in (1, 2, 0))], "token_positions"
        )

    @cached_property
    def index(self) -> ir.Value:
        """[batch, sequence]: the number of the token at each position."""
        add, integers = self._writer.add, self._writer.integers
        running = add("CumSum", [self._ones, integers(1)], "running")
        counts = add("ReduceSum", [self._ones, integers([1])], "counts", {"keepdims": 1})
        starts = add("CumSum", [counts, integers(0)], "starts", {"exclusive": 1})
        in_row = add("Max", [add("Sub", [running, integers(1)], "in_row"), integers(0)], "in_row")
        last = add("Max", [add("Sub", [self._limit, integers(1)], "last"), integers(0)], "last")
        # A row without tokens starts where the next one does, for the last row behind the end.
        return add("Min", [add("Add", [starts, in_row], "numbers"), last], "index")

    @cached_property
    def flat_index(self) -> ir.Value:
        """[batch × sequence]: the number of the token at each position."""
        return self._writer.add("Reshape", [self.index, self._writer.integers([-1])], "flat_index")

    @cached_property
    def _flat_places(self) -> ir.Value:
        """[1, T]: where the tokens are among all positions of all rows."""
        add, integers = self._writer.add, self._writer.integers
        sequence = add("Slice", [self.sizes, integers([1]), integers([2])], "sequence")
        return add("Add", [add("Mul", [self.token_rows, sequence], "row_starts"), self.token_positions], "flat_places")

    def size(self, dim: Dim) -> ir.Value | None:
        """Returns a dimension as a vector of one entry; None where it cannot be computed from the mask."""
        add, integers, layout = self._writer.add, self._writer.integers, self._layout
        known = layout.shapes.size(dim)
        if known is not None:
            return integers([known])
        if dim == layout.batch:
            return add("Slice", [self.sizes, integers([0]), integers([1])], "rows")
        if dim == layout.sequence:
            return add("Slice", [self.sizes, integers([1]), integers([2])], "positions")
        if dim == layout.batch * layout.sequence:
            return add("ReduceProd", [self.sizes], "tokens", {"axes": [0]} if self._is_old else None)
        return None

    def packed(self, value: ir.Value, leading: Leading, is_root: bool, tail: Sequence[int]) -> ir.Value:
        """Returns the real tokens of a tensor with all positions.

        Args:
            value: [batch, sequence, *tail] or [batch × sequence, *tail].
            leading: Which of the two.
            is_root: Whether either of the first two axes may be 1 where the mask's is not.
            tail: Sizes of the other axes.
        """
        add, integers = self._writer.add, self._writer.integers
        if leading == "merged":
            places = add("Reshape", [self._flat_places, integers([-1])], "flat_places")
            return add("Gather", [value, places], "packed", {"axis": 0})
        places = self._places_in(value) if is_root and not self._is_static else self._flat_places
        rows = add("Reshape", [value, integers([-1, *tail])], "all_rows")
        return add("Gather", [rows, places], "packed", {"axis": 0})

    @property
    def _is_static(self) -> bool:
        return all(self._layout.shapes.size(dim) is not None for dim in (self._layout.batch, self._layout.sequence))

    def _places_in(self, value: ir.Value) -> ir.Value:
        """[1, T]: where the tokens are among the first two axes of `value`, of which either may be 1."""
        add, integers = self._writer.add, self._writer.integers
        shape = add("Shape", [value], "shape")
        rows = add("Slice", [shape, integers([0]), integers([1])], "rows")
        positions = add("Slice", [shape, integers([1]), integers([2])], "positions")
        # The last row and position clip the tokens' own: where an axis is 1, they are all its only entry.
        row = add("Min", [self.token_rows, add("Sub", [rows, integers(1)], "last_row")], "row")
        position = add("Min", [self.token_positions, add("Sub", [positions, integers(1)], "last_position")], "position")
        return add("Add", [add("Mul", [row, positions], "row_starts"), position], "places_in")

    def by_position(self, value: ir.Value, axis: int) -> ir.Value:
        """Returns, for each token, the entry of its position along an axis of an operand that all rows share."""
        add, integers = self._writer.add, self._writer.integers
        shape = add("Shape", [value], "shape")
        last = add("Sub", [add("Slice", [shape, integers([axis]), integers([axis + 1])], "size"), integers(1)], "last")
        places = add("Reshape", [add("Min", [self.token_positions, last], "position"), integers([-1])], "position")
        return add("Gather", [value, places], "packed", {"axis": axis})

    def by_row(self, value: ir.Value, rank: int) -> ir.Value:
        """Returns, for each token, the entry of its row of an operand that all positions share."""
        add, integers = self._writer.add, self._writer.integers
        shape = add("Shape", [value], "shape")
        last = add("Sub", [add("Slice", [shape, integers([0]), integers([1])], "size"), integers(1)], "last")
        rows = add("Reshape", [add("Min", [self.token_rows, last], "row"), integers([-1])], "row")
        gathered = add("Gather", [value, rows], "by_row", {"axis": 0})
        return add("Transpose", [gathered], "packed", {"perm": [1, 0, *range(2, rank)]})

    def unpacked(self, value: ir.Value, leading: Leading, index: ir.Value | None = None) -> ir.Value:
        """Returns a packed tensor with all positions; what stands at padded ones is some token of the same row.

        Args:
            value: [1, T, ...] or [T, ...].
            leading: How the original begins; "pair" for the former.
            index: Numbers of the tokens that are wanted instead of all.
        """
        add = self._writer.add
        if leading == "pair":
            value = add("Squeeze", [value, self._writer.integers([0])], "rows")
            index = self.index if index is None else index
        return add("Gather", [value, self.flat_index if index is None else index], "unpacked", {"axis": 0})

    def filled(self, value: ir.Value, like: ir.Value, rank: int, axes: tuple[int | None, int]) -> ir.Value:
        """Returns a tensor with 0 at the padded positions.

        Args:
            value: A tensor with all positions.
            like: The tensor that it replaces, of the same element type.
            rank: Its rank.
            axes: Its axes of rows (None: there is one row) and of positions; positions alone where the two are merged.
        """
        writer = self._writer
        batch_axis, sequence_axis = axes
        others = [axis for axis in range(rank) if axis not in axes]
        real = self.real
        if batch_axis is not None and batch_axis > sequence_axis:
            real = writer.add("Transpose", [real], "real", {"perm": [1, 0]})
        if batch_axis is None:
            real = writer.add("Reshape", [real, writer.integers([-1])], "real")
        return self.where(real, value, like, others)

    def where(self, condition: ir.Value, value: ir.Value, like: ir.Value, added: Sequence[int]) -> ir.Value:
        """Returns `value` where a condition holds and 0 elsewhere; the condition gets axes of size 1 at `added`."""
        writer = self._writer
        if added:
            condition = writer.add("Unsqueeze", [condition, writer.integers(list(added))], "real")
        return writer.add("Where", [condition, value, writer.zero_like(like)], "filled")
