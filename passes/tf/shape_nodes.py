"""Writes symbolic dimensions back into the graph, as few nodes as possible.

Each atom has one provider in the whole graph, an element of the Shape of the first tensor that has it as a dimension,
and equal expressions share one node, also with nodes that the graph already has:

    [input_ids:0[1], 768]   ->   Pack(StridedSlice(Shape(input_ids), [1]), 768)
"""

from __future__ import annotations

from typing import Any

from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import dtypes

from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.graph_view import parse_input
from tf_opt.passes.tf.node_defs import make_constant, make_node, structure_key
from tf_opt.passes.tf.symbolic_dims import Atom, Dim, Expression
from tf_opt.passes.tf.symbolic_shapes import SymbolicShapes

_PREFIX = "shapes"
_OPS = frozenset(
    {"Const", "Shape", "StridedSlice", "Pack", "Mul", "AddV2", "FloorDiv", "FloorMod", "Minimum", "Maximum"}
)
_OPERATIONS = {"floordiv": "FloorDiv", "mod": "FloorMod", "minimum": "Minimum", "maximum": "Maximum"}


class _NoProviderError(Exception):
    """An atom cannot be computed at that place of the graph; caught in this file."""


class ShapeNodes:
    """Builds nodes for constants, scalars and vectors of dimensions.

    Args:
        editor: Where nodes are added.
        shapes: The analysis of the graph that `editor` edits.
    """

    def __init__(self, editor: GraphEditor, shapes: SymbolicShapes) -> None:
        self._editor = editor
        self._shapes = shapes
        self._known: dict[tuple[object, ...], str] = {}
        for name in shapes.position:
            node = editor.view.node(name)
            if node.op in _OPS and editor.is_free(name):
                self._known.setdefault(structure_key(node), name)

    def constant(self, value: Any, dtype: str, *, user: str) -> str:
        """Returns a Const (a new one, or one that the graph has) with `value`, for use by the node called `user`."""
        return self._shared(make_constant(f"{_PREFIX}/constant", value, dtypes.as_dtype(dtype)), user)

    def vector(self, dims: tuple[Dim, ...], dtype: str, *, user: str) -> str | None:
        """Returns a vector with the entries `dims`; None where one of them cannot be computed before `user`."""
        if all(isinstance(dim, int) for dim in dims):
            return self.constant(list(dims), dtype, user=user)
        try:
            scalars = [self._scalar(dim, dtype, user) for dim in dims]
        except _NoProviderError:
            return None
        node = make_node(f"{_PREFIX}/vector", "Pack", scalars, T=dtypes.as_dtype(dtype), N=len(scalars), axis=0)
        return self._shared(node, user)

    def scalar(self, dim: Dim, dtype: str, *, user: str) -> str | None:
        """Returns a scalar that equals `dim`; None where it cannot be computed before the node called `user`."""
        try:
            return self._scalar(dim, dtype, user)
        except _NoProviderError:
            return None

    def can_provide(self, dim: Dim, *, user: str) -> bool:
        """Whether `dim` can be computed from tensors that come before the node called `user`."""
        if isinstance(dim, int):
            return True
        return all(self._can_provide_atom(atom, user) for monomial, _ in dim.terms for atom in monomial)

    def _can_provide_atom(self, atom: Atom, user: str) -> bool:
        if self._provider(atom, user) is not None:
            return True
        return atom.operation in _OPERATIONS and all(self.can_provide(part, user=user) for part in atom.operands)

    def _provider(self, atom: Atom, user: str) -> tuple[str, int] | None:
        provider = self._shapes.provider(atom.label)
        # A tensor that comes after the user may depend on it; reading its shape would close a cycle.
        if provider is None or self._shapes.position[parse_input(provider[0]).node] >= self._shapes.position[user]:
            return None
        return provider

    def _scalar(self, dim: Dim, dtype: str, user: str) -> str:
        if not isinstance(dim, Expression):
            return self.constant(dim, dtype, user=user)
        total: str | None = None
        for monomial, coefficient in dim.terms:
            term = self.constant(coefficient, dtype, user=user) if coefficient != 1 or not monomial else None
            for atom in monomial:
                factor = self._atom(atom, dtype, user)
                term = factor if term is None else self._binary("Mul", factor, term, dtype, user)
            if term is not None:  # a monomial without atoms is a constant, so there always is one
                total = term if total is None else self._binary("AddV2", total, term, dtype, user)
        return str(total)

    def _atom(self, atom: Atom, dtype: str, user: str) -> str:
        provider = self._provider(atom, user)
        if provider is None:
            if atom.operation not in _OPERATIONS:
                raise _NoProviderError(atom.label)
            left, right = (self._scalar(part, dtype, user) for part in atom.operands)
            return self._binary(_OPERATIONS[atom.operation], left, right, dtype, user)
        tensor, axis = provider
        name, kind = parse_input(tensor).node, dtypes.as_dtype(dtype)
        source = self._editor.resolve(tensor)
        element = self._shapes.dtype(tensor)
        shape = self._shared(
            make_node(f"{_PREFIX}/{name}", "Shape", [source], T=dtypes.as_dtype(element), out_type=kind), user
        )
        bounds = [self.constant([bound], "int32", user=user) for bound in (axis, axis + 1, 1)]
        node = make_node(
            f"{_PREFIX}/{name}/{axis}",
            "StridedSlice",
            [shape, *bounds],
            T=kind,
            Index=dtypes.int32,
            begin_mask=0,
            end_mask=0,
            ellipsis_mask=0,
            new_axis_mask=0,
            shrink_axis_mask=1,
        )
        return self._shared(node, user)

    def _binary(self, op: str, left: str, right: str, dtype: str, user: str) -> str:
        return self._shared(make_node(f"{_PREFIX}/{op.lower()}", op, [left, right], T=dtypes.as_dtype(dtype)), user)

    def _shared(self, node: NodeDef, user: str) -> str:
        key = structure_key(node)
        if key in self._known:
            return self._known[key]
        name = self._editor.add(node, before=user)
        self._known[key] = name
        return name
