from __future__ import annotations

import importlib.util
import logging
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


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch):
    """The script's function in this process, which has TensorFlow already, and keeps its log as it is."""
    import transformers

    specification = importlib.util.spec_from_file_location("bert_example", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setattr(sys, "path", list(sys.path))
    specification.loader.exec_module(module)
    monkeypatch.setattr(transformers.logging, "set_verbosity_error", lambda: None)
    monkeypatch.setattr(logging.getLogger("tensorflow"), "setLevel", lambda level: None)
    return module.main


def test_help(main, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "--model" in capsys.readouterr().out


def test_model_that_does_not_exist(main, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--model", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "nothing" in capsys.readouterr().err
