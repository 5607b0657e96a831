"""Makes an engine of what a graph stores and of the graph's constants; the op's Python runtime calls it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from tf_opt.engines.onnxruntime.host_engine import HostEngine
from tf_opt.engines.onnxruntime.providers import check_provider, unavailable_reason
from tf_opt.engines.onnxruntime.session import create_session
from tf_opt.errors import EngineUnavailableError

if TYPE_CHECKING:
    from tf_opt.ops.python_runtime import EngineDefinition, PythonEngine, RawEngine


def load_engine(definition: EngineDefinition) -> PythonEngine | RawEngine:
    """Returns an engine that runs where it was judged: on the provider that the header names.

    With the provider of the CPU, the op copies the tensors of a node that is on a GPU. With one of a GPU, ONNX Runtime
    copies those of a node that is on the CPU, and uses the first GPU.

    Args:
        definition: Its payload is an ONNX model with the graph inputs `input_<i>` and `weight_<i>`.

    Raises:
        EngineUnavailableError: The provider cannot be used on this machine.
    """
    provider = definition.header.get("provider", "cpu")
    check_provider(provider)
    if (reason := unavailable_reason(provider)) is not None:
        raise EngineUnavailableError(
            f"{definition.segment_name} was built for ONNX Runtime's provider {provider!r}, which cannot be used here: "
            f"{reason}. Optimize the original graph again on this machine."
        )
    make_session = functools.partial(
        create_session, definition.payload, provider, threads=definition.threads, weights=definition.weights
    )
    if provider == "cpu" or definition.device is None:
        return HostEngine(make_session())
    from tf_opt.engines.onnxruntime.device_engine import DeviceEngine

    device = definition.device
    return DeviceEngine(device, lambda stream: make_session(device=device, stream=stream))
