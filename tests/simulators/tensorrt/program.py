"""Runs an engine's ONNX model with ONNX Runtime on the CPU.

bfloat16 and float16 tensors are computed in float32 and rounded to their type behind each node, because ONNX Runtime's
CPU provider has few kernels for them. Values therefore have 16 bit, as on a GPU, but accumulate in float32 inside a
node.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tests.simulators.tensorrt import onnx_rules, onnx_tensors

Array = npt.NDArray[Any]

_SIXTEEN_BIT = {TensorProto.FLOAT16: np.dtype(np.float16), TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16)}

_NUMPY = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
    "FP8": np.dtype(ml_dtypes.float8_e4m3fn),
}


def numpy_dtype(data_type: str) -> np.dtype[Any]:
    """Returns the NumPy type of a DataType's name."""
    return _NUMPY[data_type]


class Program:
    """A model that is ready to run. Several threads may run it at once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._input_types = {
            value.name: value.type.tensor_type.elem_type for value in onnx_rules.graph_inputs(model.graph)
        }
        self._output_types = [value.type.tensor_type.elem_type for value in model.graph.output]
        self._model = in_float32(model)
        self._lock = threading.Lock()
        self._session: onnxruntime.InferenceSession | None = None
        self._shapes: dict[Any, list[tuple[int, ...]]] = {}

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Returns the outputs for inputs of the network's types."""
        feeds = {
            name: array.astype(np.float32) if self._input_types[name] in _SIXTEEN_BIT else array
            for name, array in inputs.items()
        }
        results = self._ready_session().run(None, feeds)
        return [
            np.asarray(result).astype(_SIXTEEN_BIT.get(element_type, np.asarray(result).dtype))
            for result, element_type in zip(results, self._output_types, strict=True)
        ]

    def output_shapes(
        self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Array]
    ) -> list[tuple[int, ...]]:
        """Returns the outputs' shapes, found by running on zeros.

        Args:
            shapes: The inputs' shapes.
            values: The values of those inputs that decide about shapes.
        """
        fixed = tuple((name, array.shape, array.tobytes()) for name, array in sorted(values.items()))
        key = (tuple(sorted(shapes.items())), fixed)
        if key not in self._shapes:
            inputs = {
                name: values.get(name, np.zeros(shape, numpy_dtype(_type_name(self._input_types[name]))))
                for name, shape in shapes.items()
            }
            self._shapes[key] = [output.shape for output in self.run(inputs)]
        return self._shapes[key]

    def _ready_session(self) -> onnxruntime.InferenceSession:
        with self._lock:
            if self._session is None:
                options = onnxruntime.SessionOptions()
                options.log_severity_level = 4
                options.intra_op_num_threads = 1
                # Optimizations may drop the pairs of casts that round to 16 bit.
                options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
                self._session = onnxruntime.InferenceSession(
                    self._model.SerializeToString(), options, providers=["CPUExecutionProvider"]
                )
        return self._session


def _type_name(element_type: int) -> str:
    name = onnx_rules.data_type_name(element_type)
    assert name is not None
    return name


def without_double(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    """Returns the model with float64 turned into float32, as the parser does, and whether there was any."""
    return _retyped(model, {TensorProto.DOUBLE}, rounding=False)


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with 16-bit tensors held in float32, rounded to 16 bit behind each node."""
    return _retyped(model, set(_SIXTEEN_BIT), rounding=True)[0]


def _retyped(model: onnx.ModelProto, replaced: set[int], *, rounding: bool) -> tuple[onnx.ModelProto, bool]:
    """Returns the model with float32 in place of some types, and whether it had any of them."""
    # What is inferred knows more types than the model states, of which only those of the model's own are written.
    known = onnx_tensors.inferred(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    changed = _retype(result.graph, known.graph, onnx_tensors.Scope(), replaced, rounding)
    return (result, True) if changed else (model, False)


def _retype(
    graph: onnx.GraphProto, known: onnx.GraphProto, around: onnx_tensors.Scope, replaced: set[int], rounding: bool
) -> bool:
    """Changes a graph and those inside of its nodes, and returns whether there was anything to change."""
    scope = around.inside(known)
    changed = bool(replaced & {scope.types.get(name, 0) for node in graph.node for name in node.output})
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in replaced:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            changed = True
    for initializer in graph.initializer:
        changed |= _widen(initializer, replaced)
    nodes: list[onnx.NodeProto] = []
    for node, known_node in zip(graph.node, known.node, strict=True):
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in replaced:
                attribute.i = TensorProto.FLOAT
                changed = True
            if attribute.type == onnx.AttributeProto.TENSOR:
                changed |= _widen(attribute.t, replaced)
        for body, known_body in zip(onnx_tensors.bodies(node), onnx_tensors.bodies(known_node), strict=True):
            changed |= _retype(body, known_body, scope, replaced, rounding)
        nodes.append(node)
        for position, name in enumerate(node.output):
            element_type = scope.types.get(name, 0)
            if rounding and element_type in replaced:
                raw, rounded = f"{name}/unrounded", f"{name}/rounded"
                node.output[position] = raw
                nodes.append(helper.make_node("Cast", [raw], [rounded], to=element_type))
                nodes.append(helper.make_node("Cast", [rounded], [name], to=TensorProto.FLOAT))
    copies = [onnx.NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)
    del graph.value_info[:]
    return changed


def _widen(tensor: TensorProto, replaced: set[int]) -> bool:
    """Turns a constant into float32 where it is of a type to replace; returns whether it was."""
    if tensor.data_type not in replaced:
        return False
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    return True
