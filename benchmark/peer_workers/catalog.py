"""Which peers there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PeerSpec:
    """One peer.

    Attributes:
        name: As on the command line and in the report.
        precision: What its matrix products are computed in.
        module: The module of its worker.
        options: What the worker is told.
        environment: "main" for the interpreter that runs the benchmark, "torch" for the one with PyTorch.
        variables: Environment variables of the worker.
        copies: How many times the size of the weights its worker takes, as measured.
    """

    name: str
    precision: str
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: str = "main"
    variables: Mapping[str, str] = field(default_factory=dict)
    copies: float = 7.0


ORIGINAL = "tensorflow"
"""The peer that the others are compared with."""

# TensorFlow compiles clusters for CPUs only where this is set besides the Session's option.
_XLA_FLAGS = {"TF_XLA_FLAGS": "--tf_xla_cpu_global_jit"}


def _torch(name: str, precision: str, **options: Any) -> PeerSpec:
    return PeerSpec(
        name=name, precision=precision, module="torch_bert", options=options, environment="torch", copies=5.0
    )


def _onnxruntime(name: str, precision: str, **options: Any) -> PeerSpec:
    return PeerSpec(name=name, precision=precision, module="onnx_runtime", options=options, copies=3.0)


PEERS = (
    PeerSpec(name=ORIGINAL, precision="fp32", module="tensorflow_session"),
    PeerSpec(
        name="tensorflow-callers-thread",
        precision="fp32",
        module="tensorflow_session",
        options={"callers_thread": True},
    ),
    PeerSpec(
        name="tensorflow-xla",
        precision="fp32",
        module="tensorflow_session",
        options={"xla": True},
        variables=_XLA_FLAGS,
    ),
    PeerSpec(name="tensorflow-bf16", precision="bf16", module="tensorflow_session", options={"bf16": True}),
    *(
        PeerSpec(
            name=f"tf_opt-{each}",
            precision=each,
            module="tf_opt_graph",
            options={"precision": each, "engine": "fastest" if each == "auto" else "openvino"},
            copies=10.0,
        )
        for each in ("fp32", "fp16", "bf16", "int8", "auto")
    ),
    *(
        PeerSpec(
            name=f"tf_opt-onnxruntime-{each}",
            precision=each,
            module="tf_opt_graph",
            options={"precision": each, "engine": "onnxruntime"},
            copies=10.0,
        )
        for each in ("fp32", "int8")
    ),
    _onnxruntime("onnxruntime", "fp32"),
    _onnxruntime("onnxruntime-optimizer", "fp32", optimizer=True),
    _onnxruntime("onnxruntime-int8", "int8", optimizer=True, int8=True),
    *(
        PeerSpec(
            name=f"openvino-{each}", precision=each, module="openvino_static", options={"precision": each}, copies=4.0
        )
        for each in ("fp32", "bf16", "int8")
    ),
    _torch("torch", "fp32"),
    _torch("torch-compile", "fp32", compile=True),
    _torch("torch-bf16", "bf16", bf16=True),
    _torch("torch-compile-bf16", "bf16", bf16=True, compile=True),
)
