"""SavedModels of every origin: TensorFlow 1, Hugging Face, int8, strings and assets, loops, graphs that were frozen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.saved_model.saved_models import (
    QUICK,
    assert_close,
    assert_same_signatures,
    rows,
    stored_nodes,
    tensors,
    variables,
)
from tests.small_graphs import feed as mlp_feed
from tests.small_graphs import mlp
from tests.trained_models import bert_models
from tf_opt.freeze.models import frozen_from_graph_def
from tf_opt.sizes import stored_bytes

WEIGHT = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)


@pytest.mark.parametrize("resource", [False, True], ids=["reference variables", "resource variables"])
def test_model_of_tensorflow_1(tmp_path: Path, resource: bool) -> None:
    builder = tf.compat.v1.saved_model.Builder(str(tmp_path / "original"))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, 32], name="features")
        words = tf.compat.v1.placeholder(tf.string, [None], name="words")
        weight = tf.compat.v1.get_variable("weight", initializer=WEIGHT, use_resource=resource)
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], [3, 4]), -1)
        session.run([tf.compat.v1.global_variables_initializer(), tf.compat.v1.tables_initializer()])
        define = tf.compat.v1.saved_model.predict_signature_def
        signatures = {
            "serving_default": define({"input": x}, {"out": tf.nn.relu(x @ weight), "0": x @ weight}),
            "look_up": define({"words": words}, {"ids": table.lookup(words)}),
        }
        builder.add_meta_graph_and_variables(
            session, ["serve"], signature_def_map=signatures, main_op=tf.compat.v1.tables_initializer()
        )
    builder.save()
    feeds = {"serving_default": [{"input": rows()}]}
    report = tf_opt.optimize_saved_model(tmp_path / "original", tmp_path / "out", feeds=feeds, cache=False, **QUICK)
    assert set(report.signatures) == {"serving_default"}
    assert set(report.unconverted) == {"look_up"}
    words = np.array([b"b", b"z"])
    feeds = {"serving_default": {"input": rows(7)}, "look_up": {"words": words}}
    assert_same_signatures(tmp_path / "original", tmp_path / "out", feeds)


def test_names_that_tensorflow_would_change_when_it_writes(tmp_path: Path) -> None:
    builder = tf.compat.v1.saved_model.Builder(str(tmp_path / "original"))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, 32])
        y = tf.nn.relu(x @ tf.constant(WEIGHT))
        define = tf.compat.v1.saved_model.predict_signature_def
        signatures = {"odd": define({"in/put": x}, {"y": y}), "even": define({"x": x}, {"y": y})}
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
    builder.save()
    report = tf_opt.optimize_saved_model(tmp_path / "original", tmp_path / "out", feeds=[{"x": rows()}], **QUICK)
    assert set(report.unconverted) == {"odd", "even"}
    assert "the input 'in/put' of the signature 'odd'" in report.unconverted["even"]
    stored = (tmp_path / "out" / "saved_model.pb").read_bytes()
    assert stored == (tmp_path / "original" / "saved_model.pb").read_bytes()


@pytest.mark.slow
def test_hugging_face(tmp_path: Path) -> None:
    model = bert_models.random_bert(
        vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=40
    )
    module = bert_models.serving_module(model)
    signatures = {"serving_default": module.serve, "embed": module.embed}
    tf.saved_model.save(module, str(tmp_path / "original"), signatures=signatures)
    random = np.random.default_rng(0)
    names = ("input_ids", "attention_mask", "token_type_ids")
    whole = {name: random.integers(0, 2, (2, 6)).astype(np.int32) for name in names}
    whole["input_ids"] += random.integers(0, 50, (2, 6)).astype(np.int32)
    feeds = {"serving_default": whole, "embed": {name: whole[name] for name in names[:2]}}
    listed = {name: [each] for name, each in feeds.items()}
    options = {**QUICK, "minimum_segment_size": 3}
    report = tf_opt.optimize_saved_model(tmp_path / "original", tmp_path / "out", feeds=listed, **options)
    assert not report.unconverted
    assert not report.endpoints  # Both compute what a signature does.
    assert_same_signatures(tmp_path / "original", tmp_path / "out", feeds, atol=1e-3)
    loaded = tf.saved_model.load(str(tmp_path / "out"))
    assert_close(module.serve(tensors(whole)), loaded.serve(tensors(whole)), atol=1e-3)
    shapes = [shape for shape in variables(tmp_path / "out").values() if np.prod(shape) >= 512]
    original = [shape for shape in variables(tmp_path / "original").values() if np.prod(shape) >= 512]
    assert sorted(shapes) == sorted(original)


def test_dropped_fallback_drops_the_weights_of_fp32(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    class Wide(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [tf.Variable(random.normal(size=(256, 256)) / 16, dtype=tf.float32) for _ in range(2)]

        @tf.function(input_signature=[tf.TensorSpec([None, 256], tf.float32, name="x")])
        def call(self, x: Any) -> dict[str, Any]:
            for layer in self.layers:
                x = tf.nn.relu(x @ layer)
            return {"y": x}

    module = Wide()
    tf.saved_model.save(module, str(tmp_path / "original"), signatures=module.call)
    feeds = [{"x": random.normal(size=(8, 256)).astype(np.float32)} for _ in range(4)]
    reports = {}
    for fallback in (True, False):
        reports[fallback] = tf_opt.optimize_saved_model(
            tmp_path / "original", tmp_path / str(fallback), None, feeds, precision="int8", fallback=fallback, **QUICK
        )
        assert_same_signatures(tmp_path / "original", tmp_path / str(fallback), {"serving_default": feeds[0]}, 0.5)
    report = reports[False]
    assert report.variable_bytes < 0.35 * reports[True].variable_bytes
    assert report.variable_bytes < 0.3 * report.original_bytes
    assert abs(stored_bytes(tmp_path / "False") - report.optimized_bytes) < 100_000  # The report came later.
    assert {tf.as_dtype(dtype) for dtype in stored_types(tmp_path / "False")} == {tf.int8}


def stored_types(folder: Path) -> set[Any]:
    """Dtypes of the big weights in a checkpoint."""
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    types = reader.get_variable_to_dtype_map()
    return {types[name] for name, shape in variables(folder).items() if np.prod(shape) >= 512}


def test_tables_with_assets(tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocabulary.txt"
    vocabulary.write_text("a\nb\nc\n")

    class Text(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = tf.Variable(WEIGHT)
            indices = (tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER)
            words = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, indices[0], tf.int64, indices[1])
            self.table = tf.lookup.StaticHashTable(words, 0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
        def text(self, words: Any) -> dict[str, Any]:
            return {"y": tf.gather(self.weight, self.table.lookup(words)) @ self.weight}

        @tf.function(input_signature=[tf.TensorSpec([None, 32], tf.float32, name="rows")])
        def dense(self, rows: Any) -> dict[str, Any]:
            return {"y": tf.nn.relu(rows @ self.weight)}

    module = Text()
    signatures = {"text": module.text, "dense": module.dense}
    tf.saved_model.save(module, str(tmp_path / "original"), signatures=signatures)
    (tmp_path / "original" / "assets.extra").mkdir()
    (tmp_path / "original" / "assets.extra" / "labels.txt").write_text("one")
    vocabulary.unlink()
    feeds = {"dense": [{"rows": rows()}]}
    report = tf_opt.optimize_saved_model(tmp_path / "original", tmp_path / "out", feeds=feeds, **QUICK)
    (tmp_path / "out").rename(tmp_path / "moved")
    checked = {"dense": {"rows": rows()}, "text": {"words": np.array([b"c", b"b"])}}
    assert_same_signatures(tmp_path / "original", tmp_path / "moved", checked)
    assert (tmp_path / "moved" / "assets.extra" / "labels.txt").read_text() == "one"
    stored = json.loads((tmp_path / "moved" / "assets.extra" / "tf_opt_report.json").read_text())
    assert stored["unconverted"] == dict(report.unconverted)
    assert [shape for shape in variables(tmp_path / "moved").values() if shape == (32, 32)] == [(32, 32)]


def test_fixed_dimensions_are_those_of_the_feeds(tmp_path: Path) -> None:
    module = tf.Module()
    module.weight = tf.Variable(WEIGHT)
    spec = tf.TensorSpec([None, 32], tf.float32, name="x")
    module.call = tf.function(lambda x: {"y": tf.nn.relu(x @ module.weight)}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "original"), signatures=module.call)
    feeds = [{"x": rows(4)}]
    tf_opt.optimize_saved_model(tmp_path / "original", tmp_path / "out", None, feeds, dynamic_opt=False, **QUICK)
    function = tf.saved_model.load(str(tmp_path / "out")).signatures["serving_default"]
    assert function.structured_input_signature[1]["x"].shape == [4, 32]
    assert function.structured_outputs["y"].shape == [4, 32]


def test_loops_and_conditions_beside_their_originals(tmp_path: Path) -> None:
    class Control(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = tf.Variable(WEIGHT / 8)

        @tf.function(input_signature=[tf.TensorSpec([None, 32], tf.float32, name="x")])
        def loop(self, x: Any) -> dict[str, Any]:
            for _ in tf.range(3):
                x = tf.nn.relu(x @ self.weight) + 1.0
            return {"y": tf.nn.softmax(x @ self.weight)}

        @tf.function(input_signature=[tf.TensorSpec([None, 32], tf.float32, name="x")])
        def condition(self, x: Any) -> dict[str, Any]:
            y = tf.nn.relu(x @ self.weight)
            return {"y": y * 2.0 if tf.reduce_sum(y) > 1.0 else y @ self.weight}

    module = Control()
    tf.saved_model.save(
        module, str(tmp_path / "original"), signatures={"loop": module.loop, "condition": module.condition}
    )
    feed = {"x": rows()}
    tf_opt.optimize_saved_model(tmp_path / "original", tmp_path / "out", feeds=[feed], **QUICK)
    assert_same_signatures(tmp_path / "original", tmp_path / "out", {"loop": feed, "condition": feed})


@pytest.mark.parametrize("optimize", [False, True], ids=["as it is", "optimized"])
def test_frozen_graph_as_a_saved_model(tmp_path: Path, optimize: bool) -> None:
    frozen = frozen_from_graph_def(mlp(), "y")
    report = None
    graph = frozen
    if optimize:
        optimizer = tf_opt.Tf2TrtOpt(**QUICK)
        graph = optimizer.optimize(frozen, [mlp_feed()])
        report = optimizer.report
    folder = tf_opt.save_saved_model(graph, tmp_path / "out", signature="classify", report=report)
    assert folder == tmp_path / "out"
    function = tf.saved_model.load(str(folder)).signatures["classify"]
    expected = tf_opt.run(frozen, mlp_feed())
    np.testing.assert_allclose(function(x=tf.constant(mlp_feed()["x:0"]))["y"], expected["y"], atol=1e-5)
    assert function.structured_outputs["y"].shape.as_list() == [None, 4]
    assert any(node.op == "TfOptEngine" for node in stored_nodes(folder)) == optimize
    stored = json.loads((folder / "assets.extra" / "tf_opt_report.json").read_text())
    assert list(stored["signatures"]) == (["classify"] if optimize else [])
    with pytest.raises(tf_opt.errors.OutputExistsError):
        tf_opt.save_saved_model(graph, tmp_path / "out")
    feeds = [{"x": mlp_feed()["x:0"]}]
    again = tf_opt.optimize_saved_model(folder, tmp_path / "again", feeds=feeds, **QUICK)
    assert list(again.signatures) == ([] if optimize else ["classify"])
    assert not any("Left out" in note for note in again.notes)
