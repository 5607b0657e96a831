"""Drops explicit broadcasting where the reader broadcasts by itself."""

from __future__ import annotations

from typing import ClassVar

from tensorflow.core.framework.graph_pb2 import GraphDef

from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult
from tf_opt.passes.tf.shape_rules import BROADCAST_OPS, broadcast_shapes
from tf_opt.passes.tf.symbolic_shapes import SymbolicShapes

_EXPANDING_OPS = frozenset({"BroadcastTo", "Reshape", "ExpandDims", "Tile"})


class RemoveBroadcasts(GraphPass):
    """Lets broadcasting ops read what a BroadcastTo reads, or what a Reshape that only adds leading ones reads.

    A reader is changed where its result provably keeps its shape; the other readers still read the BroadcastTo.

    Before, for x of shape [b, s, 8], p of shape [s, 8] and g of shape [8]:
        Add(x, BroadcastTo(p, [b, s, 8]))    Mul(x, Reshape(g, [1, 1, 8]))
    After:
        Add(x, p)                            Mul(x, g)
    """

    name: ClassVar[str] = "remove_broadcasts"

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`."""
        editor = GraphEditor(graph_def, border)
        candidates = {node.name for node in graph_def.node if node.op in _EXPANDING_OPS and editor.is_free(node.name)}
        readers = {
            use.node
            for name in candidates
            for use in editor.view.data_consumers(name)
            if editor.view.op(use.node) in BROADCAST_OPS and use.node not in editor.governed
        }
        if not readers:
            return editor.finish()
        shapes = SymbolicShapes(graph_def, border)
        for name in shapes.position:
            if name in readers:
                _simplify(editor, shapes, candidates, name)
        return editor.finish()


def _simplify(editor: GraphEditor, shapes: SymbolicShapes, candidates: set[str], name: str) -> None:
    tensors = [reference.tensor_name for reference in editor.view.data_inputs(name)]
    result = shapes.shape(name)
    for position, reference in enumerate(editor.view.data_inputs(name)):
        if reference.node not in candidates:
            continue
        source = editor.view.data_inputs(reference.node)[0].tensor_name
        before, after = shapes.shape(source), shapes.shape(tensors[position])
        if before is None or after is None or not _only_broadcasts(editor.view.op(reference.node), before, after):
            continue
        changed = [*tensors[:position], source, *tensors[position + 1 :]]
        operands = [shape for shape in map(shapes.shape, changed) if shape is not None]
        if len(operands) == len(changed) and broadcast_shapes(operands) == result:
            tensors = changed
            editor.set_input(name, position, source)
            editor.count()


def _only_broadcasts(op: str, before: tuple[object, ...], after: tuple[object, ...]) -> bool:
    """Whether the node repeats its input along leading or size-one axes, and moves nothing."""
    if op == "BroadcastTo":
        return True
    if op == "Tile":  # along axes of size 1 only, repeating is broadcasting
        return len(before) == len(after) and all(old in (1, new) for old, new in zip(before, after, strict=False))
    extra = len(after) - len(before)
    return extra > 0 and after == (1,) * extra + before
