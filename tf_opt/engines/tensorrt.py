"""TensorRT on NVIDIA GPUs: the place of the backend, and the gate that says what is missing.

The backend itself is not part of this version. The gate touches the CUDA driver before anything of TensorRT: its
bindings can end the process where there is no driver.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import ClassVar

from tf_opt.engines.base import Engine, EngineBackend, SegmentModel, ShapeProfile
from tf_opt.errors import EngineUnavailableError
from tf_opt.onnx_target import OnnxTarget
from tf_opt.tensor_info import TensorInfo


class TensorRTBackend(EngineBackend):
    """Names the TensorRT package and says why it cannot run."""

    name: ClassVar[str] = "tensorrt"
    package: ClassVar[str] = "tensorrt"
    install_command: ClassVar[str] = "pip install tensorrt"

    @property
    def onnx_target(self) -> OnnxTarget:
        """The forms that TensorRT takes."""
        return OnnxTarget(name="tensorrt", opset=20, gelu=True)

    def unavailable_reason(self) -> str | None:
        """Returns that there is no CUDA device, or that this version of tf_opt does not build TensorRT engines."""
        reason = _cuda_reason()
        if reason is not None:
            return f"{reason} Use engine='openvino', which runs on the CPU."
        return "this version of tf_opt does not build TensorRT engines. Use engine='openvino'."

    def refusal(self, op: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> str | None:
        """Refuses every node."""
        return self.unavailable_reason()

    def precision_refusal(self, precision: str) -> str | None:
        """Returns why nothing runs."""
        return self.unavailable_reason()

    def build(self, segment: SegmentModel, profiles: Sequence[ShapeProfile] = ()) -> Engine:
        """Raises EngineUnavailableError."""
        raise EngineUnavailableError(f"The engine 'tensorrt' cannot run on this machine: {self.unavailable_reason()}")


def _cuda_reason() -> str | None:
    """Returns why no CUDA device can be used, or None."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1)."
    status = driver.cuInit(0)
    if status != 0:
        return f"the NVIDIA driver does not initialize (cuInit returned {status})."
    count = ctypes.c_int()
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU."
    return None
