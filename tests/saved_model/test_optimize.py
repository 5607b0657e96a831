"""A SavedModel and what is written of it give the same answers, whichever way both are called."""

from __future__ import annotations

import ast
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.saved_model.saved_models import (
    QUICK,
    assert_close,
    assert_same_signatures,
    in_new_process,
    rows,
    several,
    stored_nodes,
    tensors,
    two_feeds,
    two_inputs,
    variables,
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_inputs(tmp_path_factory.mktemp("keras") / "original")


@pytest.fixture(scope="module")
def optimized(exported: Path) -> Path:
    folder = exported.parent / "optimized"
    report = tf_opt.optimize_saved_model(exported, folder, feeds=[two_feeds()], cache=False, **QUICK)
    # Both signatures that Keras writes are one graph, and so is the endpoint.
    assert report.signatures["serve"] is report.signatures["serving_default"]
    assert not report.unconverted
    assert not report.endpoints
    assert not report.notes
    return folder


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, tf_opt.SavedModelReport]:
    folder = tmp_path_factory.mktemp("module")
    original = several(folder / "original")
    feeds = {"dense": [{"x": rows()}], "twice": [{"x": rows()}]}
    report = tf_opt.optimize_saved_model(original, folder / "optimized", feeds=feeds, cache=False, **QUICK)
    return original, folder / "optimized", report


def test_signatures_of_keras(exported: Path, optimized: Path) -> None:
    feed = two_feeds(7)
    assert_same_signatures(exported, optimized, {"serve": feed, "serving_default": feed})
    # One engine for all three ways to call it, and no weight in the graph.
    assert sum(node.op == "TfOptEngine" for node in stored_nodes(optimized)) == 1
    assert max(node.ByteSize() for node in stored_nodes(optimized) if node.op == "Const") < 2200


def test_endpoint_of_keras(exported: Path, optimized: Path) -> None:
    before, after = tf.saved_model.load(str(exported)), tf.saved_model.load(str(optimized))
    assert_close(before.serve(tensors(two_feeds())), after.serve(tensors(two_feeds())))
    assert [str(f.structured_input_signature) for f in before.serve.concrete_functions] == [
        str(f.structured_input_signature) for f in after.serve.concrete_functions
    ]
    with pytest.raises((ValueError, TypeError)):
        after.serve(tf.constant([1.0]))


def test_xla_refuses_engines(optimized: Path) -> None:
    loaded = tf.saved_model.load(str(optimized))
    feed = tensors(two_feeds())

    def call(**inputs: Any) -> Any:
        return loaded.signatures["serving_default"](**inputs)

    assert_close(call(**feed), tf.function(call, autograph=False)(**feed))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Detected unsupported operations"):
        tf.function(call, jit_compile=True, autograph=False)(**feed)


def test_layer_of_keras(exported: Path, optimized: Path) -> None:
    expected = keras.layers.TFSMLayer(str(exported))(two_feeds())
    assert_close(expected, keras.layers.TFSMLayer(str(optimized))(two_feeds()))


def test_session_of_tensorflow_1(exported: Path, optimized: Path) -> None:
    found = []
    for folder in (exported, optimized):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
            signature = loaded.signature_def["serving_default"]
            feed = {signature.inputs[name].name: value for name, value in two_feeds().items()}
            found.append(session.run({key: info.name for key, info in signature.outputs.items()}, feed))
            shapes = [tf.TensorShape(signature.outputs[key].tensor_shape).as_list() for key in ("first", "second")]
            assert shapes == [[None, 3], [None, 2]]
    for key, value in found[0].items():
        np.testing.assert_allclose(value, found[1][key], atol=1e-4)


def test_inside_of_another_function(exported: Path, optimized: Path) -> None:
    before, after = tf.saved_model.load(str(exported)), tf.saved_model.load(str(optimized))

    @tf.function
    def outer(function: Any, **feed: Any) -> Any:
        return tf.nest.map_structure(lambda each: each + 1.0, function(**feed))

    feed = tensors(two_feeds())
    assert_close(
        outer(before.signatures["serve"], **feed),
        outer(after.signatures["serve"], **feed),
    )


def test_calls_at_the_same_time(exported: Path, optimized: Path) -> None:
    before, after = tf.saved_model.load(str(exported)), tf.saved_model.load(str(optimized))

    def call(batch: int) -> None:
        feed = tensors(two_feeds(batch))
        assert_close(before.signatures["serve"](**feed), after.signatures["serve"](**feed))
        assert_close(before.serve(feed), after.serve(feed))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, [1 + number % 5 for number in range(80)]))


