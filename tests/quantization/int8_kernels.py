"""Quantized models on the engines' own kernels: what they compute, and which kernels they take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import openvino

Array: TypeAlias = np.ndarray[Any, Any]
Feed: TypeAlias = Mapping[str, Array]


class OpenVINOModel:
    """A model compiled by OpenVINO, whose floating point is fp32.

    Attributes:
        convolutions: OpenVINO's name of the kernel of each convolution, by the name of the node.
    """

    def __init__(self, model: ir.Model) -> None:
        """Compiles a model."""
        core = openvino.Core()
        content = ir.serde.serialize_model(model).SerializeToString()
        self._compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        operations = self._compiled.get_runtime_model().get_ordered_ops()
        known = {operation.get_friendly_name(): operation.get_rt_info() for operation in operations}
        self.convolutions = {
            name: str(facts["primitiveType"].value)
            for name, facts in known.items()
            if facts["layerType"].value in ("Convolution", "GroupConvolution")
        }

    @property
    def int8_convolutions(self) -> int:
        """How many convolutions run in int8."""
        return sum(kernel.endswith("_I8") for kernel in self.convolutions.values())

    def run(self, feed: Feed) -> list[Array]:
        """Computes the outputs."""
        return list(self._compiled(feed).values())


class ONNXRuntimeModel:
    """A model as ONNX Runtime optimizes it for the CPU.

    Attributes:
        operators: How many nodes of each operator it runs.
    """

    def __init__(self, model: ir.Model, folder: Path) -> None:
        """Optimizes a model; `folder` gets a file."""
        path = folder / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        content = ir.serde.serialize_model(model).SerializeToString()
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.operators = Counter(node.op_type for node in onnx.load(path).graph.node)

    def run(self, feed: Feed) -> list[Array]:
        """Computes the outputs."""
        outputs: list[Array] = self._session.run(None, dict(feed))
        return outputs
