"""Turns the variables that a graph captures into weight placeholders, through function calls and control flow.

TensorFlow's own `convert_variables_to_constants_v2` writes the values into the graph first and then copies the graph
several times. Here a captured variable becomes a placeholder of its dtype and shape, so that the conversion costs nodes
and not bytes; the values are written into the finished graph once.

    w: Placeholder(resource) ─ ReadVariableOp ─ MatMul      becomes      w: weight ─ Identity ─ MatMul
    w: Placeholder(resource) ─ ResourceGather(ids)          becomes      w: weight ─ GatherV2(ids, axis)
    w: Placeholder(resource) ─ While(body reads w)          becomes      w: weight ─ While(body takes the value of w)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, graph_pb2, node_def_pb2, tensor_shape_pb2

from tf_opt.errors import FreezeError
from tf_opt.weights import WEIGHT_ATTRIBUTE

Nodes: TypeAlias = Any
"""A repeated NodeDef field: of a GraphDef or of a FunctionDef."""

REFERENCE_VARIABLE_OPS = frozenset({"Variable", "VariableV2"})
"""TensorFlow 1's variables: nodes that own their value, instead of captured resources."""

_PASS_THROUGH_OPS = frozenset({"Identity", "Enter", "Exit", "NextIteration", "StopGradient", "PreventGradient"})
"""Ops with one type attribute "T" whose output 0 is their input 0."""

_CALL_OPS: Mapping[str, tuple[tuple[str, ...], str, int]] = {
    "PartitionedCall": (("f",), "Tin", 0),
    "StatefulPartitionedCall": (("f",), "Tin", 0),
    "If": (("then_branch", "else_branch"), "Tin", 1),
    "StatelessIf": (("then_branch", "else_branch"), "Tin", 1),
    "Case": (("branches",), "Tin", 1),
    "StatelessCase": (("branches",), "Tin", 1),
    "While": (("cond", "body"), "T", 0),
    "StatelessWhile": (("cond", "body"), "T", 0),
}
"""Ops that call functions: the attributes that name these, the attribute with the argument types, and the position of
the first argument. From TensorFlow's functional_ops.cc."""

_LOOP_OPS = frozenset({"While", "StatelessWhile"})


@dataclass(frozen=True)
class WeightType:
    """What a captured variable becomes: dtype (DataType number) and fully static shape."""

    dtype: int
    shape: tuple[int, ...]

    def shape_proto(self) -> tensor_shape_pb2.TensorShapeProto:
        """Returns the shape as a message."""
        dimensions = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in self.shape]
        return tensor_shape_pb2.TensorShapeProto(dim=dimensions)


def convert_captures(graph_def: graph_pb2.GraphDef, weights: Mapping[str, WeightType]) -> None:
    """Changes `graph_def` in place: placeholders in `weights` become weight placeholders, their readers follow.

    Args:
        graph_def: A light graph, whose variables are placeholders of dtype resource.
        weights: Node names of captured placeholders and of reference variables, and what each becomes.

    Raises:
        FreezeError: The graph writes to a variable, or passes it to an op that takes no plain value.
    """
    resources = {}
    for node in graph_def.node:
        if node.name in weights:
            weight = weights[node.name]
            # The consumers of a reference variable take values as they do references; those of a resource must follow.
            if node.op not in REFERENCE_VARIABLE_OPS and node.attr["dtype"].type == tf.resource.as_datatype_enum:
                resources[f"{node.name}:0"] = weight
            node.op = "Placeholder"
            node.ClearField("attr")
            node.attr["dtype"].type = weight.dtype
            node.attr["shape"].shape.CopyFrom(weight.shape_proto())
            node.attr[WEIGHT_ATTRIBUTE].b = True
    converter = _Converter(graph_def.library)
    converter.convert(graph_def.node, resources, in_function=False)


