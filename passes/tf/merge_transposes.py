"""Drops Transposes that do nothing, and joins those that follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.node_defs import attribute_dtype, constant_value, make_constant, make_node
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult


class MergeTransposes(GraphPass):
    """Bypasses a Transpose that keeps all axes, and lets the second of two read what the first reads.

    Both permutations have to be Consts. The first Transpose goes where nothing else reads it.

    Before:
        Transpose(x, [0, 1, 2]) -> a    Transpose(Transpose(y, [0, 2, 1, 3]), [0, 1, 3, 2])
    After:
        x -> a                          Transpose(y, [0, 2, 3, 1])
    """

    name: ClassVar[str] = "merge_transposes"

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`."""
        editor = GraphEditor(graph_def, border)
        orders: dict[str, list[int]] = {}
        sources: dict[str, str] = {}
        for name in editor.view.topological_order():
            node = editor.view.node(name)
            order = transpose_order(editor, node)
            if order is None:
                continue
            source = editor.view.data_inputs(name)[0]
            orders[name], sources[name] = order, source.tensor_name
            if source.node in orders:
                orders[name] = [orders[source.node][axis] for axis in order]
                sources[name] = sources[source.node]
            if orders[name] == list(range(len(order))):
                _bypass(editor, node, sources[name])
            elif sources[name] != source.tensor_name:
                _retarget(editor, node, sources[name], orders[name])
        return editor.finish()


def transpose_order(editor: GraphEditor, node: NodeDef) -> list[int] | None:
    """Returns the constant permutation of a Transpose that may be rewritten; None for any other node."""
    if node.op != "Transpose" or not editor.is_free(node.name):
        return None
    value = constant_value(editor.view.input_node(node.name, 1))
    return None if value is None else [int(axis) % value.size for axis in value]


def _bypass(editor: GraphEditor, node: NodeDef, source: str) -> None:
    if editor.is_fetched(node.name):
        kind = attribute_dtype(node, "T")
        editor.replace(make_node(node.name, "Identity", [source], device=node.device, T=kind))
    else:
        editor.redirect(node.name, source)
    editor.count()


def _retarget(editor: GraphEditor, node: NodeDef, source: str, order: Sequence[int]) -> None:
    kind = attribute_dtype(node, "Tperm")
    axes = editor.add(make_constant(f"{node.name}/order", list(order), kind, device=node.device), before=node.name)
    merged = NodeDef()
    merged.CopyFrom(node)
    merged.input[:] = [source, axes]
    editor.replace(merged)
    editor.count()
