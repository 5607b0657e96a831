"""Removes what computes nothing: constants as nodes, Identity, nodes and initializers that nothing reads."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass

from tf_opt.passes.onnx.nodes import argument, bypass, owner
from tf_opt.passes.onnx.pass_base import OnnxPass


class Prune(OnnxPass):
    """Makes Constant nodes initializers, and drops Identity nodes and whatever does not reach an output.

    An Identity stays where an output needs a name of its own: in front of it is an input, a constant or another output.

    Before:
        c = Constant<value=2.0>()    i = Identity(x)    unread = Neg(x)    y = Mul(i, c)
    After, c being an initializer:
        y = Mul(x, c)
    """

    name: ClassVar[str] = "prune"
    ensures: ClassVar[frozenset[str]] = frozenset({"pruned"})

    def run(self, model: ir.Model) -> int:
        """See `OnnxPass.run`."""
        graph = model.graph
        nodes, initializers = graph.num_nodes(), len(graph.initializers)
        modified = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model).modified
        lifted = max(len(graph.initializers) - initializers, 0)
        for node in list(graph):
            if node.op_type == "Identity" and node.domain == "" and node.graph is not None:
                modified |= _drop_identity(node)
        modified |= RemoveUnusedNodesPass()(model).modified
        if not modified:
            return 0
        return max(1, nodes - graph.num_nodes() + initializers + lifted - len(graph.initializers))


def _drop_identity(node: ir.Node) -> bool:
    value, source = node.outputs[0], argument(node, 0)
    if bypass(node, source):
        return True
    if source.producer() is None or source.is_graph_output() or source.graph is not value.graph:
        return False
    graph = owner(node)
    name = value.name
    source.type, source.shape = value.type, value.shape  # What the model declares of its output.
    value.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    source.name = name
    return True
