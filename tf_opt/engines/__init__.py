"""Engine backends by name, and which of them `engine="auto"` takes.

A backend's module, and the package behind it, is imported when it is first asked for. Whether there is a GPU is asked
of the NVIDIA driver before anything of a GPU engine is touched.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tf_opt.engines.base import EngineBackend
from tf_opt.errors import (
    CudaError,
    EnginePackageMissingError,
    EngineUnavailableError,
    UnknownEngineError,
    did_you_mean,
)

if TYPE_CHECKING:
    from tf_opt.engines.tensorrt.settings import TensorRTSettings


@dataclass(frozen=True)
class _Registration:
    module: str
    class_name: str


_BACKENDS = {
    "openvino": _Registration("tf_opt.engines.openvino", "OpenVINOBackend"),
    "tensorrt": _Registration("tf_opt.engines.tensorrt", "TensorRTBackend"),
    "onnxruntime": _Registration("tf_opt.engines.onnxruntime", "ONNXRuntimeBackend"),
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One of the engines that "auto" has to choose from.

    Attributes:
        label: What it is called in a report: the engine's name, and the device where there are several.
        name: The engine's name.
        arguments: Keywords of the backend's constructor.
        needs_gpu: Whether it runs on an NVIDIA GPU.
        install_command: What installs its package, where that is not what installs the backend's.
        ability: Why it can be taken, as a sentence without a full stop; "{gpu}" is the name of the GPU.
    """

    label: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    needs_gpu: bool = False
    install_command: str = ""
    ability: str


CANDIDATES = (
    Candidate(label="tensorrt", name="tensorrt", needs_gpu=True, ability="TensorRT can use the GPU {gpu}"),
    Candidate(
        label="onnxruntime (cuda)",
        name="onnxruntime",
        arguments={"provider": "cuda"},
        needs_gpu=True,
        install_command="pip install onnxruntime-gpu",
        ability="ONNX Runtime can use the GPU {gpu}",
    ),
    Candidate(label="openvino", name="openvino", ability="OpenVINO runs on this CPU"),
    # Last: it has no 16-bit kernels for the CPU. Which of the two is faster depends on processor, precision and shape.
    Candidate(
        label="onnxruntime (cpu)",
        name="onnxruntime",
        arguments={"provider": "cpu"},
        ability="ONNX Runtime runs on this CPU",
    ),
)
"""What "auto" tries, first choice first."""

_FOR_A_GPU = frozenset(candidate.label for candidate in CANDIDATES if candidate.needs_gpu)


@dataclass(frozen=True)
class Choice:
    """A backend that can run here, and why it is this one.

    Attributes:
        backend: The backend.
        reason: Why it was taken, as a sentence without a full stop.
        rejected: The label of each engine before it in the automatic order, and why that cannot run here. Empty where
            the engine was asked for by name.
        label: What the backend is called in a report: "tensorrt", "openvino", "onnxruntime (cuda)".
    """

    backend: EngineBackend
    reason: str
    rejected: tuple[tuple[str, str], ...] = ()
    label: str = ""


def engine_names() -> tuple[str, ...]:
    """Returns the names that `Tf2TrtOpt(engine=...)` takes, "auto" first."""
    return ("auto", *_BACKENDS)


def automatic_order() -> tuple[str, ...]:
    """Returns the labels of what "auto" tries, first choice first."""
    return tuple(candidate.label for candidate in CANDIDATES)


def create_backend(name: str, *, tensorrt: TensorRTSettings | None = None) -> EngineBackend:
    """Returns the backend called `name`; "auto" is the first one that can run here.

    Args:
        name: One of `engine_names()`.
        tensorrt: How TensorRT builds its engines, where it is TensorRT; None for the defaults.

    Raises:
        UnknownEngineError: There is no backend of that name.
        EnginePackageMissingError: The backend's package is not installed; the message has the pip command.
        EngineUnavailableError: The package is installed, but the backend cannot run on this machine.
    """
    return choose_backend(name, tensorrt=tensorrt).backend


