"""Small ONNX models for the tests of the simulator and for the questions to TensorRT."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = (np.arange(32, dtype=np.float32).reshape(8, 4) - 16) / 16

Value = tuple[str, int, Sequence[int | str | None] | None]
"""Name, element type, shape."""


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 13,
) -> bytes:
    """Returns a serialized model."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return made.SerializeToString()


def dense(opset: int = 13, element_type: int = TensorProto.FLOAT) -> bytes:
    """y = relu(x @ w), the batch dynamic."""
    weights = WEIGHTS.astype(helper.tensor_dtype_to_np_dtype(element_type))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"], "product"), helper.make_node("Relu", ["m"], ["y"], "relu")]
    return model(nodes, [("x", element_type, ["n", 8])], [("y", element_type, ["n", 4])], {"w": weights}, max(opset, 1))


def fixed() -> bytes:
    """y = relu(x @ w), no dimension dynamic."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    return model(nodes, [("x", TensorProto.FLOAT, [2, 8])], [("y", TensorProto.FLOAT, [2, 4])], {"w": WEIGHTS})


def reshape() -> bytes:
    """y = reshape(x, s): the values of s are a shape."""
    return model(
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", 8]), ("s", TensorProto.INT64, [2])],
        [("y", TensorProto.FLOAT, [None, None])],
    )


def non_zero() -> bytes:
    """y = positions of x that are not zero: how many there are depends on the values."""
    return model(
        [helper.make_node("NonZero", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", 8])],
        [("y", TensorProto.INT64, [2, None])],
    )


def integers() -> bytes:
    """y = i + i in int64."""
    return model(
        [helper.make_node("Add", ["i", "i"], ["y"])],
        [("i", TensorProto.INT64, ["n"])],
        [("y", TensorProto.INT64, ["n"])],
    )


def unsupported() -> bytes:
    """A model with an operator that TensorRT does not have."""
    return model(
        [helper.make_node("Relu", ["x"], ["r"], "fine"), helper.make_node("Unique", ["r"], ["y"], "culprit")],
        [("x", TensorProto.FLOAT, ["n", 8])],
        [("y", TensorProto.FLOAT, [None])],
    )