class _Converter:
    """Follows resource tensors from where they enter a graph or a function to every node that uses them."""

    def __init__(self, library: function_pb2.FunctionDefLibrary) -> None:
        self._library = library
        self._functions = {function.signature.name: function for function in library.function}
        self._specialized: dict[tuple[str, tuple[tuple[int, WeightType], ...]], str] = {}

    def convert(self, nodes: Nodes, values: Mapping[str, WeightType], *, in_function: bool) -> dict[str, str]:
        """Converts the nodes that use `values`, in place.

        Args:
            nodes: The nodes of a graph or of a function's body, in any order.
            values: The tensors that were resource handles and now are the values themselves.
            in_function: Whether tensors are written as in a FunctionDef ("node:output:0").

        Returns:
            Tensor names that changed, old to new; `nodes` use the new ones already.
        """
        known = _spread(nodes, values, in_function)
        renamed: dict[str, str] = {}
        added: list[node_def_pb2.NodeDef] = []
        for node in nodes:
            used = _used(node, known, in_function)
            if used:
                self._convert_node(node, used, renamed, added, in_function)
        for node in nodes:
            for position, reference in enumerate(node.input):
                if reference in renamed:
                    node.input[position] = renamed[reference]
        nodes.extend(added)
        return renamed

    def _convert_node(
        self,
        node: node_def_pb2.NodeDef,
        used: Mapping[int, WeightType],
        renamed: dict[str, str],
        added: list[node_def_pb2.NodeDef],
        in_function: bool,
    ) -> None:
        weight = used[min(used)]
        # Both describe the resource tensors that are no more; a stale index would name a tensor of another dtype.
        for stale in ("_read_only_resource_inputs", "_output_shapes"):
            if stale in node.attr:
                del node.attr[stale]
        if node.op in _PASS_THROUGH_OPS or node.op == "Switch":
            node.attr["T"].type = weight.dtype
        elif node.op == "IdentityN":
            for position, each in used.items():
                node.attr["T"].list.type[position] = each.dtype
        elif node.op == "ReadVariableOp":
            _rewrite(node, "Identity", {"T": _type(weight.dtype)})
            if in_function:
                renamed[f"{node.name}:value:0"] = f"{node.name}:output:0"
        elif node.op == "ResourceGather":
            self._convert_gather(node, weight, added, in_function)
        elif node.op == "ResourceGatherNd":
            _rewrite(node, "GatherNd", {"Tparams": _type(weight.dtype), "Tindices": node.attr["Tindices"]})
        elif node.op == "VariableShape":
            out_type = node.attr["out_type"] if "out_type" in node.attr else _type(tf.int32.as_datatype_enum)
            _rewrite(node, "Shape", {"T": _type(weight.dtype), "out_type": out_type})
        elif node.op == "VarIsInitializedOp":
            del node.input[:]
            value = attr_value_pb2.AttrValue(tensor=tf.make_tensor_proto(True))
            _rewrite(node, "Const", {"dtype": _type(tf.bool.as_datatype_enum), "value": value})
            if in_function:
                renamed[f"{node.name}:is_initialized:0"] = f"{node.name}:output:0"
        elif node.op in _CALL_OPS:
            self._convert_call(node, used)
        else:
            writes = any(word in node.op for word in ("Assign", "Apply", "Scatter", "Destroy"))
            raise FreezeError(
                f"The node {node.name!r} ({node.op}) {'writes to' if writes else 'uses'} a variable, so the model "
                "has no frozen form: a frozen graph only reads constants. Freeze the inference function "
                "(training=False), and leave updates of variables out of it."
            )

    def _convert_gather(
        self, node: node_def_pb2.NodeDef, weight: WeightType, added: list[node_def_pb2.NodeDef], in_function: bool
    ) -> None:
        batch_dims = node.attr["batch_dims"].i
        axis = node_def_pb2.NodeDef(name=f"{node.name}/axis", op="Const")
        axis.attr["dtype"].type = tf.int32.as_datatype_enum
        # ResourceGather gathers along the first dimension after the batch dimensions (resource_variable_ops.cc).
        axis.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(batch_dims, dtype=tf.int32))
        added.append(axis)
        reference = f"{axis.name}:output:0" if in_function else axis.name
        inputs = [node.input[0], node.input[1], reference, *node.input[2:]]
        del node.input[:]
        node.input.extend(inputs)
        attributes = {
            "Tparams": _type(weight.dtype),
            "Tindices": node.attr["Tindices"],
            "Taxis": _type(tf.int32.as_datatype_enum),
            "batch_dims": attr_value_pb2.AttrValue(i=batch_dims),
        }
        _rewrite(node, "GatherV2", attributes)

    def _convert_call(self, node: node_def_pb2.NodeDef, used: Mapping[int, WeightType]) -> None:
        function_attributes, type_attribute, first = _CALL_OPS[node.op]
        arguments = {position - first: weight for position, weight in used.items()}
        for index, weight in arguments.items():
            node.attr[type_attribute].list.type[index] = weight.dtype
            if node.op in _LOOP_OPS and node.attr["output_shapes"].list.shape:
                node.attr["output_shapes"].list.shape[index].CopyFrom(weight.shape_proto())
        for attribute in function_attributes:
            value = node.attr[attribute]
            for function in value.list.func if value.WhichOneof("value") == "list" else [value.func]:
                function.name = self._specialize(function.name, arguments, returns=attribute == "body")

    def _specialize(self, name: str, arguments: Mapping[int, WeightType], *, returns: bool) -> str:
        """Returns the name of a copy of function `name` whose arguments with these indices are values."""
        key = (name, tuple(sorted(arguments.items(), key=lambda item: item[0])))
        if key in self._specialized:
            return self._specialized[key]
        function = function_pb2.FunctionDef()
        function.CopyFrom(self._functions[name])
        new_name = f"{name}_frozen_{len(self._specialized)}"
        self._specialized[key] = new_name
        function.signature.name = new_name
        values: dict[str, WeightType] = {}
        for index, weight in arguments.items():
            argument = function.signature.input_arg[index]
            argument.type = weight.dtype
            argument.ClearField("handle_data")
            values[argument.name] = weight
            attributes = function.arg_attr[index].attr
            attributes["_output_shapes"].list.ClearField("shape")
            attributes["_output_shapes"].list.shape.add().CopyFrom(weight.shape_proto())
            function.resource_arg_unique_id.pop(index, None)
            if returns:  # A loop's body returns its arguments, each with the dtype it came with.
                function.signature.output_arg[index].type = weight.dtype
                function.signature.output_arg[index].ClearField("handle_data")
        renamed = self.convert(function.node_def, values, in_function=True)
        if not returns and any(tensor in values for tensor in function.ret.values()):
            raise FreezeError(
                f"The function {name!r} returns one of its variables as a reference, which a frozen graph cannot "
                "follow. Return its value (tf.identity(variable) or variable.read_value()) instead."
            )
        for output, tensor in function.ret.items():
            function.ret[output] = renamed.get(tensor, tensor)
        self._library.function.append(function)
        self._functions[new_name] = function
        return new_name


