"""The TensorRT backend: what it can do here, and how a segment becomes an engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

import tf_opt
from tf_opt.engines.base import Engine, EngineBackend, SegmentModel, ShapeProfile
from tf_opt.engines.blob import EngineBlob
from tf_opt.engines.tensorrt import bindings, cuda, refusals, versions
from tf_opt.engines.tensorrt import profiles as shape_profiles
from tf_opt.engines.tensorrt.settings import TensorRTSettings
from tf_opt.errors import CudaError, EnginePackageMissingError, EngineUnavailableError, TfOptError
from tf_opt.onnx_target import OnnxTarget
from tf_opt.tensor_info import TensorInfo

ORDINAL = 0
"""The GPU that engines are built for and nodes on the CPU run on; CUDA_VISIBLE_DEVICES says which one that is."""


class TensorRTBackend(EngineBackend):
    """Builds TensorRT engines for the GPU of this machine."""

    name: ClassVar[str] = "tensorrt"
    package: ClassVar[str] = "tensorrt"
    install_command: ClassVar[str] = bindings.INSTALL_COMMAND
    wants_profiles: ClassVar[bool] = True

    def __init__(self, settings: TensorRTSettings | None = None) -> None:
        """Touches nothing yet.

        Args:
            settings: How engines are built and run.
        """
        self.settings = settings or TensorRTSettings()

    @property
    def onnx_target(self) -> OnnxTarget:
        """The forms that the installed TensorRT takes; those of version 10 where none can be used."""
        try:
            return versions.onnx_target(bindings.installed_version())
        except TfOptError:
            return versions.onnx_target(versions.STRONG_TYPES)

    @property
    def identity(self) -> str:
        """The name with TensorRT's version and the GPU."""
        version = bindings.tensorrt_module().__version__
        return f"{self.name} {version} on {cuda.cuda_driver().device_name(ORDINAL)}"

    def unavailable_reason(self) -> str | None:
        """Asks the CUDA driver, and imports TensorRT only where that answers."""
        try:
            bindings.tensorrt_module()
        except (EngineUnavailableError, EnginePackageMissingError) as error:
            return str(error)
        return None

    def refusal(self, op: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> str | None:
        """Refuses ops and element types that TensorRT lacks or computes in fewer bits."""
        try:
            version = bindings.installed_version()
        except (EngineUnavailableError, EnginePackageMissingError) as error:
            return str(error)
        return refusals.node_refusal(version, op, inputs, outputs)

    def precision_refusal(self, precision: str) -> str | None:
        """Judges by the GPU's compute capability and TensorRT's version."""
        reason = self.unavailable_reason()
        if reason is not None:
            return reason
        try:
            capability = cuda.cuda_driver().compute_capability(ORDINAL)
        except CudaError as error:
            return str(error)
        return refusals.precision_refusal(bindings.installed_version(), capability, precision)

    def build(self, segment: SegmentModel, profiles: Sequence[ShapeProfile] = ()) -> Engine:
        """Builds the plan into the plan cache, where the op finds it; see `EngineBackend.build`.

        What the engine stores is the model without weights, the settings and the profiles: on another machine the plan
        is built again from these.
        """
        from tf_opt.engines.tensorrt.plan_builder import PlanSource  # Brings the progress bars with it.

        version = bindings.tensorrt_module().__version__
        started = time.perf_counter()
        source = PlanSource(
            name=segment.name,
            content=segment.model,
            weight_array=segment.weight_array,
            settings=self.settings,
            ranges=profiles,
            ordinal=ORDINAL,
        )
        source.plan()
        header = {
            "runtime": self.name,
            "tf_opt_version": tf_opt.__version__,
            "library_version": version,
            "inputs": [str(tensor) for tensor in segment.inputs],
            "outputs": [str(tensor) for tensor in segment.outputs],
            "input_dtypes": [tensor.dtype for tensor in segment.inputs],
            "output_dtypes": [tensor.dtype for tensor in segment.outputs],
            "settings": self.settings.as_dict(),
            "profiles": shape_profiles.to_plain(profiles),
        }
        return Engine(
            runtime=self.name,
            blob=EngineBlob(header=header, payload=segment.model).pack(),
            library=f"{self.package} {version}",
            build_seconds=time.perf_counter() - started,
            log=source.log,
        )
