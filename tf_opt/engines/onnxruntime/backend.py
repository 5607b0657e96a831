"""Builds ONNX Runtime engines."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import ClassVar

from tf_opt.engines.base import CPU_DEVICE, Engine, EngineBackend, SegmentModel, ShapeProfile, pack_segment
from tf_opt.engines.blob import EngineBlob
from tf_opt.engines.onnxruntime import providers
from tf_opt.engines.onnxruntime.element_types import EXCHANGED
from tf_opt.engines.onnxruntime.providers import Provider, automatic_provider, check_provider
from tf_opt.engines.onnxruntime.session import create_session
from tf_opt.errors import CudaError, EngineBuildError, EngineUnavailableError
from tf_opt.onnx_target import OnnxTarget
from tf_opt.tensor_info import TensorInfo

_BFLOAT16_CAPABILITY = (8, 0)

_NODE_NAMES = re.compile(r"""(?:node with name '|In Node, \("|\bNode \()([^'")]+)""")
"""How ONNX Runtime's messages name nodes."""


class ONNXRuntimeBackend(EngineBackend):
    """Builds ONNX Runtime engines for one of its providers."""

    name: ClassVar[str] = "onnxruntime"
    package: ClassVar[str] = "onnxruntime"
    install_command: ClassVar[str] = "pip install onnxruntime"

    def __init__(self, provider: Provider | None = None) -> None:
        """Settles where engines run.

        Args:
            provider: "cpu", "cuda", or "tensorrt" (ONNX Runtime's own use of TensorRT); None is "cuda" where the
                installed onnxruntime has it and there is a GPU, "cpu" elsewhere.

        Raises:
            InvalidOptionError: There is no such provider.
        """
        if provider is not None:
            check_provider(provider)
        self._provider = provider

    @property
    def provider(self) -> Provider:
        """Where engines run. Without a choice by the user, the driver and ONNX Runtime are asked once."""
        if self._provider is None:
            self._provider = automatic_provider()
        return self._provider

    @property
    def onnx_target(self) -> OnnxTarget:
        """The forms that ONNX Runtime takes."""
        if self.provider == "tensorrt":
            # What TensorRT's parser does not know is cut out of its part of the graph.
            return OnnxTarget(name="onnxruntime", opset=20, gelu=True, int8="tensorrt")
        return OnnxTarget(
            name="onnxruntime",
            opset=20,
            gelu=True,
            attention="microsoft",
            merge_qkv=True,
            infer_shapes=True,
            int8="onnxruntime",
        )

    @property
    def identity(self) -> str:
        """The name with the provider."""
        return f"{self.name} ({self.provider})"

    def unavailable_reason(self) -> str | None:
        """Returns why the provider cannot be used; None for the CPU's, which runs wherever the package installs."""
        return providers.unavailable_reason(self.provider)

    def refusal(self, op: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> str | None:
        """Refuses element types that ONNX Runtime does not exchange, or has no kernels for."""
        for tensor in (*inputs, *outputs):
            if tensor.dtype not in EXCHANGED:
                return f"{tensor.name} has dtype {tensor.dtype}, which ONNX Runtime does not exchange"
            if tensor.dtype == "bfloat16" and self.provider == "cpu":
                return f"{tensor.name} has dtype bfloat16, which ONNX Runtime's CPU provider does not compute in"
        return None

    def precision_refusal(self, precision: str) -> str | None:
        """Refuses what the provider has no kernels for, and bfloat16 on GPUs before Ampere."""
        if self.provider == "cpu":
            # It casts to float32 and back around nearly every operator.
            return None if precision == "int8" else f"ONNX Runtime's CPU provider does not compute in {precision}"
        if precision == "int8" and self.provider == "cuda":
            return "ONNX Runtime's CUDA provider multiplies quantized matrices in floating point"
        if precision == "bf16":
            from tf_opt.engines.tensorrt import cuda

            try:
                major, minor = cuda.cuda_driver().compute_capability(0)
            except CudaError as error:
                return f"bfloat16 needs the compute capability 8.0, and the GPU cannot be asked for its own: {error}"
            if (major, minor) < _BFLOAT16_CAPABILITY:
                return f"the GPU's compute capability is {major}.{minor}; bfloat16 needs 8.0"
        return None

    def build(self, segment: SegmentModel, profiles: Sequence[ShapeProfile] = ()) -> Engine:
        """Has ONNX Runtime read the model, whose weights stay graph inputs here; see `EngineBackend.build`.

        Raises:
            EngineBuildError: ONNX Runtime refuses the model.
            EngineUnavailableError: The session would run on another provider.
        """
        import onnxruntime  # Heavy, and not needed before something is built.

        started = time.perf_counter()
        try:
            # Reading and finding kernels is what is asked here; optimizing waits for the weights.
            create_session(segment.model, self.provider, threads=1, optimize=False)
        except EngineUnavailableError:
            raise
        except Exception as error:  # Its exceptions share no base below Exception.
            message = f"ONNX Runtime refuses the segment {segment.name}: {error}"
            raise EngineBuildError(message, nodes_in(str(error))) from error
        version = onnxruntime.__version__
        stored = EngineBlob.unpack(pack_segment(segment, self.name, version))
        blob = EngineBlob(header={**stored.header, "provider": self.provider}, payload=stored.payload)
        device = "" if self.provider == "cpu" else f" ({self.provider})"
        return Engine(
            runtime=self.name,
            blob=blob.pack(),
            # Not the distribution's name: onnxruntime-gpu installs the same package.
            library=f"{self.package} {version}{device}",
            build_seconds=time.perf_counter() - started,
            device=CPU_DEVICE if self.provider == "cpu" else "",
        )


def nodes_in(message: str) -> tuple[str, ...]:
    """Returns the nodes that an error message of ONNX Runtime names, in order, each once."""
    return tuple(dict.fromkeys(_NODE_NAMES.findall(message)))
