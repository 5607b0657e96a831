"""Whether TensorRT is usable is decided without touching it: on a machine without a GPU its objects crash."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.simulators.tensorrt import real_8_5

REPOSITORY = Path(__file__).parents[2]

ASK_THE_GATE = """
import sys
from tf_opt.engines.tensorrt import TensorRTBackend
print(TensorRTBackend().unavailable_reason())
assert "tensorrt" not in sys.modules, "the gate imported tensorrt"
assert "tensorflow" not in sys.modules, "the gate imported tensorflow"
"""

WITHOUT_THE_GATE = """
import tensorrt
print(tensorrt.__version__)
tensorrt.Builder(tensorrt.Logger())
"""

# Stands for the bindings of 11.4, whose Runtime() answers an object that ends the process when it is used.
CRASHES_WHEN_IMPORTED = "import os\nos.abort()\n"


def run(python: str | Path, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process that sees no GPU, whatever the machine has."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": str(REPOSITORY), **variables}
    return subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=False, env=environment, timeout=120
    )


@pytest.fixture(scope="module")
def real_tensorrt() -> tuple[Path, Path]:
    try:
        return real_8_5.environment()
    except real_8_5.RealTensorRTUnavailableError as error:
        pytest.skip(f"no TensorRT 8.5.3.1: {error}")


@pytest.mark.slow
def test_gate_on_the_real_tensorrt_without_a_gpu(real_tensorrt: tuple[Path, Path]) -> None:
    python, libraries = real_tensorrt

    result = run(python, ASK_THE_GATE, LD_LIBRARY_PATH=str(libraries))

    assert result.returncode == 0, result.stderr
    assert "NVIDIA driver" in result.stdout or "GPU" in result.stdout


@pytest.mark.slow
def test_real_tensorrt_without_the_gate(real_tensorrt: tuple[Path, Path]) -> None:
    """What the gate protects from; where this stops failing, the gate is tested with nothing behind it."""
    python, libraries = real_tensorrt

    result = run(python, WITHOUT_THE_GATE, LD_LIBRARY_PATH=str(libraries))

    assert result.stdout.startswith("8.5.3.1")
    assert result.returncode != 0
    assert "TypeError" in result.stderr


def test_gate_on_a_tensorrt_that_ends_the_process(tmp_path: Path) -> None:
    import sys

    (tmp_path / "tensorrt.py").write_text(CRASHES_WHEN_IMPORTED)
    path = os.pathsep.join((str(tmp_path), str(REPOSITORY)))

    crash = run(sys.executable, "import tensorrt", PYTHONPATH=path)
    result = run(sys.executable, ASK_THE_GATE, PYTHONPATH=path)

    assert crash.returncode < 0
    assert result.returncode == 0, result.stderr
    assert "NVIDIA driver" in result.stdout or "GPU" in result.stdout
