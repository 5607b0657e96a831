"""Helpers for tests of segmentation: build v1 graphs, splice them, and run the result without the native op."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.passes.tf.graph_view import GraphView, parse_input
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.segment import Segmentation, segment_graph
from tf_opt.passes.tf.splice import ENGINE_OP, EngineNode, splice_segments
from tf_opt.tensor_info import TensorInfo
from tf_opt.weights import WeightStore, attach_weights, detach_weights

v1 = tf.compat.v1
Feeds = Mapping[str, Any]

SHAPE = (4, 4)
"""Of most tensors in these graphs."""


def value(seed: int = 0) -> np.ndarray[Any, Any]:
    """Random float32 numbers [4, 4] between -0.5 and 0.5."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, SHAPE).astype(np.float32)


@contextlib.contextmanager
def v1_graph() -> Iterator[tf.Graph]:
    """A graph to build in, with control flow made of Switch, Merge, Enter and so on."""
    was_enabled = v1.control_flow_v2_enabled()
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default() as graph:
            yield graph
    finally:
        if was_enabled:
            v1.enable_control_flow_v2()


def unless(*forbidden: str) -> Callable[[NodeDef, tuple[TensorInfo, ...], tuple[TensorInfo, ...]], str | None]:
    """A support check that accepts every op but these."""
    return lambda node, inputs, outputs: f"{node.op} is forbidden here" if node.op in forbidden else None


everything = unless()


def run(graph_def: GraphDef, feeds: Feeds, fetches: Sequence[str]) -> list[np.ndarray[Any, Any]]:
    """Runs a graph as it stands, as far as TensorFlow lets one switch its optimizers off."""
    return run_each(graph_def, [feeds], fetches)[0]


def run_each(graph_def: GraphDef, feeds: Sequence[Feeds], fetches: Sequence[str]) -> list[list[np.ndarray[Any, Any]]]:
    """Runs a graph on each of several feeds, in one session."""
    config = v1.ConfigProto()
    config.graph_options.optimizer_options.opt_level = -1
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
        with v1.Session(graph=graph, config=config) as session:
            return [session.run(list(fetches), {f"{name}:0": value for name, value in feed.items()}) for feed in feeds]


def engine_nodes(graph_def: GraphDef) -> list[NodeDef]:
    """The engine nodes of a spliced graph."""
    return [node for node in graph_def.node if node.op == ENGINE_OP]


def with_fallback_calls(graph_def: GraphDef) -> GraphDef:
    """Replaces each engine node by a call of its fallback function, which TensorFlow can run by itself."""
    result = GraphDef()
    result.CopyFrom(graph_def)
    for node in engine_nodes(result):
        engine = NodeDef()
        engine.CopyFrom(node)
        node.op = "StatefulPartitionedCall"
        node.attr.clear()
        node.attr["f"].func.name = engine.attr["fallback"].func.name
        node.attr["Tin"].list.type.extend([*engine.attr["InT"].list.type, *engine.attr["WeightT"].list.type])
        node.attr["Tout"].list.type.extend(engine.attr["OutT"].list.type)
    return result


def splice_all(graph_def: GraphDef, segmentation: Segmentation) -> GraphDef:
    """Splices every segment, with an engine that is only a few bytes."""
    return splice_segments(
        graph_def,
        [EngineNode(segment=segment, runtime="none", engine=b"engine") for segment in segmentation.segments],
    )


def check_accounts(graph_def: GraphDef, segmentation: Segmentation) -> None:
    """Checks that each compute node is in exactly one segment or has exactly one refusal."""
    compute = [n.name for n in graph_def.node if n.op not in {"Const", "Placeholder", "NoOp"}]
    accounted = [name for segment in segmentation.segments for name in segment.nodes]
    accounted += [refusal.node for refusal in segmentation.refusals]
    assert sorted(accounted) == sorted(compute)
    assert segmentation.compute_node_count == len(compute)
    assert all(refusal.reason for refusal in segmentation.refusals)


def check_splice(
    graph_def: GraphDef,
    outputs: Sequence[str],
    feeds: Feeds | Sequence[Feeds],
    *,
    is_supported: Any = everything,
    minimum_segment_size: int = 1,
    minimum_weight_elements: int = 4,
) -> tuple[Segmentation, GraphDef]:
    """Segments and splices a graph and compares results with the original's; returns the segmentation and the graph."""
    all_feeds = [feeds] if isinstance(feeds, Mapping) else list(feeds)
    light, store = detach_weights(graph_def, minimum_weight_elements)
    before = light.SerializeToString(deterministic=True)
    border = Border(tuple(all_feeds[0]), tuple(outputs))
    segmentation = segment_graph(light, border, is_supported=is_supported, minimum_segment_size=minimum_segment_size)
    check_accounts(light, segmentation)
    spliced = splice_all(light, segmentation)
    assert light.SerializeToString(deterministic=True) == before
    check_structure(light, segmentation, spliced)
    runnable = with_fallback_calls(attach_weights(spliced, _still_there(store, spliced)))
    for wanted, got in zip(
        run_each(graph_def, all_feeds, outputs), run_each(runnable, all_feeds, outputs), strict=True
    ):
        for expected, actual in zip(wanted, got, strict=True):
            assert actual.dtype == expected.dtype
            assert actual.shape == expected.shape
            # TensorFlow fuses in functions what it leaves alone outside, so the last bits differ.
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    return segmentation, spliced


def _still_there(store: WeightStore, graph_def: GraphDef) -> WeightStore:
    names = {node.name for node in graph_def.node}
    return WeightStore({name: store.node(name) for name in store if name in names})


def forward_predecessors(view: GraphView, name: str) -> list[str]:
    """What a node depends on in its own iteration."""
    return [source for source in view.predecessors(name) if not view.is_back_edge(source)]


def check_structure(light: GraphDef, segmentation: Segmentation, spliced: GraphDef) -> None:
    """Checks what must hold of every spliced graph."""
    view = GraphView(spliced)
    order = view.topological_order()
    assert sum(view.op(name) == ENGINE_OP for name in order) == len(segmentation.segments)
    for segment in segmentation.segments:
        node = view.node(segment.name)
        assert len(node.attr["InT"].list.type) == len(segment.inputs) > 0
        assert len(node.attr["WeightT"].list.type) == len(segment.weights)
        assert len(node.attr["OutT"].list.type) == len(node.attr["output_shapes"].list.shape) > 0
        assert len(view.data_inputs(segment.name)) == len(segment.inputs) + len(segment.weights)
        assert all(use.output_index < len(segment.outputs) for use in view.data_consumers(segment.name))
        assert len(set(segment.outputs)) == len(segment.outputs)
    earlier: set[str] = set()
    for segment in segmentation.segments:
        upstream = view.reachable([segment.name], follow=lambda name: forward_predecessors(view, name))
        assert earlier >= {node.name for node in engine_nodes(spliced) if node.name in upstream} - {segment.name}
        earlier.add(segment.name)
    fetchable = {parse_input(tensor).node for segment in segmentation.segments for tensor in segment.fetchable}
    inside = {name for segment in segmentation.segments for name in segment.nodes}
    for node in light.node:
        if node.name in inside:
            assert (node.name in view) == (node.name in fetchable)
        elif node.op != "Const":
            assert node.name in view
    assert spliced.versions == light.versions
