"""The environment of the peers that need PyTorch: tf_opt's own has none, and PyTorch wants other versions of much."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REQUIREMENTS = ("torch==2.13.0", "transformers==4.57.6", "onnx==1.23.2", "onnxscript==0.7.2")
"""transformers is the version whose TensorFlow classes made the original; onnx and onnxscript are for the export."""


def torch_interpreter(folder: Path) -> Path | str:
    """Returns the Python of the environment in `folder`, made where it is missing; a reason where that fails."""
    python = folder / "bin" / "python"
    complete = folder / ".complete"
    requirements = "\n".join(REQUIREMENTS)
    if complete.exists() and complete.read_text() == requirements and python.exists():
        return python
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS],
    ):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            last = (result.stderr.strip().splitlines() or ["no message"])[-1]
            return f"the environment with PyTorch cannot be made: {' '.join(command)}: {last}"
    complete.write_text(requirements)
    return python
