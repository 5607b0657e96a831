"""The gate to the package `tensorrt`: nothing imports it that has not gone through here.

Modules of this package import `tensorrt` inside their functions, which run only after `tensorrt_module` has answered.
"""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from types import ModuleType
from weakref import WeakKeyDictionary

from tf_opt.engines.tensorrt import cuda
from tf_opt.errors import CudaError, EnginePackageMissingError, EngineUnavailableError

INSTALL_COMMAND = "pip install tensorrt"
"""The command that installs the package."""

SUPPORTED = "8.5, 8.6, 10 and 11"
"""The versions of TensorRT that this backend is written for, as messages name them."""

CUDA_OF_DISTRIBUTION = {"tensorrt-cu13": 13, "tensorrt-cu12": 12, "tensorrt-cu11": 11}
"""The major version of CUDA that the libraries of each distribution are built for. A driver serves those of its own and
of earlier major versions."""

_needed_cuda_of: WeakKeyDictionary[ModuleType, int] = WeakKeyDictionary()
"""What a loaded package was found to need: the backend is asked about every node of a graph, and looking through the
installed distributions takes milliseconds."""


def tensorrt_module() -> ModuleType:
    """Returns the package `tensorrt`, imported now if it was not; that takes seconds and loads gigabytes.

    Raises:
        EngineUnavailableError: There is no GPU, the package's libraries do not load, or its version is not supported.
        EnginePackageMissingError: The package is not installed.
    """
    # First of all: with no driver, TensorRT's objects raise TypeError or end the process when they are used.
    reason = cuda.unavailable_reason()
    if reason is not None:
        raise EngineUnavailableError(reason)
    _check_driver()
    try:
        module = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise EngineUnavailableError(f"TensorRT's package does not load: {error}") from error
        raise EnginePackageMissingError(
            f"The package 'tensorrt' is not installed. Install it with: {INSTALL_COMMAND}"
        ) from error
    except Exception as error:  # Bindings without their library raise ImportError, OSError or RuntimeError.
        raise EngineUnavailableError(
            f"TensorRT's package does not load: {error}. Install it again with: {INSTALL_COMMAND}"
        ) from error
    version = version_of(module)
    if not ((8, 5) <= version < (9, 0) or (10, 0) <= version < (12, 0)):
        raise EngineUnavailableError(
            f"TensorRT {module.__version__} is installed; tf_opt works with {SUPPORTED}. Install one of these with: "
            f"{INSTALL_COMMAND}"
        )
    return module


def _check_driver() -> None:
    """Raises EngineUnavailableError where the driver is too old for TensorRT's libraries, which would fail later."""
    try:
        driver = cuda.cuda_driver().driver_version()
    except CudaError as error:
        raise EngineUnavailableError(f"{error} TensorRT needs to know which CUDA the driver serves.") from error
    needed = _needed_cuda()
    if driver // 1000 < needed:
        raise EngineUnavailableError(
            f"The installed TensorRT is built for CUDA {needed}, and the NVIDIA driver serves CUDA up to "
            f"{driver // 1000}.{driver % 1000 // 10}. Update the driver, or install the TensorRT for it, such as "
            f"tensorrt-cu{driver // 1000}."
        )


def _needed_cuda() -> int:
    """Returns the major version of CUDA that TensorRT's libraries are built for, 0 where no distribution tells."""
    loaded = sys.modules.get("tensorrt")
    if loaded is not None and loaded in _needed_cuda_of:
        return _needed_cuda_of[loaded]
    needed = next((major for name, major in CUDA_OF_DISTRIBUTION.items() if _is_distribution(name)), 0)
    if loaded is not None:
        _needed_cuda_of[loaded] = needed
    return needed


def _is_distribution(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def version_of(module: ModuleType) -> tuple[int, int]:
    """Returns a TensorRT module's major and minor version."""
    major, minor = str(module.__version__).split(".")[:2]
    return int(major), int(minor)


def installed_version() -> tuple[int, int]:
    """Returns the major and minor version of the package; raises as `tensorrt_module` does."""
    return version_of(tensorrt_module())
