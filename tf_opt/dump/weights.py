"""The constants of a dump, each once in one file, and the files that refer to it.

ONNX files refer to `weights.data` as external data, which ONNX Runtime and OpenVINO read as it lies, however large.
GraphDefs have placeholders instead, whose constants `load_dumped_graph` puts back:

    weights.data      the bytes of every constant, one behind the other
    weights.json      dtype, shape and place of each, by name
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework.graph_pb2 import GraphDef

from tf_opt.errors import DumpError, InvalidGraphError, did_you_mean
from tf_opt.files import dump_error, write_dump
from tf_opt.passes.onnx.segment_weights import WEIGHT_PREFIX
from tf_opt.passes.tf.extract import dtype_enum
from tf_opt.plain_data import from_plain, to_plain
from tf_opt.weights import WeightStore, attach_weights, constant_node, is_weight

DATA_FILE, INDEX_FILE = "weights.data", "weights.json"

SEGMENTS_FOLDER = "segments"
"""Where a dump has its weights. ONNX Runtime reads external data from the folder of the model, and from no other."""

_ALIGNMENT = 4096
"""Readers map what lies at a multiple of a page into memory, and copy the rest."""


@dataclass(frozen=True, kw_only=True)
class DumpedWeight:
    """A constant in `weights.data`.

    Attributes:
        dtype: TensorFlow's name of the element type.
        shape: The dimensions.
        offset: Where it begins, in bytes.
        length: How many bytes it has.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


