from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "examples" / "convert_saved_model.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False, timeout=300
    )


def test_model_that_is_made_for_it():
    result = run()
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if "probabilities" in line or "embedding" in line]
    assert len(rows) == 2
    assert "serving_default" in rows[0]
    assert all(float(row.split("│")[-2]) < 1e-3 for row in rows)


def test_model_that_does_not_exist(tmp_path):
    result = run(str(tmp_path / "nothing"), str(tmp_path / "out"))
    assert result.returncode == 1
    assert "is no SavedModel" in result.stderr
    assert "Traceback" not in result.stderr
