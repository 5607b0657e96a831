"""Engine backends by name. A backend's module, and the package behind it, is imported when it is first asked for."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

from tf_opt.engines.base import EngineBackend
from tf_opt.errors import EnginePackageMissingError, EngineUnavailableError, UnknownEngineError, did_you_mean


@dataclass(frozen=True)
class _Registration:
    module: str
    class_name: str


_BACKENDS = {
    "openvino": _Registration("tf_opt.engines.openvino", "OpenVINOBackend"),
    "tensorrt": _Registration("tf_opt.engines.tensorrt", "TensorRTBackend"),
    "onnxruntime": _Registration("tf_opt.engines.onnxruntime", "ONNXRuntimeBackend"),
}

AUTOMATIC_ORDER = ("openvino",)
"""What `engine="auto"` tries, first choice first. OpenVINO is the only engine that runs in this version."""


def engine_names() -> tuple[str, ...]:
    """Returns the names that `Tf2TrtOpt(engine=...)` takes, "auto" first."""
    return ("auto", *_BACKENDS)


def create_backend(name: str) -> EngineBackend:
    """Returns the backend called `name`; "auto" is the first one that can run here.

    Raises:
        UnknownEngineError: There is no backend of that name.
        EnginePackageMissingError: The backend's package is not installed; the message has the pip command.
        EngineUnavailableError: The package is installed, but the backend cannot run on this machine.
    """
    if name == "auto":
        return _first_available()
    if name not in _BACKENDS:
        raise UnknownEngineError(
            f"There is no engine {name!r}; expected one of {', '.join(engine_names())}."
            f"{did_you_mean(str(name), engine_names())}"
        )
    backend = _load(name)
    if importlib.util.find_spec(backend.package) is None:
        raise EnginePackageMissingError(
            f"The engine {name!r} needs the package {backend.package!r}, which is not installed. "
            f"Install it with: {backend.install_command}"
        )
    reason = backend.unavailable_reason()
    if reason is not None:
        raise EngineUnavailableError(f"The engine {name!r} cannot run on this machine: {reason}")
    return backend


def _load(name: str) -> EngineBackend:
    registration = _BACKENDS[name]
    backend: EngineBackend = getattr(importlib.import_module(registration.module), registration.class_name)()
    return backend


def _first_available() -> EngineBackend:
    reasons = []
    for name in AUTOMATIC_ORDER:
        try:
            return create_backend(name)
        except (EnginePackageMissingError, EngineUnavailableError) as error:
            reasons.append(str(error))
    raise EnginePackageMissingError("No engine can run here.\n" + "\n".join(reasons))
