"""A read-only index over a GraphDef: nodes by name, who consumes what, topological order.

Building it takes one pass over the edges; every question is then answered from a dictionary. The view neither copies
nor changes the GraphDef, and it goes stale when the GraphDef changes: build a new one after each rewrite.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, KeysView
from typing import NamedTuple

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.errors import InvalidGraphError, did_you_mean

NEXT_ITERATION_OPS = frozenset({"NextIteration", "RefNextIteration"})
"""The ops whose outgoing edges are the back edges of v1 while loops: the only cycles a GraphDef may have."""

CONTROL_INDEX = -1
"""The output index of a control edge, as in TensorFlow's own `Graph::kControlSlot`."""


class InputRef(NamedTuple):
    """One parsed entry of `NodeDef.input`.

    Attributes:
        node: Name of the node that produces it.
        output_index: Output index at that node; CONTROL_INDEX (-1) for a control edge.
    """

    node: str
    output_index: int

    @property
    def is_control(self) -> bool:
        """Whether this is a control edge ("^node")."""
        return self.output_index == CONTROL_INDEX

    @property
    def tensor_name(self) -> str:
        """The tensor with its index ("node:0"); "^node" for a control edge."""
        return f"^{self.node}" if self.is_control else f"{self.node}:{self.output_index}"


class Consumer(NamedTuple):
    """One use of a node's output.

    Attributes:
        node: Name of the node that consumes it.
        position: Position in the consumer's `NodeDef.input`.
        output_index: Output index that is consumed; CONTROL_INDEX (-1) for a control edge.
    """

    node: str
    position: int
    output_index: int


def parse_input(reference: str) -> InputRef:
    """Parses an entry of `NodeDef.input` or a tensor name: "a" and "a:0", "a:1", "^a".

    Raises:
        InvalidGraphError: The text after the colon is no index.
    """
    if reference.startswith("^"):
        return InputRef(reference[1:], CONTROL_INDEX)
    node, colon, index = reference.partition(":")
    if not colon:
        return InputRef(node, 0)
    if not index.isdigit():
        raise InvalidGraphError(
            f"{reference!r} is no input reference of a GraphDef; expected 'node', 'node:<index>' or '^node'. "
            "References of a FunctionDef ('node:output:0') have to be turned into a GraphDef first."
        )
    return InputRef(node, int(index))


def format_input(reference: InputRef) -> str:
    """Writes a reference as TensorFlow does: "a" for output 0, "a:1" for others, "^a" for a control edge."""
    if reference.is_control:
        return f"^{reference.node}"
    return reference.node if reference.output_index == 0 else f"{reference.node}:{reference.output_index}"


