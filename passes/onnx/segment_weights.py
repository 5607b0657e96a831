"""Takes an exported segment into onnx_ir without its weights' values, and writes it out again.

Inside, a weight is an initializer like any other, so that passes and rewrite rules see one kind of constant; its values
are fetched only when a pass asks for them. Outside, weights are graph inputs again, and each says where its values come
from: a constant of the TensorFlow graph, untouched, or an array that a pass derived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from tf_opt.errors import InvalidGraphError
from tf_opt.passes.tf.symbolic_dims import Dim
from tf_opt.tensor_info import TensorInfo

MINIMUM_WEIGHT_ELEMENTS = 512
"""Initializers of at least this many elements leave the model as graph inputs. The same border as the exporter's, so
that smaller constants are where passes can read them."""

INPUT_PREFIX = "input_"
WEIGHT_PREFIX = "weight_"

KNOWN_SHAPE = "tf_opt.shape"
"""Key in the metadata of a graph input: its dimensions as symbolic expressions."""

KNOWN_VECTOR = "tf_opt.vector"
"""Key in the metadata of a graph input: the entries of an integer vector as symbolic expressions."""


@dataclass(frozen=True, kw_only=True)
class InputFacts:
    """What the whole TensorFlow graph tells of a segment's input, beyond what the segment alone does.

    Expressions over the same atoms say which dimensions of different inputs are equal, and that an integer vector is
    made of them.

    Attributes:
        shape: The dimensions; None where the rank is not known.
        vector: The entries, for an integer tensor of at most one dimension that is made of dimensions.
    """

    shape: tuple[Dim, ...] | None = None
    vector: tuple[Dim, ...] | None = None


class OriginalWeight(ir.LazyTensor):
    """The values of a constant of the TensorFlow graph, fetched when they are asked for and not kept.

    Attributes:
        index: Which weight of the exported segment it is.
    """

    __slots__ = ("index",)

    def __init__(self, index: int, info: TensorInfo, weight_array: Callable[[int], np.ndarray[Any, Any]]) -> None:
        """Refers to weight `index`; `weight_array` is called for each reading."""
        dtype = data_type(info.dtype)
        super().__init__(
            lambda: ir.Tensor(weight_array(index), dtype=dtype), dtype=dtype, shape=ir.Shape(info.shape or ())
        )
        self.index = index


@dataclass(frozen=True, kw_only=True)
class SegmentWeight:
    """Where a weight of a finished model comes from.

    Attributes:
        original: Index among the weights of the exported segment; None for values that a pass derived.
        dtype: TensorFlow's name of the element type, such as "float32", "bfloat16", "int8".
        shape: The dimensions, all known.
        array: Returns the values. Of an original it fetches a copy: bind the constant itself instead where possible.
    """

    original: int | None
    dtype: str
    shape: tuple[int, ...]
    array: Callable[[], np.ndarray[Any, Any]] = field(repr=False, compare=False)


def data_type(dtype: str) -> ir.DataType:
    """Returns ONNX's element type for TensorFlow's name of it ("float32", "bfloat16", ...)."""
    # onnx_ir imports ml_dtypes, which teaches NumPy the names of the 16-bit and 8-bit floating types.
    return ir.DataType.from_numpy(np.dtype(dtype))


def load_segment(
    model: bytes | onnx.ModelProto,
    weights: Sequence[TensorInfo],
    weight_array: Callable[[int], np.ndarray[Any, Any]],
    inputs: Sequence[InputFacts] = (),
) -> ir.Model:
    """Returns an exported segment with its weights as initializers whose values are fetched on demand.

    Args:
        model: Graph inputs `input_<i>` and `weight_<i>`, outputs `output_<i>`, as `export_segment` writes it.
        weights: Dtype and full shape of each `weight_<i>`.
        weight_array: Returns the values of the i-th weight.
        inputs: What is known of each `input_<i>`; may be left out.

    Raises:
        InvalidGraphError: The model has no graph input for one of the weights.
    """
    proto = onnx.ModelProto.FromString(model) if isinstance(model, bytes) else model
    loaded = ir.serde.deserialize_model(proto)
    graph = loaded.graph
    values = {value.name: value for value in graph.inputs}
    names = [f"{WEIGHT_PREFIX}{index}" for index in range(len(weights))]
    missing = [name for name in names if name not in values]
    if missing:
        raise InvalidGraphError(
            f"The model has no graph inputs {', '.join(missing)}, but {len(weights)} weights came with it. Pass the "
            "weights that belong to this segment."
        )
    taken = set(names)
    kept = [value for value in graph.inputs if value.name not in taken]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    for index, (name, info) in enumerate(zip(names, weights, strict=True)):
        tensor = OriginalWeight(index, info, weight_array)
        value = values[name]
        tensor.name = name
        value.const_value = tensor
        value.dtype = tensor.dtype
        value.shape = tensor.shape.copy()
        graph.register_initializer(value)
    for index, facts in enumerate(inputs):
        value = values[f"{INPUT_PREFIX}{index}"]
        if facts.shape is not None:
            value.meta[KNOWN_SHAPE] = facts.shape
        if facts.vector is not None:
            value.meta[KNOWN_VECTOR] = facts.vector
    return loaded


def detach_segment(model: ir.Model) -> tuple[bytes, list[SegmentWeight]]:
    """Returns the model without its big constants, and where these come from; `model` is not changed.

    Initializers of MINIMUM_WEIGHT_ELEMENTS or more become graph inputs `weight_<i>` behind the `input_<i>`, numbered
    anew; those that nothing reads are left out. No values are read or copied.
    """
    copy = model.clone()
    graph = copy.graph
    weights: list[SegmentWeight] = []
    values: list[ir.Value] = []
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.size < MINIMUM_WEIGHT_ELEMENTS or value.is_graph_output():
            continue
        del graph.initializers[name]
        if not value.uses():
            continue
        values.append(value)
        weights.append(_segment_weight(tensor))
    names = [f"{WEIGHT_PREFIX}{index}" for index in range(len(values))]
    taken = set(names)
    renamed = set(values)
    for value in _values(graph):
        if value.name in taken and value not in renamed:
            value.name = f"{value.name}__inner"
    for name, value in zip(names, values, strict=True):
        value.const_value = None
        value.name = name
        graph.inputs.append(value)
    return ir.serde.serialize_model(copy).SerializeToString(), weights


def _segment_weight(tensor: ir.TensorProtocol) -> SegmentWeight:
    return SegmentWeight(
        original=tensor.index if isinstance(tensor, OriginalWeight) else None,
        dtype=tensor.dtype.numpy().name,
        shape=tuple(tensor.shape.numpy()),
        array=tensor.numpy,
    )


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every named value of a graph and of the graphs inside its nodes."""
    for inner in (graph, *graph.subgraphs()):
        yield from inner.inputs
        yield from inner.initializers.values()
        for node in inner:
            yield from node.outputs
