"""ONNX Runtime on the CPU and on NVIDIA GPUs, run through Python behind the same op.

What is stored is the ONNX model without weights, as for OpenVINO, and the provider that it was judged with. Importing
this imports neither ONNX Runtime nor the CUDA driver.
"""

from __future__ import annotations

from tf_opt.engines.onnxruntime.backend import ONNXRuntimeBackend
from tf_opt.engines.onnxruntime.runtime import load_engine

__all__ = ["ONNXRuntimeBackend", "load_engine"]
