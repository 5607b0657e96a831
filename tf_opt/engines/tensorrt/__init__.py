"""TensorRT on NVIDIA GPUs.

Importing this imports neither TensorRT nor the CUDA driver. Both are asked for through `bindings` and `cuda`, the
driver first: TensorRT's bindings can end the process where there is none.
"""

from __future__ import annotations

from tf_opt.engines.tensorrt.backend import TensorRTBackend
from tf_opt.engines.tensorrt.settings import TensorRTSettings

__all__ = ["TensorRTBackend", "TensorRTSettings"]
