"""Writes Erfc, which ONNX does not have, through Erf."""

from __future__ import annotations

from typing import ClassVar

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.node_defs import attribute_dtype, make_constant, make_node
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult

_SCALING_OPS = frozenset({"Mul", "RealDiv"})


class ErfcToErf(GraphPass):
    """Replaces Erfc(x) by 1 - Erf(x), and Erfc(-x) by 1 + Erf(x), the form in which engines look for GELU.

    The minus is found directly below the Erfc, and below one multiplication or division.

    Before:
        Erfc(Mul(Neg(x), c))    Erfc(y)
    After:
        AddV2(1, Erf(Mul(x, c)))    Sub(1, Erf(y))
    """

    name: ClassVar[str] = "erfc_to_erf"
    ensures: ClassVar[frozenset[str]] = frozenset({"no_erfc"})

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`."""
        editor = GraphEditor(graph_def, border)
        for node in graph_def.node:
            if node.op == "Erfc" and editor.is_free(node.name):
                _rewrite(editor, node)
        return editor.finish()


def _rewrite(editor: GraphEditor, node: NodeDef) -> None:
    kind = attribute_dtype(node, "T")
    positive = _without_minus(editor, node)
    argument = node.input[0] if positive is None else positive
    erf = editor.add(make_node(f"{node.name}/erf", "Erf", [argument], device=node.device, T=kind), before=node.name)
    one = editor.add(make_constant(f"{node.name}/one", 1.0, kind, device=node.device), before=node.name)
    op = "Sub" if positive is None else "AddV2"
    editor.replace(make_node(node.name, op, [one, erf], device=node.device, T=kind))
    editor.count()


def _without_minus(editor: GraphEditor, node: NodeDef) -> str | None:
    """Returns a tensor that is minus the argument of `node`, where the graph negates it; None where it does not."""
    view = editor.view
    source = view.input_node(node.name, 0)
    if not editor.is_free(source.name):
        return None
    if source.op == "Neg":
        return str(source.input[0])
    if source.op not in _SCALING_OPS:
        return None
    for position, reference in enumerate(view.data_inputs(source.name)):
        negation = view.node(reference.node)
        if negation.op == "Neg" and editor.is_free(negation.name):
            scaled = NodeDef()
            scaled.CopyFrom(source)
            scaled.name = f"{node.name}/scaled"
            scaled.input[position] = negation.input[0]
            return editor.add(scaled, before=node.name)
    return None
