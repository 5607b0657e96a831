"""Dtype and static shape of every tensor of a GraphDef, by TensorFlow's own shape inference."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.python.framework import op_def_registry

from tf_opt.errors import InvalidGraphError, UnknownOpError
from tf_opt.tensor_info import Shape, TensorInfo


def op_definition(op: str) -> Any:
    """Returns the OpDef that is registered for `op`, or None where there is none."""
    return op_def_registry.get(op)


def check_ops_are_known(graph_def: GraphDef) -> None:
    """Checks that this process has a definition for every op of the graph and of its function library.

    Raises:
        UnknownOpError: Some op is neither registered nor a function of the library; the message names the ops.
    """
    functions = {function.signature.name for function in graph_def.library.function}
    bodies: list[Iterable[Any]] = [graph_def.node, *(function.node_def for function in graph_def.library.function)]
    unknown: dict[str, str] = {}
    for body in bodies:
        for node in body:
            if node.op not in functions and node.op not in unknown and op_definition(node.op) is None:
                unknown[node.op] = node.name
    if unknown:
        listed = ", ".join(f"{op} (node {name!r})" for op, name in sorted(unknown.items())[:5])
        raise UnknownOpError(
            f"The GraphDef uses ops that this process does not know: {listed}. Load the library that registers them "
            "first, with tf.load_op_library(path) or by importing its package (for example tensorflow_text)."
        )


def static_shape(shape: tf.TensorShape) -> Shape:
    """Turns a TensorShape into a tuple with None for unknown dimensions, or None where the rank is unknown."""
    return None if shape.rank is None else tuple(shape.as_list())


def tensor_infos(graph_def: GraphDef) -> dict[str, TensorInfo]:
    """Infers dtype and static shape of every tensor of a graph.

    The graph is imported into a `tf.Graph` of its own, so the answer is what TensorFlow itself knows. The cost grows
    with the nodes and with the bytes of the constants: call it on a light graph, and once.

    Args:
        graph_def: The graph; it is not changed.

    Returns:
        TensorInfo by tensor name ("x:0"), for every output of every node.

    Raises:
        UnknownOpError: The graph uses an op that is not registered in this process.
        InvalidGraphError: TensorFlow refuses the graph, for example because shapes contradict each other.
    """
    check_ops_are_known(graph_def)
    with tf.Graph().as_default() as graph:
        try:
            tf.graph_util.import_graph_def(graph_def, name="")
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise InvalidGraphError(
                f"TensorFlow cannot import the GraphDef: {error} Repair the graph, or remove the node named there."
            ) from error
        return {
            tensor.name: TensorInfo(name=tensor.name, dtype=tensor.dtype.name, shape=static_shape(tensor.shape))
            for operation in graph.get_operations()
            for tensor in operation.outputs
        }
