"""The op's kernel for GPUs, on a simulated one: see simulated_gpu.cc for what that can show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorflow.python.framework import kernels

import tf_opt.ops
from tf_opt.ops import build

ROOT = Path(__file__).resolve().parents[2]


def test_kernels_of_both_devices_are_registered() -> None:
    tf_opt.ops.load()
    registered = {
        kernel.device_type: list(kernel.host_memory_arg)
        for kernel in kernels.get_registered_kernels_for_op("TfOptEngine").kernel
    }

    assert registered == {"CPU": [], "GPU": ["weights", "stored_engine"]}


@pytest.fixture(scope="module")
def simulated_gpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled simulation."""
    folder = tmp_path_factory.mktemp("simulated_gpu")
    unit, library = Path(__file__).with_name("simulated_gpu.cc"), folder / "libsimulated_gpu.so"
    command = build.op_library().command(build.compiler_command(), unit, library)
    subprocess.run([flag for flag in command if flag not in ("-O2", "-fvisibility=hidden")], check=True)
    return library


@pytest.mark.slow
def test_on_a_simulated_gpu(simulated_gpu: Path) -> None:
    """In a process of its own, which has that GPU from the start."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_OPT_SIMULATED_GPU": str(simulated_gpu)}
    cases = Path(__file__).with_name("simulated_gpu_cases.py")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(cases)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-4000:]
