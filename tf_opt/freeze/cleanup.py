"""Takes out of a frozen graph what only training, debugging or tracing needed.

- Assert nodes and what only feeds them;
- StopGradient and PreventGradient (they are Identity in inference), chains of Identity;
- control inputs that order nothing, because neither side has a side effect;
- nodes and library functions that no output needs; devices, and hints that name nodes which may be gone.

Names and values of inputs and outputs stay as they are. All functions work on light graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

from tensorflow.core.framework import function_pb2, graph_pb2, node_def_pb2
from tensorflow.python.framework import op_def_registry

from tf_opt.tensor_info import node_name

Nodes: TypeAlias = Any
"""A repeated NodeDef field: of a GraphDef or of a FunctionDef."""

V1_CONTROL_FLOW_OPS = frozenset({"Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond"})
"""With these, a control input says in which frame or branch a node runs, and Identity nodes serve as pivots."""

_GRADIENT_STOPS = frozenset({"StopGradient", "PreventGradient"})

_STATELESS_FORMS: Mapping[str, str] = {
    "If": "StatelessIf",
    "Case": "StatelessCase",
    "While": "StatelessWhile",
    "StatefulPartitionedCall": "PartitionedCall",
}

_HARMLESS_STATEFUL_OPS = frozenset({"Assert", "Placeholder", "PlaceholderWithDefault", "_Arg", "_Retval"})
"""Stateful by their definition or by habit, but nothing that the values of the outputs depend on."""

_LOWERING_ATTRIBUTE = "_lower_using_switch_merge"

_STALE_ATTRIBUTES = ("_class", "_gradient_op_type")
"""The first names nodes to be placed with, the second a gradient registered in the process that traced the model; both
make an import fail or warn once what they name is gone."""


def clean_graph(graph_def: graph_pb2.GraphDef, inputs: Collection[str], outputs: Collection[str]) -> graph_pb2.GraphDef:
    """Returns a cleaned copy of a light graph.

    Args:
        graph_def: A light graph without variables; it is not changed.
        inputs: Node names of the placeholders that users feed; they stay even where nothing uses them.
        outputs: Tensor names ("x:0") that stay fetchable.
    """
    graph = graph_pb2.GraphDef()
    graph.CopyFrom(graph_def)
    effects = SideEffects(graph.library)
    for function in graph.library.function:
        _clean_function(function, effects)
        function.signature.is_stateful = effects.of_function(function.signature.name)
    output_nodes = {node_name(output) for output in outputs}
    _clean_nodes(graph.node, effects, {*inputs, *output_nodes}, bypass_identities=True)
    prune_library(graph)
    return graph


def assertion_count(graph_def: graph_pb2.GraphDef) -> int:
    """Returns how many Assert nodes a graph and its functions have."""
    bodies = (graph_def.node, *(function.node_def for function in graph_def.library.function))
    return sum(node.op == "Assert" for nodes in bodies for node in nodes)


def prune_library(graph: graph_pb2.GraphDef) -> None:
    """Removes, in place, the functions that no node of `graph` calls, directly or through other functions."""
    functions = {function.signature.name: function for function in graph.library.function}
    used: set[str] = set()
    pending = [name for node in graph.node for name in called_functions(node, functions)]
    while pending:
        name = pending.pop()
        if name not in used:
            used.add(name)
            pending.extend(n for node in functions[name].node_def for n in called_functions(node, functions))
    for index in reversed(range(len(graph.library.function))):
        if graph.library.function[index].signature.name not in used:
            del graph.library.function[index]
    for index in reversed(range(len(graph.library.gradient))):
        if graph.library.gradient[index].function_name not in used:
            del graph.library.gradient[index]


def called_functions(node: node_def_pb2.NodeDef, functions: Collection[str]) -> list[str]:
    """Returns the names of the library functions that `node` refers to, by its op or by an attribute."""
    names = [node.op] if node.op in functions else []
    for attribute in node.attr:
        value = node.attr[attribute]
        kind = value.WhichOneof("value")
        if kind == "func":
            names.append(value.func.name)
        elif kind == "list":
            names.extend(function.name for function in value.list.func)
    return [name for name in names if name in functions]


class SideEffects:
    """Tells which nodes do something besides computing their outputs: random numbers, printing, tables, files."""

    def __init__(self, library: function_pb2.FunctionDefLibrary) -> None:
        """Indexes `library`; what it says of a function is remembered, so functions must not gain effects later."""
        self._functions = {function.signature.name: function for function in library.function}
        self._known: dict[str, bool] = {}

    def of_node(self, node: node_def_pb2.NodeDef) -> bool:
        """Tells whether running `node` has an effect besides its outputs."""
        if node.op in _HARMLESS_STATEFUL_OPS:
            return False
        called = called_functions(node, self._functions)
        if called:
            return any(self.of_function(name) for name in called)
        definition = op_def_registry.get(node.op)
        # An op that is not known here may do anything.
        return definition is None or bool(definition.is_stateful)

    def of_function(self, name: str) -> bool:
        """Tells whether any node of the function has a side effect."""
        if name not in self._known:
            self._known[name] = True  # A recursive function meets itself; the careful answer ends the recursion.
            self._known[name] = any(self.of_node(node) for node in self._functions[name].node_def)
        return self._known[name]

    def tainted(self, nodes: Nodes) -> set[str]:
        """Returns the names of the nodes that have a side effect or come, by data or control, after one that has."""
        consumers: dict[str, list[str]] = {}
        for node in nodes:
            for reference in node.input:
                consumers.setdefault(node_name(reference), []).append(node.name)
        pending = [node.name for node in nodes if self.of_node(node)]
        found: set[str] = set()
        while pending:
            name = pending.pop()
            if name not in found:
                found.add(name)
                pending.extend(consumers.get(name, ()))
        return found


def _clean_nodes(nodes: Nodes, effects: SideEffects, roots: Collection[str], *, bypass_identities: bool) -> None:
    v1_control_flow = any(node.op in V1_CONTROL_FLOW_OPS for node in nodes)
    tainted = effects.tainted(nodes)
    for node in nodes:
        node.device = ""
        for stale in _STALE_ATTRIBUTES:
            if stale in node.attr:
                del node.attr[stale]
        if node.op in _GRADIENT_STOPS:
            node.op = "Identity"
            if "message" in node.attr:
                del node.attr["message"]
        if _LOWERING_ATTRIBUTE in node.attr:
            # Freezing switched it off to keep loops in one node; TensorFlow lowers them itself when the graph runs, and
            # then runs both sides of a loop in parallel instead of one functional call after the other.
            node.attr[_LOWERING_ATTRIBUTE].b = True
        if node.op in _STATELESS_FORMS and not effects.of_node(node):
            node.op = _STATELESS_FORMS[node.op]
            if "_read_only_resource_inputs" in node.attr:
                del node.attr["_read_only_resource_inputs"]
        if node.op == "Assert" and v1_control_flow:
            # Only the check goes: the node may carry the control edge that keeps its consumers in a frame or branch.
            references = list(dict.fromkeys(f"^{node_name(reference)}" for reference in node.input))
            node.op = "NoOp"
            node.ClearField("attr")
            _set_inputs(node, references)
        elif not v1_control_flow:
            _set_inputs(node, (r for r in node.input if not r.startswith("^") or r[1:] in tainted))
    if bypass_identities and not v1_control_flow:
        _bypass_identities(nodes, roots)
    keep = _reachable(nodes, roots)
    _retain(nodes, lambda node: node.name in keep)


def _clean_function(function: function_pb2.FunctionDef, effects: SideEffects) -> None:
    tainted = effects.tainted(function.node_def)
    # A function runs every node in control_ret, needed or not: what is no effect must not be listed there.
    for output in [output for output, node in function.control_ret.items() if node not in tainted]:
        del function.control_ret[output]
    outputs = [output for output in function.signature.control_output if output in function.control_ret]
    del function.signature.control_output[:]
    function.signature.control_output.extend(outputs)
    roots = {node_name(tensor) for tensor in function.ret.values()} | set(function.control_ret.values())
    # Nodes with effects run even where nothing reads them.
    roots |= {node.name for node in function.node_def if effects.of_node(node)}
    _clean_nodes(function.node_def, effects, roots, bypass_identities=False)


def _bypass_identities(nodes: Nodes, roots: Collection[str]) -> None:
    """Lets the consumers of an Identity read its source; Identity nodes with control inputs order effects and stay."""
    source = {
        node.name: node.input[0]
        for node in nodes
        if node.op == "Identity" and len(node.input) == 1 and node.name not in roots
    }
    for node in nodes:
        for position, reference in enumerate(node.input):
            if reference.startswith("^"):
                continue
            resolved = reference
            while (name := node_name(resolved)) in source:
                resolved = source[name]
            if resolved != reference:
                node.input[position] = resolved


def _reachable(nodes: Nodes, roots: Iterable[str]) -> set[str]:
    by_name = {node.name: node for node in nodes}
    pending = list(roots)
    found: set[str] = set()
    while pending:
        name = pending.pop()
        if name in by_name and name not in found:  # Arguments of a function are no nodes.
            found.add(name)
            pending.extend(node_name(reference) for reference in by_name[name].input)
    return found


def _retain(nodes: Nodes, wanted: Callable[[node_def_pb2.NodeDef], bool]) -> None:
    kept = [node for node in nodes if wanted(node)]
    if len(kept) < len(nodes):
        copies = []
        for node in kept:
            copy = node_def_pb2.NodeDef()
            copy.CopyFrom(node)
            copies.append(copy)
        del nodes[:]
        nodes.extend(copies)


def _set_inputs(node: node_def_pb2.NodeDef, references: Iterable[str]) -> None:
    inputs = list(references)
    if len(inputs) != len(node.input) or inputs != list(node.input):
        del node.input[:]
        node.input.extend(inputs)
