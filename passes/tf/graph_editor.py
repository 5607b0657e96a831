"""Collects the edits of one pass and applies them to a new GraphDef at once."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.passes.tf.governed_nodes import governed_nodes
from tf_opt.passes.tf.graph_view import GraphView, InputRef, format_input, parse_input
from tf_opt.passes.tf.pass_base import Border, PassResult


class GraphEditor:
    """Edits of one pass over a GraphDef that itself is never changed.

    Reads (`view`) always show the graph as it was; edits become visible in the result of `finish`.

    Args:
        graph_def: The graph to start from.
        border: The names that have to survive.

    Attributes:
        view: Index over the graph as it was.
        changes: Number of rewrites, counted by the pass through `count`.
    """

    def __init__(self, graph_def: GraphDef, border: Border) -> None:
        self.graph_def = graph_def
        self.border = border
        self.view = GraphView(graph_def)
        self.changes = 0
        self._output_nodes = border.output_nodes
        self._replaced: dict[str, NodeDef] = {}
        self._added: dict[str, NodeDef] = {}
        self._before: dict[str, list[str]] = {}
        self._redirects: dict[InputRef, InputRef] = {}

    @cached_property
    def governed(self) -> frozenset[str]:
        """The nodes that v1 control flow governs; passes leave them alone."""
        return governed_nodes(self.view)

    def is_free(self, name: str) -> bool:
        """Whether a node may be rewritten or bypassed: no control flow governs it, and no control edge orders it."""
        return name not in self.governed and not self.view.control_inputs(name)

    def is_fetched(self, name: str) -> bool:
        """Whether any output of a node is fetchable, so that its name has to survive."""
        return name in self._output_nodes

    def node(self, name: str) -> NodeDef:
        """Returns a node with the edits made so far (redirects are not applied to its inputs)."""
        return self._replaced.get(name) or self._added.get(name) or self.view.node(name)

    def replace(self, node: NodeDef) -> None:
        """Puts `node` in the place of the node that has its name."""
        if node.name in self._added:
            self._added[node.name] = node
        else:
            self._replaced[self.view.node(node.name).name] = node

    def unique_name(self, prefix: str) -> str:
        """Returns a name that neither the graph nor an added node has."""
        return self.view.unique_name(prefix, self._added)

    def add(self, node: NodeDef, *, before: str) -> str:
        """Adds a node, placed before the node called `before`; returns its name, made unique."""
        if node.name in self.view or node.name in self._added:
            node.name = self.unique_name(node.name)
        self._added[node.name] = node
        self._before.setdefault(before, []).append(node.name)
        return str(node.name)

    def discard(self, name: str) -> None:
        """Takes back a node that `add` added."""
        del self._added[name]
        for names in self._before.values():
            if name in names:
                names.remove(name)

    def redirect(self, old: str, new: str) -> None:
        """Lets every data consumer of tensor `old` read tensor `new` instead; fetches are not affected."""
        self._redirects[parse_input(old)] = parse_input(new)

    def set_input(self, name: str, position: int, new: str) -> None:
        """Lets input `position` of one node read tensor `new`."""
        node = NodeDef()
        node.CopyFrom(self.node(name))
        node.input[position] = new
        self.replace(node)

    def count(self, changes: int = 1) -> None:
        """Counts rewrites for the report."""
        self.changes += changes

    def resolve(self, reference: str) -> str:
        """Returns what an input reference reads after the redirects made so far."""
        parsed = parse_input(reference)
        while parsed in self._redirects:
            parsed = self._redirects[parsed]
        return format_input(parsed)

    def finish(self) -> PassResult:
        """Returns the edited graph without the nodes that nothing needs any more; the same graph if nothing changed."""
        if not (self._replaced or self._added or self._redirects):
            return PassResult(self.graph_def, changed=False)
        nodes: list[NodeDef] = []
        for node in self.graph_def.node:
            nodes += [self._rewired(self._added[name]) for name in self._added_before(node.name)]
            nodes.append(self._rewired(self._replaced.get(node.name, node)))
        return PassResult(
            keep_reachable(self.graph_def, nodes, self.border), changed=True, changes=max(self.changes, 1)
        )

    def _added_before(self, name: str) -> Iterable[str]:
        # A node may be placed before an added one, so its own predecessors come first.
        for added in self._before.get(name, ()):
            yield from self._added_before(added)
            yield added

    def _rewired(self, node: NodeDef) -> NodeDef:
        resolved = [self.resolve(reference) for reference in node.input]
        if resolved == list(node.input):
            return node
        copy = NodeDef()
        copy.CopyFrom(node)
        copy.input[:] = resolved
        return copy


def keep_reachable(graph_def: GraphDef, nodes: Iterable[NodeDef], border: Border) -> GraphDef:
    """Returns a GraphDef of those `nodes` that the border needs, in their order.

    Args:
        graph_def: The graph whose versions and function library are taken over.
        nodes: The candidates.
        border: Inputs stay whether used or not; everything else has to be above an output.
    """
    listed = list(nodes)
    by_name = {node.name: node for node in listed}
    stack = [name for name in border.nodes if name in by_name]
    seen = set(stack)
    while stack:
        for reference in by_name[stack.pop()].input:
            producer = reference.removeprefix("^").partition(":")[0]
            if producer not in seen:
                seen.add(producer)
                stack.append(producer)
    result = GraphDef(versions=graph_def.versions, library=graph_def.library)
    for node in listed:
        if node.name in seen:
            added = result.node.add()
            added.CopyFrom(node)
            # Colocation may name a node that is gone, and the importer refuses such a graph.
            added.attr.pop("_class", None)
    return result