class WeightFile:
    """Writes constants behind each other, each once."""

    def __init__(self, folder: Path) -> None:
        """Writes nothing yet.

        Args:
            folder: Where `weights.data` and `weights.json` come to lie.
        """
        self._folder = folder
        self._weights: dict[str, DumpedWeight] = {}
        self._by_content: dict[str, DumpedWeight] = {}
        self._end = 0

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def __getitem__(self, name: str) -> DumpedWeight:
        return self._weights[name]

    @property
    def size_bytes(self) -> int:
        """Size of `weights.data`."""
        return self._end

    def add(self, array: np.ndarray[Any, Any], dtype: str, name: str | None = None) -> str:
        """Writes a constant, unless one of the same bytes is there, and returns its name.

        Args:
            array: The values.
            dtype: TensorFlow's name of the element type.
            name: Its name; None makes one of its content.

        Raises:
            DumpError: The file cannot be written.
        """
        # As bytes: the buffer protocol has no bfloat16.
        content = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        digest = hashlib.sha256(content).hexdigest()
        name = name or f"derived/{digest[:16]}_{dtype}_{'x'.join(map(str, array.shape))}"
        if name in self._weights:
            return name
        same = self._by_content.get(digest)
        offset = self._append(content) if same is None else same.offset
        weight = DumpedWeight(dtype=dtype, shape=tuple(array.shape), offset=offset, length=content.nbytes)
        self._weights[name] = self._by_content[digest] = weight
        return name

    def add_constant(self, name: str, weights: WeightStore) -> str:
        """Writes a constant of the graph under its own name; see `add`."""
        if name not in self._weights:
            self.add(weights.array(name), weights.info(name).dtype, name)
        return name

    def write_index(self) -> None:
        """Writes `weights.json`: what was added before can be read from now on.

        Raises:
            DumpError: The file cannot be written.
        """
        content = json.dumps({name: to_plain(weight) for name, weight in self._weights.items()}, indent=0)
        write_dump(self._folder / INDEX_FILE, content.encode())

    def _append(self, content: memoryview) -> int:
        offset = -(-self._end // _ALIGNMENT) * _ALIGNMENT
        path = self._folder / DATA_FILE
        try:
            self._folder.mkdir(exist_ok=True)
            with path.open("r+b" if self._end else "wb") as file:
                file.seek(offset)
                file.write(content)
        except OSError as error:
            raise dump_error(path, error) from error
        self._end = offset + content.nbytes
        return offset


def model_with_weights(model: bytes | onnx.ModelProto, weights: Sequence[DumpedWeight]) -> bytes:
    """Returns an ONNX model whose graph inputs `weight_<i>` have become initializers that refer to `weights.data`.

    Args:
        model: A segment's model with its weights as graph inputs; it is not changed.
        weights: Where each is.
    """
    proto = onnx.ModelProto()
    proto.ParseFromString(model if isinstance(model, bytes) else model.SerializeToString())
    by_name = {f"{WEIGHT_PREFIX}{number}": weight for number, weight in enumerate(weights)}
    for value in [value for value in proto.graph.input if value.name in by_name]:
        weight = by_name[value.name]
        tensor = proto.graph.initializer.add(name=value.name, data_type=value.type.tensor_type.elem_type)
        tensor.dims.extend(weight.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, entry in (("location", DATA_FILE), ("offset", weight.offset), ("length", weight.length)):
            tensor.external_data.add(key=key, value=str(entry))
        proto.graph.input.remove(value)
    return proto.SerializeToString()


def model_without_weights(path: Path) -> bytes:
    """Returns a dumped model with its weights as graph inputs again: what an engine is built of.

    Raises:
        DumpError: The file cannot be read.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise DumpError(f"{path} cannot be read as an ONNX model: {error}.") from error
    external = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in sorted(external, key=lambda each: int(each.name.removeprefix(WEIGHT_PREFIX))):
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        model.graph.initializer.remove(tensor)
    content: bytes = model.SerializeToString()
    return content


class DumpedWeights(Mapping[str, DumpedWeight]):
    """The constants of a dump, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Reads the index.

        Args:
            folder: Where `weights.data` and `weights.json` lie.

        Raises:
            DumpError: They cannot be read.
        """
        self._data = folder / DATA_FILE
        try:
            content = json.loads((folder / INDEX_FILE).read_text())
            self._weights = {name: from_plain(DumpedWeight, entry) for name, entry in content.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DumpError(f"The weights of the dump cannot be read: {folder / INDEX_FILE}: {error}.") from error

    def __getitem__(self, name: str) -> DumpedWeight:
        return self._weights[name]

    def __iter__(self) -> Any:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """Returns a constant's values, mapped from the file.

        Raises:
            DumpError: There is none of that name, or the file is too short.
        """
        weight = self._weights.get(name)
        if weight is None:
            raise DumpError(f"The dump has no weight {name!r}.{did_you_mean(name, self._weights)}")
        if weight.length == 0:
            return np.zeros(weight.shape, tf.as_dtype(weight.dtype).as_numpy_dtype)
        try:
            content = np.memmap(self._data, np.uint8, "r", weight.offset, (weight.length,))
        except (OSError, ValueError) as error:
            raise DumpError(f"The weight {name!r} cannot be read from {self._data}: {error}.") from error
        array: np.ndarray[Any, Any] = content.view(tf.as_dtype(weight.dtype).as_numpy_dtype).reshape(weight.shape)
        return array


def load_dumped_graph(path: str | os.PathLike[str]) -> GraphDef:
    """Returns a GraphDef of a dump with its constants.

    Args:
        path: A graph of the whole model in a dump: `final_graph.pb`, or one in `graph_passes`.

    Raises:
        DumpError: It lies in no dump, or a constant cannot be read.
        InvalidGraphError: The file is no GraphDef.
    """
    file = Path(path)
    folders = [parent / SEGMENTS_FOLDER for parent in file.resolve().parents[:2]]
    folder = next((each for each in folders if (each / INDEX_FILE).is_file()), None)
    if folder is None:
        raise DumpError(
            f"{file} lies in no dump: there is no {SEGMENTS_FOLDER}/{INDEX_FILE} beside it. Leave the files of a dump "
            "where they were written."
        )
    try:
        light = GraphDef.FromString(file.read_bytes())
    except OSError as error:
        raise InvalidGraphError(f"The GraphDef {file} cannot be read: {error.strerror or error}.") from error
    except DecodeError as error:
        raise InvalidGraphError(f"{file} is no GraphDef: {error}.") from error
    weights = DumpedWeights(folder)
    names = [node.name for node in light.node if is_weight(node)]
    constants = {name: constant_node(name, weights.array(name), dtype_enum(weights[name].dtype)) for name in names}
    return attach_weights(light, WeightStore(constants))
