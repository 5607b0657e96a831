"""What a result of the GPU check depends on: the GPU, its driver, and the versions of the packages."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from tf_opt.engines import gpu_unavailable_reason
from tf_opt.environment import describe_environment

_DISTRIBUTIONS = "tensorrt tensorrt-cu12 tensorrt-cu13 onnxruntime onnxruntime-gpu torch triton tf2onnx onnx".split()
_ASKED_OF_NVIDIA_SMI = "name,driver_version,memory.total,clocks.max.sm,power.limit,compute_mode"


def describe_machine() -> dict[str, Any]:
    """Returns the CPU, the versions of what is installed, and the GPU or why there is none."""
    environment = describe_environment()
    for name in _DISTRIBUTIONS:
        try:
            environment["versions"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    reason = gpu_unavailable_reason()
    return {**environment, "gpu": _describe_gpu() if reason is None else None, "no_gpu": reason}


def _describe_gpu() -> dict[str, Any]:
    from tf_opt.engines.tensorrt import cuda

    driver = cuda.cuda_driver()
    version = driver.driver_version()
    found: dict[str, Any] = {
        "name": driver.device_name(0),
        "count": driver.device_count(),
        "compute_capability": ".".join(map(str, driver.compute_capability(0))),
        "cuda_of_driver": f"{version // 1000}.{version % 1000 // 10}",
    }
    module = Path("/proc/driver/nvidia/version")
    if module.exists():
        found["kernel_module"] = module.read_text().splitlines()[0].strip()
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--id=0", f"--query-gpu={_ASKED_OF_NVIDIA_SMI}", "--format=csv,noheader"]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):  # It adds to what is known, and nothing depends on it.
            return found
        if result.returncode == 0:
            found["nvidia_smi"] = dict(
                zip(_ASKED_OF_NVIDIA_SMI.split(","), result.stdout.strip().split(", "), strict=False)
            )
    return found


def available_memory() -> int:
    """Returns how many bytes of host memory the machine can still give to processes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def absent_packages(names: tuple[str, ...]) -> list[str]:
    """Returns those of the packages that are not installed; none is imported."""
    return [name for name in names if importlib.util.find_spec(name) is None]
