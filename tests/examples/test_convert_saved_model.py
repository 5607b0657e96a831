from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "examples" / "convert_saved_model.py"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the script with arguments in this process, which has TensorFlow already; returns the exit status."""
    specification = importlib.util.spec_from_file_location("convert_saved_model", SCRIPT)
    assert specification is not None
    module = importlib.util.module_from_spec(specification)
    assert specification.loader is not None
    specification.loader.exec_module(module)

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        return int(module.main())

    return call


def test_model_that_is_made_for_it(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    output = capsys.readouterr().out
    rows = [line for line in output.splitlines() if "│" in line and ("probabilities" in line or "embedding" in line)]
    assert len(rows) == 2
    assert "serving_default" in rows[0]
    assert all(float(row.split("│")[-2]) < 1e-3 for row in rows)


def test_bad_input(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path / "nothing"), str(tmp_path / "out")) == 1
    assert "is no SavedModel" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(str(tmp_path / "nothing"))
    assert "give both IN and OUT" in capsys.readouterr().err
