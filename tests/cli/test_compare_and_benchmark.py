"""`tf-opt compare` and `tf-opt benchmark`: several models on the same feeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Invoke, Models, content
from tests.small_graphs import mlp
from tf_opt import FrozenGraph
from tf_opt.cli.alignment import aligned
from tf_opt.cli.benchmark import display_names
from tf_opt.errors import InvalidFeedError, UnknownOutputError
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.tensor_info import TensorInfo

HERE, THERE = Path("a"), Path("b")


@pytest.fixture
def other_weights(tmp_path: Path) -> Path:
    path = tmp_path / "other.pb"
    path.write_bytes(mlp(seed=1).SerializeToString())
    return path


def test_equal_models_are_compared_signature_by_signature(models: Models, invoke: Invoke) -> None:
    result = invoke("compare", models.saved_model, models.optimized, "--shape", "x=1..4x16", "--json")
    found = content(result)
    assert found["passed"] is True
    assert {key: each["feeds"] for key, each in found["signatures"].items()} == {"serving_default": 3, "half": 3}
    assert [output["key"] for output in found["signatures"]["half"]["outputs"]] == ["half"]


def test_models_of_two_kinds_are_compared(models: Models, invoke: Invoke) -> None:
    arguments = ["--signature", "serving_default", "--feeds", models.arrays]
    result = invoke("compare", models.graph, models.optimized, *arguments, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_difference_has_an_exit_code_of_its_own(models: Models, invoke: Invoke, other_weights: Path) -> None:
    result = invoke("compare", models.graph, other_weights)
    assert result.exit_code == 3
    assert "The outputs differ beyond the tolerance." in result.stderr
    assert invoke("compare", models.graph, other_weights, "--atol", "2").exit_code == 0
    told = invoke("compare", models.graph, other_weights, "--json")
    assert told.exit_code == 3
    assert '"passed": false' in told.stdout


def test_a_signature_without_a_counterpart(models: Models, invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("compare", models.saved_model, models.graph)
    assert result.exit_code == 1
    assert "has no signature 'serving_default' beside that of" in result.stderr


def test_models_are_measured_side_by_side(models: Models, invoke: Invoke) -> None:
    result = invoke(
        *["benchmark", models.saved_model, models.optimized, models.graph],
        *["--signature", "serving_default", "--batch", "1,8", "--runs", "2", "--warmup", "0", "--json"],
    )
    rows = content(result)["rows"]
    assert [(row["graph"], row["batch"]) for row in rows] == [
        (name, batch) for batch in (1, 8) for name in ("net", "fast", "net.pb")
    ]
    assert all(row["runs"] == 2 for row in rows)


def test_sizes_are_combined(models: Models, invoke: Invoke) -> None:
    result = invoke(
        *["benchmark", models.hugging_face, "--batch", "1,2", "--sequence", "8,16", "--runs", "1", "--warmup", "0"],
        env={"COLUMNS": "80"},
    )
    assert result.exit_code == 0, result.output
    for shape in ("1×8", "1×16", "2×8", "2×16"):
        assert shape in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_feeds_of_a_benchmark_may_be_given(models: Models, invoke: Invoke) -> None:
    arguments = ["--feeds", models.arrays, "--runs", "1", "--json"]
    result = invoke("benchmark", models.graph, *arguments)
    assert [row["feed"] for row in content(result)["rows"]] == ["x 3×16"]
    assert f"Feeds: {models.arrays}." in result.stderr


def test_names_tell_paths_apart() -> None:
    assert display_names([Path("x/net"), Path("x/fast")]) == ["net", "fast"]
    assert display_names([Path("x/net"), Path("y/net")]) == ["x/net", "y/net"]
    assert display_names([Path("net"), Path("net")]) == ["net (1)", "net (2)"]


def graph(**changes: Any) -> FrozenGraph:
    return replace(frozen_from_graph_def(mlp(), ["logits", "y"]), **changes)


def info(name: str, key: str = "", dtype: str = "float32", shape: tuple[int | None, ...] = (None, 16)) -> TensorInfo:
    return TensorInfo(name=name, key=key, dtype=dtype, shape=shape)


def test_tensors_are_found_by_key_and_then_by_name() -> None:
    reference = graph(outputs=(info("first:0", "a"), info("second:0", "b")))
    other = graph(outputs=(info("second:0", "x"), info("tf_opt/a:0", "a")))
    assert [(each.name, each.key) for each in aligned(other, reference, THERE, HERE).outputs] == [
        ("tf_opt/a:0", "a"),
        ("second:0", "b"),
    ]


def test_a_single_tensor_needs_no_name() -> None:
    other = graph(inputs=(info("features:0"),), outputs=(info("p:0", "p"),))
    reference = graph(outputs=(info("q:0", "q"),))
    found = aligned(other, reference, THERE, HERE)
    assert (found.inputs[0].key, found.inputs[0].name, found.outputs[0].key) == ("x", "features:0", "q")


@pytest.mark.parametrize(
    "inputs",
    [
        (info("x:0", dtype="int32"),),
        (info("x:0", shape=(None, 8)),),
        (info("x:0", shape=(None, 16, 1)),),
        (info("x:0"), info("z:0")),
        (info("y:0"), info("z:0")),
    ],
)
def test_other_inputs_are_refused(inputs: tuple[TensorInfo, ...]) -> None:
    with pytest.raises(InvalidFeedError, match="The models take different inputs"):
        aligned(graph(inputs=inputs), graph(), THERE, HERE)


def test_a_missing_output_is_named() -> None:
    with pytest.raises(UnknownOutputError, match="a has 'logits', 'y'; b has 'z'"):
        aligned(graph(outputs=(info("z:0"),)), graph(), THERE, HERE)
