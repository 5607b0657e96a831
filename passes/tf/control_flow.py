"""Where and when a node runs: its while-loop frame, and the conditions under which it is dead.

TensorFlow's v1 control flow is made of plain nodes. `Enter` and `Exit` move a tensor into and out of the frame of a
while loop. `Switch` sends its input to one of its outputs and marks the other *dead*; a node with a dead input
(control inputs too) does not run and its outputs are dead; `Merge` forwards the input that is alive.

One engine node stands for all nodes of a segment, so they must all run at the same times. This module computes for
each node an `ExecutionContext`, and promises: **two nodes with equal contexts run in the same iterations of the same
frame, or both are dead.**

How liveness is computed
    The liveness of a node is a set of atoms; the node is alive exactly when all of them hold.

    * an ordinary node: the union over its inputs
    * output p of Switch(data, pred): the union over both inputs, and the atom "pred sends to p"
    * a Merge whose inputs differ in "pred sends to 0" against "pred sends to 1" alone: what they have in common
      (one of the two always holds); any other Merge: what they have in common, and an atom of its own
    * an Enter that is not constant: its input's, and the atom "first iteration", as it is there in no other
    * the Merge of a while loop: the liveness that its Enter reads, and an atom of its class. Merges of one frame are
      in one class when they entered alike and are continued (NextIteration) alike. The classes are found by
      refinement: all are put together first, and split where the liveness that follows from this says that they
      differ. When no class splits any more, induction over the iterations shows that its merges are alive in the
      same ones.
    * an Exit taken where the loop's predicate is false, in a class that continues where it is true: the liveness of
      the Enter (the loop ends exactly once); any other Exit has an atom of its own
"""

from __future__ import annotations

import graphlib
from typing import NamedTuple, TypeAlias

from tf_opt.errors import InvalidGraphError
from tf_opt.passes.tf.graph_view import NEXT_ITERATION_OPS, GraphView, InputRef

SWITCH_OPS = frozenset({"Switch", "RefSwitch", "_SwitchN"})
PASSING_OPS = frozenset({"Identity", "Switch"})
MERGE_OPS = frozenset({"Merge", "RefMerge", "_XlaMerge"})
ENTER_OPS = frozenset({"Enter", "RefEnter"})
EXIT_OPS = frozenset({"Exit", "RefExit"})
FRAME_OPS = ENTER_OPS | EXIT_OPS | NEXT_ITERATION_OPS | SWITCH_OPS | MERGE_OPS | {"LoopCond", "ControlTrigger"}
"""The nodes of v1 control flow, none of which may lie in a segment."""

Frame: TypeAlias = tuple[str, ...]
"""The frame names from the outermost while loop to the innermost; empty outside of loops."""


class Atom(NamedTuple):
    """One condition of a node's liveness.

    Attributes:
        kind: "switch" or "switch_n" (a predicate sends to a port), "first" (the first iteration of a loop), or "loop",
            "merge", "exit", "trigger" (alive when that node is).
        name: The tensor that the predicate's value comes from for a switch; else the node or frame.
        port: The output of the Switch; the number of the class for "loop"; else 0.
    """

    kind: str
    name: str
    port: int = 0


Liveness: TypeAlias = frozenset[Atom]

ALWAYS: Liveness = frozenset()
"""The liveness of a node that is never dead."""


class ExecutionContext(NamedTuple):
    """When a node runs. Nodes with equal contexts run in the same iterations of the same frame, or are both dead."""

    frame: Frame
    liveness: Liveness


ROOT = ExecutionContext((), ALWAYS)
"""The context outside of all loops and conditions."""


def execution_contexts(view: GraphView) -> dict[str, ExecutionContext]:
    """Computes the execution context of every node.

    The context of an Enter is that of its output (inside the loop), of an Exit likewise (outside), and that of a
    Switch leaves out which way it sends: its outputs are only asked about through their consumers.

    Raises:
        InvalidGraphError: A node has inputs from different frames, or a frame is left that was not entered.
    """
    if not any(node.op in FRAME_OPS for node in view):
        return dict.fromkeys(view.names, ROOT)
    frames = _frames(view)
    liveness = _LivenessAnalysis(view, frames).run()
    return {name: ExecutionContext(frames[name], liveness[name]) for name in view.names}


