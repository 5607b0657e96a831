"""Makes TensorFlow functions of optimized graphs: what a SavedModel holds instead of GraphDefs.

    signature ─┐
               ├─► the graph as one function ─┬─► nodes and engine nodes
    endpoint ──┘                              └─► ReadVariableOp of each weight and each engine

The graph is traced once, however many signatures and endpoints call it.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tf_opt.freeze.cleanup import called_functions
from tf_opt.light_graph import LightGraph
from tf_opt.ops.host_weights import engine_weights
from tf_opt.saved_model.engine_files import EngineFiles, read_stored_engine
from tf_opt.saved_model.weights import WeightVariables, read_host_weight
from tf_opt.tensor_info import TensorInfo, node_name
from tf_opt.weights import add_constant, is_weight

Tensor: TypeAlias = Any
"""A `tf.Tensor`; TensorFlow has no types."""

_PREFIX = "tf_opt"


class GraphFunction:
    """A light graph as a function from inputs to outputs, both by key, whose weights are variables."""

    def __init__(self, model: LightGraph, weights: WeightVariables, engines: EngineFiles) -> None:
        """Makes the variables and files that are missing, and traces.

        Args:
            model: The graph.
            weights: Where its variables come from.
            engines: Where its engines go.
        """
        self.model = model
        self._engines = engines
        read = _read_names(model)
        names = [node.name for node in model.graph_def.node if is_weight(node) and not node.input]
        on_host = engine_weights(model.graph_def) & set(names)
        hosted = {name: weights.host_weight(model.weights, name) for name in names if name in on_host}
        self._host_variables = {name: variable for name, variable in hosted.items() if variable is not None}
        self._variables = {
            name: weights.variable(model.weights, name)
            for name in names
            if name in read and name not in self._host_variables
        }
        # Not tf.function: that makes all nodes with side effects wait for each other, and an engine node in a branch or
        # a loop of plain nodes (Switch, Enter) cannot wait for one outside of it. The graph has the edges it needs.
        self._function = tf.compat.v1.wrap_function(
            self._trace,
            [
                tf.TensorSpec(info.shape, info.dtype, name=f"{_PREFIX}_input_{number}")
                for number, info in enumerate(model.inputs)
            ],
        )

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the outputs by key."""
        outputs = self._function(*(tensors[info.key] for info in self.model.inputs))
        return {info.key: output for info, output in zip(self.model.outputs, outputs, strict=True)}

    def _trace(self, *inputs: Tensor) -> list[Tensor]:
        values = {info.name: tensor for info, tensor in zip(self.model.inputs, inputs, strict=True)}
        for number, (name, variable) in enumerate(self._variables.items()):
            values[f"{name}:0"] = tf.raw_ops.ReadVariableOp(
                resource=variable.handle, dtype=variable.dtype, name=f"{_PREFIX}_weight_{number}"
            )
        for name, variable in self._host_variables.items():
            values[f"{name}:0"] = read_host_weight(variable, self.model.weights.info(name))
        graph_def = _without(self.model, {node_name(name) for name in values})
        for name, resource in self._engines.take_out(graph_def, self.model.graph_def).items():
            values[name] = read_stored_engine(resource)
        rename_functions(graph_def)
        present = {node.name for node in graph_def.node}
        read = {f"{n}:0" for node in graph_def.node for n in map(_tensor, node.input)}
        computed = [info.name for info in self.model.outputs if node_name(info.name) in present]
        found = tf.graph_util.import_graph_def(
            graph_def,
            input_map={name: value for name, value in values.items() if name in read},
            return_elements=computed,
            name="",
        )
        values.update(zip(computed, found, strict=True))
        # An output that is an input, or a weight, has no node that computes it.
        return [declared(values[info.name], info) for info in self.model.outputs]


def _tensor(reference: str) -> str:
    return reference.removesuffix(":0")


def _read_names(model: LightGraph) -> set[str]:
    read = {node_name(reference) for node in model.graph_def.node for reference in node.input}
    return read | {node_name(info.name) for info in model.outputs}


def _without(model: LightGraph, replaced: set[str]) -> graph_pb2.GraphDef:
    """Returns the graph without the nodes that are replaced; weights in the frame of a loop are constants in it."""
    graph_def = graph_pb2.GraphDef(versions=model.graph_def.versions, library=model.graph_def.library)
    for node in model.graph_def.node:
        if node.name in replaced:
            continue
        if is_weight(node):
            if node.input:
                add_constant(graph_def, node, model.weights)
            continue
        added = graph_def.node.add()
        added.CopyFrom(node)
        gone = {f"^{name}" for name in replaced}
        if any(reference in gone for reference in node.input):
            kept = [reference for reference in node.input if reference not in gone]
            del added.input[:]
            added.input.extend(kept)
    return graph_def


