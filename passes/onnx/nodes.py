"""Reading and editing nodes: what the passes of this folder share.

A rewrite changes the last node of its pattern in place. That node keeps its name, its output's name and its place among
the nodes, so that whatever reads it, a graph output included, need not change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from tf_opt.passes.onnx.segment_weights import MINIMUM_WEIGHT_ELEMENTS

Array: TypeAlias = np.ndarray[Any, Any]
AttributeValue: TypeAlias = int | float | str | Sequence[int]

REAL_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
"""Element types for which engines have fused kernels. Models in float64 keep their operators."""

BEYOND_EVERY_AXIS = 10**9
"""An end of a Slice from which on it means that of the axis: tf2onnx writes this number, others the largest integer."""


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Returns the node that computes `value` if it is one of these ONNX operators, None otherwise."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain == "" and node.op_type in op_types else None


def argument(node: ir.Node, index: int) -> ir.Value:
    """Returns input `index`, which the operator's definition requires."""
    value = node.inputs[index]
    if value is None:
        raise ValueError(f"{node.op_type} node {node.name!r} lacks its input {index}")
    return value


def optional_argument(node: ir.Node, index: int) -> ir.Value | None:
    """Returns input `index`, or None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def constant(value: ir.Value | None, maximum_elements: int = MINIMUM_WEIGHT_ELEMENTS - 1) -> Array | None:
    """Returns the values of a constant of at most so many elements; None for anything else. Weights are not read."""
    if value is None:
        return None
    tensor: ir.TensorProtocol | None = None
    if value.is_initializer():
        tensor = None if value.is_graph_input() else value.const_value
    elif producer(value, "Constant") is not None:
        tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size > maximum_elements:
        return None
    return tensor.numpy()


def is_constant(value: ir.Value | None) -> bool:
    """Whether `value` is the same in each run, weights included."""
    if value is None:
        return False
    return (value.is_initializer() and not value.is_graph_input()) or producer(value, "Constant") is not None


def scalar(value: ir.Value | None, maximum_rank: int = 0) -> float | None:
    """Returns the number that a constant of one element holds.

    Args:
        value: What may be a constant.
        maximum_rank: Dimensions (of size 1) that the constant may have without adding one to what it combines with.
    """
    array = constant(value, 1)
    if array is None or array.size != 1 or array.ndim > maximum_rank or array.dtype.kind not in "fiV":
        return None
    return float(array.reshape(()))


def integers(value: ir.Value | None) -> tuple[int, ...] | None:
    """Returns the entries of a small constant of integers, flattened."""
    array = constant(value)
    return tuple(int(entry) for entry in array.ravel()) if array is not None and array.dtype.kind in "iu" else None


def attribute(node: ir.Node, name: str, default: int) -> int:
    """Returns an integer attribute."""
    found = node.attributes.get(name)
    return default if found is None else int(found.as_int())


def attributes_of(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """Returns a list of integers that is an attribute; None where the node has none of that name."""
    found = node.attributes.get(name)
    return None if found is None else tuple(int(entry) for entry in found.as_ints())


def axes_of(node: ir.Node) -> tuple[int, ...] | None:
    """Returns the axes of a reduction, Squeeze or Unsqueeze, attribute or input; None where they are not known."""
    listed = attributes_of(node, "axes")
    return listed if listed is not None else integers(optional_argument(node, 1))


def is_inner(value: ir.Value) -> bool:
    """Whether exactly one node input reads `value`, and nothing outside of the graph."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def is_closed(nodes: Collection[ir.Node], last: ir.Node) -> bool:
    """Whether only `nodes` themselves read what `nodes` compute, except for the outputs of `last`."""
    members = set(nodes)
    return not any(
        value.is_graph_output() or any(usage.node not in members for usage in value.uses())
        for node in members
        if node is not last
        for value in node.outputs
    )


def owner(node: ir.Node) -> ir.Graph:
    """Returns the graph that holds `node`."""
    if node.graph is None:
        raise ValueError(f"{node.op_type} node {node.name!r} is in no graph")
    return node.graph


def rewrite(
    node: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, AttributeValue] | None = None,
    domain: str = "",
) -> None:
    """Makes `node` another operator of one output with the same name, and removes what nothing reads any more."""
    before = [value for value in node.inputs if value is not None]
    node.op_type, node.domain = op_type, domain
    node.attributes.clear()
    node.attributes.update(_attributes(attributes))
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
    remove_unread(before)


def insert(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, AttributeValue] | None = None,
    *,
    name: str,
    domain: str = "",
) -> ir.Value:
    """Adds a node of one output in front of another one and returns the output.

    Args:
        before: A node that stands behind everything that `inputs` depend on.
        op_type: The operator.
        inputs: Its inputs.
        attributes: Its attributes.
        name: The node's name, which gets a number where it is taken.
        domain: The operator's domain.
    """
    return insert_node(before, op_type, inputs, attributes, name=name, domain=domain).outputs[0]


def insert_node(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, AttributeValue] | None = None,
    *,
    name: str,
    domain: str = "",
    outputs: int = 1,
) -> ir.Node:
    """Adds a node of any number of outputs; the other arguments are those of `insert`."""
    graph = owner(before)
    unused = _unused(name, {node.name for node in graph})
    converted = list(_attributes(attributes).values())
    node = ir.Node(domain, op_type, inputs, converted, num_outputs=outputs, name=unused)
    graph.insert_before(before, node)
    return node


def add_constant(graph: ir.Graph, array: Array, name: str, dtype: ir.DataType | None = None) -> ir.Value:
    """Adds an initializer and returns it; `name` gets a number where it is taken."""
    taken = {value.name for node in graph for value in node.outputs}
    taken.update(graph.initializers, (value.name for value in graph.inputs))
    tensor = ir.tensor(array, dtype=dtype, name=_unused(name, taken))
    shape, kind = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
    value = ir.Value(name=tensor.name, shape=shape, type=kind, const_value=tensor)
    graph.register_initializer(value)
    return value


def _unused(name: str, taken: Collection[str | None]) -> str:
    """Returns `name`, with a number where it is taken: readers refuse models in which two nodes have one name."""
    unused, count = name, 0
    while unused in taken:
        count += 1
        unused = f"{name}_{count}"
    return unused


def real_constant(graph: ir.Graph, number: float, dtype: ir.DataType, name: str) -> ir.Value:
    """Adds a floating point scalar of an element type and returns it."""
    return add_constant(graph, np.asarray(number, dtype.numpy()), name, dtype)


def bypass(node: ir.Node, source: ir.Value) -> bool:
    """Lets the readers of a node of one output read `source`, and removes the node where nothing else needs it.

    Returns:
        Whether it was done: a graph output that `source` cannot carry keeps its node.
    """
    (value,) = node.outputs
    if value.is_graph_output():
        return False
    value.replace_all_uses_with(source)
    remove_unread([value])
    return True


def remove_unread(values: Iterable[ir.Value]) -> None:
    """Removes the nodes that compute these values where nothing reads any output of theirs, and so on backwards."""
    pending = list(values)
    while pending:
        node = pending.pop().producer()
        if node is None or node.graph is None:
            continue
        if any(value.uses() or value.is_graph_output() for value in node.outputs):
            continue
        read = [value for value in node.inputs if value is not None]
        owner(node).remove(node, safe=True)
        pending.extend(read)


def _attributes(attributes: Mapping[str, AttributeValue] | None) -> dict[str, ir.Attr]:
    converted = ir.convenience.convert_attributes(dict(attributes or {}))
    return {found.name: found for found in converted}
