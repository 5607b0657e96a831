"""Clusters can be contracted without a cycle, and cannot be made larger by merging neighbours."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_opt.passes.tf.clusters import AcyclicGraph, find_clusters

Graph = list[list[int]]


def contracted(predecessors: Graph, clusters: list[list[int]]) -> dict[int, set[int]]:
    """Edges of the contracted graph, each cluster named by its first node."""
    name = {node: cluster[0] for cluster in clusters for node in cluster}
    edges: dict[int, set[int]] = {name.get(node, node): set() for node in range(len(predecessors))}
    for node, sources in enumerate(predecessors):
        for source in sources:
            first, last = name.get(source, source), name.get(node, node)
            if first != last:
                edges[first].add(last)
    return edges


def order_of(edges: dict[int, set[int]]) -> list[int] | None:
    """A topological order by repeatedly taking what nothing points to; None where there is a cycle."""
    left, order = dict(edges), []
    while left:
        targets = {target for successors in left.values() for target in successors}
        free = [node for node in left if node not in targets]
        if not free:
            return None
        order += free
        for node in free:
            del left[node]
    return order


def reaches(edges: dict[int, set[int]], start: int, goal: int) -> bool:
    stack, seen = [start], {start}
    while stack:
        for target in edges[stack.pop()]:
            if target == goal:
                return True
            if target not in seen:
                seen.add(target)
                stack.append(target)
    return False


def check(predecessors: Graph, contexts: list[str | None], devices: list[str] | None = None) -> list[list[int]]:
    clusters = find_clusters(predecessors, contexts, devices)
    members = [node for cluster in clusters for node in cluster]
    assert sorted(members) == [node for node, context in enumerate(contexts) if context is not None]
    for cluster in clusters:
        assert len({contexts[node] for node in cluster}) == 1
        assert len({devices[node] for node in cluster} - {""} if devices else ()) <= 1
    edges = contracted(predecessors, clusters)
    assert order_of(edges) is not None
    first_nodes = [cluster[0] for cluster in clusters]
    for number, first in enumerate(first_nodes):
        assert not any(reaches(edges, first, earlier) for earlier in first_nodes[:number])
    return clusters


def check_cannot_grow(predecessors: Graph, contexts: list[str | None], clusters: list[list[int]]) -> None:
    edges = contracted(predecessors, clusters)
    first_nodes = [cluster[0] for cluster in clusters]
    for first in first_nodes:
        for last in edges[first] & set(first_nodes):
            if contexts[first] == contexts[last]:
                assert any(reaches(edges, other, last) for other in edges[first] - {last})


@st.composite
def random_dags(draw: st.DrawFn) -> tuple[Graph, list[str | None]]:
    size = draw(st.integers(1, 24))
    predecessors = [
        sorted(set(draw(st.lists(st.integers(0, node - 1), max_size=3)))) if node else [] for node in range(size)
    ]
    contexts = draw(st.lists(st.sampled_from(["a", "a", "a", "b", None]), min_size=size, max_size=size))
    return predecessors, contexts


@settings(max_examples=300, deadline=None)
@given(random_dags())
def test_random_graphs(dag: tuple[Graph, list[str | None]]) -> None:
    check_cannot_grow(*dag, check(*dag))


@settings(max_examples=100, deadline=None)
@given(random_dags(), st.data())
def test_random_devices(dag: tuple[Graph, list[str | None]], data: st.DataObject) -> None:
    size = len(dag[0])
    devices = data.draw(st.lists(st.sampled_from(["", "cpu", "gpu"]), min_size=size, max_size=size))
    check(*dag, devices)


def test_everything_convertible_is_one_cluster() -> None:
    assert check([[], [0], [0], [1, 2]], ["a"] * 4) == [[0, 1, 2, 3]]


def test_unconnected_parts_stay_apart() -> None:
    assert check([[], [], [0], [1]], ["a"] * 4) == [[0, 2], [1, 3]]


def test_path_through_another_node_keeps_ends_apart() -> None:
    # 0 ─► 1 (stays) ─► 2, and 0 ─► 2
    assert check([[], [0], [0, 1]], ["a", None, "a"]) == [[0], [2]]


def test_path_through_another_context_keeps_ends_apart() -> None:
    assert check([[], [0], [0, 1]], ["a", "b", "a"]) == [[0], [1], [2]]


def test_plain_inputs_raise_nothing() -> None:
    # The inputs 0 and 2 come before nodes that could not merge if an input counted as a detour.
    assert check([[], [0], [], [1, 2]], [None, "a", None, "a"]) == [[1, 3]]


def test_late_branch_does_not_cut_the_chain() -> None:
    # A node that stays (2, from the input 0) joins the chain 1 ─► 3 ─► 4 at 4: labels alone would cut it there.
    predecessors: Graph = [[], [0], [0], [1], [2, 3], [4]]
    assert check(predecessors, [None, "a", None, "a", "a", "a"]) == [[1, 3, 4, 5]]


def test_merging_goes_on_until_nothing_merges() -> None:
    # Labels put 1, 4 and 7 apart. The edge 1 ─► 7 has a detour over 4, until 4 is merged with one of them.
    predecessors: Graph = [[], [0], [0], [2], [1, 3], [3], [5], [1, 4, 6]]
    clusters = check(predecessors, [None, "a", "a", None, "a", "a", None, "a"])
    assert sorted(clusters) == [[1, 4, 7], [2], [5]]


def test_empty_device_joins_either_but_not_both() -> None:
    assert find_clusters([[], [0]], ["a", "a"], ["cpu", ""]) == [[0, 1]]
    assert len(find_clusters([[], [0], [1]], ["a"] * 3, ["cpu", "", "gpu"])) == 2


def test_no_nodes() -> None:
    assert find_clusters([], []) == []


def test_contraction_keeps_the_order() -> None:
    source = random.Random(0)
    for _ in range(50):
        size = 30
        graph = AcyclicGraph([source.sample(range(node + 1, size), min(2, size - node - 1)) for node in range(size)])
        alive = set(range(size))
        for _ in range(60):
            first, last = sorted(source.sample(sorted(alive), 2), key=lambda node: graph.rank[node])
            if graph.has_other_path(first, last):
                continue
            kept = graph.contract(first, last)
            alive -= {first, last} - {kept}
            assert order_of({node: graph.successors[node] for node in alive}) is not None
            assert all(graph.rank[node] < graph.rank[target] for node in alive for target in graph.successors[node])
            assert all(node in graph.predecessors[target] for node in alive for target in graph.successors[node])
            if len(alive) == 2:
                break


def test_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        AcyclicGraph([[1], [0]])


def chain_with_detours(size: int) -> tuple[Graph, list[str | None]]:
    """Every third node stays, and every node also reads the one three before."""
    predecessors = [[source for source in (node - 1, node - 3) if source >= 0] for node in range(size)]
    return predecessors, ["a" if node % 3 else None for node in range(size)]


def chain_with_late_branches(size: int) -> tuple[Graph, list[str | None]]:
    """A convertible chain; every second node stays, reads the input, and joins the chain."""
    predecessors: Graph = [[]]
    contexts: list[str | None] = [None]
    for node in range(1, size):
        stays = node % 2 == 0
        contexts.append(None if stays else "a")
        predecessors.append([0] if stays else [source for source in (node - 2, node - 1) if source >= 0])
    return predecessors, contexts


def scattered(size: int) -> tuple[Graph, list[str | None]]:
    source = random.Random(1)
    predecessors = [
        sorted(set(source.choices(range(max(0, node - 50), node), k=3))) if node else [] for node in range(size)
    ]
    return predecessors, [source.choice(["a", "a", "a", "b", None]) for _ in range(size)]


@pytest.mark.parametrize("make", [chain_with_detours, chain_with_late_branches, scattered])
def test_three_thousand_nodes_take_well_under_a_second(
    make: Callable[[int], tuple[Graph, list[str | None]]],
) -> None:
    predecessors, contexts = make(3000)
    start = time.process_time()
    clusters = find_clusters(predecessors, contexts)
    seconds = time.process_time() - start
    assert order_of(contracted(predecessors, clusters)) is not None
    assert seconds < 1.0
    if make is chain_with_late_branches:
        assert len(clusters) == 1
