from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_opt.report.graph_layout import Layout, Placement, layered_layout

SIZE = (80.0, 40.0)


def layout(edges: list[tuple[str, str]]) -> Layout:
    names = sorted({name for edge in edges for name in edge})
    return layered_layout(dict.fromkeys(names, SIZE), edges, [(30.0, 12.0)] * len(edges))


def overlap(one: Placement, other: Placement) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )


@st.composite
def acyclic_graphs(draw: st.DrawFn) -> tuple[list[str], list[tuple[str, str]]]:
    names = [f"n{number:02}" for number in range(draw(st.integers(1, 12)))]
    pairs = list(combinations(names, 2))
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=24)) if pairs else []
    return names, edges


@given(acyclic_graphs())
def test_nothing_overlaps_and_every_edge_leads_down_between_its_boxes(graph):
    names, edges = graph
    sizes = {name: (60.0 + 10 * (number % 4), 30.0 + 5 * (number % 3)) for number, name in enumerate(names)}
    result = layered_layout(sizes, edges, [(40.0, 14.0)] * len(edges))
    places = [*result.boxes.values(), *result.labels]
    for one, other in combinations(places, 2):
        assert not overlap(one, other)
    for place in places:
        assert place.x >= 0
        assert place.x + place.width <= result.width + 0.2
        assert place.y >= 0
        assert place.y + place.height <= result.height + 0.2
    for (source, target), path in zip(edges, result.paths, strict=True):
        start, end = result.boxes[source], result.boxes[target]
        assert start.x <= path[0][0] <= start.x + start.width
        assert path[0][1] == start.y + start.height
        assert end.x <= path[-1][0] <= end.x + end.width
        assert path[-1][1] == end.y
        assert [y for _, y in path] == sorted(y for _, y in path)


@given(acyclic_graphs())
def test_the_same_graph_gives_the_same_picture(graph):
    names, edges = graph
    once, again = (layered_layout(dict.fromkeys(names, SIZE), edges, [(9.0, 9.0)] * len(edges)) for _ in range(2))
    assert once == again


def test_a_chain_is_straight():
    result = layout([("a", "b"), ("b", "c"), ("c", "d")])
    assert len({place.middle for place in result.boxes.values()}) == 1
    assert len({x for path in result.paths for x, _ in path}) == 1


def test_branches_do_not_cross_where_they_need_not():
    # In the order of the names, both edges would cross.
    result = layout([("a", "d"), ("b", "c")])
    left, right = result.boxes["a"].middle, result.boxes["b"].middle
    assert (left < right) == (result.boxes["d"].middle < result.boxes["c"].middle)


def test_an_input_that_is_read_late_stands_just_above_its_reader():
    result = layout([("a", "b"), ("b", "c"), ("c", "e"), ("d", "e")])
    assert result.boxes["d"].y == pytest.approx(result.boxes["c"].y)


def test_long_edges_from_one_box_share_their_way():
    result = layout([("a", "b"), ("b", "c"), ("c", "d"), ("a", "c"), ("a", "d")])
    to_c, to_d = result.paths[3], result.paths[4]
    assert to_d[: len(to_c) - 2] == to_c[:-2]


def test_no_boxes_are_a_picture_too():
    result = layered_layout({}, [], [])
    assert result.width > 0
    assert result.boxes == {}
