"""SavedModels that older versions of TensorFlow wrote answer the same after freezing and optimizing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.small_graphs import engine_nodes
from tf_opt import errors

FOLDER = Path(__file__).parents[1] / "data" / "saved_models"

VERSIONS = sorted(path.name for path in FOLDER.glob("tf-*"))

WITH_TABLES = frozenset({"vocabulary"})
"""Models with a table, which a frozen graph has no place for."""


def answers(version: str) -> dict[str, np.ndarray]:
    """Returns what the signatures of a version's models were fed and returned, by "<model>/<signature>/feed/<key>"."""
    with np.load(FOLDER / version / "answers.npz") as file:
        return dict(file)


def signatures() -> Iterator[tuple[str, str, str]]:
    """Yields version, model and signature of everything that is stored."""
    for version in VERSIONS:
        for model, signature in sorted({tuple(name.split("/")[:2]) for name in answers(version)}):
            yield version, model, signature


def case(version: str, model: str, signature: str) -> tuple[Path, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the folder, the feed and the answer of a signature."""
    arrays = answers(version)
    sides = []
    for side in ("feed", "answer"):
        prefix = f"{model}/{signature}/{side}/"
        found = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        sides.append({key: each.astype(object) if each.dtype.kind == "S" else each for key, each in found.items()})
    return FOLDER / version / model, sides[0], sides[1]


def check(values: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert sorted(values) == sorted(expected)
    for key, array in expected.items():
        assert values[key].shape == array.shape
        if array.dtype == object:
            np.testing.assert_array_equal(values[key], array)
        else:
            assert values[key].dtype == array.dtype
            np.testing.assert_allclose(values[key], array, rtol=1e-4, atol=1e-5)


def test_models_of_two_versions_are_there():
    assert VERSIONS == ["tf-2.12", "tf-2.17"]
    assert len(list(signatures())) == 11


@pytest.mark.parametrize(
    ("version", "model", "signature"), [each for each in signatures() if each[1] not in WITH_TABLES]
)
def test_signature_answers_as_before(version, model, signature):
    folder, feed, expected = case(version, model, signature)
    frozen = tf_opt.freeze_saved_model(folder, signature)
    assert {info.key for info in frozen.inputs} == set(feed)
    check(tf_opt.run(frozen, feed), expected)
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", adopt="always", minimum_segment_size=2, cache=False)
    optimized = optimizer.optimize(frozen, [feed])
    assert engine_nodes(optimized.graph_def)
    check(tf_opt.run(optimized, feed), expected)


@pytest.mark.parametrize(("version", "model"), sorted({each[:2] for each in signatures()}))
def test_optimized_saved_model_answers_as_before(version, model, tmp_path):
    mine = [signature for its_version, name, signature in signatures() if (its_version, name) == (version, model)]
    cases = {signature: case(version, model, signature) for signature in mine}
    feeds = {signature: [feed] for signature, (_, feed, _) in cases.items()}
    options = {"engine": "openvino", "adopt": "always", "minimum_segment_size": 2, "cache": False}
    tf_opt.optimize_saved_model(FOLDER / version / model, tmp_path / "out", mine, feeds, **options)
    for signature, (_, feed, expected) in cases.items():
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "out"))
            definition = loaded.signature_def[signature]
            assert set(definition.inputs) == set(feed)
            fed = {definition.inputs[key].name: value for key, value in feed.items()}
            check(session.run({key: info.name for key, info in definition.outputs.items()}, fed), expected)


def test_table_is_refused_by_name():
    folder, _, _ = case("tf-2.12", "vocabulary", "serving_default")
    with pytest.raises(errors.FreezeError, match="table"):
        tf_opt.freeze_saved_model(folder)
