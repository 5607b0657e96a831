"""Asks for engines made for single shapes ahead of time, so that no request waits until its shape has come often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tf_opt.errors import InvalidGraphError, InvalidOptionError
from tf_opt.feeds import Feed, NormalizedFeed, check_feeds
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.passes.tf.graph_editor import keep_reachable
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.splice import ENGINE_OP
from tf_opt.session import GraphRunner
from tf_opt.tensor_info import TensorInfo, node_name, tensor_name

Shapes = tuple[tuple[int, ...], ...]
"""The shapes of all inputs of one engine node."""


def specialize(frozen: FrozenGraph, feeds: Sequence[Feed]) -> FrozenGraph:
    """Returns the graph with a wish in each engine node: compile an engine for the shape of each feed when you load.

    The first run of a Session then takes as long as these compilations do, about a second each for BERT-base, and no
    later run waits. As always, the engine for one shape has to measure faster than the one for all shapes on the first
    22 calls, or it goes. Each holds a packed copy of the weights. Other shapes are served as before.

    The wish is an attribute of the graph: it is saved with it, and any process that runs the graph fulfils it. OpenVINO
    does; other engines ignore it.

    Example:
        >>> ready = tf_opt.specialize(optimized, tf_opt.random_feeds(optimized, batch=1, sequence=16))
        >>> tf_opt.run(ready, feed)

    Args:
        frozen: An optimized graph; it is not changed.
        feeds: One for each shape; they are run to learn the shapes of what the engines read. Earlier wishes of the
            graph are forgotten, so an empty list leaves none.

    Raises:
        InvalidGraphError: The graph has no engine.
        InvalidFeedError: A feed does not fit the inputs.
        InvalidOptionError: There are more shapes than `maximum_cached_engines`.
    """
    graph_def = graph_pb2.GraphDef()
    graph_def.CopyFrom(frozen.graph_def)
    engines = [node for node in graph_def.node if node.op == ENGINE_OP]
    if not engines:
        raise InvalidGraphError(
            "The graph has no engine that could be made for one shape. Optimize it first, and see in the report why no "
            "engine was adopted if none was."
        )
    inputs = {node.name: list(node.input)[: len(node.attr["InT"].list.type)] for node in engines}
    for node in engines:
        node.attr[
            "specialize_shapes"
        ].list.SetInParent()  # Present, though empty: a list that TensorFlow reads as such.
        del node.attr["specialize_shapes"].list.shape[:]
    wanted = (
        _engine_shapes(replace(frozen, graph_def=graph_def), inputs, check_feeds(feeds, frozen.inputs)) if feeds else {}
    )
    for node in engines:
        shapes = wanted.get(node.name, [])
        allowed = node.attr["maximum_cached_engines"].i if "maximum_cached_engines" in node.attr else _DEFAULT_MAXIMUM
        if len(shapes) > allowed:
            raise InvalidOptionError(
                f"The feeds have {len(shapes)} shapes, and the graph keeps engines for at most {allowed}. Give fewer, "
                f"or optimize with Tf2TrtOpt(maximum_cached_engines={len(shapes)})."
            )
        for each in shapes:
            for shape in each:
                node.attr["specialize_shapes"].list.shape.add().CopyFrom(tf.TensorShape(shape).as_proto())
    return replace(frozen, graph_def=graph_def)


_DEFAULT_MAXIMUM = 16  # The op's own default, which a stored graph may leave out.


def _engine_shapes(
    frozen: FrozenGraph, inputs: dict[str, list[str]], feeds: Sequence[NormalizedFeed]
) -> dict[str, list[Shapes]]:
    """Returns for each engine node the different shapes of its inputs over all feeds."""
    names = list(dict.fromkeys(tensor_name(reference) for references in inputs.values() for reference in references))
    # Cut down to what computes them: TensorFlow takes its time with a graph that holds all the weights.
    border = Border(inputs=tuple(node_name(info.name) for info in frozen.inputs), outputs=tuple(names))
    cut = keep_reachable(frozen.graph_def, frozen.graph_def.node, border)
    outputs = tuple(TensorInfo(name=name, dtype="") for name in names)
    shapes: dict[str, dict[Shapes, None]] = {node: {} for node in inputs}
    with GraphRunner(replace(frozen, graph_def=cut, outputs=outputs)) as runner:
        for feed in feeds:
            values = dict(zip(names, runner.run(feed, names).values(), strict=True))
            for node, references in inputs.items():
                each = tuple(tuple(values[tensor_name(reference)].shape) for reference in references)
                shapes[node].setdefault(each)
    return {node: list(each) for node, each in shapes.items()}
