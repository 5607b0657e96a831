"""Replaces arithmetic on shapes by constants, or by one shared computation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import dtypes

from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.node_defs import make_node
from tf_opt.passes.tf.node_facts import SymbolicValue
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult
from tf_opt.passes.tf.shape_nodes import ShapeNodes
from tf_opt.passes.tf.symbolic_dims import Dim, is_nonnegative
from tf_opt.passes.tf.symbolic_shapes import SymbolicShapes


class FoldShapeArithmetic(GraphPass):
    """Replaces integer tensors that follow from shapes, where other nodes read them.

    * known entirely: a Const
    * the target of a Reshape: a Const where at most one entry is unknown, which then is -1; otherwise no -1 at all
    * a Reshape or BroadcastTo to the shape that its input has: gone
    * anything else: one shared StridedSlice(Shape(...)) for each unknown dimension of the whole graph, and one shared
      Pack, Mul, AddV2, ... for equal expressions

    A -1 is written only beside constants greater than 0, where it is exact for empty tensors too; beside an entry
    that is 0 for some feed, Reshape would infer another size. Where several entries are unknown, a -1 stays that the
    graph itself has, and no other comes.

    Before, for x of shape [b, s, 8]:
        Reshape(x, Pack(Prod(Shape(x)[0:2]), 8)) -> t    Reshape(t, Pack(Shape(x)[0], Shape(x)[1], 2, 4))
    After:
        Reshape(x, Const [-1, 8]) -> t                   Reshape(t, Pack(Shape(x)[0], Shape(x)[1], 2, 4))
    """

    name: ClassVar[str] = "fold_shape_arithmetic"
    ensures: ClassVar[frozenset[str]] = frozenset({"shape_arithmetic_folded"})

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`."""
        return _Folding(graph_def, border).run()


class _Folding:
    def __init__(self, graph_def: GraphDef, border: Border) -> None:
        self.editor = GraphEditor(graph_def, border)
        self.shapes = SymbolicShapes(graph_def, border)
        self.nodes = ShapeNodes(self.editor, self.shapes)

    def run(self) -> PassResult:
        for name in self.shapes.position:
            # Data inputs may be replaced even below control inputs: the node itself still waits for them.
            if name not in self.editor.governed:
                self._fold_node(self.editor.view.node(name))
        return self.editor.finish()

    def _fold_node(self, node: NodeDef) -> None:
        if node.op in ("Reshape", "BroadcastTo") and self._is_trivial(node):
            self._bypass(node)
            return
        if self.shapes.value(node.name) is not None and not self.editor.is_fetched(node.name):
            return  # part of the arithmetic: what reads its end is rewritten, and it goes when nothing needs it
        for position, reference in enumerate(self.editor.view.data_inputs(node.name)):
            value = self.shapes.value(reference.tensor_name)
            if value is None or self.editor.view.op(reference.node) == "Const":
                continue
            dtype = self.shapes.dtype(reference.tensor_name)
            if node.op == "Reshape" and position == 1:
                replacement = self._reshape_target(node, value, dtype)
            else:
                replacement = self._write(value, dtype, node.name)
            if replacement is not None and replacement != node.input[position]:
                self.editor.set_input(node.name, position, replacement)
                self.editor.count()

    def _is_trivial(self, node: NodeDef) -> bool:
        before, after = self.shapes.shape(self.editor.view.data_inputs(node.name)[0].tensor_name), None
        if before is not None:
            after = self.shapes.shape(node.name)
        return before is not None and before == after and self.editor.is_free(node.name)

    def _bypass(self, node: NodeDef) -> None:
        source = self.editor.view.data_inputs(node.name)[0].tensor_name
        if self.editor.is_fetched(node.name):
            kind = dtypes.as_dtype(self.shapes.dtype(source))
            self.editor.replace(make_node(node.name, "Identity", [node.input[0]], device=node.device, T=kind))
        else:
            self.editor.redirect(node.name, source)
        self.editor.count()

    def _reshape_target(self, node: NodeDef, value: SymbolicValue, dtype: str) -> str | None:
        if value.ndim != 1:
            return None
        written: list[Dim] = value.tolist()
        if not all(entry == -1 or is_nonnegative(entry) for entry in written):
            return self._write(value, dtype, node.name)
        return reshape_target(self.nodes, written, self.shapes.shape(node.name), dtype, user=node.name)

    def _write(self, value: SymbolicValue, dtype: str, user: str) -> str | None:
        entries: list[Dim] = value.ravel().tolist()
        if all(isinstance(entry, int) for entry in entries):
            return self.nodes.constant(value.tolist(), dtype, user=user)
        if value.ndim == 0:
            return self.nodes.scalar(entries[0], dtype, user=user)
        return self.nodes.vector(tuple(entries), dtype, user=user) if value.ndim == 1 else None


def reshape_target(
    nodes: ShapeNodes, written: Sequence[Dim], resolved: Sequence[Dim] | None, dtype: str, *, user: str
) -> str | None:
    """Returns the target vector of a Reshape, the same shape as the original one also for empty tensors.

    Args:
        nodes: Builds the nodes.
        written: The entries as the graph has them; one may be -1, any other is certainly at least 0.
        resolved: The shape of the result, where it is known.
        dtype: Dtype of the target, "int32" or "int64".
        user: Name of the Reshape.

    Returns:
        The tensor, or None where some entry can neither be computed before `user` nor be left to -1.
    """
    dims = resolved if resolved is not None and len(resolved) == len(written) else written
    target = with_exact_minus_one(dims)
    # With several unknown entries the graph's own -1 stays: it costs no provider, and only it infers as TensorFlow
    # does where several of them are 0.
    if -1 in written and not all(isinstance(dim, int) for dim in target):
        target = tuple(written)
    return nodes.vector(target, dtype, user=user)


def with_exact_minus_one(dims: Sequence[Dim]) -> tuple[Dim, ...]:
    """Returns a Reshape target with -1 for the unknown entry, where it is the only one, beside constants above 0.

    Only there -1 is exact: beside a 0, Reshape infers it from those sizes of the input that are not 0.
    """
    unknown = [position for position, dim in enumerate(dims) if not isinstance(dim, int)]
    if len(unknown) != 1 or any(isinstance(dim, int) and dim < 1 for dim in dims):
        return tuple(dims)
    return tuple(dim if isinstance(dim, int) else -1 for dim in dims)
