"""ONNX Runtime on the CPU and on NVIDIA GPUs: how engines are built, and how Python runs them behind the same op.

What is stored is the ONNX model without weights, as for OpenVINO, and the provider that it was judged with. The op runs
engines for the CPU by itself, where the package has a library for that; what is here runs the others. Importing this
imports neither ONNX Runtime nor the CUDA driver.
"""

from __future__ import annotations

from tf_opt.engines.onnxruntime.backend import ONNXRuntimeBackend
from tf_opt.engines.onnxruntime.runtime import load_engine

__all__ = ["ONNXRuntimeBackend", "load_engine"]
