"""Takes the big constants out of a GraphDef, so that every later step costs nodes and not bytes.

A *light* graph has a Placeholder in place of each big constant, with the same name, its dtype and its full shape.
Passes, segmentation, export and splicing all work on light graphs; the constants are put back once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2, tensor_pb2
from tensorflow.python.framework import tensor_util

from tf_opt.errors import InvalidGraphError
from tf_opt.tensor_info import TensorInfo

WEIGHT_ATTRIBUTE = "_tf_opt_weight"
"""Marks the Placeholder of a detached constant. TensorFlow ignores attributes with a leading underscore."""

MINIMUM_WEIGHT_ELEMENTS = 512
"""Constants of at least this many elements are detached. Smaller ones are axes, shapes, scalars and biases of small
layers, whose values the passes and the ONNX converter look at."""


def is_weight(node: node_def_pb2.NodeDef) -> bool:
    """Tells whether `node` is the Placeholder of a detached constant."""
    return node.op == "Placeholder" and WEIGHT_ATTRIBUTE in node.attr


class WeightStore(Mapping[str, tensor_pb2.TensorProto]):
    """The detached constants of one graph, by node name. It refers to what owns them, and copies nothing.

    A constant is a Const node, or one without a value beside an array that has it.
    """

    def __init__(
        self,
        nodes: Mapping[str, node_def_pb2.NodeDef],
        arrays: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> None:
        """Keeps references.

        Args:
            nodes: Const nodes; the GraphDef that owns them must not change while the store is used.
            arrays: Values of nodes that have none of their own; see `constant_without_value`.
        """
        self._nodes = dict(nodes)
        self._arrays = dict(arrays or {})

    def __getitem__(self, name: str) -> tensor_pb2.TensorProto:
        return self.constant(name).attr["value"].tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def extended(self, nodes: Mapping[str, node_def_pb2.NodeDef]) -> WeightStore:
        """Returns a store of these constants and of `nodes`, Const nodes by name."""
        kept = {name: array for name, array in self._arrays.items() if name not in nodes}
        return WeightStore({**self._nodes, **nodes}, kept) if nodes else self

    def joined(self, other: WeightStore) -> WeightStore:
        """Returns a store of these constants and of those of `other`, whose names are different ones."""
        return WeightStore({**self._nodes, **other._nodes}, {**self._arrays, **other._arrays})

    def with_names(self, names: Mapping[str, str]) -> WeightStore:
        """Returns a store that has the constants under other names too, given as new name to name here."""
        nodes = {name: self._nodes[source] for name, source in names.items()}
        arrays = {name: self._arrays[source] for name, source in names.items() if source in self._arrays}
        return WeightStore({**self._nodes, **nodes}, {**self._arrays, **arrays})

    def node(self, name: str) -> node_def_pb2.NodeDef:
        """Returns the Const node named `name`, perhaps without its value. Do not change it.

        Two names with one node are one constant.
        """
        return self._nodes[name]

    def constant(self, name: str) -> node_def_pb2.NodeDef:
        """Returns the Const node named `name` with its value. Do not change it; it may be a copy."""
        if name not in self._arrays:
            return self._nodes[name]
        constant = node_def_pb2.NodeDef()
        constant.CopyFrom(self._nodes[name])
        constant.attr["value"].tensor.tensor_content = self._arrays[name].tobytes()
        return constant

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """Returns the constant `name` as a read-only array. It may be a copy: keep few at a time."""
        if name in self._arrays:
            return self._arrays[name]
        tensor = self._tensor(name)
        shape = tuple(dimension.size for dimension in tensor.tensor_shape.dim)
        dtype = tf.as_dtype(tensor.dtype).as_numpy_dtype
        content = tensor.tensor_content  # Each look at it makes a copy.
        if content:
            return np.frombuffer(content, dtype=dtype).reshape(shape)
        array: np.ndarray[Any, Any] = tensor_util.MakeNdarray(tensor)
        array.flags.writeable = False
        return array

    def _tensor(self, name: str) -> tensor_pb2.TensorProto:
        return self._nodes[name].attr["value"].tensor

    def info(self, name: str) -> TensorInfo:
        """Returns name, dtype and shape of the constant `name`."""
        tensor = self._tensor(name)
        shape = tuple(int(dimension.size) for dimension in tensor.tensor_shape.dim)
        return TensorInfo(name=f"{name}:0", dtype=tf.as_dtype(tensor.dtype).name, shape=shape)

    def size_of(self, name: str) -> int:
        """Bytes of the constant `name`, as it lies in memory."""
        tensor = self._tensor(name)
        elements = math.prod(dimension.size for dimension in tensor.tensor_shape.dim)
        return int(elements * tf.as_dtype(tensor.dtype).size)

    @property
    def size_bytes(self) -> int:
        """Bytes of all constants together."""
        return sum(self.size_of(name) for name in self)


def constant_without_value(name: str, array: np.ndarray[Any, Any], dtype: int) -> node_def_pb2.NodeDef:
    """Returns a Const node for a WeightStore that has the value as an array.

    Args:
        name: The node's name.
        array: Its value.
        dtype: Its DataType number.
    """
    node = node_def_pb2.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = dtype
    node.attr["value"].tensor.dtype = dtype
    for size in array.shape:
        node.attr["value"].tensor.tensor_shape.dim.add(size=size)
    return node


def constant_node(name: str, array: np.ndarray[Any, Any], dtype: int) -> node_def_pb2.NodeDef:
    """Returns a Const node with its value; see `constant_without_value`."""
    node = constant_without_value(name, array, dtype)
    node.attr["value"].tensor.tensor_content = array.tobytes()
    return node


def _is_detachable(node: node_def_pb2.NodeDef, minimum_elements: int) -> bool:
    if node.op != "Const":
        return False
    tensor = node.attr["value"].tensor
    return is_weight_type(tensor.dtype, (dimension.size for dimension in tensor.tensor_shape.dim), minimum_elements)


def is_weight_type(dtype: int, shape: Iterable[int], minimum_elements: int = MINIMUM_WEIGHT_ELEMENTS) -> bool:
    """Tells whether a constant of this DataType number and shape is detached."""
    kind = tf.as_dtype(dtype)
    if not (kind.is_numpy_compatible and (kind.is_floating or kind.is_integer or kind.is_bool)):
        return False
    return math.prod(shape) >= minimum_elements


def _without_nodes(graph_def: graph_pb2.GraphDef) -> graph_pb2.GraphDef:
    """Returns a GraphDef with the versions and the functions of `graph_def`."""
    empty = graph_pb2.GraphDef()
    for field in ("versions", "library"):
        if graph_def.HasField(field):  # Copying an absent field would make it present.
            getattr(empty, field).CopyFrom(getattr(graph_def, field))
    return empty


def detach_weights(
    graph_def: graph_pb2.GraphDef, minimum_elements: int = MINIMUM_WEIGHT_ELEMENTS
) -> tuple[graph_pb2.GraphDef, WeightStore]:
    """Returns a light copy of `graph_def` and the constants that were left out of it.

    Constants with control inputs are detached too, and keep them (constants in the frame of a while loop have some).

    Args:
        graph_def: Any GraphDef; it is not changed, and must not be changed while the store is used.
        minimum_elements: Numeric constants of at least this many elements are detached.
    """
    light = _without_nodes(graph_def)
    detached: dict[str, node_def_pb2.NodeDef] = {}
    for node in graph_def.node:
        if not _is_detachable(node, minimum_elements):
            light.node.add().CopyFrom(node)
            continue
        placeholder = light.node.add(name=node.name, op="Placeholder", device=node.device)
        placeholder.input.extend(node.input)
        placeholder.attr["dtype"].CopyFrom(node.attr["dtype"])
        placeholder.attr["shape"].shape.CopyFrom(node.attr["value"].tensor.tensor_shape)
        placeholder.attr[WEIGHT_ATTRIBUTE].b = True
        detached[node.name] = node
    return light, WeightStore(detached)


def attach_weights(light: graph_pb2.GraphDef, store: WeightStore) -> graph_pb2.GraphDef:
    """Returns a copy of `light` in which the constants of `store` stand again in place of their placeholders.

    Raises:
        InvalidGraphError: A weight placeholder has no constant in the store.
    """
    graph_def = _without_nodes(light)
    for node in light.node:
        if is_weight(node):
            add_constant(graph_def, node, store)
        else:
            graph_def.node.add().CopyFrom(node)
    return graph_def


def add_constant(graph_def: graph_pb2.GraphDef, placeholder: node_def_pb2.NodeDef, store: WeightStore) -> None:
    """Adds the constant that `placeholder` stands for to `graph_def`.

    Raises:
        InvalidGraphError: The store has no constant of that name.
    """
    if placeholder.name not in store:
        raise InvalidGraphError(
            f"The weight placeholder {placeholder.name!r} has no constant to put back. Attach with the WeightStore "
            "that detach_weights returned for this graph, and do not rename weight placeholders in a pass."
        )
    constant = graph_def.node.add()
    constant.CopyFrom(store.constant(placeholder.name))
    constant.name = placeholder.name  # The store may know a constant by another name than its own.
    # The passes may have changed the control inputs; the constant itself never changes.
    del constant.input[:]
    constant.input.extend(placeholder.input)
