"""Models in other types than float32 give outputs of their own types, or stay in TensorFlow with a reason."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import tf_opt


def frozen_model(policy: str) -> tf_opt.FrozenGraph:
    """Dense layers around attention, each with a layer normalization, under a dtype policy of Keras."""
    keras.utils.set_random_seed(0)
    x = keras.Input((None, 32), name="x", dtype="float32" if policy.startswith("mixed") else policy)
    hidden = keras.layers.LayerNormalization(dtype=policy)(keras.layers.Dense(64, "gelu", dtype=policy)(x))
    hidden = hidden + keras.layers.MultiHeadAttention(4, 16, dtype=policy)(hidden, hidden)
    hidden = keras.layers.LayerNormalization(dtype=policy)(hidden)
    return tf_opt.freeze_keras(keras.Model(x, {"y": keras.layers.Dense(8, dtype=policy)(hidden)}))


def optimize(frozen: tf_opt.FrozenGraph, feeds: list[Any], **options: Any) -> tuple[tf_opt.FrozenGraph, Any]:
    optimizer = tf_opt.Tf2TrtOpt(progress=False, cache=False, **options)
    return optimizer.optimize(frozen, feeds), optimizer.report


def assert_close(original: tf_opt.FrozenGraph, optimized: tf_opt.FrozenGraph, feeds: list[Any], atol: float) -> None:
    for feed in feeds:
        expected, actual = tf_opt.run(original, feed)["y"], tf_opt.run(optimized, feed)["y"]
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual.astype(np.float64), expected.astype(np.float64), atol=atol)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_float16(engine: str, precision: str) -> None:
    frozen = frozen_model("mixed_float16")
    feeds = [tf_opt.random_feeds(frozen, batch=2, sequence=length, seed=length)[0] for length in (5, 9)]
    optimized, report = optimize(frozen, feeds, engine=engine, precision=precision, adopt="always")
    assert report.coverage == 1
    assert_close(frozen, optimized, feeds, atol=0.02)
    (segment,) = report.segments
    # Its products are in 16 bits already, and stay so.
    assert any("computes in FLOAT16" in note for note in segment.notes) == (precision == "int8")


def test_float16_is_judged_by_more_than_its_last_bits() -> None:
    frozen = frozen_model("mixed_float16")
    feeds = tf_opt.random_feeds(frozen, batch=4, sequence=16)
    _, report = optimize(frozen, feeds, engine="openvino", rtol=0.0, atol=0.0)
    (segment,) = report.segments
    assert not segment.adopted
    assert "tolerance=tf_opt.Tolerance(cosine=0.999)" in segment.reason


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_float64(engine: str) -> None:
    frozen = frozen_model("float64")
    feeds = tf_opt.random_feeds(frozen, batch=2, sequence=5)
    optimized, report = optimize(frozen, feeds, engine=engine, precision="int8", adopt="always")
    assert_close(frozen, optimized, feeds, atol=1e-12)
    if engine == "openvino":
        assert report.coverage == 0
        assert any(
            "float64, which OpenVINO's CPU plugin does not compute in full" in each.reason for each in report.refused
        )
    notes = [note for segment in report.segments for note in segment.notes]
    assert all("cannot run the segment to calibrate it" not in note for note in notes)


def test_bfloat16() -> None:
    frozen = frozen_model("mixed_bfloat16")
    feeds = tf_opt.random_feeds(frozen, batch=2, sequence=5)
    optimized, report = optimize(frozen, feeds, engine="openvino", adopt="always")
    assert_close(frozen, optimized, feeds, atol=0.1)
    assert any("bfloat16, which tf2onnx writes as float16" in each.reason for each in report.refused)
