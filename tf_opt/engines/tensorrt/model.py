"""The ONNX model that TensorRT parses: the stored one, with the weights as initializers."""

from __future__ import annotations

import contextlib
import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_opt.errors import EngineBuildError

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

    from tf_opt.ops.python_runtime import Array

INLINE_LIMIT_BYTES = 512 * 2**20
"""Weights up to this size travel inside the model. Larger ones lie in a file beside it: protobuf ends at 2 GiB, and
each step from message to bytes to the parser's own message would copy them."""

_WEIGHT_PREFIX = "weight_"
_SMALL_BYTES = 4096
"""Weights that stay inside in any case: the parser reads shapes and axes from them."""

_ALIGNMENT = 4096


@dataclass(frozen=True, kw_only=True)
class SerializedModel:
    """A model as the parser takes it.

    Attributes:
        content: The serialized ModelProto.
        path: Where the model would lie whose weights lie beside it; None where all are inside.
    """

    content: bytes
    path: str | None


def read_model(content: bytes, name: str) -> ModelProto:
    """Returns the message of a stored model; raises EngineBuildError where it is none.

    Args:
        content: What the engine stores.
        name: Of the segment, for the message.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise EngineBuildError(f"The ONNX model of {name} cannot be read: {error}.") from error
    if not model.graph.node:
        raise EngineBuildError(f"The ONNX model of {name} has no nodes.")
    return model


def weight_indices(model: ModelProto) -> list[int]:
    """Returns which weights a model reads, in the order of its inputs; the others are only the fallback's."""
    names = [value.name for value in model.graph.input]
    return [int(name.removeprefix(_WEIGHT_PREFIX)) for name in names if name.startswith(_WEIGHT_PREFIX)]


def weights_digest(model: ModelProto, weight_array: Callable[[int], Array]) -> str:
    """Returns a digest of the weights that a model reads: names, types, shapes and values.

    Args:
        model: The stored model.
        weight_array: Returns the values of the i-th weight; asked for one at a time.
    """
    digest = hashlib.sha256()
    for index in weight_indices(model):
        array = np.ascontiguousarray(weight_array(index))
        digest.update(f"{index} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@contextlib.contextmanager
def with_weights(
    model: ModelProto, weight_array: Callable[[int], Array], inline_limit: int = INLINE_LIMIT_BYTES
) -> Iterator[SerializedModel]:
    """Gives the model with its weights as initializers, as long as the block runs.

    Args:
        model: The stored model, with graph inputs `weight_<i>`; it is not changed.
        weight_array: Returns the values of the i-th weight; asked for one at a time.
        inline_limit: Weights of more bytes than this together go into a file.
    """
    import onnx

    values = {value.name: value for value in model.graph.input}
    complete = onnx.ModelProto()
    complete.CopyFrom(model)
    del complete.graph.input[:]
    complete.graph.input.extend(value for name, value in values.items() if not name.startswith(_WEIGHT_PREFIX))
    indices = weight_indices(model)
    with contextlib.ExitStack() as stack:
        file, path = None, None
        if sum(_stated_bytes(values[f"{_WEIGHT_PREFIX}{index}"]) for index in indices) > inline_limit:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tf_opt-tensorrt-")))
            path = str(folder / "model.onnx")
            file = stack.enter_context((folder / "weights").open("wb"))
        for index in indices:
            name = f"{_WEIGHT_PREFIX}{index}"
            array = np.ascontiguousarray(weight_array(index))
            tensor = complete.graph.initializer.add()
            tensor.name, tensor.data_type = name, values[name].type.tensor_type.elem_type
            tensor.dims.extend(array.shape)
            if file is None or array.nbytes <= _SMALL_BYTES:
                tensor.raw_data = array.tobytes()
            else:
                _write_beside(tensor, file, array)
        if file is not None:
            file.flush()
        yield SerializedModel(content=complete.SerializeToString(), path=path)


def double_nodes(model: ModelProto) -> tuple[str, ...]:
    """Returns the nodes that make or read float64, which TensorRT would compute as float32 without a word."""
    import onnx

    double = onnx.TensorProto.DOUBLE
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    tensors = {value.name for value in values if value.type.tensor_type.elem_type == double}
    tensors |= {tensor.name for tensor in model.graph.initializer if tensor.data_type == double}

    def is_double(node: Any) -> bool:
        casts = any(attribute.name == "to" and attribute.i == double for attribute in node.attribute)
        holds = any(attribute.t.data_type == double for attribute in node.attribute if attribute.HasField("t"))
        return casts or holds or not tensors.isdisjoint((*node.input, *node.output))

    return tuple(node.name for node in model.graph.node if is_double(node))


def _write_beside(tensor: TensorProto, file: Any, array: Array) -> None:
    import onnx

    file.seek(-(-file.tell() // _ALIGNMENT) * _ALIGNMENT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "weights"), ("offset", str(file.tell())), ("length", str(array.nbytes))):
        tensor.external_data.add(key=key, value=value)
    file.write(array.reshape(-1).view(np.uint8).data)


def _stated_bytes(value: Any) -> int:
    import onnx

    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return math.prod(int(dim.dim_value) for dim in tensor.shape.dim) * int(dtype.itemsize)
