"""What a measurement depends on: the machine and the versions of the packages."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = tuple(
    "tensorflow tensorflow-cpu openvino onnxruntime tensorrt nncf tf2onnx onnx onnx-ir numpy tf_opt".split()
)


def describe_environment() -> dict[str, Any]:
    """Returns the CPU's model, the cores this process may use, versions of the installed packages, and the platform.

    Nothing is imported for it: versions come from the installed metadata.
    """
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: version for package in _PACKAGES if (version := _version(package)) is not None},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # Only Linux has the file.
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def cpu_flags() -> frozenset[str]:
    """Returns the instruction sets of the processor as Linux names them ("avx2", "avx512_bf16"); empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    # x86 calls them flags, ARM calls them Features.
    return frozenset(
        flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split()
    )
