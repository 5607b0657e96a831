"""Which backends build the engines of one optimization, and why these."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from tf_opt.engines import Choice, choose_backend, create_backend, usable_backends
from tf_opt.engines.base import EngineBackend
from tf_opt.environment import cpu_flags
from tf_opt.options import Options

INT8_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
"""Flags of x86 processors that multiply bytes and add up four products in one instruction."""


@dataclass(frozen=True)
class EngineSelection:
    """The backends, and why they were taken.

    Attributes:
        backends: At least one; each builds what those before it refuse.
        reason: Why the first was taken, and what cannot run here; for "fastest" only what it is called; empty where
            the user named it.
    """

    backends: tuple[EngineBackend, ...]
    reason: str = ""


def select_engines(options: Options) -> tuple[EngineSelection, ...]:
    """Returns what `engine` stands for: one selection, or with "fastest" one for each engine that can run here.

    "auto" is the first engine that can run here, but for int8 on x86 processors without instructions for it: there
    ONNX Runtime comes before OpenVINO. Where the first is TensorRT, or ONNX Runtime for that reason, the next one
    builds what it refuses. Several names stand for themselves, in their order.

    Args:
        options: The options; `engine` and the settings of the engines are read.

    Raises:
        UnknownEngineError, EnginePackageMissingError, EngineUnavailableError: As `tf_opt.engines.create_backend`.
    """
    if not isinstance(options.engine, str):
        named = tuple(create_backend(name, tensorrt=options.tensorrt) for name in options.engine)
        return (EngineSelection(named),)
    if options.engine == "fastest":
        choices = usable_backends(tensorrt=options.tensorrt)
        found = tuple(EngineSelection((choice.backend,), choice.label) for choice in choices)
        # Where there is none, the error of the automatic choice says why.
        return found or (EngineSelection((choose_backend(tensorrt=options.tensorrt).backend,)),)
    if options.engine != "auto":
        return (EngineSelection((create_backend(options.engine, tensorrt=options.tensorrt),)),)
    choice = choose_backend(tensorrt=options.tensorrt)
    backends = [choice.backend]
    if choice.backend.name == "tensorrt":
        others = (each.backend for each in usable_backends(tensorrt=options.tensorrt))
        backends += list(itertools.islice((backend for backend in others if backend.name != "tensorrt"), 1))
    elif options.precision == "int8" and choice.label == "openvino":
        better = _better_in_int8(options)
        if better is not None:
            choice, backends = better, [better.backend, choice.backend]
    rejected = "".join(f"; {label}: {reason}" for label, reason in choice.rejected)
    return (EngineSelection(tuple(backends), f"{choice.label}: {choice.reason}{rejected}"),)


def _better_in_int8(options: Options) -> Choice | None:
    """Returns the engine that beats OpenVINO's int8 on this processor, where it is installed.

    OpenVINO's integer products take as long as those in fp32 on processors without `INT8_PRODUCTS`, while ONNX Runtime
    has kernels of AVX2 for them (benchmark/int8_profile.py).
    """
    flags = cpu_flags()
    if "avx2" not in flags or flags & INT8_PRODUCTS:
        return None
    for choice in usable_backends(tensorrt=options.tensorrt):
        if choice.label == "onnxruntime (cpu)":
            reason = "the processor has no VNNI, without which OpenVINO gains nothing from int8, and ONNX Runtime does"
            return replace(choice, reason=reason)
    return None
