"""A whole convolutional network in int8: every convolution is one, on the engines' own kernels.

Its weights are random: the logits show that nothing is computed wrongly, and little of what int8 costs a trained one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tf_opt
from tests.quantization.int8_kernels import ONNXRuntimeModel, OpenVINOModel
from tests.whole_segments import WholeSegment
from tf_opt.engines import create_backend
from tf_opt.quantization import QuantizationSettings, quantize_segment

pytestmark = pytest.mark.slow

SIZE = 64
"""Height and width of the images."""

CONVOLUTIONS = 52
"""Those of MobileNetV2: 35 that mix channels, and 17 of single channels."""


def images(seed: int, count: int) -> Any:
    """Smooth noise, whose neighbouring pixels are alike as in a photograph."""
    coarse = np.random.default_rng(seed).normal(size=(count, SIZE // 8, SIZE // 8, 3))
    fine = np.random.default_rng(seed + 1).normal(scale=0.3, size=(count, SIZE, SIZE, 3))
    return (coarse.repeat(8, axis=1).repeat(8, axis=2) + fine).astype(np.float32)


@pytest.fixture(scope="module")
def mobilenet() -> tf_opt.FrozenGraph:
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(weights=None, input_shape=(SIZE, SIZE, 3), classifier_activation=None)
    return tf_opt.freeze_keras(model)


def quantized(frozen: tf_opt.FrozenGraph, engine: str) -> Any:
    """Returns the quantized segment, whose only input are images."""
    backend = create_backend(engine)
    segment = WholeSegment(frozen, backend)
    settings = QuantizationSettings(target=backend.onnx_target.int8)
    result = quantize_segment(segment.prepared.model, [{"input_0": images(seed, 2)} for seed in (20, 30, 40)], settings)
    assert not [note for note in result.notes if "convolution" in note]
    return result.model


def check(frozen: tf_opt.FrozenGraph, compute: Any) -> None:
    """Every image's logits are nearer to the original's than to those of any other image."""
    given = images(7, 4)
    (expected,) = tf_opt.run(frozen, {frozen.input_names[0]: given}).values()
    (actual,) = compute({"input_0": given})
    expected, actual = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (expected, actual))
    cosines = expected @ actual.T
    assert cosines.diagonal().min() >= 0.99
    assert cosines[~np.eye(len(given), dtype=bool)].max() < 0.99


def test_openvino(mobilenet: tf_opt.FrozenGraph) -> None:
    compiled = OpenVINOModel(quantized(mobilenet, "openvino"))
    assert len(compiled.convolutions) == compiled.int8_convolutions == CONVOLUTIONS, compiled.convolutions
    check(mobilenet, compiled.run)


def test_onnx_runtime(mobilenet: tf_opt.FrozenGraph, tmp_path: Path) -> None:
    compiled = ONNXRuntimeModel(quantized(mobilenet, "onnxruntime"), tmp_path)
    assert compiled.operators["QLinearConv"] == CONVOLUTIONS
    assert not compiled.operators["Conv"] + compiled.operators["FusedConv"]
    check(mobilenet, compiled.run)
