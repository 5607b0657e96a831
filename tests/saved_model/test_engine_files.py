"""The engines of a SavedModel are files among its assets, which are read when the model is loaded."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable
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
    rows,
    several,
    stored_nodes,
    tensors,
    two_feeds,
    two_inputs,
)
from tf_opt.engines.blob import MAGIC

tf1 = tf.compat.v1


def convert(folder: Path, **options: Any) -> Path:
    """Writes the two inputs' model to folder/original and what is made of it to folder/optimized."""
    original = two_inputs(folder / "original")
    tf_opt.optimize_saved_model(original, folder / "optimized", feeds=[two_feeds()], **{**QUICK, **options})
    return folder / "optimized"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(tmp_path_factory.mktemp("converted"))


@pytest.fixture
def copy(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "copy"))


@pytest.fixture(scope="module")
def expected(converted: Path) -> Any:
    """What the original answers."""
    loaded = tf.saved_model.load(str(converted.parent / "original"))
    return loaded.signatures["serve"](**tensors(two_feeds()))


@pytest.fixture(autouse=True)
def failures_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_OPT_ON_ENGINE_FAILURE", raising=False)


def engine_files(folder: Path) -> list[Path]:
    return sorted((folder / "assets").iterdir()) if (folder / "assets").exists() else []


def assert_engines_are_files(folder: Path) -> None:
    """Holds a SavedModel to one file for each engine, and none of their bytes in the graph."""
    assert MAGIC not in (folder / "saved_model.pb").read_bytes()
    nodes = [node for node in stored_nodes(folder) if node.op == "TfOptEngine"]
    assert nodes
    assert all(node.attr["engine"].s == b"" for node in nodes)
    names = {node.attr["_tf_opt_engine_file"].s.decode() for node in nodes}
    assert sorted(names) == [file.name for file in engine_files(folder)]
    contents = [file.read_bytes() for file in engine_files(folder)]
    assert all(content.startswith(MAGIC) for content in contents)
    assert len(set(contents)) == len(contents)


@pytest.mark.parametrize("fallback", [True, False])
def test_engines_are_files(tmp_path: Path, fallback: bool) -> None:
    optimized = convert(tmp_path, fallback=fallback)
    assert_engines_are_files(optimized)
    report = tf_opt.load_report(optimized / "assets.extra" / "tf_opt_report.json")
    assert report.engine_bytes == sum(file.stat().st_size for file in engine_files(optimized))
    feed = two_feeds()
    assert_same_signatures(tmp_path / "original", optimized, {"serve": feed, "serving_default": feed})


def test_each_engine_is_stored_once(tmp_path: Path) -> None:
    original = several(tmp_path / "original")
    feeds = {"dense": [{"x": rows()}], "twice": [{"x": rows()}]}
    tf_opt.optimize_saved_model(original, tmp_path / "out", feeds=feeds, **QUICK)
    assert_engines_are_files(tmp_path / "out")
    assert len(engine_files(tmp_path / "out")) >= 2  # Segments of two signatures have one name, and are not one.


def in_eager_mode(folder: str) -> Callable[[], Any]:
    function = tf.saved_model.load(folder).signatures["serve"]  # Which outlives its model.
    gc.collect()
    return lambda: function(**tensors(two_feeds()))


def in_a_function(folder: str) -> Callable[[], Any]:
    model = tf.saved_model.load(folder)
    outer = tf.function(lambda feed: tf.nest.map_structure(tf.identity, model.signatures["serve"](**feed)))
    return lambda: outer(tensors(two_feeds()))


def in_a_layer(folder: str) -> Callable[[], Any]:
    layer = keras.layers.TFSMLayer(folder, call_endpoint="serve")
    return lambda: layer(tensors(two_feeds()))


def in_a_session(folder: str) -> Callable[[], Any]:
    graph = tf1.Graph()
    session = tf1.Session(graph=graph)
    with graph.as_default():
        signature = tf1.saved_model.load(session, ["serve"], folder).signature_def["serve"]
    outputs = {key: info.name for key, info in signature.outputs.items()}

    def call() -> Any:
        with session:
            values = session.run(outputs, {signature.inputs[key].name: each for key, each in two_feeds().items()})
        return {key: tf.constant(value) for key, value in values.items()}

    return call


LOADERS = pytest.mark.parametrize("load", [in_eager_mode, in_a_function, in_a_layer, in_a_session])


@LOADERS
def test_relative_path_and_another_working_directory(
    copy: Path, expected: Any, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy.parent)
    call = load(copy.name)
    monkeypatch.chdir("/")
    assert_close(expected, call())


@LOADERS
def test_folder_that_is_gone_after_the_load(copy: Path, expected: Any, load: Any) -> None:
    call = load(str(copy))
    shutil.rmtree(copy)
    assert_close(expected, call())


@LOADERS
def test_moved_folder_behind_a_link(copy: Path, expected: Any, load: Any) -> None:
    moved = copy.rename(copy.parent / "moved")
    link = copy.parent / "link"
    link.symlink_to(moved, target_is_directory=True)
    assert_close(expected, load(str(link))())


