"""Frames and liveness of v1 control flow, and segments inside loops and branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework.graph_pb2 import GraphDef

from tests.passes.tf.spliced_graphs import check_splice, engine_nodes, unless, v1, v1_graph
from tf_opt.errors import InvalidGraphError
from tf_opt.passes.tf.control_flow import ALWAYS, ROOT, ExecutionContext, execution_contexts
from tf_opt.passes.tf.graph_view import GraphView
from tf_opt.tensor_info import node_name

SHAPE = (4, 4)


def value(seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, SHAPE).astype(np.float32)


def contexts(graph: tf.Graph) -> dict[str, ExecutionContext]:
    return execution_contexts(GraphView(graph.as_graph_def()))


def frame_names(graph_def: GraphDef) -> set[str]:
    return {node.attr["frame_name"].s.decode() for node in graph_def.node if node.op == "Enter"}


def test_graph_without_control_flow_is_all_root() -> None:
    with v1_graph() as graph:
        tf.nn.relu(v1.placeholder(tf.float32, SHAPE))
    assert set(contexts(graph).values()) == {ROOT}


def test_while_loop() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        before = tf.nn.relu(x, name="before")
        _, result = v1.while_loop(
            lambda i, a: tf.less(i, 3, name="condition"),
            lambda i, a: (tf.add(i, 1, name="count"), tf.tanh(tf.matmul(a, before, name="body"), name="body_end")),
            [0, x],
        )
        tf.negative(result, name="after")
    found = contexts(graph)
    (frame,) = frame_names(graph.as_graph_def())
    assert found["before"] == found["x"] == ROOT
    assert found["after"] == ROOT, "the loop ends exactly once, so what follows it is never dead"
    assert found["while/condition"].frame == found["while/body"].frame == (frame,)
    # The condition runs once more than the body.
    assert found["while/condition"].liveness < found["while/body"].liveness
    assert found["while/body"] == found["while/body_end"] == found["while/count"]


def test_names_do_not_make_a_frame() -> None:
    with v1_graph() as graph:
        tf.nn.relu(v1.placeholder(tf.float32, SHAPE), name="while/body")
    assert contexts(graph)["while/body"] == ROOT


def test_nested_while_loops() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")

        def outer_body(i: tf.Tensor, a: tf.Tensor) -> Any:
            doubled = tf.multiply(a, 0.5, name="outer_before")
            _, b = v1.while_loop(
                lambda j, b: j < i, lambda j, b: (j + 1, tf.tanh(b + doubled, name="inner")), [0, doubled], name="in"
            )
            return i + 1, tf.nn.relu(b, name="outer_after")

        v1.while_loop(lambda i, a: i < 3, outer_body, [0, x], name="out")
    found = contexts(graph)
    assert len(found["out/in/inner"].frame) == 2
    assert found["out/in/inner"].frame[:1] == found["out/outer_before"].frame
    assert found["out/outer_before"] == found["out/outer_after"]


def test_branches_of_a_cond() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        take = v1.placeholder(tf.bool, [], name="take")
        result = v1.cond(
            take,
            lambda: tf.tanh(tf.nn.relu(x, name="true_first"), name="true_last"),
            lambda: tf.negative(x, name="false"),
        )
        tf.nn.relu(result, name="after")
    found = contexts(graph)
    assert found["cond/true_first"] == found["cond/true_last"] != found["cond/false"]
    assert found["cond/true_first"].liveness != ALWAYS
    assert found["after"] == ROOT, "one of the two branches is always taken"


def test_nested_conds_share_the_outer_condition() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        outer, inner = (v1.placeholder(tf.bool, [], name=name) for name in ("outer", "inner"))

        def branch() -> tf.Tensor:
            first = tf.nn.relu(x, name="first")
            middle = v1.cond(inner, lambda: tf.tanh(first, name="deep"), lambda: first * 2.0)
            return tf.negative(middle, name="last")

        tf.nn.relu(v1.cond(outer, branch, lambda: x), name="after")
    found = contexts(graph)
    assert found["cond/first"] == found["cond/last"]
    assert found["cond/first"].liveness < found["cond/cond/deep"].liveness
    assert found["after"] == ROOT


def test_merge_of_unrelated_switches_has_a_liveness_of_its_own() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        p, q = (v1.placeholder(tf.bool, [], name=name) for name in "pq")
        first = tf.raw_ops.Switch(data=x, pred=p)
        second = tf.raw_ops.Switch(data=x, pred=q)
        merged, _ = tf.raw_ops.Merge(inputs=[first[0], second[1]], name="merged")
        same, _ = tf.raw_ops.Merge(inputs=[first[0], tf.raw_ops.Switch(data=x, pred=p)[0]], name="same")
        tf.nn.relu(merged, name="after")
        tf.nn.relu(same, name="after_same")
    found = contexts(graph)
    assert found["after"].liveness == found["merged"].liveness
    assert found["after"].liveness not in (ALWAYS, found["same"].liveness)
    assert found["after_same"].liveness != ALWAYS


def test_two_of_three_ways_do_not_cover_all() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        ways = tf.raw_ops.Split(axis=0, value=x, num_split=2, name="ways")
        tf.raw_ops.Merge(inputs=ways, name="merged")
        v1.placeholder(tf.int32, [], name="which")
    graph_def = graph.as_graph_def()
    switch = next(node for node in graph_def.node if node.name == "ways")
    switch.op = "_SwitchN"
    switch.input[:] = ["x", "which"]
    assert execution_contexts(GraphView(graph_def))["merged"].liveness != ALWAYS


def test_dead_control_input_counts() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        p = v1.placeholder(tf.bool, [], name="p")
        _, taken = tf.raw_ops.Switch(data=p, pred=p)
        with tf.control_dependencies([tf.identity(taken, name="pivot")]):
            tf.nn.relu(x, name="relu")
            tf.constant(1.0, name="constant")
    found = contexts(graph)
    assert found["relu"] == found["constant"] == found["pivot"] != ROOT


def test_loop_variables_that_enter_differently_are_kept_apart() -> None:
    # The second variable enters only where p is true.
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        p = v1.placeholder(tf.bool, [], name="p")
        _, sometimes = tf.raw_ops.Switch(data=x, pred=p)
        merges = []
        for number, start in enumerate((x, sometimes)):
            enter = tf.raw_ops.Enter(data=start, frame_name="loop", name=f"enter{number}")
            merge, _ = tf.raw_ops.Merge(inputs=[enter, enter], name=f"merge{number}")
            merge.op._update_input(1, tf.raw_ops.NextIteration(data=tf.nn.relu(merge, name=f"relu{number}")))
            merges.append(merge)
        tf.add(merges[0], merges[1], name="sum")
    found = contexts(graph)
    assert found["relu0"] != found["relu1"]
    assert found["sum"].liveness == found["relu0"].liveness | found["relu1"].liveness


def test_loop_variables_that_continue_differently_are_kept_apart() -> None:
    # The second variable goes on only while q holds as well.
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        names = ("first", "second", "third")
        merges = {}
        for name in names:
            enter = tf.raw_ops.Enter(data=x, frame_name="loop", name=f"enter_{name}")
            merges[name], _ = tf.raw_ops.Merge(inputs=[enter, enter], name=f"merge_{name}")
        q = tf.raw_ops.Less(x=tf.raw_ops.Rank(input=merges["first"]), y=tf.raw_ops.Rank(input=merges["third"]))
        for name in names:
            body = tf.nn.relu(merges[name], name=name)
            if name == "second":
                _, body = tf.raw_ops.Switch(data=body, pred=q)
            merges[name].op._update_input(1, tf.raw_ops.NextIteration(data=body))
    found = contexts(graph)
    assert found["first"] == found["third"] != found["second"]
    assert found["first"].frame == found["second"].frame


@pytest.mark.parametrize("dropped", [False, True])
def test_result_of_a_loop_that_may_end_dead_has_a_liveness_of_its_own(dropped: bool) -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        enter = tf.raw_ops.Enter(data=x, frame_name="loop")
        merge, _ = tf.raw_ops.Merge(inputs=[enter, enter])
        rank = tf.raw_ops.Rank(input=merge)
        leaves, stays = tf.raw_ops.Switch(data=merge, pred=tf.raw_ops.LoopCond(input=tf.raw_ops.Less(x=rank, y=rank)))
        if dropped:  # In some iterations, after which nothing is there to leave the loop.
            _, stays = tf.raw_ops.Switch(data=stays, pred=tf.raw_ops.Less(x=rank, y=rank))
        merge.op._update_input(1, tf.raw_ops.NextIteration(data=stays))
        tf.raw_ops.Exit(data=leaves, name="result")
    found = contexts(graph)["result"]
    assert found.frame == ()
    assert (found.liveness == ALWAYS) == (not dropped)


def test_inputs_of_different_frames_are_refused() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        tf.add(tf.raw_ops.Enter(data=x, frame_name="loop"), x, name="bad")
    with pytest.raises(InvalidGraphError, match=r"'bad' .* different frames"):
        contexts(graph)


def test_exit_without_enter_is_refused() -> None:
    with v1_graph() as graph:
        tf.raw_ops.Exit(data=v1.placeholder(tf.float32, SHAPE), name="bad")
    with pytest.raises(InvalidGraphError, match="leaves a while loop"):
        contexts(graph)


def segment_contexts(graph_def: GraphDef, outputs: list[str], feeds: Any, **options: Any) -> list[ExecutionContext]:
    """Splices, compares results, and returns the one context of each segment."""
    segmentation, _ = check_splice(graph_def, outputs, feeds, **options)
    found = execution_contexts(GraphView(graph_def))
    result = []
    for segment in segmentation.segments:
        (context,) = {found[name] for name in segment.nodes}
        result.append(context)
    return result


def test_segment_in_a_loop_body_runs_in_the_loop() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")

        def body(i: tf.Tensor, a: tf.Tensor) -> Any:
            inner_weight = tf.constant(value(5), name="inner_weight")
            return i + 1, tf.tanh(tf.matmul(a, inner_weight) + 0.25) * 2.0

        _, result = v1.while_loop(lambda i, a: i < 4, body, [0, tf.nn.relu(x) + 1.0])
        tf.negative(tf.nn.relu(result), name="y")
    found = segment_contexts(graph.as_graph_def(), ["y:0"], {"x": value()}, minimum_segment_size=2)
    assert sorted(len(context.frame) for context in found) == [0, 0, 1]


def test_constant_in_a_branch_is_dead_with_it() -> None:
    # relu reads an input that is always there, and a constant of the branch that is taken: without the constant's
    # control edge the engine would run in both cases, and the Merge would see two live inputs.
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        p = v1.placeholder(tf.bool, [], name="p")
        not_taken, taken = tf.raw_ops.Switch(data=p, pred=p)
        with tf.control_dependencies([tf.identity(taken, name="pivot_true")]):
            one = tf.constant(1.0, name="one")
        with tf.control_dependencies([tf.identity(not_taken, name="pivot_false")]):
            two = tf.constant(2.0, name="two")
        merged, which = tf.raw_ops.Merge(inputs=[tf.nn.relu(x + one), tf.nn.relu(x * two)])
        tf.identity(merged, name="y")
        tf.identity(which, name="which")
    feeds = [{"x": value(), "p": np.bool_(p)} for p in (True, False)]
    _, spliced = check_splice(
        graph.as_graph_def(), ["y:0", "which:0"], feeds, is_supported=unless("Identity"), minimum_segment_size=2
    )
    assert [list(node.input)[1:] for node in engine_nodes(spliced)] == [["^pivot_true"], ["^pivot_false"]]


def test_weight_that_waits_for_a_node_does_not_wait_for_its_own_segment() -> None:
    # The pivot may not join the segment that reads the weight: the weight stays outside and waits for it.
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, SHAPE, name="x")
        a = tf.nn.relu(x, name="a")
        with tf.control_dependencies([a]):
            weight = tf.constant(value(1), name="weight")
        tf.tanh(tf.matmul(a, weight), name="y")
    segmentation, _ = check_splice(graph.as_graph_def(), ["y:0"], {"x": value()})
    assert [segment.nodes for segment in segmentation.segments] == [("a",), ("MatMul", "y")]


@st.composite
def random_programs(draw: st.DrawFn) -> GraphDef:
    """Random nests of while loops, conds and ordinary ops over one [4, 4] tensor, ending in "y"."""

    def statement(depth: int) -> Callable[[tf.Tensor], tf.Tensor]:
        kind = draw(st.integers(0, 6 if depth < 3 else 4))
        if kind == 0:
            return tf.sin
        if kind == 1:
            weight = value(draw(st.integers(0, 5)))
            return lambda a: tf.tanh(tf.matmul(a, weight))
        if kind == 2:
            factor = draw(st.integers(1, 3)) / 2
            return lambda a: a * factor
        if kind == 3:
            return lambda a: tf.concat(tf.split(a, 2)[::-1], 0) + a
        if kind == 4:
            return tf.nn.relu
        first, second = program(depth + 1), program(depth + 1)
        if kind == 5:
            return lambda a: v1.cond(tf.reduce_sum(a) > 0.5, lambda: first(a), lambda: second(a) - a)
        count = draw(st.integers(0, 3))
        carried = draw(st.booleans())

        def loop(a: tf.Tensor) -> tf.Tensor:
            def body(i: tf.Tensor, b: tf.Tensor, c: tf.Tensor) -> Any:
                return i + 1, first(b), c + a if carried else second(c)

            _, b, c = v1.while_loop(lambda i, b, c: i < count, body, [0, a, a * 0.5])
            return b + c

        return loop

    def program(depth: int) -> Callable[[tf.Tensor], tf.Tensor]:
        statements = [statement(depth) for _ in range(draw(st.integers(1, 3)))]

        def run(a: tf.Tensor) -> tf.Tensor:
            for one in statements:
                a = one(a)
            return a

        return run

    body = program(0)
    with v1_graph() as graph:
        tf.tanh(body(v1.placeholder(tf.float32, SHAPE, name="x")), name="y")
    return graph.as_graph_def()


@settings(max_examples=40, deadline=None)
@given(random_programs(), st.integers(1, 3))
def test_random_programs_give_equal_results(graph_def: GraphDef, minimum_size: int) -> None:
    feeds = [{"x": value(seed) + 0.1 * seed - 0.1} for seed in range(3)]
    options = {"is_supported": unless("Sin"), "minimum_segment_size": minimum_size}
    found = segment_contexts(graph_def, ["y:0"], feeds, **options)
    assert all(node_name(name) for context in found for name in context.frame)
