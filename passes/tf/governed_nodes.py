"""Finds the nodes that v1 control flow governs: inside while frames, or in one branch of a cond.

A node in a frame runs once an iteration, and a node behind a Switch may be dead. Rewrites that would be right anywhere
else are wrong there: an edge that enters a frame without an Enter makes the graph invalid, a constant without its
control edge leaves its frame, and two equal nodes in two frames are not the same value. Passes therefore leave these
nodes as they are. Functional control flow (If, While) needs no care: its bodies are in the library, which passes do not
touch.
"""

from __future__ import annotations

from tf_opt.passes.tf.control_flow import FRAME_OPS, ROOT, execution_contexts
from tf_opt.passes.tf.graph_view import GraphView


def governed_nodes(view: GraphView) -> frozenset[str]:
    """Returns the nodes that do not run exactly once in each run of the graph, and those of v1 control flow itself."""
    if not any(node.op in FRAME_OPS for node in view):
        return frozenset()
    contexts = execution_contexts(view)
    return frozenset(name for name, context in contexts.items() if context != ROOT or view.op(name) in FRAME_OPS)