class GraphView:
    """Read-only index over a GraphDef.

    Args:
        graph_def: The graph; it is referred to, not copied.

    Raises:
        InvalidGraphError: Two nodes have one name, or an input names a node that is not there.
    """

    def __init__(self, graph_def: GraphDef) -> None:
        self._graph_def = graph_def
        self._nodes: dict[str, NodeDef] = {node.name: node for node in graph_def.node}
        if len(self._nodes) != len(graph_def.node):
            counts = Counter(node.name for node in graph_def.node)
            twice = sorted(name for name, count in counts.items() if count > 1)
            raise InvalidGraphError(
                f"The GraphDef has several nodes of one name: {', '.join(twice[:5])}. Names must be unique; rename all "
                "but one of them."
            )
        self._inputs: dict[str, tuple[InputRef, ...]] = {}
        consumers: dict[str, list[Consumer]] = {name: [] for name in self._nodes}
        for name, node in self._nodes.items():
            references = tuple(parse_input(reference) for reference in node.input)
            self._inputs[name] = references
            for position, reference in enumerate(references):
                if reference.node not in consumers:
                    raise InvalidGraphError(
                        f"Node {name!r} ({node.op}) reads {node.input[position]!r}, but the GraphDef has no node "
                        f"{reference.node!r}. Add that node, or drop the input."
                        f"{did_you_mean(reference.node, self._nodes)}"
                    )
                consumers[reference.node].append(Consumer(name, position, reference.output_index))
        self._consumers: dict[str, tuple[Consumer, ...]] = {name: tuple(uses) for name, uses in consumers.items()}
        self._order: tuple[str, ...] | None = None

    @property
    def graph_def(self) -> GraphDef:
        """The GraphDef that this view indexes."""
        return self._graph_def

    @property
    def names(self) -> KeysView[str]:
        """All node names, in the order of the GraphDef."""
        return self._nodes.keys()

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[NodeDef]:
        """Iterates over the nodes in the order of the GraphDef."""
        return iter(self._nodes.values())

    def node(self, name: str) -> NodeDef:
        """Returns the node called `name`.

        Raises:
            InvalidGraphError: There is none.
        """
        try:
            return self._nodes[name]
        except KeyError:
            raise InvalidGraphError(f"The GraphDef has no node {name!r}.{did_you_mean(name, self._nodes)}") from None

    def get(self, name: str) -> NodeDef | None:
        """Returns the node called `name`, or None where there is none."""
        return self._nodes.get(name)

    def op(self, name: str) -> str:
        """Returns the op of the node called `name`."""
        return str(self.node(name).op)

    def inputs(self, name: str) -> tuple[InputRef, ...]:
        """Returns all inputs of a node, data and control, in the order of its NodeDef."""
        return self._inputs[self.node(name).name]

    def data_inputs(self, name: str) -> tuple[InputRef, ...]:
        """Returns the data inputs of a node, in order."""
        return tuple(reference for reference in self.inputs(name) if not reference.is_control)

    def control_inputs(self, name: str) -> tuple[str, ...]:
        """Returns the nodes that must run before a node by its control inputs."""
        return tuple(reference.node for reference in self.inputs(name) if reference.is_control)

    def input_node(self, name: str, position: int) -> NodeDef:
        """Returns the node that feeds data input `position` of the node called `name`."""
        return self.node(self.data_inputs(name)[position].node)

    def consumers(self, name: str) -> tuple[Consumer, ...]:
        """Returns every use of a node: of all of its outputs, and by control edges."""
        return self._consumers[self.node(name).name]

    def data_consumers(self, name: str, index: int | None = None) -> tuple[Consumer, ...]:
        """Returns the uses of output `index` of a node; of all of its outputs where `index` is None."""
        return tuple(
            use
            for use in self.consumers(name)
            if use.output_index != CONTROL_INDEX and (index is None or use.output_index == index)
        )

    def control_consumers(self, name: str) -> tuple[str, ...]:
        """Returns the nodes that wait for a node by a control edge."""
        return tuple(use.node for use in self.consumers(name) if use.output_index == CONTROL_INDEX)

    def predecessors(self, name: str) -> tuple[str, ...]:
        """Returns the distinct nodes that a node reads from or waits for, in the order of its inputs."""
        return tuple(dict.fromkeys(reference.node for reference in self.inputs(name)))

    def successors(self, name: str) -> tuple[str, ...]:
        """Returns the distinct nodes that read from or wait for a node."""
        return tuple(dict.fromkeys(use.node for use in self.consumers(name)))

    def is_back_edge(self, producer: str) -> bool:
        """Whether edges out of `producer` close a v1 while loop (it is a NextIteration)."""
        return self.op(producer) in NEXT_ITERATION_OPS

    def topological_order(self) -> tuple[str, ...]:
        """Returns all node names, each after its data and control inputs.

        The edges out of NextIteration nodes are left out of the order, since they close the v1 while loops. Among
        nodes that are ready, the order of the GraphDef is kept, so the result is deterministic.

        Raises:
            InvalidGraphError: There is a cycle that does not go through a NextIteration node.
        """
        if self._order is None:
            self._order = self._sort()
        return self._order

    def _sort(self) -> tuple[str, ...]:
        waiting: dict[str, int] = {
            name: sum(1 for reference in references if not self.is_back_edge(reference.node))
            for name, references in self._inputs.items()
        }
        ready = deque(name for name, count in waiting.items() if count == 0)
        order: list[str] = []
        while ready:
            name = ready.popleft()
            order.append(name)
            if self.is_back_edge(name):
                continue
            for use in self._consumers[name]:
                waiting[use.node] -= 1
                if waiting[use.node] == 0:
                    ready.append(use.node)
        if len(order) != len(self._nodes):
            cycle = sorted(name for name, count in waiting.items() if count > 0)
            raise InvalidGraphError(
                f"The GraphDef has a cycle that is no v1 while loop, through or above {', '.join(cycle[:5])} "
                f"({len(cycle)} nodes). Break it; only the edge from a NextIteration to a Merge may go back."
            )
        return tuple(order)

    def reachable(
        self, starts: Iterable[str], *, follow: Callable[[str], Iterable[str]] | None = None
    ) -> frozenset[str]:
        """Returns all nodes that `starts` depend on, themselves included.

        Args:
            starts: Node names to start from.
            follow: Neighbours to go to from a node; `predecessors` by default. Pass `view.successors` to go forward.
        """
        neighbours = self.predecessors if follow is None else follow
        stack = [self.node(name).name for name in starts]
        seen = set(stack)
        while stack:
            for neighbour in neighbours(stack.pop()):
                if neighbour not in seen:
                    seen.add(neighbour)
                    stack.append(neighbour)
        return frozenset(seen)

    def unique_name(self, prefix: str, taken: Iterable[str] = ()) -> str:
        """Returns `prefix`, or `prefix_1`, `prefix_2`, ... : the first that is neither a node's name nor in `taken`."""
        other = frozenset(taken)
        name, count = prefix, 0
        while name in self._nodes or name in other:
            count += 1
            name = f"{prefix}_{count}"
        return name
