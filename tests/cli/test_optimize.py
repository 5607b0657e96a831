"""`tf-opt optimize`: every kind of model in, both kinds of result out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.cli.conftest import Invoke, Models, content
from tests.small_graphs import engine_nodes
from tf_opt import Tf2TrtOpt, compare, freeze_keras, load_graph_def, load_report
from tf_opt.cli import keras_files
from tf_opt.freeze import function
from tf_opt.report.optimization import OptimizationReport

QUICK = ("--adopt", "always", "--no-cache", "--json")


def served(folder: Path, signature: str, x: Any) -> dict[str, Any]:
    outputs = tf.saved_model.load(str(folder)).signatures[signature](x=tf.constant(x))
    return {key: value.numpy() for key, value in outputs.items()}


def test_every_signature_of_a_saved_model_is_served_as_before(models: Models) -> None:
    x = np.load(models.arrays)["x"]
    for signature in ("serving_default", "half"):
        before, after = (served(folder, signature, x) for folder in (models.saved_model, models.optimized))
        assert before.keys() == after.keys()
        for key in before:
            np.testing.assert_allclose(before[key], after[key], rtol=1e-6, atol=1e-5)
    assert b"TfOptEngine" in (models.optimized / "saved_model.pb").read_bytes()


def test_a_keras_model_becomes_a_saved_model(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    target = tmp_path / "fast"
    result = invoke("optimize", models.keras, target, "--shape", "x=1..8x16", *QUICK)
    found = content(result)
    assert (found["kind"], found["output"]) == ("Keras model", str(target))
    assert found["output_bytes"] == sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    assert [segment["adopted"] for segment in found["report"]["segments"]] == [True]
    assert found["feeds"] == "Feeds: random ones of the shapes x=1..8x16."
    assert found["feeds"] in result.stderr
    assert found["feeds"] in found["report"]["notes"]
    x = np.load(models.arrays)["x"]
    [after] = served(target, "serving_default", x).values()
    np.testing.assert_allclose(keras_files.load_model(models.keras)(x), after, rtol=1e-5, atol=1e-5)


def test_a_graph_becomes_a_graph_and_the_report_is_written(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    target = tmp_path / "fast.pb"
    for ending in (".html", ".json", ".txt"):
        arguments = ["--feeds", models.arrays, "--report", tmp_path / f"report{ending}", "--output", "logits"]
        found = content(invoke("optimize", models.graph, target, *arguments, "--overwrite", *QUICK))
        assert found["feeds"] == f"Feeds: {models.arrays}."
    optimized = load_graph_def(target)
    assert len(engine_nodes(optimized.graph_def)) == 1
    feeds = [dict(np.load(models.arrays))]
    assert compare(load_graph_def(models.graph, ["logits"]), optimized, feeds, show=False).passed
    report = load_report(tmp_path / "report.json")
    assert isinstance(report, OptimizationReport)
    assert report.engine_count == 1
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert "tf_opt_segment_0" in (tmp_path / "report.txt").read_text()


def test_texts_are_fed_to_a_hugging_face_model(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    arguments = ["--texts", models.texts, "--tokenizer", models.hugging_face, "--output", "pooler_output"]
    found = content(invoke("optimize", models.hugging_face, tmp_path / "fast.pb", *arguments, *QUICK))
    assert found["feeds"] == f"Feeds: the texts of {models.texts}."
    assert found["report"]["segments"][0]["adopted"]
    assert [info.key for info in load_graph_def(tmp_path / "fast.pb").inputs] == [
        "input_ids",
        "attention_mask",
        "token_type_ids",
    ]


def test_one_signature_goes_into_a_file(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("optimize", models.saved_model, tmp_path / "fast.pb", *QUICK)
    assert "of the signatures 'serving_default', 'half'" in result.stderr
    assert content(result)["report"]["kind"] == "optimization"
    half = invoke("optimize", models.saved_model, tmp_path / "half.pbtxt", "--signature", "half", *QUICK)
    assert "of the signatures" not in half.stderr
    assert (tmp_path / "half.pbtxt").read_text().startswith("node {")


def test_arrays_and_a_signature_of_a_saved_model(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    arguments = ["--signature", "half", "--feeds", models.arrays, "--no-fallback"]
    found = content(invoke("optimize", models.saved_model, tmp_path / "fast", *arguments, *QUICK))
    assert list(found["report"]["signatures"]) == ["half"]
    assert "serving_default" in found["report"]["unconverted"]
    assert not any("made-up" in note for note in found["report"]["notes"])


def test_feeds_that_nobody_gave_are_said_to_be_made_up(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("optimize", models.graph, tmp_path / "fast.pb", *QUICK)
    assert "random ones of the model's own shapes" in result.stderr
    assert "random ones of the model's own shapes" in content(result)["report"]["notes"][0]
    saved = content(invoke("optimize", models.saved_model, tmp_path / "fast", *QUICK))
    assert any("made-up" in note for note in saved["report"]["notes"])


def test_no_engine_is_said(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    for source in (models.graph, models.saved_model):
        target = tmp_path / source.name
        result = invoke("optimize", source, target, "--minimum-segment-size", "1000", *QUICK)
        assert f"no engine was kept, so that {target} computes what {source} does" in result.stderr
        assert content(invoke("compare", source, target, "--json"))["passed"]


def test_a_saved_model_is_replaced_when_asked(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    target = tmp_path / "fast"
    target.mkdir()
    (target / "saved_model.pb").write_text("an old one")
    content(invoke("optimize", models.graph, target, "--overwrite", *QUICK))
    assert (target / "variables").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["fast"]


def test_people_read_tables(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("optimize", models.graph, tmp_path / "fast", *QUICK[:-1], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert "tf_opt_segment_0" in result.stdout
    assert "KiB, from" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "\x1b" not in result.output


def test_options_and_calibration_arrive(
    models: Models, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def optimize(self: Tf2TrtOpt, frozen: Any, feeds: Any, disable_fp16: bool, opset: Any, calibration: Any) -> Any:
        seen.update(options=self.options, feeds=feeds, disable_fp16=disable_fp16, opset=opset, calibration=calibration)
        raise KeyboardInterrupt

    monkeypatch.setattr(Tf2TrtOpt, "optimize", optimize)
    np.savez(tmp_path / "more.npz", x=np.ones([7, 16], np.float32))
    arguments = ["--precision", "int8", "--engine", "onnxruntime,openvino", "--denied-op", "Softmax", "--opset", "18"]
    arguments += ["--calibration-feeds", str(tmp_path / "more.npz"), "--shape", "x=2x16", "--feed-count", "3"]
    result = invoke("optimize", models.graph, tmp_path / "fast", *arguments)
    assert result.exit_code == 130
    assert result.stderr == "Interrupted.\n"
    assert seen["options"].engine == ["onnxruntime", "openvino"]
    assert (seen["options"].precision, list(seen["options"].denied_ops)) == ("int8", ["Softmax"])
    assert seen["options"].progress is False  # There is no terminal.
    assert [feed["x"].shape for feed in seen["feeds"]] == [(2, 16)] * 3
    assert [feed["x"].shape for feed in seen["calibration"]] == [(7, 16)]
    assert (seen["disable_fp16"], seen["opset"]) == (True, 18)
    invoke("optimize", models.graph, tmp_path / "fast", "--16-bit", "--engine", "openvino")
    assert not (tmp_path / "fast").exists()


def test_what_is_dumped_goes_where_it_is_asked_for(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    content(invoke("optimize", models.graph, tmp_path / "fast.pb", "--dump", tmp_path / "dump", *QUICK))
    assert list((tmp_path / "dump").rglob("*.onnx"))


def test_analysis_writes_nothing(
    models: Models, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TF_OPT_CACHE_DIR", str(tmp_path / "cache"))
    found = content(invoke("analyze", models.keras, "--denied-op", "Relu", "--json"))
    assert "Relu" in [node["op"] for node in found["report"]["refused"]]
    by_signature = content(invoke("analyze", models.saved_model, "--json"))["signatures"]
    assert list(by_signature) == ["serving_default", "half"]
    assert by_signature["half"]["segments"][0]["adopted"] is False
    result = invoke("analyze", models.saved_model, "--signature", "half", env={"COLUMNS": "80"})
    assert "Signature half" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == []


def test_an_analysis_is_that_of_the_library(models: Models, invoke: Invoke) -> None:
    frozen = freeze_keras(keras_files.load_model(models.keras))
    optimizer = Tf2TrtOpt()
    expected = optimizer.analyze(frozen.graph_def, frozen.output_names).to_dict()
    found = content(invoke("analyze", models.keras, "--json"))["report"]
    assert json.dumps(found["segments"]) == json.dumps(expected["segments"])


@pytest.fixture(scope="module")
def two_signatures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel with the signatures `first`, of x [?, 8], and `second`, of u of any rank."""

    class Two(tf.Module):
        def __init__(self) -> None:
            self.weight = tf.Variable(tf.random.normal([8, 64]))

        @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32, name="x")])
        def first(self, x: Any) -> Any:
            return {"y": tf.nn.softmax(tf.nn.relu(x @ self.weight) * 2.0)}

        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="u")])
        def second(self, u: Any) -> Any:
            return {"v": tf.tanh(u) * 2.0}

    two = Two()
    folder = tmp_path_factory.mktemp("signatures") / "two"
    tf.saved_model.save(two, str(folder), signatures={"first": two.first, "second": two.second})
    return folder


