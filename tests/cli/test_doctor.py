"""`tf-opt doctor` says what `python -m tf_opt.doctor` says."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.cli.conftest import Invoke, content
from tf_opt.doctor import Diagnosis
from tf_opt.doctor_findings import EngineFinding, Finding


def diagnosis(chosen: str | None) -> Diagnosis:
    findings = tuple(
        Finding(topic=topic, name=name, status="ok", text="[it] works")
        for topic, name in (("TensorFlow", "TensorFlow"), ("Native op", "library"))
    )
    engine = EngineFinding(label="openvino", version="openvino 1", usable=chosen is not None, reason="")
    return Diagnosis(findings=findings, engines=(engine,), chosen=chosen)


def find(monkeypatch: pytest.MonkeyPatch, chosen: str | None) -> Diagnosis:
    found = diagnosis(chosen)

    def doctor(*arguments: Any) -> Diagnosis:
        print("a library talks")
        return found

    monkeypatch.setattr(sys.modules["tf_opt.doctor"], "doctor", doctor)
    return found


def test_it_is_printed_and_comes_as_json(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find(monkeypatch, "openvino")
    result = invoke("doctor", env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert 'engine="auto" takes openvino.' in result.stdout
    assert "[it] works" in result.stdout
    result = invoke("doctor", "--json")
    assert content(result) == found.to_dict()
    assert "a library talks" in result.stderr


def test_a_machine_without_engines_has_an_exit_code(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    find(monkeypatch, None)
    assert invoke("doctor").exit_code == 1