def test_moved_folder_in_a_new_process(exported: Path, optimized: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "model"
    shutil.copytree(optimized, moved)
    np.savez(tmp_path / "feed.npz", **two_feeds())
    program = """
import sys
import numpy as np
import tensorflow as tf
try:
    tf.saved_model.load(sys.argv[1])
except Exception as error:
    print("Op type not registered 'TfOpt" in str(error))
import tf_opt
outputs = tf.saved_model.load(sys.argv[1]).signatures["serve"](**dict(np.load(sys.argv[2]).items()))
print(repr({key: value.numpy().tolist() for key, value in outputs.items()}))
"""
    refused, answers = in_new_process(program, moved, tmp_path / "feed.npz").splitlines()[-2:]
    # TensorFlow names an op that it does not know: the engine's, or the one that reads engines.
    assert refused == "True"
    found = ast.literal_eval(answers)
    expected = tf.saved_model.load(str(exported)).signatures["serve"](**tensors(two_feeds()))
    for key, value in expected.items():
        np.testing.assert_allclose(value, found[key], atol=1e-4)


def test_signatures_of_a_module(module: tuple[Path, Path, tf_opt.SavedModelReport]) -> None:
    original, optimized, report = module
    words = {"words": np.array([b"b", b"c", b"a"])}
    assert_same_signatures(original, optimized, {"dense": {"x": rows()}, "twice": {"x": rows(9)}, "look_up": words})
    assert set(report.signatures) == {"dense", "twice"}
    assert all(each.engine_count for each in report.signatures.values())
    assert list(report.unconverted) == ["look_up"]
    assert "lookup table" in report.unconverted["look_up"]


def test_one_variable_for_all_who_read_a_weight(module: tuple[Path, Path, tf_opt.SavedModelReport]) -> None:
    _, optimized, _ = module
    # Read by the engines of two signatures, by their fallbacks, and by the signature that stays as it was.
    assert [shape for shape in variables(optimized).values() if shape == (32, 32)] == [(32, 32)]


def test_endpoints_of_a_module(module: tuple[Path, Path, tf_opt.SavedModelReport]) -> None:
    original, optimized, report = module
    before, after = tf.saved_model.load(str(original)), tf.saved_model.load(str(optimized))
    pair = {"left": tf.constant(rows()), "right": (tf.constant(rows(4) + 1),)}
    expected = before.nested(pair, 3.0, shift=tf.constant(2.0))
    assert_close(expected, after.nested(pair, 3.0, shift=tf.constant(2.0)))
    assert_close(expected, after.nested(pair=pair, scale=3.0, shift=tf.constant(2.0)))
    assert_close(before.dense(rows()), after.dense(rows()))
    assert_close(before.look_up(tf.constant(["a"])), after.look_up(tf.constant(["a"])))
    assert set(report.endpoints) == {"nested"}  # The others compute what signatures do.
    notes = "\n".join(report.notes)
    assert "'two_forms' stays as it was: It has 2 functions" in notes
    assert "'look_up' stays as it was" in notes
    assert "'nested' was built for made-up feeds" in notes
    assert_close(before.two_forms(rows()), after.two_forms(rows()))
    assert after.two_forms(rows(), training=True).shape == (4, 32)


def test_signature_that_was_not_asked_for_stays(tmp_path: Path, module: tuple[Path, Path, Any]) -> None:
    original, _, _ = module
    feed_once = ({"x": rows(batch)} for batch in (1, 4))  # What can be run through once will do.
    report = tf_opt.optimize_saved_model(original, tmp_path / "out", "dense", feed_once, **QUICK)
    assert set(report.signatures) == {"dense"}
    assert report.unconverted["twice"] == "It was not asked for."
    words = {"words": np.array([b"b"])}
    feeds = {"dense": {"x": rows()}, "twice": {"x": rows()}, "look_up": words}
    assert_same_signatures(original, tmp_path / "out", feeds)
    engines = sum(node.op == "TfOptEngine" for node in stored_nodes(tmp_path / "out"))
    assert engines == report.signatures["dense"].engine_count
    before, after = tf.saved_model.load(str(original)), tf.saved_model.load(str(tmp_path / "out"))
    for name in ("dense", "twice"):  # The one with the engine of the signature, the other as it was.
        assert_close(getattr(before, name)(rows()), getattr(after, name)(rows()))


def test_nothing_among_the_outputs_of_an_endpoint(tmp_path: Path) -> None:
    class Model(tf.Module):
        def __init__(self) -> None:
            self.weight = tf.Variable(np.ones((8, 16), np.float32))

        @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32, name="x")])
        def call(self, x: Any) -> dict[str, Any]:
            hidden = tf.nn.gelu(x @ self.weight)
            return {"logits": tf.nn.softmax(hidden), "loss": None, "states": (None, hidden)}

        @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32, name="x")])
        def serve(self, x: Any) -> Any:
            return {"logits": self.call(x)["logits"]}

    model = Model()
    tf.saved_model.save(model, tmp_path / "model", signatures=model.serve)
    feed = {"x": np.ones((2, 8), np.float32)}
    report = tf_opt.optimize_saved_model(tmp_path / "model", tmp_path / "out", feeds=[feed], **QUICK)
    assert report.signatures["serving_default"].engine_count == 1
    before, after = model.call(feed["x"]), tf.saved_model.load(str(tmp_path / "out")).call(feed["x"])
    tf.nest.assert_same_structure(before, after)
    assert after["loss"] is None
    assert after["states"][0] is None
    assert_close(before["logits"], after["logits"])
    assert_close(before["states"][1], after["states"][1])


def test_optimized_model_as_input(tmp_path: Path, optimized: Path) -> None:
    report = tf_opt.optimize_saved_model(optimized, tmp_path / "again", feeds=[two_feeds()], **QUICK)
    assert not report.signatures
    assert all("has engines of tf_opt already" in reason for reason in report.unconverted.values())
    first, second = report.notes
    assert first == "Nothing was optimized: the SavedModel is a copy."
    assert second.startswith("The endpoint 'serve' stays as it was: It has engines of tf_opt already.")
    feed = two_feeds()
    assert_same_signatures(optimized, tmp_path / "again", {"serve": feed, "serving_default": feed}, atol=0)


def test_model_without_an_engine_is_a_copy(tmp_path: Path, exported: Path) -> None:
    options = {**QUICK, "minimum_segment_size": 1000}
    report = tf_opt.optimize_saved_model(exported, tmp_path / "copy", feeds=[two_feeds()], **options)
    assert set(report.signatures) == set(report.unconverted) == {"serve", "serving_default"}
    assert (tmp_path / "copy" / "saved_model.pb").read_bytes() == (exported / "saved_model.pb").read_bytes()