def rename_functions(graph_def: graph_pb2.GraphDef) -> None:
    """Gives the functions of a graph names, in place, that no other function of the process has.

    Freezing changes functions without renaming them, and TensorFlow has one name space for all functions that run
    eagerly, in which the function of the loaded model has that name already.
    """
    if not graph_def.library.function:
        return
    graph_def.library.ClearField("gradient")  # They name functions, and nothing here has a gradient.
    suffix = hashlib.sha256(graph_def.library.SerializeToString(deterministic=True)).hexdigest()[:16]
    names = {function.signature.name: f"{function.signature.name}_{suffix}" for function in graph_def.library.function}
    for nodes in (graph_def.node, *(function.node_def for function in graph_def.library.function)):
        for node in nodes:
            if not called_functions(node, names):
                continue
            node.op = names.get(node.op, node.op)
            for attribute in node.attr:
                value = node.attr[attribute]
                kind = value.WhichOneof("value")
                for function in [value.func] if kind == "func" else value.list.func if kind == "list" else ():
                    function.name = names.get(function.name, function.name)
    for function in graph_def.library.function:
        function.signature.name = names[function.signature.name]


def declared(tensor: Tensor, info: TensorInfo) -> Tensor:
    """Returns the tensor with the static shape that the original has, be it more or less than is known now."""
    tensor = tf.identity(tensor)
    shape = tf.TensorShape(info.shape)
    if tensor.shape.is_compatible_with(shape):
        tensor.set_shape(shape)
    known = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    # The only op that makes less known of a shape.
    return tensor if known == info.shape else tf.compat.v1.placeholder_with_default(tensor, shape)


def signature_function(
    call: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
) -> Any:
    """Returns a ConcreteFunction that takes keywords and returns a mapping, as signatures do.

    Args:
        call: From tensors by key to tensors by key.
        inputs: What it takes.
        outputs: What it returns.
    """

    def signature(**tensors: Tensor) -> dict[str, Tensor]:
        results = call(tensors)
        return {info.key: results[info.key] for info in outputs}

    specs = {info.key: tf.TensorSpec(info.shape, info.dtype, name=info.key) for info in inputs}
    return tf.function(signature, autograph=False).get_concrete_function(**specs)


def endpoint_function(
    call: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    concrete: Any,
    original: Any,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
) -> Any:
    """Returns a `tf.function` that takes and returns the structures that a function of a loaded model does.

    Args:
        call: From tensors by key to tensors by key.
        concrete: The original's only concrete function.
        original: The original function.
        inputs: The tensors among the arguments, in order.
        outputs: The tensors that are returned, in order.
    """
    infos = iter(inputs)

    def argument(leaf: Any) -> Any:
        if not isinstance(leaf, tf.TensorSpec):
            return leaf  # The value of an argument that is no tensor.
        return tf.TensorSpec(next(infos).shape, leaf.dtype, name=leaf.name)

    arguments, keywords = tf.nest.map_structure(argument, concrete.structured_input_signature)

    def endpoint(*positional: Any, **named: Any) -> Any:
        tensors = [leaf for leaf in tf.nest.flatten((positional, named)) if tf.is_tensor(leaf)]
        results = call({info.key: tensor for info, tensor in zip(inputs, tensors, strict=True)})
        values = (results[info.key] for info in outputs)

        def returned(leaf: Any) -> Any:
            # None, which models return for what they did not compute, is a leaf without a tensor.
            return next(values) if tf.is_tensor(leaf) or isinstance(leaf, tf.TypeSpec) else leaf

        return tf.nest.map_structure(returned, concrete.structured_outputs)

    signed: Any = endpoint  # A function has no attribute for it, and inspect looks there first.
    signed.__signature__ = _python_signature(original.function_spec.fullargspec)
    function = tf.function(signed, autograph=False)
    function.get_concrete_function(*arguments, **keywords)
    return function


def _python_signature(names: inspect.FullArgSpec) -> inspect.Signature:
    kinds = inspect.Parameter
    optional = len(names.args) - len(names.defaults or ())
    parameters = [
        kinds(
            name,
            kinds.POSITIONAL_OR_KEYWORD,
            default=kinds.empty if index < optional else (names.defaults or ())[index - optional],
        )
        for index, name in enumerate(names.args)
    ]
    if names.varargs:
        parameters.append(kinds(names.varargs, kinds.VAR_POSITIONAL))
    defaults = names.kwonlydefaults or {}
    parameters.extend(
        kinds(name, kinds.KEYWORD_ONLY, default=defaults.get(name, kinds.empty)) for name in names.kwonlyargs
    )
    if names.varkw:
        parameters.append(kinds(names.varkw, kinds.VAR_KEYWORD))
    return inspect.Signature(parameters)
