"""Finds the nodes that v1 control flow governs: inside while frames, or in one branch of a cond.

A node in a frame runs once an iteration, and a node behind a Switch may be dead. Rewrites that would be right anywhere
else are wrong there: an edge that enters a frame without an Enter makes the graph invalid, a constant without its
control edge leaves its frame, and two equal nodes in two frames are not the same value. Passes therefore leave these
nodes as they are. Functional control flow (If, While) needs no care: its bodies are in the library, which passes do not
touch.
"""

from __future__ import annotations

from tf_opt.passes.tf.graph_view import InputRef, GraphView

_ENTER = frozenset({"Enter", "RefEnter"})
_EXIT = frozenset({"Exit", "RefExit"})
_SWITCH = frozenset({"Switch", "RefSwitch", "SwitchN", "_SwitchN"})
_MERGE = frozenset({"Merge", "RefMerge", "_XlaMerge"})
_NEXT_ITERATION = frozenset({"NextIteration", "RefNextIteration"})
CONTROL_FLOW_OPS = _ENTER | _EXIT | _SWITCH | _MERGE | _NEXT_ITERATION | {"LoopCond", "ControlTrigger"}
"""The ops of v1 control flow."""

_Branches = frozenset[tuple[InputRef, int]]


def governed_nodes(view: GraphView) -> frozenset[str]:
    """Returns the nodes that v1 control flow governs, the control flow nodes themselves included.

    Depth counts the Enters minus the Exits above a node. Outside frames, output `i` of a Switch adds the branch
    (predicate, i) to what depends on it, and a Merge keeps only the branches that all of its inputs share.
    """
    if not any(node.op in CONTROL_FLOW_OPS for node in view):
        return frozenset()
    depth: dict[str, int] = {}
    branches: dict[str, _Branches] = {}
    governed: set[str] = set()
    for name in view.topological_order():
        op = view.op(name)
        inputs = [reference for reference in view.inputs(name) if reference.node in depth]
        level = max((depth[reference.node] for reference in inputs), default=0)
        level += 1 if op in _ENTER else -1 if op in _EXIT else 0
        taken = [_branches_of(view, reference, depth, branches) for reference in inputs]
        if op in _MERGE and taken:
            shared = frozenset.intersection(*taken)
        else:
            shared = frozenset().union(*taken)
        depth[name], branches[name] = level, shared
        if level > 0 or shared or op in CONTROL_FLOW_OPS:
            governed.add(name)
    return frozenset(governed)


def _branches_of(
    view: GraphView, reference: InputRef, depth: dict[str, int], branches: dict[str, _Branches]
) -> _Branches:
    """Returns the branches in which the tensor or control signal `reference` is alive."""
    known = branches[reference.node]
    # A Switch inside a frame decides over the loop, not over what follows its Exit.
    if view.op(reference.node) in _SWITCH and depth[reference.node] == 0 and not reference.is_control:
        return known | {(view.data_inputs(reference.node)[1], reference.output_index)}
    return known