@pytest.mark.parametrize("command", ["optimize", "compare"])
def test_shapes_serve_the_signatures_that_have_their_inputs(
    two_signatures: Path, tmp_path: Path, invoke: Invoke, command: str
) -> None:
    other, options = (tmp_path / "out", ["--no-cache"]) if command == "optimize" else (two_signatures, [])
    line = [command, two_signatures, other, *options, "--shape", "x=3x8"]
    result = invoke(*line)
    if command == "compare":
        assert result.exit_code == 4
        assert "Signature second\nnot compared: The input u:0" in result.stdout
        assert "Give a shape for 'u'." in result.stdout
    else:
        assert result.exit_code == 0, result.stderr
        assert "Note: the signature 'second' stays as it was: The input u:0" in result.stderr
        assert "Give a shape for 'u'. In Python that is feeds={'second': [feed, ...]}, on the" in result.stderr
        assert set(tf.saved_model.load(str(other)).signatures) == {"first", "second"}
        line.append("--overwrite")
        result = invoke(*line, "--signature", "second")
        assert result.exit_code == 1
    result = invoke(*line, "--shape", "u=2x3")
    assert result.exit_code == 0, result.stderr
    assert set(tf.saved_model.load(str(other)).signatures) == {"first", "second"}


def test_a_model_is_frozen_once(
    two_signatures: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = {"frozen": 0, "loaded": 0}
    trace, load = function._trace, tf.saved_model.load

    def counted(name: str, original: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            count[name] += 1
            return original(*arguments, **keywords)

        return call

    monkeypatch.setattr(function, "_trace", counted("frozen", trace))
    monkeypatch.setattr(tf.saved_model, "load", counted("loaded", load))
    shapes = ["--shape", "x=3x8", "--shape", "u=2x3"]
    named = ["--signature", "first", "--signature", "second"]
    content(invoke("optimize", two_signatures, tmp_path / "fast", *shapes, *named, *QUICK))
    assert count == {"frozen": 4, "loaded": 1}  # Two signatures, and the attributes of the same names.
    content(invoke("compare", two_signatures, two_signatures, *shapes, "--json"))
    assert count == {"frozen": 4 + 4, "loaded": 1 + 2}
