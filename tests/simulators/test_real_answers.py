"""The comparison of a real TensorRT with the simulated one, here where there is no real one to ask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.simulators.tensorrt import questions, real_answers
from tests.simulators.tensorrt.answers import ANSWERS, expected
from tests.simulators.tensorrt.fixture import Simulation
from tf_opt.engines.tensorrt import bindings
from tf_opt.errors import EnginePackageMissingError

REPOSITORY = Path(__file__).parents[2]

INT32_AT_THE_BORDER = {
    "io of reshape": {**ANSWERS["io of reshape"], "s": ["INPUT", "INT32", [2], "HOST", True, [2]]},
    "io of int64": {
        "i": ["INPUT", "INT32", [-1], "DEVICE", False, [-1]],
        "y": ["OUTPUT", "INT32", [-1], "DEVICE", False, [-1]],
    },
    "io of nonzero": {**ANSWERS["io of nonzero"], "y": ["OUTPUT", "INT32", [2, -1], "DEVICE", False, [2, -1]]},
}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Returns what runs the command on a TensorRT of a version that gives these answers."""

    def run(version: str, **answers: Any) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr(bindings, "tensorrt_module", lambda: SimpleNamespace(__version__=version))
        monkeypatch.setattr(real_answers, "answer_of_a_process", (ANSWERS | answers).__getitem__)
        status = real_answers.main(["--real", str(tmp_path / "answers.json")])
        return status, json.loads((tmp_path / "answers.json").read_text())

    return run


def test_without_a_driver_one_sentence_is_said_and_nothing_written(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.simulators.tensorrt.questions", "--real", str(tmp_path / "answers.json")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}

    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment, timeout=120
    )

    assert result.returncode == real_answers.NO_TENSORRT
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "NVIDIA driver" in result.stderr or "GPU" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def missing() -> None:
        raise EnginePackageMissingError("The package 'tensorrt' is not installed.")

    monkeypatch.setattr(bindings, "tensorrt_module", missing)

    assert real_answers.main(["--real", str(tmp_path / "answers.json")]) == real_answers.NO_TENSORRT
    assert capsys.readouterr().err.splitlines() == [
        "There is no TensorRT to ask: The package 'tensorrt' is not installed."
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", ["10.0.1", "10.16.1", "11.4.0"])
def test_answers_of_the_simulated_versions(ask: Any, version: str) -> None:
    assert ask(version) == (0, {"tensorrt": version, "answers": ANSWERS})
    assert ask(version, **INT32_AT_THE_BORDER)[0] == real_answers.DIFFERENT


@pytest.mark.parametrize("version", ["8.5.3.1", "8.6.1"])
def test_integers_of_version_8(ask: Any, capsys: pytest.CaptureFixture[str], version: str) -> None:
    assert ask(version, **INT32_AT_THE_BORDER)[0] == 0
    assert f"Not the simulator's, as known of this version: {', '.join(INT32_AT_THE_BORDER)}" in capsys.readouterr().out
    assert ask(version)[0] == real_answers.DIFFERENT


@pytest.mark.parametrize(("version", "integers"), [("8.5.3.1", INT32_AT_THE_BORDER), ("10.0.1", {})])
def test_another_answer_is_printed(
    ask: Any, capsys: pytest.CaptureFixture[str], version: str, integers: dict[str, Any]
) -> None:
    status, written = ask(version, **integers, **{"shape above": [True, [17, 4]]})

    assert status == real_answers.DIFFERENT
    assert written["answers"]["shape above"] == [True, [17, 4]]
    said = capsys.readouterr().out
    assert "shape above: [True, [17, 4]], expected [False, [-1, 4]]" in said
    assert f"{len(ANSWERS) - 1} of {len(ANSWERS)} answers are as expected" in said


@pytest.mark.parametrize("name", ["right", "io of dense", "shape above"])
def test_one_answer_is_printed(simulation: Simulation, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """The process of a question goes through the gate to whatever TensorRT there is: here, the simulated one."""
    assert real_answers.main(["--ask", name]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == ANSWERS[name]


def test_answer_behind_other_output(monkeypatch: pytest.MonkeyPatch) -> None:
    said = SimpleNamespace(returncode=0, stdout="[TRT] a message\n[true, true]\n", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **keywords: said)

    assert real_answers.answer_of_a_process("right") == [True, True]


def test_a_process_that_cannot_answer() -> None:
    assert real_answers.answer_of_a_process("no such question").startswith("the process ended with 2: ")


def test_answers_are_stored_for_each_question() -> None:
    assert set(expected((8, 5))) == set(expected((10, 0))) == set(questions.QUESTIONS)


def test_errors_of_a_parser_before_version_10() -> None:
    error = SimpleNamespace(node=lambda: 3, desc=lambda: "no importer")

    assert questions.described(error) == "node 3: no importer"