def _spread(nodes: Nodes, values: Mapping[str, WeightType], in_function: bool) -> dict[str, WeightType]:
    """Returns `values` and every tensor that has its value from one of them through ops that pass their inputs on."""
    known = dict(values)
    changed = True
    # Neither GraphDefs nor function bodies need be sorted, so this goes round until a round finds nothing new.
    while changed:
        before = len(known)
        for node in nodes:
            if node.op in _PASS_THROUGH_OPS or node.op == "IdentityN" or node.op in _LOOP_OPS:
                for position, weight in _used(node, known, in_function).items():
                    known[f"{node.name}:output:{position}" if in_function else f"{node.name}:{position}"] = weight
            elif node.op == "Switch":
                for weight in _used(node, known, in_function).values():
                    for index, name in enumerate(("output_false:0", "output_true:0")):
                        known[f"{node.name}:{name}" if in_function else f"{node.name}:{index}"] = weight
        changed = len(known) > before
    return known


def _used(node: node_def_pb2.NodeDef, known: Mapping[str, WeightType], in_function: bool) -> dict[int, WeightType]:
    """Returns the input positions of `node` that are in `known`."""
    used = {}
    for position, reference in enumerate(node.input):
        tensor = reference if in_function or ":" in reference else f"{reference}:0"
        if tensor in known:
            used[position] = known[tensor]
    return used


def _type(dtype: int) -> attr_value_pb2.AttrValue:
    return attr_value_pb2.AttrValue(type=dtype)


def _rewrite(node: node_def_pb2.NodeDef, op: str, attributes: Mapping[str, attr_value_pb2.AttrValue]) -> None:
    """Gives `node` another op and exactly these attributes; private ones ("_…") stay."""
    kept: Iterable[tuple[str, attr_value_pb2.AttrValue]] = [
        (name, _copy(value)) for name, value in node.attr.items() if name.startswith("_")
    ]
    new = {name: _copy(value) for name, value in attributes.items()}
    node.op = op
    node.ClearField("attr")
    for name, value in [*kept, *new.items()]:
        node.attr[name].CopyFrom(value)


def _copy(value: attr_value_pb2.AttrValue) -> attr_value_pb2.AttrValue:
    copy = attr_value_pb2.AttrValue()
    copy.CopyFrom(value)
    return copy
