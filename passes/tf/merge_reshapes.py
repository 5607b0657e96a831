"""Drops Reshape, Squeeze and ExpandDims that undo or repeat each other."""

from __future__ import annotations

from typing import ClassVar

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.node_defs import make_node
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult
from tf_opt.passes.tf.symbolic_shapes import SymbolicShapes

ORDER_KEEPING_OPS = frozenset({"Reshape", "Squeeze", "ExpandDims"})
"""Ops that change the shape of a tensor and neither the values nor their order."""


class MergeReshapes(GraphPass):
    """Reads through chains of shape changes.

    * the end of a chain has the shape of its start: the chain is bypassed
    * a Reshape in the chain makes what came before it irrelevant: it reads the start of the chain, or the last link
      whose Shape is read

    Before, for w of shape [64]:
        Squeeze(Reshape(w, [1, 1, 1, 64]), [0, 1, 2]) -> a    Reshape(ExpandDims(x, 1), [-1, 2, 4])
    After:
        w -> a                                                Reshape(x, [-1, 2, 4])
    """

    name: ClassVar[str] = "merge_reshapes"

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`."""
        editor = GraphEditor(graph_def, border)
        ends = [node for node in graph_def.node if _link(editor, node.name) is not None]
        if not any(_link(editor, str(_link(editor, node.name))) is not None for node in ends):
            return editor.finish()
        shapes = SymbolicShapes(graph_def, border)
        for name in shapes.position:
            if _link(editor, name) is not None:
                _merge(editor, shapes, editor.view.node(name))
        return editor.finish()


def _link(editor: GraphEditor, name: str) -> str | None:
    """Returns the node whose tensor a shape-changing node reads; None where the node is no link of a chain."""
    if editor.view.op(name) not in ORDER_KEEPING_OPS or not editor.is_free(name):
        return None
    return editor.view.data_inputs(name)[0].node


def _merge(editor: GraphEditor, shapes: SymbolicShapes, node: NodeDef) -> None:
    sources: list[str] = []  # tensors above the end, nearest first
    link: str | None = node.name
    while link is not None and _link(editor, link) is not None:
        sources.append(editor.view.data_inputs(link)[0].tensor_name)
        link = _link(editor, link)
    if len(sources) < 2:
        return
    shape = shapes.shape(node.name)
    for source in reversed(sources):
        if shape is not None and shapes.shape(source) == shape:
            if editor.is_fetched(node.name):
                kind = node.attr["T"].type
                identity = make_node(node.name, "Identity", [source], device=node.device)
                identity.attr["T"].type = kind
                editor.replace(identity)
            else:
                editor.redirect(node.name, source)
            editor.count()
            return
    if node.op == "Reshape":
        start = _start(editor, node.name)
        if start != sources[0]:
            editor.set_input(node.name, 0, start)
            editor.count()


def _start(editor: GraphEditor, name: str) -> str:
    """Returns the tensor farthest up the chain such that nothing computes with the sizes of the links between.

    A link whose Shape is read stays anyway; with its sizes CollapseTensordot needs no other Reshape, nor that Shape.
    """
    reference = editor.view.data_inputs(name)[0]
    while _link(editor, reference.node) is not None:
        if any(editor.view.op(use.node) == "Shape" for use in editor.view.consumers(reference.node)):
            break
        reference = editor.view.data_inputs(reference.node)[0]
    return reference.tensor_name