def choose_backend(name: str = "auto", *, tensorrt: TensorRTSettings | None = None) -> Choice:
    """Returns the backend called `name` with the reason for it; see `create_backend` for arguments and errors."""
    if name == "auto":
        for choice in usable_backends(tensorrt=tensorrt):
            return choice
        reasons = [f"{label}: {reason}" for label, reason in _unusable(tensorrt)]
        raise EnginePackageMissingError("No engine can run here.\n" + "\n".join(reasons))
    if name not in _BACKENDS:
        raise UnknownEngineError(
            f"There is no engine {name!r}; expected one of {', '.join(engine_names())}."
            f"{did_you_mean(str(name), engine_names())}"
        )
    backend = load_backend(name, tensorrt=tensorrt)
    if not is_installed(backend.package):
        raise EnginePackageMissingError(
            f"The engine {name!r} needs the package {backend.package!r}, which is not installed. "
            f"Install it with: {backend.install_command}"
        )
    reason = backend.unavailable_reason()
    if reason is not None:
        raise EngineUnavailableError(
            f"The engine {name!r} cannot run on this machine: {reason.rstrip('.')}. engine='auto' takes one that can."
        )
    return Choice(backend, "it was asked for by name", label=name)


def usable_backends(*, tensorrt: TensorRTSettings | None = None) -> Iterator[Choice]:
    """Yields every backend that can run here, in the automatic order; what one refuses may go to the next.

    Each is loaded when it is asked for, so that taking the first costs no more than that one.
    """
    gpu_reason = gpu_unavailable_reason()
    rejected: list[tuple[str, str]] = []
    for candidate in CANDIDATES:
        found = _try(candidate, gpu_reason, tensorrt)
        if isinstance(found, str):
            rejected.append((candidate.label, found))
            continue
        try:
            reason = candidate.ability.format(gpu=_gpu_name() if candidate.needs_gpu else "")
        except CudaError as error:
            rejected.append((candidate.label, str(error)))
            continue
        if not candidate.needs_gpu and {label for label, _ in rejected} >= _FOR_A_GPU:
            reason += ", and no engine for a GPU can be used"
        yield Choice(found, reason, tuple(rejected), candidate.label)


def load_backend(name: str, *, tensorrt: TensorRTSettings | None = None, **arguments: Any) -> EngineBackend:
    """Returns the backend called `name` whether or not it can run here.

    Args:
        name: A name of `engine_names()` other than "auto".
        tensorrt: The settings of TensorRT's backend; the others take none.
        arguments: Further keywords of the backend's constructor.
    """
    registration = _BACKENDS[name]
    if name == "tensorrt" and tensorrt is not None:
        arguments["settings"] = tensorrt
    backend: EngineBackend = getattr(importlib.import_module(registration.module), registration.class_name)(**arguments)
    return backend


def is_installed(package: str) -> bool:
    """Returns whether a top-level package can be found; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # It is loaded already, and was made without a specification.
        return True


def gpu_unavailable_reason() -> str | None:
    """Returns why no NVIDIA GPU can be used, or None where one can. Asks the driver alone."""
    from tf_opt.engines.tensorrt import cuda

    return cuda.unavailable_reason()


def _gpu_name() -> str:
    from tf_opt.engines.tensorrt import cuda

    return cuda.cuda_driver().device_name(0)


def _try(candidate: Candidate, gpu_reason: str | None, tensorrt: TensorRTSettings | None) -> EngineBackend | str:
    """Returns the candidate's backend, or why it cannot run here."""
    if candidate.needs_gpu and gpu_reason is not None:
        return gpu_reason
    try:
        backend = load_backend(candidate.name, tensorrt=tensorrt, **candidate.arguments)
        if not is_installed(backend.package):
            command = candidate.install_command or backend.install_command
            return f"the package {backend.package!r} is not installed. Install it with: {command}"
        return backend.unavailable_reason() or backend
    except Exception as error:  # A package that is broken in whatever way must not keep "auto" from the next engine.
        return f"it does not load: {type(error).__name__}: {error}"


def _unusable(tensorrt: TensorRTSettings | None) -> list[tuple[str, str]]:
    gpu_reason = gpu_unavailable_reason()
    found = [(candidate.label, _try(candidate, gpu_reason, tensorrt)) for candidate in CANDIDATES]
    return [(label, reason) for label, reason in found if isinstance(reason, str)]
