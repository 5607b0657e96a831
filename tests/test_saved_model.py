"""A SavedModel and what is written of it give the same answers, signature by signature."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_opt


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A Keras model with two inputs and two outputs, as `model.export` writes it."""
    left, right = keras.Input([8], name="left"), keras.Input([8], name="right")
    hidden = keras.layers.Dense(80, "gelu")(keras.layers.Concatenate()([left, right]))
    outputs = {"first": keras.layers.Dense(3)(hidden), "second": keras.layers.Dense(2)(hidden)}
    keras.Model({"left": left, "right": right}, outputs).export(tmp_path / "original", verbose=False)
    return tmp_path / "original"


def test_signatures_of_keras(exported: Path, tmp_path: Path) -> None:
    report = tf_opt.optimize_saved_model(exported, tmp_path / "optimized", adopt="always", progress=False)
    assert set(report.signatures) == {"serve", "serving_default"}
    assert not report.unconverted
    original, optimized = tf.saved_model.load(str(exported)), tf.saved_model.load(str(tmp_path / "optimized"))
    random = np.random.default_rng(0)
    feed = {name: tf.constant(random.normal(size=(5, 8)), tf.float32) for name in ("left", "right")}
    for name, function in original.signatures.items():
        found = optimized.signatures[name]
        assert found.structured_input_signature == function.structured_input_signature
        assert found.structured_outputs == function.structured_outputs
        tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), function(**feed), found(**feed))