def test_models_that_are_loaded_twice_do_not_take_the_engine_from_each_other(copy: Path, expected: Any) -> None:
    first, second = in_eager_mode(str(copy)), in_eager_mode(str(copy))
    assert_close(expected, first())
    del first
    gc.collect()
    assert_close(expected, second())


def test_folder_that_is_replaced_after_the_load(tmp_path: Path, copy: Path, expected: Any) -> None:
    call = in_eager_mode(str(copy))
    other = two_inputs(tmp_path / "other", hidden=24)
    tf_opt.optimize_saved_model(other, copy, feeds=[two_feeds()], overwrite=True, **QUICK)
    assert_close(expected, call())
    loaded = tf.saved_model.load(str(other)).signatures["serve"](**tensors(two_feeds()))
    assert_close(loaded, in_eager_mode(str(copy))())


@pytest.fixture(params=["missing", "damaged"])
def broken(copy: Path, request: pytest.FixtureRequest) -> Path:
    """The file of an engine that cannot be read."""
    (file,) = engine_files(copy)
    if request.param == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    return file


@pytest.mark.parametrize("load", [in_eager_mode, in_a_session])
def test_file_that_cannot_be_read(broken: Path, load: Any) -> None:
    with pytest.raises((tf.errors.FailedPreconditionError, tf.errors.DataLossError)) as caught:
        load(str(broken.parents[1]))
    for said in (str(broken), "segment 'tf_opt_segment_0'", "Copy the SavedModel's folder as a whole"):
        assert said in str(caught.value)


@pytest.mark.parametrize("load", [in_eager_mode, in_a_session])
def test_file_that_cannot_be_read_and_the_wish_for_the_fallback(
    broken: Path, expected: Any, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_OPT_ON_ENGINE_FAILURE", "fallback")
    assert_close(expected, load(str(broken.parents[1]))())


def test_wish_for_a_fallback_that_was_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimized = convert(tmp_path, fallback=False)
    shutil.rmtree(optimized / "assets")
    monkeypatch.setenv("TF_OPT_ON_ENGINE_FAILURE", "fallback")
    call = in_eager_mode(str(optimized))
    with pytest.raises(tf.errors.FailedPreconditionError, match="could not be read when the model was loaded"):
        call()


def test_frozen_graph_needs_no_file(copy: Path, expected: Any) -> None:
    frozen = tf_opt.freeze_saved_model(copy, "serve")
    (file,) = engine_files(copy)
    stored = file.read_bytes()
    shutil.rmtree(copy)
    (node,) = [node for node in frozen.graph_def.node if node.op == "TfOptEngine"]
    assert node.attr["engine"].s == stored
    assert not any(node.op == "Const" and node.attr["dtype"].type == tf.string for node in frozen.graph_def.node)
    graph_def = tf1.GraphDef.FromString(frozen.graph_def.SerializeToString())
    with tf1.Graph().as_default(), tf1.Session() as session:
        tf.graph_util.import_graph_def(graph_def, name="")
        found = session.run(
            {info.key: info.name for info in frozen.outputs},
            {info.name: two_feeds()[info.key] for info in frozen.inputs},
        )
    assert_close(expected, {key: tf.constant(value) for key, value in found.items()})


def test_frozen_graph_written_again(tmp_path: Path, converted: Path, expected: Any) -> None:
    frozen = tf_opt.freeze_saved_model(converted, "serve")
    again = tf_opt.save_saved_model(frozen, tmp_path / "again", signature="serve")
    assert_engines_are_files(again)
    assert [file.name for file in engine_files(again)] == [file.name for file in engine_files(converted)]
    assert_close(expected, in_eager_mode(str(again))())


def test_engines_of_a_signature_that_stays_as_it_was(tmp_path: Path) -> None:
    original = several(tmp_path / "original")
    tf_opt.optimize_saved_model(original, tmp_path / "first", "dense", [{"x": rows()}], **QUICK)
    tf_opt.optimize_saved_model(tmp_path / "first", tmp_path / "both", "twice", [{"x": rows()}], **QUICK)
    shutil.rmtree(tmp_path / "first")
    assert_engines_are_files(tmp_path / "both")
    feeds = {"dense": {"x": rows()}, "twice": {"x": rows()}, "look_up": {"words": np.array([b"b"])}}
    assert_same_signatures(original, tmp_path / "both", feeds)


def test_model_that_tensorflow_writes_again(tmp_path: Path, copy: Path, expected: Any) -> None:
    loaded = tf.saved_model.load(str(copy))
    tf.saved_model.save(loaded, str(tmp_path / "again"), signatures=dict(loaded.signatures))
    shutil.rmtree(copy)
    assert_engines_are_files(tmp_path / "again")
    assert_close(expected, in_eager_mode(str(tmp_path / "again"))())


def test_no_file_stays_behind(tmp_path: Path, converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    frozen = tf_opt.freeze_saved_model(converted, "serve")
    tf_opt.save_saved_model(frozen, tmp_path / "whole")
    assert os.listdir(tmp_path / "temporary") == []

    def fail(*_: Any, **__: Any) -> None:
        assert os.listdir(tmp_path / "temporary") != []
        raise OSError("no space left")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        tf_opt.save_saved_model(frozen, tmp_path / "half")
    assert os.listdir(tmp_path / "temporary") == []
    assert not (tmp_path / "half").exists()
