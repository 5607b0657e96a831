"""Freezes a ConcreteFunction: the step that every model format comes down to.

    inline      (Grappler)         calls of functions → their nodes; If and While stay one node each
    convert     weights            captured variables → weight placeholders, through the bodies of If and While too
    clean       cleanup            Assert, StopGradient, Identity chains, unreachable nodes
    fill                           weight placeholders → Const, in place
    engines                        those of a SavedModel that was optimized: from its files into their nodes

Only `fill` touches the bytes of the weights, one variable at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.grappler import tf_optimizer

from tf_opt.errors import FreezeError, LookupTableError
from tf_opt.feeds import Array
from tf_opt.freeze.cleanup import assertion_count, clean_graph
from tf_opt.freeze.engines import held_engine, let_engines_be_inlined, may_hold_engine, put_engines_back
from tf_opt.freeze.weights import REFERENCE_VARIABLE_OPS, WeightType, convert_captures
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.graph_checks import check_graph, describe_tensor
from tf_opt.light_graph import LightGraph
from tf_opt.passes.tf.last_axis_of_means import LastAxisOfMeans
from tf_opt.passes.tf.pass_base import Border
from tf_opt.tensor_info import TensorInfo, node_name
from tf_opt.weights import WeightStore, constant_without_value, detach_weights, is_weight, is_weight_type

ConcreteFunction: TypeAlias = Any
"""`tf.types.experimental.ConcreteFunction`; TensorFlow has no types."""

Captures: TypeAlias = dict[str, Any]
"""What a function captures: eager tensors and variables, by the name of their placeholder."""

_CONTROL_FLOW_OPS = frozenset({"If", "StatelessIf", "Case", "StatelessCase", "While", "StatelessWhile"})


def freeze_concrete_function(function: Any) -> FrozenGraph:
    """Freezes a function of tensors into a graph that a `tf.compat.v1.Session` runs.

    Args:
        function: A ConcreteFunction, or a `tf.function` with an `input_signature` (or traced for exactly one
            signature).

    Returns:
        A graph whose inputs are the function's tensor arguments, keyed by the names of their TensorSpecs (or of their
        placeholders), and whose outputs are what it returns, keyed by the keys of the returned structure ("output_0",
        "output_1", … where it has none).

    Raises:
        FreezeError: The function takes or returns ragged or sparse tensors, writes variables, uses lookup tables, or
            captures something that has no constant value.
    """
    traced = _trace(function)
    _fill(traced.graph_def, traced.captures, keep_weights=False)
    return FrozenGraph(
        graph_def=traced.graph_def, inputs=traced.inputs, outputs=traced.outputs, assertions=traced.assertions
    )


def freeze_light(function: Any) -> LightGraph:
    """Does what `freeze_concrete_function` does, with the graph beside its weights.

    The weights are the variables' own memory: these must not change while the graph is used.
    """
    traced = _trace(function)
    arrays = _fill(traced.graph_def, traced.captures, keep_weights=True)
    nodes = {
        node.name: constant_without_value(node.name, arrays[node.name], node.attr["dtype"].type)
        for node in traced.graph_def.node
        if node.name in arrays
    }
    light, constants = detach_weights(traced.graph_def)  # What the function's own graph has as constants.
    return LightGraph(
        graph_def=light,
        weights=constants.joined(WeightStore(nodes, arrays)),
        inputs=traced.inputs,
        outputs=traced.outputs,
        assertions=traced.assertions,
    )


@dataclass(frozen=True, kw_only=True)
class _Traced:
    """A frozen graph with placeholders for what the function captured, and these values."""

    graph_def: graph_pb2.GraphDef
    captures: Captures
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    assertions: int


def _trace(function: Any) -> _Traced:
    concrete = _as_concrete(function)
    _refuse_composites(concrete)
    outputs = list(_flatten_outputs(concrete))
    if not outputs:
        raise FreezeError(
            "The function returns no tensor, so its frozen graph would have nothing to fetch. Return one."
        )
    captured_names = {internal.name for _, internal in concrete.graph.captures}
    inputs = [tensor for tensor in concrete.inputs if tensor.name not in captured_names]
    for tensor in inputs:
        if tensor.dtype in (tf.resource, tf.variant):
            raise FreezeError(
                f"The argument {tensor.name!r} is of dtype {tensor.dtype.name}, which no feed can hold. Let the "
                "function capture its tables and variables instead of taking them as arguments."
            )
    return _freeze(concrete, inputs, outputs)


def _freeze(concrete: ConcreteFunction, inputs: Sequence[Any], outputs: Sequence[tuple[str, Any]]) -> _Traced:
    graph_def = _inline(concrete, [tensor.name for tensor in (*inputs, *(tensor for _, tensor in outputs))])
    captures = _captures(concrete, graph_def)
    convert_captures(graph_def, {name: _weight_type(value) for name, value in captures.items()})
    keys = _input_keys(concrete, inputs)
    input_infos = tuple(describe_tensor(tensor, key) for tensor, key in zip(inputs, keys, strict=True))
    output_infos = tuple(describe_tensor(tensor, key) for key, tensor in outputs)
    assertions = assertion_count(graph_def)
    graph_def = clean_graph(
        graph_def, [node_name(info.name) for info in input_infos], [info.name for info in output_infos]
    )
    assertions -= assertion_count(graph_def)
    # A Session has to compute what the function computes, with oneDNN's fusions too.
    border = Border(tuple(node_name(info.name) for info in input_infos), tuple(info.name for info in output_infos))
    graph_def = LastAxisOfMeans().run(graph_def, border).graph_def
    check_graph(graph_def, [info.name for info in output_infos])
    _refuse_tables(graph_def)
    return _Traced(
        graph_def=graph_def, captures=captures, inputs=input_infos, outputs=output_infos, assertions=assertions
    )


def _as_concrete(function: Any) -> ConcreteFunction:
    if hasattr(function, "captured_inputs") and hasattr(function, "graph"):
        return function
    if hasattr(function, "get_concrete_function"):
        if getattr(function, "input_signature", None) is not None:
            return function.get_concrete_function()
        traced = []
        if hasattr(function, "_list_all_concrete_functions"):
            traced = list(function._list_all_concrete_functions())
        if len(traced) == 1:
            return traced[0]
        raise FreezeError(
            f"The tf.function {getattr(function, '__name__', 'given')!r} has no input_signature and was traced for "
            f"{len(traced)} signatures, so it is not clear what to freeze. Pass "
            "function.get_concrete_function(tf.TensorSpec(...)) instead."
        )
    raise FreezeError(
        f"Expected a ConcreteFunction or a tf.function, got {type(function).__name__}. Models of Keras and Hugging "
        "Face are frozen by tf_opt.freeze_keras, directories by tf_opt.freeze_saved_model."
    )


def _refuse_composites(concrete: ConcreteFunction) -> None:
    for kind, structure in (
        ("takes", concrete.structured_input_signature),
        ("returns", concrete.structured_outputs),
    ):
        for leaf in tf.nest.flatten(structure):
            if isinstance(
                leaf,
                (
                    tf.RaggedTensor,
                    tf.SparseTensor,
                    tf.IndexedSlices,
                    tf.RaggedTensorSpec,
                    tf.SparseTensorSpec,
                    tf.IndexedSlicesSpec,
                ),
            ):
                raise FreezeError(
                    f"The function {kind} a composite tensor ({type(leaf).__name__}), which a frozen graph cannot "
                    "feed or fetch as one. Wrap it in a tf.function of dense tensors (flat values and row splits, or "
                    "indices, values and shape) and freeze that."
                )


def _flatten_outputs(concrete: ConcreteFunction) -> Iterator[tuple[str, Any]]:
    """Yields (key, tensor) of what the function returns, in TensorFlow's order: mappings sorted by their keys."""
    taken: set[str] = set()
    paths = list(_leaves(concrete.structured_outputs, ()))
    if len(paths) != len(concrete.outputs):  # A function of a TensorFlow 1 graph may have no structure.
        paths = [(str(index),) for index in range(len(concrete.outputs))]
    for path, leaf in zip(paths, concrete.outputs, strict=True):
        key = "_".join(path) if path and not path[0].isdigit() else "_".join(("output", *(path or ("0",))))
        while key in taken:  # {"a": [x], "a_0": y} gives "a_0" twice.
            key += "_"
        taken.add(key)
        yield key, leaf


