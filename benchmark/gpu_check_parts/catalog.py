"""Which engines the GPU check knows, and which points, the most important ones first."""

from __future__ import annotations

from dataclasses import dataclass

from peer_workers.catalog import PeerSpec

REFERENCE = "tensorflow-cpu"
"""The original graph in a Session on the CPU, whose outputs are the right ones."""


@dataclass(frozen=True, kw_only=True)
class EngineSpec(PeerSpec):
    """An engine.

    Attributes:
        requires: Python packages without which it is absent.
        gpu: Whether it needs a GPU.
        most_points: At how many points of a model it is measured; None for all. For what takes minutes to prepare.
    """

    requires: tuple[str, ...] = ()
    gpu: bool = True
    most_points: int | None = None


def _graph(name: str, engine: str | None, precision: str, *, requires: tuple[str, ...], gpu: bool = True) -> EngineSpec:
    # Where TensorFlow has a GPU, it takes what it needs of its memory and not all.
    return EngineSpec(
        name=name,
        precision=precision,
        module="gpu_check_parts.graph_worker",
        options={"engine": engine, "precision": precision, "gpu": gpu},
        variables={"TF_FORCE_GPU_ALLOW_GROWTH": "true"},
        # As measured with BERT-large: graph, Session, and what the engine makes of it.
        copies=7.0 if engine is None else 12.0,
        requires=("tensorflow", *requires),
        gpu=gpu,
    )


def _torch(name: str, precision: str, *, gpu: bool = True, compiled_points: int | None = None) -> EngineSpec:
    # torch.compile takes about a minute for each point, since the fastest way is to compile for each shape by itself.
    return EngineSpec(
        name=name,
        precision=precision,
        module="gpu_check_parts.torch_bert",
        options={"precision": precision, "compile": compiled_points is not None, "gpu": gpu},
        copies=4.0,
        requires=("torch",),
        gpu=gpu,
        most_points=compiled_points,
    )


ENGINES = (
    _graph(REFERENCE, None, "fp32", requires=(), gpu=False),
    # In the order in which they are loaded: where the time does not suffice for all, the last ones are left out.
    _graph("tensorrt-fp16", "tensorrt", "fp16", requires=("tensorrt",)),
    _graph("onnxruntime-cuda-fp16", "onnxruntime", "fp16", requires=("onnxruntime",)),
    _torch("torch-eager-fp16", "fp16"),
    _graph("tensorrt-fp32", "tensorrt", "fp32", requires=("tensorrt",)),
    _graph("onnxruntime-cuda-fp32", "onnxruntime", "fp32", requires=("onnxruntime",)),
    _torch("torch-eager-fp32", "fp32"),
    # ONNX Runtime runs the model for calibration.
    _graph("tensorrt-int8", "tensorrt", "int8", requires=("tensorrt", "onnxruntime")),
    _torch("torch-compile-fp16", "fp16", compiled_points=2),
    _graph("tensorrt-bf16", "tensorrt", "bf16", requires=("tensorrt",)),
    _graph("onnxruntime-cuda-bf16", "onnxruntime", "bf16", requires=("onnxruntime",)),
    _torch("torch-eager-bf16", "bf16"),
    _torch("torch-compile-bf16", "bf16", compiled_points=1),
    _torch("torch-compile-fp32", "fp32", compiled_points=1),
    _graph("onnxruntime-cuda-int8", "onnxruntime", "int8", requires=("onnxruntime",)),
    _graph("openvino-fp32", "openvino", "fp32", requires=("openvino",), gpu=False),
    _graph("onnxruntime-cpu-fp32", "onnxruntime", "fp32", requires=("onnxruntime",), gpu=False),
    _torch("torch-cpu-fp32", "fp32", gpu=False),
)

POINTS = (
    *((1, 128), (32, 128), (1, 384), (8, 128), (32, 384), (8, 384), (128, 128), (128, 384), (16, 128), (16, 384)),
    *((64, 128), (64, 384), (4, 128), (4, 384), (2, 128), (2, 384), (12, 128), (12, 384), (24, 128), (24, 384)),
)
"""(batch, sequence): all of the table that NVIDIA's BERT demonstration shows, the most telling ones first."""

SMOKE_POINTS = ((1, 16), (5, 32))
