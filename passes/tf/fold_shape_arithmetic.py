"""Replaces arithmetic on shapes by constants, or by one shared computation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
    * the target of a Reshape: entries as constants, one unknown entry as -1, so that most targets are constant
    * a Reshape or BroadcastTo to the shape that its input has: gone
    * anything else: one shared StridedSlice(Shape(...)) for each unknown dimension of the whole graph, and one shared
      Pack, Mul, AddV2, ... for equal expressions

    Of several unknown entries of a Reshape target, the one that the fewest targets of the graph have becomes -1, so
    that the others come from few providers; among equals the first, which is most often the batch: -1 can be inferred
    for an empty batch, but not where another entry is 0.

    Before, for x of shape [b, s, 8]:
        Reshape(x, Pack(Prod(Shape(x)[0:2]), 8)) -> t    Reshape(t, Pack(Shape(x)[0], Shape(x)[1], 2, 4))
    After:
        Reshape(x, Const [-1, 8]) -> t                   Reshape(t, Pack(-1, StridedSlice(Shape(x), [1]), 2, 4))
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
        self.uses = self._count_uses()

    def _count_uses(self) -> Counter[Dim]:
        """Counts in how many Reshape targets with several unknown entries each unknown dimension stands."""
        uses: Counter[Dim] = Counter()
        for node in self.editor.view:
            # A Reshape that goes has no say; otherwise a second run would count, and choose, differently.
            counts = node.op == "Reshape" and not self._is_trivial(node)
            shape = self.shapes.shape(node.name) if counts else None
            unknown = {dim for dim in shape or () if not isinstance(dim, int)}
            if len(unknown) > 1:
                uses.update(unknown)
        return uses

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
        return reshape_target(self.nodes, written, self.shapes.shape(node.name), dtype, user=node.name, uses=self.uses)

    def _write(self, value: SymbolicValue, dtype: str, user: str) -> str | None:
        entries: list[Dim] = value.ravel().tolist()
        if all(isinstance(entry, int) for entry in entries):
            return self.nodes.constant(value.tolist(), dtype, user=user)
        if value.ndim == 0:
            return self.nodes.scalar(entries[0], dtype, user=user)
        return self.nodes.vector(tuple(entries), dtype, user=user) if value.ndim == 1 else None


def reshape_target(
    nodes: ShapeNodes,
    written: Sequence[Dim],
    resolved: tuple[Dim, ...] | None,
    dtype: str,
    *,
    user: str,
    uses: Mapping[Dim, int] | None = None,
) -> str | None:
    """Returns the target vector of a Reshape with as few entries to compute as possible.

    Args:
        nodes: Builds the nodes.
        written: The entries as the graph has them; one may be -1.
        resolved: The shape of the result, where it is known.
        dtype: Dtype of the target, "int32" or "int64".
        user: Name of the Reshape.
        uses: How many targets of the graph have an unknown dimension; the rarest one becomes -1.

    Returns:
        The tensor, or None where some entry can be neither computed before `user` nor left to -1.
    """
    dims = list(resolved) if resolved is not None and len(resolved) == len(written) else list(written)
    unknown = [position for position, dim in enumerate(dims) if not isinstance(dim, int) or dim == -1]
    if not unknown:
        return nodes.constant(dims, dtype, user=user)
    if uses is not None:
        unknown.sort(key=lambda position: uses.get(dims[position], 0))  # stable: the first among equals
    for position in unknown:
        rest = dims[:position] + dims[position + 1 :]
        # With a 0 beside it, -1 could not be inferred; and there can be only one -1.
        if 0 in rest or -1 in rest:
            continue
        target = nodes.vector((*dims[:position], -1, *dims[position + 1 :]), dtype, user=user)
        if target is not None:
            return target
    return nodes.vector(tuple(dims), dtype, user=user) if -1 not in dims else None