def _leaves(structure: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yields the path of each tensor of a structure, or of each TensorSpec, which loaded functions have instead."""
    if isinstance(structure, Mapping):
        for key in sorted(structure):
            yield from _leaves(structure[key], (*path, str(key)))
    elif isinstance(structure, tuple) and hasattr(structure, "_fields"):
        for field in structure._fields:
            yield from _leaves(getattr(structure, field), (*path, field))
    elif isinstance(structure, (list, tuple)):
        for index, item in enumerate(structure):
            yield from _leaves(item, (*path, str(index)))
    elif tf.is_tensor(structure) or isinstance(structure, tf.TypeSpec):
        yield path


def _input_keys(concrete: ConcreteFunction, inputs: Sequence[Any]) -> list[str]:
    """Returns what users call the inputs: the keys of a signature, or the names that were asked for, where unique."""
    signature = concrete.structured_input_signature
    named = signature[1] if signature is not None and not signature[0] else {}
    if len(named) == len(inputs) and all(isinstance(spec, tf.TensorSpec) for spec in named.values()):
        # Signatures take keywords alone, in the order of their keys; the placeholders of old ones are named otherwise.
        return sorted(named)
    keys = []
    for tensor in inputs:
        try:
            keys.append(tensor.op.get_attr("_user_specified_name").decode())
        except ValueError:  # The placeholder of a TensorFlow 1 graph has no such attribute.
            keys.append(tensor.op.name)
    return keys if len(set(keys)) == len(keys) else [tensor.op.name for tensor in inputs]


def _inline(concrete: ConcreteFunction, kept: Sequence[str]) -> graph_pb2.GraphDef:
    """Returns the function's graph with all calls inlined that have no reason to stay calls."""
    graph_def = concrete.graph.as_graph_def()
    for nodes in (graph_def.node, *(function.node_def for function in graph_def.library.function)):
        for node in nodes:
            if node.op in _CONTROL_FLOW_OPS:
                # Lowered, a loop becomes Switch, Merge and Enter nodes in the main graph, which no later pass can
                # treat as one thing. TensorFlow lowers it when the graph runs.
                node.attr["_lower_using_switch_merge"].b = False
    for function in graph_def.library.function:
        # Names another implementation (cuDNN's, for example), and keeps Grappler from inlining this one.
        if "api_implements" in function.attr:
            del function.attr["api_implements"]
    if not graph_def.library.function:
        return graph_def
    let_engines_be_inlined(graph_def.library)
    with concrete.graph.as_default():
        meta_graph = tf.compat.v1.train.export_meta_graph(graph_def=graph_def, graph=concrete.graph)
    # Collections hold the variables' initializers, which Grappler would look for in the graph. "train_op" tells it what
    # is fetched.
    meta_graph.ClearField("collection_def")
    captured = [internal.name for _, internal in concrete.graph.captures]
    meta_graph.collection_def["train_op"].node_list.value.extend(dict.fromkeys([*kept, *captured]))
    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1  # Small graphs are skipped otherwise.
    config.graph_options.rewrite_options.optimizers.append("function")
    inlined: graph_pb2.GraphDef = tf_optimizer.OptimizeGraph(config, meta_graph)
    return inlined


def _captures(concrete: ConcreteFunction, graph_def: graph_pb2.GraphDef) -> Captures:
    """Returns the values that the function captures, variables as such, by the name of their placeholder."""
    try:
        held = [*concrete.graph.variables, *concrete.variables]
    except AssertionError as error:  # Functions hold their variables weakly.
        raise FreezeError(
            f"The variables of the function {concrete.name!r} are gone: {error} Keep the model that owns them until "
            "it is frozen."
        ) from error
    variables = {id(variable.handle): variable for variable in held if hasattr(variable, "handle")}
    present = {node.name for node in graph_def.node}
    captures: Captures = {}
    has_engines = may_hold_engine(graph_def)
    for external, internal in concrete.graph.captures:
        name = node_name(internal.name)
        if name not in present:
            continue
        if id(external) in variables:
            captures[name] = variables[id(external)]
        elif external.dtype not in (tf.resource, tf.variant):
            if not hasattr(external, "numpy"):
                raise FreezeError(
                    f"The function captures {external.name!r} of another graph, whose value exists only while that "
                    "graph runs. Freeze the outermost function."
                )
            captures[name] = external
        elif has_engines and hasattr(external, "numpy") and (engine := held_engine(external)) is not None:
            captures[name] = engine
        # Tables stay placeholders of dtype resource: they are refused later, and only where an output needs them.
    for node in graph_def.node:
        if node.op in REFERENCE_VARIABLE_OPS and hasattr(concrete, "prune"):
            with concrete.graph.as_default():
                read = tf.identity(concrete.graph.get_tensor_by_name(f"{node.name}:0"))
            captures[node.name] = concrete.prune([], [read])()[0]
    return captures


def _weight_type(value: Any) -> WeightType:
    if not value.shape.is_fully_defined():
        value = value.read_value() if hasattr(value, "read_value") else value
    return WeightType(value.dtype.base_dtype.as_datatype_enum, tuple(int(size) for size in value.shape))


def _refuse_tables(graph_def: graph_pb2.GraphDef) -> None:
    left = {n.name for n in graph_def.node if n.op == "Placeholder" and n.attr["dtype"].type in _handle_types()}
    for node in graph_def.node:
        for reference in node.input:
            # TensorFlow 1 keeps the table in the graph, where nothing would fill it in another Session.
            if node_name(reference) in left or node.op.startswith("LookupTable"):
                raise LookupTableError(
                    f"The node {node.name!r} ({node.op}) uses a resource that is no variable, such as a lookup "
                    "table. A plain GraphDef cannot hold its contents, which an initializer would have to load in "
                    "each Session. Freeze the part of the model after the lookup, and look up before feeding it."
                )


def _handle_types() -> tuple[int, int]:
    return tf.resource.as_datatype_enum, tf.variant.as_datatype_enum


def _fill(graph_def: graph_pb2.GraphDef, captures: Mapping[str, Any], *, keep_weights: bool) -> dict[str, Array]:
    """Turns weight placeholders into Consts with the captured values, in place: moving them would copy them.

    Args:
        graph_def: The graph.
        captures: Values by the name of their placeholder.
        keep_weights: Whether the placeholders of big ones stay.

    Returns:
        The values of the placeholders that stay.
    """
    arrays = {}
    for node in graph_def.node:
        if not is_weight(node):
            continue
        value = _read(captures[node.name], node.name)
        shape = tuple(size.size for size in node.attr["shape"].shape.dim)
        if value.shape != shape:  # TensorFlow reads an empty array where a variable has no value.
            raise _no_value(node.name)
        dtype = node.attr["dtype"].type
        if keep_weights and is_weight_type(dtype, shape):
            arrays[node.name] = value
            continue
        node.op = "Const"
        node.ClearField("attr")
        node.attr["dtype"].type = dtype
        tensor = node.attr["value"].tensor
        if value.nbytes and dtype != tf.string.as_datatype_enum:
            tensor.dtype = dtype
            for size in value.shape:
                tensor.tensor_shape.dim.add(size=size)
            tensor.tensor_content = value.tobytes()
        else:
            tensor.CopyFrom(tf.make_tensor_proto(value, dtype=dtype))
    put_engines_back(graph_def)
    return arrays


def _read(value: Any, name: str) -> Array:
    try:
        return host_array(value)
    except tf.errors.FailedPreconditionError as error:
        raise _no_value(name) from error


def host_array(value: Any) -> Array:
    """Returns the value of a variable or tensor as a read-only array, in its own memory where that is the host's.

    Raises:
        tf.errors.FailedPreconditionError: The variable has no value.
    """
    tensor = value.read_value() if hasattr(value, "read_value") else value
    # `numpy` makes a copy.
    value = tensor._numpy() if hasattr(tensor, "_numpy") else tensor.numpy()
    # NumPy's own type for bytes loses zeros at their end.
    array: Array = np.asarray(value, dtype=object if tensor.dtype == tf.string else None).view()
    array.flags.writeable = False
    return array


def _no_value(name: str) -> FreezeError:
    return FreezeError(f"The variable behind {name!r} has no value yet. Build and load the model before freezing it.")
