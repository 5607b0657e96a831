"""Small ONNX models as the op's Python runtime gives them to a loader, and what takes their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

from tf_opt.ops.python_runtime import EngineDefinition, RawArray

Array = npt.NDArray[Any]
OPSET = 17


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[int | str | None]]],
    outputs: Mapping[str, int],
    initializers: Mapping[str, Array] | None = None,
) -> bytes:
    """Returns a serialized model.

    Args:
        nodes: Its nodes.
        inputs: Element type and shape by name.
        outputs: Element type by name; shapes are not declared.
        initializers: Constants by name.
    """
    graph = helper.make_graph(
        list(nodes),
        "segment",
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, None) for name, dtype in outputs.items()],
        [
            helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.ravel().tolist())
            for name, array in (initializers or {}).items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def relu_model() -> bytes:
    """output_0 = Relu(input_0 @ weight_0 + weight_1), weights of shape [4, 3] and [3]."""
    nodes = [
        helper.make_node("MatMul", ["input_0", "weight_0"], ["product"]),
        helper.make_node("Add", ["product", "weight_1"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["output_0"]),
    ]
    inputs = {"input_0": ["batch", 4], "weight_0": [4, 3], "weight_1": [3]}
    return model_of(
        nodes, {name: (TensorProto.FLOAT, shape) for name, shape in inputs.items()}, {"output_0": TensorProto.FLOAT}
    )


def definition_of(payload: bytes, weights: Sequence[Array] = (), **changes: Any) -> EngineDefinition:
    """Returns what a loader is called with."""
    fields: dict[str, Any] = {
        "segment_name": "segment_0",
        "header": {"runtime": "onnxruntime", "provider": "cpu"},
        "payload": payload,
        "weights": weights,
        "threads": 1,
        "device": None,
    }
    return EngineDefinition(**(fields | changes))


class TakenOutputs:
    """Plays TensorFlow: gives memory for outputs and takes memory over.

    Attributes:
        arrays: Outputs by index.
        owners: Owner by the index of an output that was taken over.
    """

    def __init__(self) -> None:
        self.arrays: dict[int, Array] = {}
        self.owners: dict[int, Any] = {}

    def allocate(self, index: int, shape: Sequence[int], dtype: npt.DTypeLike) -> int:
        """Returns the address of memory full of garbage, 0 for no elements, as TensorFlow does."""
        kind = np.dtype(dtype)
        garbage = np.full(int(np.prod(shape, dtype=np.int64)) * kind.itemsize, 0xA5, np.uint8)
        self.arrays[index] = garbage.view(kind).reshape(tuple(shape))
        self.owners.pop(index, None)
        return address_of(self.arrays[index]) if garbage.size else 0

    def adopt(self, index: int, array: Array, owner: object) -> None:
        """Takes memory: the array that is kept holds its owner, so that it may outlive this object."""
        assert array.flags.c_contiguous
        content = np.asarray(_OwnedBytes(array, owner)) if array.size else np.empty(0, np.uint8)
        self.arrays[index], self.owners[index] = content.view(array.dtype).reshape(array.shape), owner


class _OwnedBytes:
    """The bytes of an array, as the base of what NumPy makes of them, with what keeps their memory."""

    def __init__(self, array: Array, owner: object) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (array.nbytes,),
            "data": (address_of(array), False),
        }


def run(engine: Any, *inputs: Array) -> TakenOutputs:
    """Runs an engine once, and sees to it that it leaves its inputs as they are."""
    outputs = TakenOutputs()
    given = [array.copy() for array in inputs]
    raw = [RawArray(address_of(array), array.shape, array.dtype) for array in given]
    engine.run_on_addresses(raw, outputs)
    for array, original in zip(given, inputs, strict=True):
        assert array.tobytes() == original.tobytes(), "the engine wrote to an input"
    return outputs


def address_of(array: Array) -> int:
    """Returns where an array's elements lie."""
    address: int = array.__array_interface__["data"][0]
    return address
