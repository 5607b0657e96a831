"""Puts the engines of a SavedModel back into the nodes of its frozen graph, which then needs no file.

engine: Const(string) ─ TfOptEngine(stored_engines=1)      becomes      TfOptEngine(engine=…)
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2, graph_pb2
from tensorflow.python.framework import op_def_registry

from tf_opt.engine_nodes import ENGINE_FILE_ATTRIBUTE, STORED_ENGINES_ATTRIBUTE, data_input_count, engine_is_input
from tf_opt.freeze.cleanup import V1_CONTROL_FLOW_OPS
from tf_opt.passes.tf.splice import ENGINE_OP
from tf_opt.tensor_info import node_name


def let_engines_be_inlined(library: function_pb2.FunctionDefLibrary) -> None:
    """Lists, in place, the stateful nodes of functions that have engines as something that these functions do.

    Grappler leaves a call as it is where no control output of its function waits for a stateful node. Functions with
    plain control flow stay calls: of two branches, one would never finish.
    """
    for function in library.function:
        operations = {node.op for node in function.node_def}
        if ENGINE_OP not in operations or operations & V1_CONTROL_FLOW_OPS:
            continue
        listed = set(function.control_ret.values())
        for node in function.node_def:
            definition = op_def_registry.get(node.op)
            if node.name not in listed and definition is not None and definition.is_stateful:
                function.signature.control_output.append(node.name)
                function.control_ret[node.name] = node.name


def may_hold_engine(graph_def: graph_pb2.GraphDef) -> bool:
    """Tells whether a graph, or a function of it, has an engine node that takes its engine as an input."""
    bodies = (graph_def.node, *(function.node_def for function in graph_def.library.function))
    return any(node.op == ENGINE_OP and engine_is_input(node) for nodes in bodies for node in nodes)


def held_engine(handle: Any) -> Any:
    """Returns the engine that a captured resource holds, as a tensor of one string; None where it holds something else.

    Args:
        handle: The resource's handle, an eager tensor.
    """
    try:
        return tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.string)
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.FailedPreconditionError):
        return None  # A handle does not tell what it is of: a lookup table, for example.


def put_engines_back(graph_def: graph_pb2.GraphDef) -> None:
    """Moves, in place, each engine that is a constant into the nodes that take it."""
    nodes = {node.name: node for node in graph_def.node}
    moved = set()
    for node in graph_def.node:
        if node.op != ENGINE_OP or not engine_is_input(node):
            continue
        position = data_input_count(node)
        source = nodes[node_name(node.input[position])]
        while source.op == "Identity":
            source = nodes[node_name(source.input[0])]
        if source.op != "Const":
            continue
        node.attr["engine"].s = source.attr["value"].tensor.string_val[0]
        del node.input[position]
        for name in (STORED_ENGINES_ATTRIBUTE, ENGINE_FILE_ATTRIBUTE):
            if name in node.attr:
                del node.attr[name]
        moved.add(source.name)
    read = {node_name(reference) for node in graph_def.node for reference in node.input}
    for index in reversed(range(len(graph_def.node))):
        if graph_def.node[index].name in moved - read:
            del graph_def.node[index]
