"""ONNX Runtime on the CPU, run through Python behind the same op.

What is stored is the ONNX model without weights, as for OpenVINO. Loading declares the weights as initializers whose
data lie elsewhere, and gives ONNX Runtime TensorFlow's memory as that elsewhere.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tf_opt.engines.base import Engine, EngineBackend, SegmentModel, ShapeProfile, pack_segment
from tf_opt.errors import EngineBuildError
from tf_opt.onnx_target import OnnxTarget
from tf_opt.tensor_info import TensorInfo

if TYPE_CHECKING:
    from tf_opt.ops.python_runtime import Allocate, Array, PythonEngine

PROVIDERS = ("CPUExecutionProvider",)

_DTYPES = frozenset("float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split())
"""Element types that ONNX Runtime exchanges as NumPy arrays."""

_WEIGHT_PREFIX = "weight_"


class ONNXRuntimeBackend(EngineBackend):
    """Builds ONNX Runtime engines for the CPU."""

    name: ClassVar[str] = "onnxruntime"
    package: ClassVar[str] = "onnxruntime"
    install_command: ClassVar[str] = "pip install onnxruntime"

    @property
    def onnx_target(self) -> OnnxTarget:
        """The forms that ONNX Runtime takes."""
        return OnnxTarget(name="onnxruntime", opset=20, gelu=True)

    def unavailable_reason(self) -> str | None:
        """Returns None: the CPU provider runs wherever the package installs."""
        return None

    def refusal(self, op: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> str | None:
        """Refuses element types that ONNX Runtime does not exchange."""
        for tensor in (*inputs, *outputs):
            if tensor.dtype not in _DTYPES:
                return f"{tensor.name} has dtype {tensor.dtype}, which ONNX Runtime does not exchange"
        return None

    def precision_refusal(self, precision: str) -> str | None:
        """Refuses 16-bit types, which the CPU provider has few kernels for and casts around."""
        return None if precision == "int8" else f"ONNX Runtime's CPU provider does not compute in {precision}"

    def build(self, segment: SegmentModel, profiles: Sequence[ShapeProfile] = ()) -> Engine:
        """Has ONNX Runtime read the model, whose weights stay graph inputs here; see `EngineBackend.build`."""
        import onnxruntime  # Heavy, and not needed before something is built.

        started = time.perf_counter()
        options = onnxruntime.SessionOptions()
        # Reading and finding kernels is what is asked here; optimizing waits for the weights.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            onnxruntime.InferenceSession(segment.model, options, providers=list(PROVIDERS))
        except Exception as error:  # Its exceptions share no base below Exception.
            raise EngineBuildError(f"ONNX Runtime refuses the segment {segment.name}: {error}") from error
        version = importlib.metadata.version(self.package)
        return Engine(
            runtime=self.name,
            blob=pack_segment(segment, self.name, version),
            library=f"{self.package} {version}",
            build_seconds=time.perf_counter() - started,
        )


def load_engine(payload: bytes, weights: list[Array]) -> PythonEngine:
    """Makes an engine of a stored model and the graph's constants; the op's Python runtime calls it.

    Args:
        payload: ONNX model with the graph inputs `input_<i>` and `weight_<i>`.
        weights: Values of `weight_<i>`, valid until the engine is closed.
    """
    return _Engine(payload, weights)


class _Engine:
    """An InferenceSession. ONNX Runtime allows calls from several threads at once."""

    def __init__(self, payload: bytes, weights: list[Array]) -> None:
        import onnx
        import onnxruntime

        model = onnx.ModelProto.FromString(payload)
        names = _declare_external(model)
        options = onnxruntime.SessionOptions()
        # The OrtValues share the arrays' memory, so both are kept as long as the session. Weights that only the
        # fallback reads are none of the model's.
        arrays = [weights[int(name.removeprefix(_WEIGHT_PREFIX))] for name in names]
        self._weights = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays]
        options.add_external_initializers(names, self._weights)
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=list(PROVIDERS))
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, inputs: Sequence[Array], allocate: Allocate) -> None:
        """Runs once; see `PythonEngine.run`."""
        binding = self._session.io_binding()
        for name, array in zip(self._inputs, inputs, strict=True):
            address = array.__array_interface__["data"][0]
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, address)
        for name in self._outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        for index, value in enumerate(binding.get_outputs()):
            result: Any = value.numpy()
            np.copyto(allocate(index, result.shape, result.dtype), result)


def _declare_external(model: Any) -> list[str]:
    """Turns the graph inputs `weight_<i>` into initializers with external data, which ONNX Runtime is given by name.

    Returns:
        The names of these inputs.
    """
    import onnx

    weights = [value for value in model.graph.input if value.name.startswith(_WEIGHT_PREFIX)]
    kept = [value for value in model.graph.input if not value.name.startswith(_WEIGHT_PREFIX)]
    names = [str(value.name) for value in weights]
    for value in weights:
        tensor_type = value.type.tensor_type
        initializer = model.graph.initializer.add(
            name=value.name,
            data_type=tensor_type.elem_type,
            dims=[dimension.dim_value for dimension in tensor_type.shape.dim],
            data_location=onnx.TensorProto.EXTERNAL,
        )
        initializer.external_data.add(key="location", value=value.name)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return names
