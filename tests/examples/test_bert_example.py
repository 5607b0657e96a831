from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "examples" / "01_bert" / "run.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # The log level is the example's own choice.
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_help():
    result = run("--help")
    assert result.returncode == 0
    assert "--model" in result.stdout


@pytest.mark.slow
def test_local_model(tmp_path):
    import bert_models

    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    bert_models.random_bert(**small).save_pretrained(tmp_path / "model")
    result = run("--model", str(tmp_path / "model"), "--runs", "2")
    assert result.returncode == 0, result.stderr
    for expected in ("in 1 segment", "last_hidden_state", "speedup", "8×128"):
        assert expected in result.stdout
    assert result.stderr == ""


def test_model_that_does_not_exist(tmp_path):
    result = run("--model", str(tmp_path / "nothing"))
    assert result.returncode == 2
    assert "nothing" in result.stderr
    assert "Traceback" not in result.stderr