def _frames(view: GraphView) -> dict[str, Frame]:
    frames: dict[str, Frame] = {}
    for name in view.topological_order():
        node = view.node(name)
        sources = {
            reference.node: frames[reference.node]
            for reference in view.inputs(name)
            if not view.is_back_edge(reference.node)
        }
        if len(set(sources.values())) > 1:
            listed = ", ".join(f"{source!r} in {'/'.join(frame) or 'no loop'}" for source, frame in sources.items())
            raise InvalidGraphError(
                f"Node {name!r} ({node.op}) has inputs from different frames: {listed}. A tensor must go through an "
                "Enter node into a while loop, and through an Exit node out of it."
            )
        frame = next(iter(sources.values()), ())
        if node.op in ENTER_OPS:
            frame = (*frame, node.attr["frame_name"].s.decode())
        elif node.op in EXIT_OPS:
            if not frame:
                raise InvalidGraphError(
                    f"Node {name!r} (Exit) leaves a while loop, but its input comes from no loop. It must read a "
                    "tensor that came in through an Enter node."
                )
            frame = frame[:-1]
        frames[name] = frame
    return frames


class _LoopClass(NamedTuple):
    """Merges of one frame that are alive in the same iterations."""

    atom: Atom
    entered: Liveness


class _LivenessAnalysis:
    def __init__(self, view: GraphView, frames: dict[str, Frame]) -> None:
        self._view = view
        self._frames = frames
        self._order = self._order_with_exits_last()
        self._split: dict[str, int] = {}
        self._liveness: dict[str, Liveness] = {}
        self._classes: dict[tuple[Frame, Liveness, int], _LoopClass] = {}
        self._class_of: dict[str, _LoopClass] = {}

    def run(self) -> dict[str, Liveness]:
        self._sweep()
        while self._split_classes():
            self._sweep()
        return self._liveness

    def _order_with_exits_last(self) -> tuple[str, ...]:
        # An Exit is judged by how its loop continues, so it has to come after the NextIteration nodes of its frame.
        next_iterations: dict[Frame, list[str]] = {}
        for node in self._view:
            if node.op in NEXT_ITERATION_OPS:
                next_iterations.setdefault(self._frames[node.name], []).append(node.name)
        sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
        for name in self._view.topological_order():
            sources = self._view.predecessors(name)
            sorter.add(name, *(source for source in sources if not self._view.is_back_edge(source)))
            if self._view.op(name) in EXIT_OPS:
                (inside, *_) = self._view.data_inputs(name)
                sorter.add(name, *next_iterations.get(self._frames[inside.node], ()))
        try:
            return tuple(sorter.static_order())
        except graphlib.CycleError as error:
            raise InvalidGraphError(
                f"A while loop depends on its own result: {', '.join(error.args[1][:5])}. Break that cycle."
            ) from error

    def _sweep(self) -> None:
        self._liveness = {}
        self._classes = {}
        self._class_of = {}
        for name in self._order:
            self._liveness[name] = self._of_node(name)

    def _split_classes(self) -> bool:
        """Separates loop merges that are continued differently; returns whether there were any."""
        numbers: dict[tuple[_LoopClass, frozenset[Liveness]], int] = {}
        split = {}
        for name, loop_class in self._class_of.items():
            continued = frozenset(self._of(back) for back in self._back_edges(name))
            split[name] = numbers.setdefault((loop_class, continued), len(numbers))
        changed = len(numbers) > len(set(self._class_of.values()))
        if changed:
            self._split = split
        return changed

    def _back_edges(self, merge: str) -> list[InputRef]:
        return [reference for reference in self._view.data_inputs(merge) if self._view.is_back_edge(reference.node)]

    def _of(self, reference: InputRef) -> Liveness:
        """Liveness of a tensor, or of the control edge out of a node."""
        liveness = self._liveness[reference.node]
        if reference.is_control or self._view.op(reference.node) not in SWITCH_OPS:
            return liveness
        predicate = self._origin(self._view.data_inputs(reference.node)[1])
        # Two outputs of a _SwitchN may both be dead, so they are no complements.
        kind = "switch_n" if self._view.op(reference.node) == "_SwitchN" else "switch"
        return liveness | {Atom(kind, predicate.tensor_name, reference.output_index)}

    def _origin(self, reference: InputRef) -> InputRef:
        """The tensor whose value a chain of Identity and Switch passes on.

        `tf.cond` hands its predicate to some Switches as it is and to others through an Identity, and to those of an
        inner cond through a Switch of the outer one. All of them decide alike.
        """
        while self._view.op(reference.node) in PASSING_OPS:
            reference = self._view.data_inputs(reference.node)[0]
        return reference

    def _of_node(self, name: str) -> Liveness:
        op = self._view.op(name)
        if op in MERGE_OPS:
            return self._of_merge(name)
        if op in EXIT_OPS:
            return self._of_exit(name)
        if op == "ControlTrigger":  # It runs even when its inputs are dead.
            return frozenset({Atom("trigger", name)})
        result = ALWAYS
        for reference in self._view.inputs(name):
            other = self._of(reference)
            if other and other is not result:
                result = result | other if result else other
        if op in ENTER_OPS and not self._view.node(name).attr["is_constant"].b:
            return result | {self._first_iteration(name)}
        return result

    def _first_iteration(self, name: str) -> Atom:
        return Atom("first", "/".join(self._frames[name]))

    def _of_merge(self, name: str) -> Liveness:
        # Control inputs do not matter: a Merge runs as soon as one data input is alive.
        data_inputs = self._view.data_inputs(name)
        forward = [self._of(reference) for reference in data_inputs if not self._view.is_back_edge(reference.node)]
        if not forward:
            return frozenset({Atom("merge", name)})
        if len(forward) < len(data_inputs):
            return self._of_loop_merge(name, forward)
        common = frozenset.intersection(*forward)
        if len(forward) == 1:
            return common
        if len(forward) == 2 and _are_complements(forward[0] - common, forward[1] - common):
            return common
        return common | {Atom("merge", name)}

    def _of_loop_merge(self, name: str, forward: list[Liveness]) -> Liveness:
        if len(forward) > 1:
            return frozenset({Atom("merge", name)})
        frame, entered = self._frames[name], forward[0] - {self._first_iteration(name)}
        key = (frame, entered, self._split.get(name, 0))
        if key not in self._classes:
            self._classes[key] = _LoopClass(Atom("loop", "/".join(frame), len(self._classes)), entered)
        loop_class = self._class_of[name] = self._classes[key]
        return entered | {loop_class.atom}

    def _of_exit(self, name: str) -> Liveness:
        own = frozenset({Atom("exit", name)})
        if self._view.control_inputs(name):
            return own
        (inside,) = self._view.data_inputs(name)
        leaves = self._of(inside)
        frame = self._frames[inside.node]
        merges = [
            merge
            for merge, loop_class in self._class_of.items()
            if loop_class.atom in leaves and self._frames[merge] == frame
        ]
        if not merges:
            return own
        loop_class = self._class_of[merges[0]]
        alive = loop_class.entered | {loop_class.atom}
        decision = tuple(leaves - alive)
        if len(decision) != 1 or not alive <= leaves or decision[0].kind != "switch" or decision[0].port != 0:
            return own
        continues = alive | {decision[0]._replace(port=1)}
        continued = {self._of(back) for merge in merges for back in self._back_edges(merge)}
        return loop_class.entered if continued == {continues} else own


def _are_complements(first: Liveness, second: Liveness) -> bool:
    """Whether two conditions are the two ways of one Switch, so that exactly one of them holds."""
    if len(first) != 1 or len(second) != 1:
        return False
    (one,), (other,) = first, second
    return one.kind == other.kind == "switch" and one.name == other.name and one.port != other.port
