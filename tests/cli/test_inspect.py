"""`tf-opt inspect`: what is in a model, read back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke, Models, content


def test_an_optimized_saved_model(models: Models, invoke: Invoke) -> None:
    found = content(invoke("inspect", models.optimized, "--json"))
    assert list(found["signatures"]) == ["serving_default", "half"]
    [x] = found["signatures"]["half"]["inputs"]
    assert (x["key"], x["dtype"], x["shape"]) == ("x", "float32", [None, 16])
    assert {engine["runtime"] for engine in found["engines"]} == {"openvino"}
    assert all(engine["fallback"] and engine["precision"] == "fp32" and engine["nodes"] for engine in found["engines"])
    assert found["sizes"]["variables"] > 0
    assert found["report"]["kind"] == "saved_model"
    assert found["report_problem"] == ""


def test_engines_in_files(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    found = content(invoke("inspect", models.optimized, "--json"))["engines"]
    files = sorted((models.optimized / "assets").iterdir())
    assert sorted(engine["stored_bytes"] for engine in found) == sorted(file.stat().st_size for file in files)
    assert all(engine["library_version"] and not engine["problem"] for engine in found)
    copy = Path(shutil.copytree(models.optimized, tmp_path / "net"))
    shutil.rmtree(copy / "assets")
    for engine in content(invoke("inspect", copy, "--json"))["engines"]:
        assert f"{copy / 'assets' / engine['name']}" in engine["problem"]
        assert "Copy the SavedModel's folder as a whole" in engine["problem"]
        assert (engine["stored_bytes"], engine["library_version"]) == (0, "")
    result = invoke("inspect", copy, "--graph")
    assert result.exit_code == 0
    assert "unreadable" in result.stdout


def test_for_people_on_80_columns(models: Models, invoke: Invoke) -> None:
    result = invoke("inspect", models.optimized, env={"COLUMNS": "80"})
    assert result.exit_code == 0
    for part in ("Files", "Signatures", "Engines", "Report, as it was stored", "x float32 (?, 16)"):
        assert part in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("kind", ["graph", "keras", "hugging_face", "saved_model"])
def test_models_without_engines(kind: str, models: Models, invoke: Invoke) -> None:
    result = invoke("inspect", getattr(models, kind))
    assert result.exit_code == 0, result.output
    assert "No engines." in result.stdout


def test_the_graph_is_printed_when_asked(models: Models, invoke: Invoke) -> None:
    text = invoke("inspect", models.graph, "--graph", "--output", "logits").stdout
    assert "%logits : float32[?, 4] = MatMul(" in text
    assert "return %logits" in text
    listing = content(invoke("inspect", models.optimized, "--graph", "--json"))["graph"][""]
    assert "tf_opt::openvino" in listing
    assert "nodes, fp32, " in listing
    assert "unreadable" not in listing


def test_a_stored_report_that_is_damaged_is_no_reason_to_see_nothing(
    models: Models, tmp_path: Path, invoke: Invoke
) -> None:
    shutil.copytree(models.optimized, tmp_path / "net")
    (tmp_path / "net" / "assets.extra" / "tf_opt_report.json").write_text("{")
    result = invoke("inspect", tmp_path / "net", "--json")
    found = content(result)
    assert found["report"] is None
    assert "is no JSON" in found["report_problem"]
    assert "its report cannot be read" in result.stderr
    assert found["engines"]


def test_tags_choose_the_graph(models: Models, invoke: Invoke) -> None:
    assert content(invoke("inspect", models.optimized, "--tag", "serve", "--json"))["engines"]
    result = invoke("inspect", models.optimized, "--tag", "gpu")
    assert result.exit_code == 1
    assert "has no graph with the tags gpu" in result.stderr
