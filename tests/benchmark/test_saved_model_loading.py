from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.slow
def test_figures_of_a_small_model(tmp_path):
    command = [sys.executable, str(ROOT / "benchmark" / "saved_model_loading.py"), "--layers", "1", "--rounds", "1"]
    result = subprocess.run(
        [*command, "--output", str(tmp_path / "result.json")], capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "result.json").read_text())
    assert set(content["models"]) == {"original", "optimized"}
    for figures in content["models"].values():
        assert figures["load"] > 0 < figures["first_answer"]
        assert figures["bytes"] > 1_000_000
    assert 0 < content["engine_bytes"] < 1_000_000
