"""What cannot be run stays as it was, where the user did not ask for it by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

import tf_opt
from tests.saved_model.saved_models import QUICK, rows, several
from tf_opt import errors
from tf_opt.cli.program import app


class Partly(tf.Module):
    """A function that runs, one that takes anything, and one that takes only batches of sevens."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = tf.Variable(np.random.default_rng(0).normal(size=(32, 32)), dtype=tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, 32], tf.float32, name="x")])
    def dense(self, x: Any) -> dict[str, Any]:
        return {"y": tf.nn.relu(x @ self.weight)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])
    def any_rank(self, x: Any) -> dict[str, Any]:
        return {"y": tf.nn.relu(tf.reshape(x, [-1, 32]) @ self.weight) + 1.0}

    @tf.function(input_signature=[tf.TensorSpec([None, 32], tf.float32, name="x")])
    def sevens(self, x: Any) -> dict[str, Any]:
        return {"y": tf.reshape(tf.nn.relu(x @ self.weight), [-1, 7])}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("left_out") / "original"
    module = Partly()
    signatures = {"dense": module.dense, "any_rank": module.any_rank, "sevens": module.sevens}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


def test_what_cannot_be_run_stays_as_it_was(original: Path, tmp_path: Path) -> None:
    report = tf_opt.optimize_saved_model(original, tmp_path / "out", **QUICK)
    assert report.signatures["dense"].engine_count == 1
    assert set(report.unconverted) == {"any_rank", "sevens"}
    assert "cannot be made up. Give a shape for 'x'. In Python" in report.unconverted["any_rank"]
    reason = report.unconverted["sevens"]
    assert reason.startswith("The original graph fails on feed 0 (counted from 0): ")
    assert "Input to reshape is a tensor with 64 values" in reason
    assert "Traceback" not in reason
    assert len(reason) < 300
    assert "\n" not in reason
    assert not any("sevens" in note and "made-up" in note for note in report.notes)
    before, after = (tf.saved_model.load(str(folder)) for folder in (original, tmp_path / "out"))
    assert set(after.signatures) == set(before.signatures)
    for name in ("dense", "any_rank"):
        found = [model.signatures[name](x=tf.constant(rows()))["y"] for model in (before, after)]
        np.testing.assert_allclose(*found, atol=1e-4)


def test_attributes_that_cannot_be_run_stay_as_they_were(tmp_path: Path) -> None:
    module = Partly()
    tf.saved_model.save(module, str(tmp_path / "original"), signatures={"dense": module.dense})
    report = tf_opt.optimize_saved_model(tmp_path / "original", tmp_path / "out", feeds=[{"x": rows()}], **QUICK)
    assert set(report.signatures) == {"dense"}
    [note] = [note for note in report.notes if "'sevens'" in note]
    assert note.startswith("The endpoint 'sevens' stays as it was: The original graph fails on feed 0")
    loaded = tf.saved_model.load(str(tmp_path / "out"))
    assert loaded.any_rank(rows())["y"].shape == (4, 32)
    assert hasattr(loaded, "sevens")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"signatures": "any_rank"}, errors.UnfeedableInputError, "signature 'any_rank': .* Give a shape for 'x'"),
        ({"signatures": ["dense", "sevens"]}, errors.OriginalGraphError, "signature 'sevens': The original graph"),
        ({"feeds": [{"x": rows()}]}, errors.OriginalGraphError, "signature 'sevens': The original graph"),
        (
            {"feeds": {name: [{"x": rows()}] for name in ("dense", "any_rank", "sevens")}},
            errors.OriginalGraphError,
            "signature 'sevens': The original graph",
        ),
    ],
)
def test_what_was_asked_for_is_an_error(
    original: Path, tmp_path: Path, arguments: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        tf_opt.optimize_saved_model(original, tmp_path / "out", **arguments, **QUICK)
    assert not list(tmp_path.iterdir())


def test_nothing_that_can_be_run_is_an_error(tmp_path: Path) -> None:
    module = Partly()
    tf.saved_model.save(module, str(tmp_path / "original"), signatures={"any_rank": module.any_rank})
    loaded = tf.saved_model.load(str(tmp_path / "original"))
    only = tf.Module()
    only.loaded = loaded
    tf.saved_model.save(only, str(tmp_path / "only"), signatures=loaded.signatures)
    with pytest.raises(errors.UnfeedableInputError, match="Give a shape for 'x'"):
        tf_opt.optimize_saved_model(tmp_path / "only", tmp_path / "out", **QUICK)


def test_the_command_line_says_what_stays_as_it_was(original: Path, tmp_path: Path) -> None:
    arguments = [
        "optimize",
        str(original),
        str(tmp_path / "out"),
        "--engine",
        "openvino",
        "--adopt",
        "always",
        "--json",
    ]
    result = CliRunner().invoke(app, [*arguments, "--no-cache", "--shape", "x=4x32"])
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["report"]["unconverted"]) == {"sevens"}
    assert "Note: the signature 'sevens' stays as it was: The original graph fails on feed 0" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_copy_says_why_nothing_was_optimized(tmp_path: Path) -> None:
    original = several(tmp_path / "original")
    report = tf_opt.optimize_saved_model(
        original, tmp_path / "out", "look_up", **{**QUICK, "minimum_segment_size": 1000}
    )
    assert report.notes[0] == "Nothing was optimized: the SavedModel is a copy."
    notes = {note.split("'")[1]: note for note in report.notes[1:]}
    assert notes["two_forms"] == (
        "The endpoint 'two_forms' stays as it was: It has 2 functions; only those with one are optimized."
    )
    assert "something else than the signatures that were asked for" in notes["nested"]
    assert not any("eft out" in note for note in report.notes)  # A copy has all that the original had.
    assert tf_opt.load_report(tmp_path / "out" / "assets.extra" / "tf_opt_report.json") == report
