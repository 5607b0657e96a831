"""Drops what does not contribute to an output."""

from __future__ import annotations

from functools import cache
from typing import ClassVar

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.passes.tf.graph_editor import GraphEditor, keep_reachable
from tf_opt.passes.tf.graph_view import GraphView
from tf_opt.passes.tf.node_defs import attribute_dtype, is_stateful
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult

PASS_THROUGH_OPS = frozenset({"Identity", "StopGradient", "PreventGradient", "CheckNumerics", "Snapshot", "IdentityN"})
"""Ops whose outputs are their inputs. CheckNumerics raises on NaN or Inf and PreventGradient on a gradient, which an
inference graph can do without."""

_ASSERTS = frozenset({"Assert"})


class Prune(GraphPass):
    """Drops unreachable nodes, pass-through nodes, assertions, and control edges that order nothing.

    A control edge matters where something above its source has state or side effects, or where control flow governs
    the source; assertions do not count, since an optimized graph does not check its inputs again. Placeholders that
    the user feeds stay even if nothing reads them. A pass-through node whose name is fetched stays.

    Before:
        x -> Identity(a) -> Relu(b) -> Identity(y)    NoOp(n) <- ^Assert(check)    y <- ^n    Relu(unused)
    After:
        x -> Relu(b) -> Identity(y)
    """

    name: ClassVar[str] = "prune"
    ensures: ClassVar[frozenset[str]] = frozenset({"pruned", "no_pass_through"})

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`."""
        reachable = keep_reachable(graph_def, graph_def.node, border)
        dropped = len(graph_def.node) - len(reachable.node)
        editor = GraphEditor(reachable, border)
        control = _without_idle_control_edges(editor)
        for node in reachable.node:
            if _is_pass_through(node, border) and not editor.is_fetched(node.name) and node.name not in editor.governed:
                if any(reference.startswith("^") for reference in editor.node(node.name).input):
                    continue
                # A control edge from a node inside a branch could not be drawn from the node's producer instead.
                for index, reference in enumerate(editor.view.data_inputs(node.name)):
                    editor.redirect(f"{node.name}:{index}", reference.tensor_name)
                editor.count()
        result = editor.finish()
        changes = dropped + control + editor.changes
        if not changes:
            return PassResult(graph_def, changed=False)
        return PassResult(result.graph_def, changed=True, changes=changes)


def _is_pass_through(node: NodeDef, border: Border) -> bool:
    if node.op == "PlaceholderWithDefault":  # nobody feeds it, or the border would name it
        return node.name not in border.inputs
    if node.op == "Cast":
        return bool(attribute_dtype(node, "SrcT") == attribute_dtype(node, "DstT"))
    return node.op in PASS_THROUGH_OPS


def _without_idle_control_edges(editor: GraphEditor) -> int:
    """Replaces the nodes whose control inputs order nothing by copies without them; returns how many edges went."""
    view, count = editor.view, 0
    stateful_above = _stateful_nodes(view)

    @cache
    def matters(source: str) -> bool:
        return source in stateful_above or source in editor.governed

    for node in editor.graph_def.node:
        if node.name in editor.governed:
            continue
        kept = [reference for reference in node.input if not reference.startswith("^") or matters(reference[1:])]
        if len(kept) != len(node.input):
            copy = NodeDef()
            copy.CopyFrom(node)
            copy.input[:] = kept
            editor.replace(copy)
            count += len(node.input) - len(kept)
    return count


def _stateful_nodes(view: GraphView) -> frozenset[str]:
    """Returns the nodes that have state or side effects, or depend on one that has."""
    starts = [
        node.name
        for node in view
        if node.op not in _ASSERTS and not node.op.startswith("Placeholder") and is_stateful(node.op)
    ]
    return view.reachable(starts, follow=view.successors)
