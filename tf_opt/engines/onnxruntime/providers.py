"""ONNX Runtime's execution providers: which can be used here, why another one cannot, and with which options."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tf_opt.errors import EngineUnavailableError, InvalidOptionError, did_you_mean

Provider: TypeAlias = Literal["cpu", "cuda", "tensorrt"]

_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

CHAINS: Mapping[str, tuple[str, ...]] = {"cpu": (_CPU,), "cuda": (_CUDA, _CPU), "tensorrt": (_TENSORRT, _CUDA, _CPU)}
"""ONNX Runtime's own names, by ours. The first is what is asked for; each takes what those before it have no kernel
for."""

INSTALL_GPU = "pip install onnxruntime-gpu"

_LIBRARIES = {"cuda": "onnxruntime_providers_cuda", "tensorrt": "onnxruntime_providers_tensorrt"}

_preload_lock = threading.Lock()
_preloaded = False


def check_provider(provider: str) -> None:
    """Raises where there is no provider of this name.

    Raises:
        InvalidOptionError: It is none of "cpu", "cuda" and "tensorrt".
    """
    if provider not in CHAINS:
        raise InvalidOptionError(
            f"ONNX Runtime's backend has no provider {provider!r}; expected one of {', '.join(CHAINS)}, or None for "
            f"the GPU where there is one.{did_you_mean(str(provider), CHAINS)}"
        )


def automatic_provider() -> Provider:
    """Returns "cuda" where ONNX Runtime lists it and the driver finds a GPU, "cpu" elsewhere."""
    return "cuda" if _unlisted_reason("cuda") is None else "cpu"


def unavailable_reason(provider: Provider) -> str | None:
    """Returns why a provider cannot be used on this machine, None where it can.

    A GPU's provider is tried, because ONNX Runtime lists it wherever the package brings it, and its libraries are
    looked for when a session is made. Without a GPU nothing but the driver is asked.
    """
    if provider == "cpu":
        return None
    return _unlisted_reason(provider) or _trial_failure(provider)


def _unlisted_reason(provider: str) -> str | None:
    """Returns why a GPU's provider is out of the question before it is loaded."""
    try:
        from tf_opt.engines.tensorrt import cuda
    except ImportError as error:
        return f"the CUDA driver cannot be asked ({error})"
    if (reason := cuda.unavailable_reason()) is not None:
        return reason
    import onnxruntime

    listed = onnxruntime.get_available_providers()
    if CHAINS[provider][0] in listed:
        return None
    return (
        f"the installed onnxruntime {onnxruntime.__version__} has no {CHAINS[provider][0]}, only {', '.join(listed)}. "
        f"Install the package with it, in place of onnxruntime: {INSTALL_GPU}"
    )


@functools.cache
def _trial_failure(provider: Provider) -> str | None:
    """Returns why no session can be made with a provider, None where one can."""
    import onnx
    from onnx import TensorProto, helper

    from tf_opt.engines.onnxruntime.session import create_session

    border = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "trial", border[:1], border[1:])
    # Versions that every supported ONNX Runtime reads, whatever the installed onnx writes.
    model: Any = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    try:
        create_session(model.SerializeToString(), provider, threads=1)
    except EngineUnavailableError as error:
        return str(error)
    return None


def provider_options(provider: Provider, *, device: int = 0, stream: int | None = None) -> list[dict[str, str]]:
    """Returns the options of each provider in the chain.

    Args:
        provider: What is asked for.
        device: CUDA's number of the GPU.
        stream: The CUDA stream on which everything is to be done; None leaves it to ONNX Runtime.
    """
    options = {"device_id": str(device)}
    if stream is not None:
        options["user_compute_stream"] = str(stream)
    cuda = {
        **options,
        # TensorFlow has the GPU's memory too: grow by what is needed, not by powers of two.
        "arena_extend_strategy": "kSameAsRequested",
        # The exhaustive search, the default, runs again for every new shape.
        "cudnn_conv_algo_search": "HEURISTIC",
        # fp32 is compared with TensorFlow's; TF32 keeps 10 bits of 23.
        "use_tf32": "0",
    }
    of_each = {_CPU: {}, _CUDA: cuda, _TENSORRT: options}
    return [of_each[name] for name in CHAINS[provider]]


def preload_libraries() -> None:
    """Lets ONNX Runtime find the CUDA libraries that pip installed, as TensorFlow's `and-cuda` does; once a process."""
    global _preloaded
    import onnxruntime

    with _preload_lock:
        if not _preloaded and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        _preloaded = True


def check_session(session: Any, provider: Provider) -> None:
    """Raises where a session runs on another provider than the one asked for, which ONNX Runtime only logs.

    Raises:
        EngineUnavailableError: Says which library is missing, as far as the loader of the system says so.
    """
    wanted, found = CHAINS[provider][0], session.get_providers()
    if found[0] != wanted:
        raise EngineUnavailableError(
            f"ONNX Runtime would run on {found[0]} in place of {wanted}: {_load_failure(provider)}. "
            f"{INSTALL_GPU}[cuda,cudnn] brings the libraries; provider='cpu' does without a GPU."
        )


def _load_failure(provider: Provider) -> str:
    """Returns why a provider's library does not load."""
    import onnxruntime

    unknown = "its log on stderr has the reason"
    folder = Path(onnxruntime.__file__).parent / "capi"
    library = folder / f"lib{_LIBRARIES.get(provider, 'onnxruntime')}.so"
    if not library.exists():
        return f"the package lacks {library.name}"
    try:
        # It takes symbols of this one, which ONNX Runtime loads first.
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return unknown
