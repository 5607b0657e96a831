"""What is wrong on a command line, or with the files it names: exit code, message, and nothing written."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.bad_input_page import GROUPS, PAGE, page
from tests.cli.bad_paths import ERROR, optimize, write
from tests.cli.conftest import Invoke, Models
from tf_opt.engines import openvino

CASES = {f"{group} {name}": case for group, cases in GROUPS.items() for name, case in cases.items()}


def tree(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() if each.is_file() else b"" for each in path.rglob("*")}


@pytest.mark.parametrize("name", CASES)
def test_is_refused_with_a_message_and_nothing_written(
    name: str, models: Models, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, code, parts = CASES[name]
    arguments = make(models, tmp_path)
    monkeypatch.setenv("TF_OPT_CACHE_DIR", str(tmp_path / "cache"))
    before = tree(tmp_path), tree(models.folder)
    result = invoke(*arguments)
    # Long messages are folded into a box where the command line itself is wrong.
    message = " ".join(result.stderr.replace("│", " ").split())
    assert result.exit_code == code, result.output
    assert [part for part in parts if part not in message] == []
    assert result.stdout == ""
    assert "Traceback" not in message
    assert (tree(tmp_path), tree(models.folder)) == before


def test_the_list_in_the_docs_is_this_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.cli.bad_input_page"


def test_an_engine_whose_package_is_missing(
    models: Models, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tf_opt.engines.is_installed", lambda package: package != "onnxruntime")
    result = invoke(*optimize(models.graph, tmp_path / "out", "--engine", "onnxruntime"))
    assert result.exit_code == ERROR
    assert "needs the package 'onnxruntime', which is not installed. Install it with: pip install" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_engine_without_its_gpu(
    models: Models, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tf_opt.engines.is_installed", lambda package: True)
    monkeypatch.setattr("tf_opt.engines.tensorrt.cuda.unavailable_reason", lambda: "There is no NVIDIA driver.")
    result = invoke(*optimize(models.graph, tmp_path / "out", "--engine", "tensorrt"))
    assert result.exit_code == ERROR
    assert "cannot run on this machine: There is no NVIDIA driver" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_precision_without_hardware(
    models: Models, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> str:
        return "the CPU has no AVX512-BF16"

    monkeypatch.setattr(openvino.OpenVINOBackend, "precision_refusal", refuse)
    for option in (["--precision", "bf16"], ["--16-bit"]):
        result = invoke(*optimize(models.graph, tmp_path / "out", "--engine", "openvino", *option))
        assert result.exit_code == ERROR
        assert "AVX512-BF16" in result.stderr
        assert list(tmp_path.iterdir()) == []


def test_a_traceback_is_shown_where_it_is_asked_for(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    handlers = list(logging.getLogger().handlers)
    for arguments, environment in ((["--verbose"], {}), ([], {"TF_OPT_TRACEBACK": "1"})):
        result = invoke("analyze", tmp_path / "none", *arguments, env=environment)
        assert result.exit_code == ERROR
        assert "Traceback (most recent call last)" in result.stderr
        assert "Error: There is no" in result.stderr
    assert logging.getLogger().handlers == handlers


def test_what_nobody_foresaw_is_one_line(models: Models, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr("tf_opt.freeze.models.load_graph_def", fail)
    result = invoke("analyze", models.graph)
    assert result.exit_code == ERROR
    assert result.stderr == "Error: RuntimeError: the disk is on fire (--verbose shows where it came from)\n"


def test_a_graph_that_is_cut_short(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    content = models.graph.read_bytes()
    result = invoke("inspect", write(tmp_path / "cut.pb", content[: len(content) // 2]))
    assert result.exit_code == ERROR
    assert "cut.pb is no GraphDef" in result.stderr


def test_a_saved_model_without_its_variables(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    shutil.copytree(models.optimized, tmp_path / "net")
    shutil.rmtree(tmp_path / "net" / "variables")
    result = invoke("compare", models.saved_model, tmp_path / "net")
    assert result.exit_code == ERROR
    assert "TensorFlow cannot load the SavedModel" in result.stderr
