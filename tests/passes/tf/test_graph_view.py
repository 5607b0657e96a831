"""GraphView answers questions about a GraphDef without changing it."""

from __future__ import annotations

from random import Random

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework.graph_pb2 import GraphDef

from tf_opt.errors import InvalidGraphError
from tf_opt.passes.tf.graph_view import CONTROL_INDEX, GraphView, InputRef, format_input, parse_input


def graph(**nodes: tuple[str, ...]) -> GraphDef:
    """Builds a GraphDef from `name=(op, input, input, ...)`."""
    result = GraphDef()
    for name, (op, *inputs) in nodes.items():
        result.node.add(name=name, op=op, input=inputs)
    return result


@pytest.mark.parametrize(
    ("text", "node", "index"),
    [("a", "a", 0), ("a:0", "a", 0), ("scope/a:12", "scope/a", 12), ("^a", "a", CONTROL_INDEX)],
)
def test_parse_input(text: str, node: str, index: int) -> None:
    reference = parse_input(text)
    assert reference == InputRef(node, index)
    assert reference.is_control == (index == CONTROL_INDEX)
    assert parse_input(format_input(reference)) == reference


def test_format_input_is_tensorflows_form() -> None:
    assert [format_input(InputRef("a", index)) for index in (0, 3, CONTROL_INDEX)] == ["a", "a:3", "^a"]
    assert InputRef("a", 0).tensor_name == "a:0"


def test_function_def_reference_is_refused() -> None:
    with pytest.raises(InvalidGraphError, match="node:<index>"):
        parse_input("a:output:0")


def test_neighbours() -> None:
    view = GraphView(graph(a=("Placeholder",), b=("Split", "a"), c=("Add", "b", "b:1"), d=("Neg", "b:1", "^c")))
    assert [tuple(use) for use in view.consumers("b")] == [("c", 0, 0), ("c", 1, 1), ("d", 0, 1)]
    assert [use.node for use in view.data_consumers("b", 1)] == ["c", "d"]
    assert view.data_consumers("c") == ()
    assert view.control_consumers("c") == ("d",)
    assert view.control_inputs("d") == ("c",)
    assert view.predecessors("c") == ("b",)
    assert view.successors("b") == ("c", "d")
    assert view.input_node("d", 0).op == "Split"
    assert len(view) == 4
    assert "a" in view
    assert "z" not in view
    assert view.get("z") is None
    assert view.reachable(["c"]) == {"a", "b", "c"}
    assert view.reachable(["c"], follow=view.successors) == {"c", "d"}
    assert view.unique_name("a", taken=("a_1",)) == "a_2"
    assert view.unique_name("new") == "new"


def test_missing_input_is_named() -> None:
    with pytest.raises(InvalidGraphError, match=r"'b'.*'weigth'.*mean 'weight'"):
        GraphView(graph(weight=("Const",), b=("Neg", "weigth")))


def test_duplicate_names_are_refused() -> None:
    twice = graph(a=("Const",))
    twice.node.add(name="a", op="Const")
    with pytest.raises(InvalidGraphError, match="several nodes of one name: a"):
        GraphView(twice)


def test_unknown_node_suggests_a_name() -> None:
    with pytest.raises(InvalidGraphError, match="mean 'encoder'"):
        GraphView(graph(encoder=("Const",))).node("encodr")


def test_cycle_is_refused() -> None:
    with pytest.raises(InvalidGraphError, match="cycle"):
        GraphView(graph(a=("Add", "b", "c"), b=("Neg", "a"), c=("Const",))).topological_order()


def test_control_cycle_is_refused() -> None:
    with pytest.raises(InvalidGraphError, match="cycle"):
        GraphView(graph(a=("Const", "^b"), b=("Neg", "a"))).topological_order()


def test_while_loop_is_no_cycle() -> None:
    was_enabled = tf.compat.v1.control_flow_v2_enabled()
    tf.compat.v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default() as tf_graph:
            tf.compat.v1.while_loop(lambda i: i < 3, lambda i: i + 1, [tf.constant(0)])
    finally:
        if was_enabled:
            tf.compat.v1.enable_control_flow_v2()
    view = GraphView(tf_graph.as_graph_def())
    order = view.topological_order()
    assert len(order) == len(view)
    (next_iteration,) = [name for name in order if view.op(name) == "NextIteration"]
    (merge,) = [name for name in order if view.op(name) == "Merge"]
    assert order.index(merge) < order.index(next_iteration)
    assert view.is_back_edge(next_iteration)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1000), max_size=3), min_size=1, max_size=30), st.randoms())
def test_topological_order_puts_inputs_first(structure: list[list[int]], random: Random) -> None:
    graph_def = GraphDef()
    for number, sources in enumerate(structure):
        inputs = [f"n{source % number}" for source in sources] if number else []
        if len(inputs) == 3:
            inputs[2] = f"^{inputs[2]}"
        graph_def.node.add(name=f"n{number}", op="NoOp", input=inputs)
    nodes = list(graph_def.node)
    random.shuffle(nodes)
    shuffled = GraphDef(node=nodes)
    before = shuffled.SerializeToString(deterministic=True)
    view = GraphView(shuffled)
    position = {name: number for number, name in enumerate(view.topological_order())}
    assert position.keys() == view.names
    assert all(position[source] < position[name] for name in position for source in view.predecessors(name))
    assert shuffled.SerializeToString(deterministic=True) == before
