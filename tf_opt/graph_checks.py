"""Says what a GraphDef is before anything works on it: whether it is sound and frozen, and what its tensors are.

All functions take full and light graphs alike; none changes its argument or copies a weight.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.python.framework import kernels, op_def_registry

from tf_opt.errors import (
    GraphNotFrozenError,
    InvalidGraphError,
    UnknownOpError,
    UnknownOutputError,
    did_you_mean,
)
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.tensor_info import TensorInfo, node_name, tensor_name
from tf_opt.weights import detach_weights, is_weight

VARIABLE_OPS = frozenset(
    {
        "Variable",
        "VariableV2",
        "AutoReloadVariable",
        "TemporaryVariable",
        "VarHandleOp",
        "_VarHandlesOp",
        "ReadVariableOp",
        "_ReadVariablesOp",
        "ResourceGather",
        "ResourceGatherNd",
        "AssignVariableOp",
    }
)
"""Ops that hold or touch variables. Tables, queues and iterators are no variables: their ops stay in TensorFlow."""

PLACEHOLDER_OPS = frozenset({"Placeholder", "PlaceholderV2"})
"""Placeholders that have to be fed. PlaceholderWithDefault is no input: its default serves (no dropout, for example),
and a Session can still feed it."""

_MAXIMUM_NAMES_IN_MESSAGE = 5


def check_graph(graph_def: graph_pb2.GraphDef, outputs: Sequence[str] | None = None) -> None:
    """Checks that a GraphDef is consistent, known to this process, and free of variables.

    Args:
        graph_def: Full or light graph.
        outputs: Tensor or node names. Where given they must exist, and variables count only where an output needs them
            (a graph often still carries its saver); the rest of the checks hold for the whole graph.

    Raises:
        InvalidGraphError: Two nodes have one name, or an input names no node.
        UnknownOutputError: An output is no tensor of the graph.
        UnknownOpError: An op is neither registered with TensorFlow nor a function of the graph, or has no kernel here.
        GraphNotFrozenError: Variables are left.
    """
    _check_references(graph_def)
    _check_ops(graph_def)
    needed = list(graph_def.node)
    if outputs is not None:
        names = normalize_outputs(graph_def, outputs)
        needed = _ancestors(graph_def, names)
    _check_frozen(needed, graph_def)
    _check_kernels(needed, graph_def)


def normalize_outputs(graph_def: graph_pb2.GraphDef, outputs: Iterable[str] | str) -> tuple[str, ...]:
    """Returns output names as tensor names ("logits" becomes "logits:0"), each one checked.

    Raises:
        UnknownOutputError: A name is no tensor of the graph, or none is given.
    """
    names = [outputs] if isinstance(outputs, str) else list(outputs)
    if not names:
        raise UnknownOutputError("No outputs are given. Name at least one tensor to fetch, such as 'Identity:0'.")
    nodes = {node.name: node for node in graph_def.node}
    normalized = []
    for name in names:
        if not isinstance(name, str):
            raise UnknownOutputError(
                f"An output is given as {type(name).__name__}; expected the name of a tensor, such as 'Identity:0'."
            )
        node = nodes.get(node_name(name))
        if node is None:
            raise UnknownOutputError(
                f"The graph has no node {node_name(name)!r}, so {name!r} cannot be an output."
                f"{did_you_mean(node_name(name), nodes)} Outputs are tensors of the graph, such as 'Identity:0'."
            )
        tensor = tensor_name(name)
        index = tensor.partition(":")[2]
        count = output_count(node)
        if name.startswith("^") or not index.isdigit() or (count is not None and int(index) >= count):
            has = f"has {count} output{'' if count == 1 else 's'}" if count is not None else "is no such tensor"
            raise UnknownOutputError(
                f"{name!r} is no tensor: the node {node.name!r} ({node.op}) {has}. Write '{node.name}:<index>' with an "
                "index from 0."
            )
        if tensor not in normalized:
            normalized.append(tensor)
    return tuple(normalized)


def output_count(node: node_def_pb2.NodeDef) -> int | None:
    """Returns how many outputs `node` has by the definition of its op; None for an op that is not known."""
    definition = op_def_registry.get(node.op)
    if definition is None:
        return None
    count = 0
    for argument in definition.output_arg:
        if argument.number_attr:
            count += node.attr[argument.number_attr].i
        elif argument.type_list_attr:
            count += len(node.attr[argument.type_list_attr].list.type)
        else:
            count += 1
    return count


def sink_outputs(graph_def: graph_pb2.GraphDef) -> tuple[str, ...]:
    """Returns the tensors of the compute nodes that nothing consumes, in the order of the graph.

    Constants, placeholders and nodes without outputs (NoOp, Assert) are no sinks.
    """
    consumed = {node_name(reference) for node in graph_def.node for reference in node.input}
    sinks: list[str] = []
    for node in graph_def.node:
        if node.name in consumed or node.op in PLACEHOLDER_OPS or node.op in ("Const", "PlaceholderWithDefault"):
            continue
        sinks.extend(f"{node.name}:{index}" for index in range(output_count(node) or 0))
    return tuple(sinks)


def infer_tensors(graph_def: graph_pb2.GraphDef, names: Sequence[str]) -> tuple[TensorInfo, ...]:
    """Describes tensors by TensorFlow's own shape inference.

    Args:
        graph_def: Full or light graph, checked.
        names: Tensor names.

    Raises:
        InvalidGraphError: TensorFlow cannot import the graph; its message says why.
    """
    graph = import_graph(graph_def)
    return tuple(describe_tensor(graph.get_tensor_by_name(tensor_name(name))) for name in names)


def import_graph(graph_def: graph_pb2.GraphDef) -> Any:
    """Returns a `tf.Graph` of the graph with placeholders in place of its weights, for shape inference.

    Raises:
        InvalidGraphError: TensorFlow cannot import the graph; its message says why.
    """
    light, _ = detach_weights(graph_def)
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.import_graph_def(light, name="")
    except (ValueError, tf.errors.OpError) as error:
        raise InvalidGraphError(f"TensorFlow cannot import the graph: {error}") from error
    return graph


def describe_tensor(tensor: Any, key: str = "") -> TensorInfo:
    """Returns the description of a symbolic tensor."""
    shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    return TensorInfo(name=tensor.name, dtype=tensor.dtype.base_dtype.name, shape=shape, key=key)


def frozen_from_graph_def(
    graph_def: graph_pb2.GraphDef,
    outputs: Iterable[str] | str | None = None,
    *,
    keys: Mapping[str, str] | None = None,
) -> FrozenGraph:
    """Describes a GraphDef as a FrozenGraph: placeholders are the inputs, dtypes and shapes come by shape inference.

    Args:
        graph_def: A frozen graph. It is shared, neither copied nor changed.
        outputs: Node or tensor names; None takes the compute tensors that nothing consumes.
        keys: Names by which users know the tensors, by tensor name; the node's name where there is none.

    Raises:
        InvalidGraphError: The graph is inconsistent, or has no output.
        UnknownOutputError: An output is no tensor of the graph.
        UnknownOpError: An op is neither registered with TensorFlow nor a function of the graph.
        GraphNotFrozenError: Variables are left.
    """
    names = sink_outputs(graph_def) if outputs is None else normalize_outputs(graph_def, outputs)
    if not names:
        raise InvalidGraphError(
            "The graph has no compute node that nothing consumes, so its outputs cannot be found. Name them with "
            "`outputs`."
        )
    check_graph(graph_def, names)
    inputs = [f"{node.name}:0" for node in graph_def.node if node.op in PLACEHOLDER_OPS and not is_weight(node)]
    described = infer_tensors(graph_def, [*inputs, *names])
    known = keys or {}
    named = [
        TensorInfo(
            name=info.name, dtype=info.dtype, shape=info.shape, key=known.get(info.name) or _default_key(info.name)
        )
        for info in described
    ]
    return FrozenGraph(graph_def=graph_def, inputs=tuple(named[: len(inputs)]), outputs=tuple(named[len(inputs) :]))


def _default_key(name: str) -> str:
    # Two outputs of one node must not share a key, so the index stays where it is not 0.
    return name.removesuffix(":0")


def _check_references(graph_def: graph_pb2.GraphDef) -> None:
    counts = Counter(node.name for node in graph_def.node)
    duplicates = sorted(name for name, count in counts.items() if count > 1)
    if duplicates:
        raise InvalidGraphError(
            f"Node names must be unique, but these stand more than once: {_some(duplicates)}. Rename the nodes, or "
            "import the parts under different prefixes before merging them."
        )
    for node in graph_def.node:
        for reference in node.input:
            if node_name(reference) not in counts:
                raise InvalidGraphError(
                    f"The node {node.name!r} ({node.op}) reads {reference!r}, but the graph has no node "
                    f"{node_name(reference)!r}.{did_you_mean(node_name(reference), counts)} Export the graph again "
                    "with all nodes that its outputs need."
                )


def _check_ops(graph_def: graph_pb2.GraphDef) -> None:
    functions = {function.signature.name for function in graph_def.library.function}
    unknown: dict[str, list[str]] = defaultdict(list)
    for where, nodes in _all_nodes(graph_def):
        for node in nodes:
            if node.op not in functions and op_def_registry.get(node.op) is None:
                unknown[node.op].append(f"{node.name}{where}")
    if unknown:
        listed = "; ".join(f"{op} (nodes: {_some(names)})" for op, names in sorted(unknown.items()))
        raise UnknownOpError(
            f"TensorFlow does not know these ops: {listed}. Load the library that registers them first "
            "(tf.load_op_library(path), or import the package that brings them, such as tensorflow_text)."
        )


def _check_kernels(nodes: Iterable[node_def_pb2.NodeDef], graph_def: graph_pb2.GraphDef) -> None:
    """Raises where an op is defined but nothing in this process runs it; a Session would say so only when it runs."""
    functions = {function.signature.name for function in graph_def.library.function}
    names: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        if node.op not in functions:
            names[node.op].append(node.name)
    devices = {"CPU", "DEFAULT"}
    if tf.config.list_physical_devices("GPU"):
        devices.add("GPU")
    lacking = {
        op: sorted({kernel.device_type for kernel in kernels.get_registered_kernels_for_op(op).kernel})
        for op in names
        if not any(kernel.device_type in devices for kernel in kernels.get_registered_kernels_for_op(op).kernel)
    }
    if lacking:
        listed = "; ".join(
            f"{op} (nodes: {_some(names[op])}; kernels: {', '.join(found) or 'none'})" for op, found in lacking.items()
        )
        raise UnknownOpError(
            f"No kernel in this process runs these ops: {listed}. Load the library that brings the kernel "
            "(tf.load_op_library(path)), or replace the nodes."
        )


def _check_frozen(nodes: Iterable[node_def_pb2.NodeDef], graph_def: graph_pb2.GraphDef) -> None:
    needed = list(nodes)
    found = [f"{node.name} ({node.op})" for node in needed if node.op in VARIABLE_OPS]
    functions = {function.signature.name: function for function in graph_def.library.function}
    pending = list(needed)
    seen: set[str] = set()
    while pending:
        node = pending.pop()
        for attribute in node.attr:
            value = node.attr[attribute]
            references = [value.func] if value.WhichOneof("value") == "func" else list(value.list.func)
            for name in [reference.name for reference in references] + [node.op]:
                if name in functions and name not in seen:
                    seen.add(name)
                    pending.extend(functions[name].node_def)
                    found.extend(
                        f"{inner.name} ({inner.op}, in function {name})"
                        for inner in functions[name].node_def
                        if inner.op in VARIABLE_OPS
                    )
    if found:
        raise GraphNotFrozenError(
            f"The graph still holds variables: {_some(found)}. Freeze the model first: tf_opt.freeze_keras(model), "
            "tf_opt.freeze_saved_model(directory) or tf_opt.freeze_concrete_function(function); for a graph of a "
            "tf.compat.v1.Session, write it with tf.compat.v1.saved_model.simple_save and freeze that directory."
        )


def _ancestors(graph_def: graph_pb2.GraphDef, names: Iterable[str]) -> list[node_def_pb2.NodeDef]:
    nodes = {node.name: node for node in graph_def.node}
    pending = [node_name(name) for name in names]
    found: dict[str, node_def_pb2.NodeDef] = {}
    while pending:
        name = pending.pop()
        if name not in found:
            found[name] = nodes[name]
            pending.extend(node_name(reference) for reference in nodes[name].input)
    return list(found.values())


def _all_nodes(graph_def: graph_pb2.GraphDef) -> Iterable[tuple[str, Any]]:
    yield "", graph_def.node
    for function in graph_def.library.function:
        yield f" in function {function.signature.name}", function.node_def


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MAXIMUM_NAMES_IN_MESSAGE])
    return (
        shown
        if len(names) <= _MAXIMUM_NAMES_IN_MESSAGE
        else f"{shown} and {len(names) - _MAXIMUM_NAMES_IN_MESSAGE} more"
    )
