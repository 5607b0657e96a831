"""OpenVINO on the CPU: the engine wherever there is no NVIDIA GPU.

What is stored is the ONNX model without weights. The op's runtime compiles it, with the graph's own constants as
weights, when a session first runs it.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Sequence
from typing import ClassVar

from tf_opt.engines.base import CPU_DEVICE, Engine, EngineBackend, SegmentModel, ShapeProfile, pack_segment
from tf_opt.environment import cpu_flags
from tf_opt.errors import EngineBuildError
from tf_opt.onnx_target import OnnxTarget
from tf_opt.tensor_info import TensorInfo

_DTYPES = frozenset("float16 bfloat16 float32 int8 int16 int32 int64 uint8 uint16 uint32 bool".split())
"""Element types that OpenVINO's CPU plugin computes in full. It takes float64 and uint64 too, in 32 bits."""

_PRECISIONS = {
    "fp16": ("FP16", frozenset({"avx512_fp16", "amx_fp16", "avx_ne_convert", "asimdhp"})),
    "bf16": ("BF16", frozenset({"avx512_bf16", "amx_bf16", "avx_ne_convert"})),
    "int8": ("INT8", frozenset[str]()),
}
"""OpenVINO's name of each precision, and the processor flags of Linux of which one is needed; none for int8, as
OpenVINO's int8 kernels begin with AVX2 and are measured before they are adopted."""


class OpenVINOBackend(EngineBackend):
    """Builds OpenVINO engines for the CPU."""

    name: ClassVar[str] = "openvino"
    package: ClassVar[str] = "openvino"
    install_command: ClassVar[str] = "pip install openvino"

    @property
    def onnx_target(self) -> OnnxTarget:
        """The forms that OpenVINO takes."""
        return OnnxTarget(name="openvino", opset=20, gelu=True, int8="openvino")

    def unavailable_reason(self) -> str | None:
        """Returns None: OpenVINO's CPU plugin runs wherever its package installs."""
        return None

    def refusal(self, op: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> str | None:
        """Refuses what OpenVINO does not compute in full precision, and inputs of unknown rank."""
        for tensor in (*inputs, *outputs):
            if tensor.dtype not in _DTYPES:
                return f"{tensor.name} has dtype {tensor.dtype}, which OpenVINO's CPU plugin does not compute in full"
        # Outputs that nothing reads often have no known rank (those of FusedBatchNormV3 for training); one that is read
        # is an input of the next node.
        for tensor in inputs:
            if tensor.shape is None:
                return f"{tensor.name} has an unknown rank, which OpenVINO's CPU plugin does not run"
        return None

    def precision_refusal(self, precision: str) -> str | None:
        """Asks OpenVINO and the processor: OpenVINO lists bfloat16 on processors that only emulate it, too."""
        import openvino  # Heavy, and not needed for fp32.

        name, instructions = _PRECISIONS[precision]
        if name not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            return f"OpenVINO has no {precision} kernels for this processor"
        if instructions and not instructions & cpu_flags():
            return f"the processor has none of the instructions for {precision} ({', '.join(sorted(instructions))})"
        return None

    def build(self, segment: SegmentModel, profiles: Sequence[ShapeProfile] = ()) -> Engine:
        """Has OpenVINO read the model and check every operation; see `EngineBackend.build`.

        The weights are no part of this: they stay graph inputs, so that nothing is copied or packed here. Compiling
        happens where the engine runs, in the op, whose errors name the segment just as well.
        """
        import openvino  # Heavy, and not needed before something is built.

        started = time.perf_counter()
        core = openvino.Core()
        try:
            model = core.read_model(segment.model)
            supported = core.query_model(model, "CPU")
        except RuntimeError as error:
            raise EngineBuildError(f"OpenVINO does not read the segment {segment.name}: {error}") from error
        refused = [node for node in model.get_ops() if node.get_friendly_name() not in supported]
        if refused:
            listed = ", ".join(f"{node.get_friendly_name()} ({node.get_type_name()})" for node in refused[:10])
            raise EngineBuildError(f"OpenVINO's CPU plugin does not run these operations of {segment.name}: {listed}")
        names = [parameter.get_friendly_name() for parameter in model.get_parameters()]
        expected = [f"input_{i}" for i in range(len(segment.inputs))]
        expected += [f"weight_{i}" for i in range(len(segment.weights))]
        # The op binds them by name. OpenVINO leaves out an input that nothing reads, as one whose sizes were known.
        if names != [name for name in expected if name in names]:
            raise EngineBuildError(f"OpenVINO reads the inputs of {segment.name} as {names}; expected {expected}.")
        version = importlib.metadata.version(self.package)
        return Engine(
            runtime=self.name,
            blob=pack_segment(segment, self.name, version),
            library=f"{self.package} {version}",
            build_seconds=time.perf_counter() - started,
            device=CPU_DEVICE,
        )
