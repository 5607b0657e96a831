"""Merges nodes that compute the same."""

from __future__ import annotations

from typing import ClassVar

from tensorflow.core.framework.graph_pb2 import GraphDef

from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.node_defs import is_stateful, structure_key
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult


class MergeDuplicates(GraphPass):
    """Lets the readers of equal stateless nodes read one of them (common subexpressions).

    Equal are nodes of one op and device with equal attributes and inputs, among them Consts of equal value. Random ops
    have state and are never merged, placeholders and weights neither. Nodes with control edges and nodes that v1
    control flow governs stay: equal nodes of two loops are not equal. Of several equal nodes a fetched one stays.

    Before:
        Relu(x) -> a    Relu(x) -> b    Add(a, b)
    After:
        Relu(x) -> a    Add(a, a)
    """

    name: ClassVar[str] = "merge_duplicates"
    ensures: ClassVar[frozenset[str]] = frozenset({"no_duplicates"})

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`."""
        editor = GraphEditor(graph_def, border)
        chosen: dict[tuple[object, ...], str] = {}
        for name in editor.view.topological_order():
            node = editor.view.node(name)
            if node.op.startswith("Placeholder") or is_stateful(node.op) or not editor.is_free(name):
                continue
            key = structure_key(node, [editor.resolve(reference) for reference in node.input])
            first = chosen.setdefault(key, name)
            if first == name:
                continue
            if editor.is_fetched(name):
                if editor.is_fetched(first):
                    continue
                first, name = name, first
                chosen[key] = first
            if _has_readers(editor, name):
                _redirect_all(editor, name, first)
                editor.count()
        return editor.finish()


def _has_readers(editor: GraphEditor, name: str) -> bool:
    return bool(editor.view.data_consumers(name))


def _redirect_all(editor: GraphEditor, old: str, new: str) -> None:
    for index in sorted({use.output_index for use in editor.view.data_consumers(old)}):
        editor.redirect(f"{old}:{index}", f"{new}:{index}")
