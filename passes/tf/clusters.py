"""Groups the convertible nodes of a graph into clusters that can each become one node without making a cycle.

The graph is given as numbers in topological order. `convertible[n]` is the context in which node n runs, or None where
n must stay; only nodes of equal context may share a cluster. Back edges of while loops are left out by the caller.

First step: components of equal label. Call an edge p → n *soft* when both ends are convertible with equal context (and
equal device). Each node gets

    label(n) = max over predecessors p of   label(p)        if n is not convertible, or p → n is soft
                                            label(p) + 1    otherwise

    (nodes without predecessors: 0 where convertible, -1 where not, so that plain inputs raise nothing)

and clusters are the sets of convertible nodes that are connected by soft edges between equal labels.

Proof that replacing every cluster by one node leaves no cycle. All nodes of a cluster have one label, so label is a
function on the contracted graph, and by its definition it never falls along an edge there. Take an edge X → C of the
contracted graph into a cluster C from outside of it, and the edge p → n it comes from. If p → n is not soft, then
label(n) ≥ label(p) + 1. If it is soft, then label(n) ≥ label(p), and the labels are not equal, since otherwise p would
be in C. Either way every edge into a cluster strictly raises the label. A cycle of the contracted graph that meets a
cluster enters it by some edge, so the label would have to fall somewhere on the way round, which it never does. A cycle
that meets no cluster is a cycle of the original graph, which has none. ∎

Second step: merging. Labels are cautious: a node that is not convertible and feeds one branch late raises the label of
all that follows, and cuts a model in two that could be one cluster. So clusters of equal context that are joined by an
edge are merged, the largest first, wherever no *other* path leads from the first to the second. Contracting an edge
u → v makes a cycle exactly when such a path exists, so every merge keeps the contracted graph acyclic. `AcyclicGraph`
keeps its nodes in topological order under contraction, so that the search for another path only visits nodes
between the two, and only those get new places. ∎

Clusters that are not joined by an edge are not merged even where that makes no cycle: a result that is ready early
would have to wait for work that it does not need, or pull in that work when it is fetched alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence


class AcyclicGraph:
    """A directed acyclic graph whose nodes can be contracted; it keeps a topological order of them.

    Args:
        successors: For each node, the nodes its edges go to. No self-loops, no cycles.

    Raises:
        ValueError: There is a cycle.
    """

    def __init__(self, successors: Sequence[Iterable[int]]) -> None:
        self.successors: list[set[int]] = [set(targets) for targets in successors]
        self.predecessors: list[set[int]] = [set() for _ in successors]
        for source, targets in enumerate(self.successors):
            for target in targets:
                self.predecessors[target].add(source)
        waiting = [len(sources) for sources in self.predecessors]
        order = [node for node, count in enumerate(waiting) if count == 0]
        for node in order:
            for target in sorted(self.successors[node]):
                waiting[target] -= 1
                if waiting[target] == 0:
                    order.append(target)
        if len(order) != len(waiting):
            raise ValueError(f"The graph has a cycle: only {len(order)} of its {len(waiting)} nodes can be ordered.")
        self.rank: list[int] = [0] * len(order)
        for rank, node in enumerate(order):
            self.rank[node] = rank

    def has_other_path(self, first: int, last: int) -> bool:
        """Whether a path leads from `first` to `last` that is more than the edge between them."""
        limit = self.rank[last]
        stack = [node for node in self.successors[first] if self.rank[node] < limit]
        seen = set(stack)
        while stack:
            for target in self.successors[stack.pop()]:
                if target == last:
                    return True
                if self.rank[target] < limit and target not in seen:
                    seen.add(target)
                    stack.append(target)
        return False

    def contract(self, first: int, last: int) -> int:
        """Makes one node of `first` and `last`, where `first` comes before and `has_other_path` is false.

        Returns:
            The node that stands for both, which is one of them; the other has no edges any more.
        """
        self._move_together(first, last)
        kept, gone = first, last
        if len(self.successors[gone]) + len(self.predecessors[gone]) > len(self.successors[kept]) + len(
            self.predecessors[kept]
        ):
            kept, gone = gone, kept
            self.rank[kept] = self.rank[gone]
        for target in self.successors[gone]:
            self.predecessors[target].discard(gone)
            if target != kept:
                self.predecessors[target].add(kept)
                self.successors[kept].add(target)
        for source in self.predecessors[gone]:
            self.successors[source].discard(gone)
            if source != kept:
                self.successors[source].add(kept)
                self.predecessors[kept].add(source)
        self.successors[gone] = set()
        self.predecessors[gone] = set()
        return kept

    def _move_together(self, first: int, last: int) -> None:
        """Gives `first` a place in the order that is right for both.

        Of the nodes between the two, those before `last` get the lowest of the places in question, then comes
        `first`, then those after `first`. No node is both, or there would be another path. A node before `last`
        keeps its place or moves down, and whatever precedes it is itself before `last`; likewise for those after
        `first` the other way, so every edge still goes up.
        """
        low, high = self.rank[first], self.rank[last]
        after = self._between(first, self.successors, low, high)
        before = self._between(last, self.predecessors, low, high)
        places = sorted([low, high, *(self.rank[node] for node in after), *(self.rank[node] for node in before)])
        ordered = [*sorted(before, key=self.rank.__getitem__), first, *sorted(after, key=self.rank.__getitem__)]
        for place, node in zip(places, ordered, strict=False):  # One place is left over, as two nodes become one.
            self.rank[node] = place

    def _between(self, start: int, neighbours: list[set[int]], low: int, high: int) -> list[int]:
        stack, seen = [start], {start}
        while stack:
            for neighbour in neighbours[stack.pop()]:
                if low < self.rank[neighbour] < high and neighbour not in seen:
                    seen.add(neighbour)
                    stack.append(neighbour)
        seen.discard(start)
        return list(seen)


def find_clusters(
    predecessors: Sequence[Sequence[int]],
    contexts: Sequence[Hashable | None],
    devices: Sequence[str] | None = None,
) -> list[list[int]]:
    """Finds clusters of convertible nodes whose contraction leaves the graph acyclic.

    Args:
        predecessors: For each node, the nodes it depends on by data or control; all have smaller numbers.
        contexts: For each node, None where it must stay as it is; else a value that all nodes of its cluster share.
        devices: For each node, the device it is placed on, "" where it may run anywhere. A cluster has at most one
            device that is not "".

    Returns:
        The clusters, each a sorted list of nodes, in a topological order of the contracted graph.
    """
    if devices is None:
        devices = [""] * len(contexts)
    keys = [None if context is None else (context, device) for context, device in zip(contexts, devices, strict=True)]
    group_of = _label_components(predecessors, keys)

    count = max(group_of, default=-1) + 1
    members: list[list[int]] = [[] for _ in range(count)]
    successors: list[set[int]] = [set() for _ in range(count)]
    for node, group in enumerate(group_of):
        members[group].append(node)
        for source in predecessors[node]:
            if group_of[source] != group:
                successors[group_of[source]].add(group)
    graph = AcyclicGraph(successors)
    group_contexts = [contexts[nodes[0]] for nodes in members]
    group_devices = [devices[nodes[0]] for nodes in members]
    _merge(graph, members, group_contexts, group_devices)
    groups = [group for group, nodes in enumerate(members) if nodes and group_contexts[group] is not None]
    return [sorted(members[group]) for group in sorted(groups, key=graph.rank.__getitem__)]


def _label_components(predecessors: Sequence[Sequence[int]], keys: Sequence[Hashable | None]) -> list[int]:
    """Returns for each node the number of its component; each node that must stay is one by itself."""
    labels: list[int] = []
    parents = list(range(len(keys)))

    def root(node: int) -> int:
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    for node, key in enumerate(keys):
        label = -1 if key is None else 0
        for source in predecessors[node]:
            raised = key is not None and keys[source] != key
            label = max(label, labels[source] + raised)
        labels.append(label)
        if key is not None:
            for source in predecessors[node]:
                if keys[source] == key and labels[source] == label:
                    parents[root(source)] = root(node)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(node), len(numbers)) for node in range(len(keys))]


def _merge(graph: AcyclicGraph, members: list[list[int]], contexts: list[Hashable | None], devices: list[str]) -> None:
    """Merges clusters along edges until nothing can be merged any more; `members` of what is gone becomes empty."""

    def fits(one: int, other: int) -> bool:
        return (
            contexts[other] is not None
            and contexts[other] == contexts[one]
            and (devices[one] == devices[other] or not devices[one] or not devices[other])
        )

    def size_order(group: int) -> tuple[int, int]:
        return -len(members[group]), graph.rank[group]

    merged = True
    while merged:
        merged = False
        for start in sorted(
            (g for g, nodes in enumerate(members) if nodes and contexts[g] is not None), key=size_order
        ):
            group, growing = start, bool(members[start])
            while growing:
                growing = False
                neighbours = graph.successors[group] | graph.predecessors[group]
                for other in sorted((n for n in neighbours if fits(group, n)), key=size_order):
                    if not fits(group, other):  # An earlier neighbour may have brought a device.
                        continue
                    first, last = (group, other) if graph.rank[group] < graph.rank[other] else (other, group)
                    if graph.has_other_path(first, last):
                        continue
                    kept = graph.contract(first, last)
                    gone = last if kept == first else first
                    members[kept] += members[gone]
                    members[gone] = []
                    devices[kept] = devices[kept] or devices[gone]
                    group, growing, merged = kept, True, True
