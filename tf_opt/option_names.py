"""Checks the names that options have against the models that they are for, before anything is built."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache

import tensorflow as tf

from tf_opt.errors import InvalidOptionError, did_you_mean
from tf_opt.frozen_graph import find_tensor
from tf_opt.light_graph import LightGraph
from tf_opt.optimizer_inputs import resolve_mask
from tf_opt.options import Options
from tf_opt.passes.tf.pass_base import Border, PassPipeline
from tf_opt.passes.tf.pipeline import EXPORT_PASSES, GRAPH_PASSES
from tf_opt.passes.tf.tensor_types import op_definition
from tf_opt.quantization.layers import possible_layer_names
from tf_opt.tensor_info import node_name


def check_option_names(options: Options, models: Sequence[LightGraph]) -> None:
    """Refuses names of ops, nodes and inputs that stand for nothing: they would silently have no effect.

    Args:
        options: The user's options.
        models: All graphs that are to be optimized with them. Ops and nodes need to be in one of them, inputs in each.

    Raises:
        InvalidOptionError: There is such a name; the message has the nearest ones.
    """
    if not models:
        return
    for model in models:
        resolve_mask(options, model)
        _check_profiles(options, model)
    ops = {node.op for model in models for node in _nodes(model)}
    for option, patterns in (("supported_list", options.supported_list), ("denied_ops", options.denied_ops)):
        for pattern in patterns or ():
            if not (_is_op(pattern) or _matches(pattern, ops) or _matches(pattern, _public_ops())):
                raise InvalidOptionError(
                    f"{option} has {pattern!r}, which is neither an op of TensorFlow nor one of the graph."
                    f"{did_you_mean(pattern, ops) or did_you_mean(pattern, _public_ops())} Ops are called as in "
                    "node.op; patterns such as 'Conv*' will do."
                )
    _check_nodes(options, models)


def _check_profiles(options: Options, model: LightGraph) -> None:
    known = [info.key for info in model.inputs]
    for profile in () if options.tensorrt is None else options.tensorrt.profiles:
        for name in profile:
            if find_tensor(model.inputs, name) is None:
                raise InvalidOptionError(
                    f"The shape profile names {name!r}, which is no input of the graph.{did_you_mean(name, known)} The "
                    f"inputs are: {', '.join(map(repr, known))}."
                )


def _check_nodes(options: Options, models: Sequence[LightGraph]) -> None:
    names = {node.name for model in models for node in _nodes(model)}
    lists = [("supported_nodes", options.supported_nodes or ()), ("denied_nodes", options.denied_nodes)]
    _check_patterns(lists, names, lambda: names | _names_after_passes(models))
    if options.quantization is None:
        return

    def names_in_onnx() -> set[str]:
        return {layer for name in names | _names_after_passes(models) for layer in possible_layer_names(name)}

    _check_patterns([("quantization.denied_nodes", options.quantization.denied_nodes)], names, names_in_onnx)


def _check_patterns(
    lists: Iterable[tuple[str, Collection[str]]], names: set[str], more_names: Callable[[], set[str]]
) -> None:
    """Refuses patterns that match no name; `more_names` is asked only where one matches none of `names`."""
    for option, patterns in lists:
        for pattern in patterns:
            if _matches(pattern, names):
                continue
            # Reports and dumps name nodes that a pass wrote.
            written = more_names()
            if not _matches(pattern, written):
                # The user knows a node by the name in the graph that was given, if it has one there.
                nearest = did_you_mean(pattern, names) or did_you_mean(pattern, written)
                raise InvalidOptionError(
                    f"{option} has {pattern!r}, which no node of the graph is called.{nearest} "
                    "Nodes are called as in node.name, without ':0'; patterns such as 'encoder/*' will do."
                )


def _names_after_passes(models: Sequence[LightGraph]) -> set[str]:
    names: set[str] = set()
    for model in models:
        border = Border(inputs=tuple(map(node_name, model.input_names)), outputs=model.output_names)
        graph_def = PassPipeline(GRAPH_PASSES).run(model.graph_def, border)
        names.update(node.name for node in graph_def.node)
        names.update(f"{node.name}_outside" for node in graph_def.node)  # As passes.tf.separate_indices has it.
        names.update(node.name for node in PassPipeline(EXPORT_PASSES).run(graph_def, border).node)
    return names


def _nodes(model: LightGraph) -> Iterable[tf.compat.v1.NodeDef]:
    yield from model.graph_def.node
    for function in model.graph_def.library.function:
        yield from function.node_def


def _matches(pattern: str, names: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _is_op(name: str) -> bool:
    return op_definition(name) is not None


@cache
def _public_ops() -> frozenset[str]:
    return frozenset(name for name in dir(tf.raw_ops) if not name.startswith("_"))
