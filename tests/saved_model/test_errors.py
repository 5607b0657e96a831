"""What cannot be done is said before any work, by name, and leaves nothing behind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.saved_model.saved_models import QUICK, rows, several
from tf_opt import errors


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return several(tmp_path_factory.mktemp("errors") / "original")


FEEDS = {"dense": [{"x": rows()}], "twice": [{"x": rows()}]}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"signatures": "dens"}, errors.UnknownSignatureError, "no signature 'dens'. Did you mean 'dense'"),
        ({"signatures": ["dense", "two"]}, errors.UnknownSignatureError, "no signature 'two'"),
        ({"signatures": []}, errors.InvalidOptionError, "or None for all"),
        ({"signatures": [3]}, errors.InvalidOptionError, "expected the name of a signature"),
        ({"feeds": {"x": rows()}}, errors.InvalidFeedError, "feeds has feeds for 'x', which is no signature"),
        ({"feeds": {"dense": {"x": rows()}}}, errors.InvalidFeedError, r"Write \[feed\]"),
        (
            {"feeds": {"dense": [{"x": rows()}]}},
            errors.InvalidFeedError,
            "signature 'twice' has no feeds, while",
        ),
        ({"feeds": []}, errors.InvalidFeedError, "The list of feeds is empty"),
        ({"feeds": [{"x": rows().astype(np.float64)}]}, errors.InvalidFeedError, "signature 'dense': Feed 0: .* dtype"),
        ({"feeds": FEEDS, "calibration_data": {"dens": []}}, errors.InvalidFeedError, "calibration_data has feeds for"),
        ({"feeds": FEEDS, "tags": "serving"}, errors.InvalidSavedModelError, "no graph with the tags serving. Did you"),
        ({"feeds": FEEDS, "presicion": "int8"}, errors.InvalidOptionError, "Did you mean 'precision'"),
        ({"feeds": FEEDS, "keep_fallback": False}, errors.InvalidOptionError, "called fallback here"),
        ({"feeds": FEEDS, "fallback": "no"}, errors.InvalidOptionError, "expected True or False"),
    ],
)
def test_arguments(original: Path, tmp_path: Path, arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        tf_opt.optimize_saved_model(original, tmp_path / "out", **arguments, **QUICK)
    assert not list(tmp_path.iterdir())


def test_folders_that_are_no_saved_model(original: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidSavedModelError, match=r"no SavedModel: it holds no saved_model\.pb"):
        tf_opt.optimize_saved_model(tmp_path, tmp_path.parent / "out", **QUICK)
    broken = tmp_path / "broken"
    shutil.copytree(original, broken)
    (broken / "saved_model.pb").write_bytes(b"no protobuf")
    with pytest.raises(errors.InvalidSavedModelError, match="cannot load the SavedModel"):
        tf_opt.optimize_saved_model(broken, tmp_path / "out", **QUICK)
    shutil.copytree(original, broken, dirs_exist_ok=True)
    (broken / "variables" / "variables.index").unlink()
    with pytest.raises(errors.InvalidSavedModelError, match="cannot load the SavedModel"):
        tf_opt.optimize_saved_model(broken, tmp_path / "out", **QUICK)


def test_output_that_exists(original: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(errors.OutputExistsError, match="pass overwrite=True"):
        tf_opt.optimize_saved_model(original, tmp_path / "out", "dense", FEEDS, **QUICK)
    with pytest.raises(errors.OutputExistsError, match="lies inside of the model"):
        tf_opt.optimize_saved_model(original, original / "out", "dense", FEEDS, **QUICK)


def test_failed_writing_keeps_the_old_folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(original, tmp_path / "out")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    message = r"out cannot be written: No space left on device\. It needs about .* free on the disk of .*Make room"
    with pytest.raises(errors.OutputWriteError, match=message):
        tf_opt.optimize_saved_model(original, tmp_path / "out", "dense", FEEDS["dense"], overwrite=True, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert set(tf.saved_model.load(str(tmp_path / "out")).signatures) == {"dense", "twice", "look_up"}


def test_model_is_replaced_by_its_own_result(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original, tmp_path / "model")
    feeds = {**FEEDS, "nested": [{"left": rows(), "right": rows()}]}
    with pytest.raises(errors.InvalidFeedError, match="endpoint 'nested'"):
        tf_opt.optimize_saved_model(original, tmp_path / "out", feeds=feeds, **QUICK)
    report = tf_opt.optimize_saved_model(
        tmp_path / "model", tmp_path / "model", ["dense", "twice"], FEEDS["dense"], overwrite=True, **QUICK
    )
    assert set(report.signatures) == {"dense", "twice"}
    model = tf.saved_model.load(str(tmp_path / "model"))
    before = tf.saved_model.load(str(original))
    np.testing.assert_allclose(model.dense(rows())["y"], before.dense(rows())["y"], atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_several_graphs_in_one_model(tmp_path: Path) -> None:
    builder = tf.compat.v1.saved_model.Builder(str(tmp_path / "model"))
    for number, tags in enumerate((["serve"], ["serve", "gpu"])):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            x = tf.compat.v1.placeholder(tf.float32, [None, 32], name="x")
            y = tf.nn.relu(tf.matmul(x, tf.compat.v1.get_variable("w", [32, 32], use_resource=False))) + number
            session.run(tf.compat.v1.global_variables_initializer())
            signature = tf.compat.v1.saved_model.predict_signature_def({"x": x}, {"y": y})
            if number:
                builder.add_meta_graph(tags, signature_def_map={"serving_default": signature})
            else:
                builder.add_meta_graph_and_variables(session, tags, signature_def_map={"serving_default": signature})
    builder.save()
    with pytest.raises(errors.InvalidSavedModelError, match=r"holds 2 graphs, tagged serve; (gpu, serve|serve, gpu)"):
        tf_opt.optimize_saved_model(tmp_path / "model", tmp_path / "out", **QUICK)
    report = tf_opt.optimize_saved_model(
        tmp_path / "model", tmp_path / "out", feeds=[{"x": rows()}], tags=["gpu", "serve"], **QUICK
    )
    assert set(report.signatures) == {"serving_default"}
    assert any("written is 'serve'" in note for note in report.notes)
    function = tf.saved_model.load(str(tmp_path / "out")).signatures["serving_default"]
    assert float(tf.reduce_min(function(tf.constant(rows()))["y"])) >= 1.0
