from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from tests.quantization.segments import block, feeds_of, matrix, model_of, relative_error, run
from tf_opt.errors import CalibrationError
from tf_opt.quantization import QuantizationSettings, quantize_segment


def test_what_was_done_is_told():
    result = quantize_segment(block(), feeds_of(block()), QuantizationSettings(denied_nodes=["MatMul_3"]))
    assert result.quantized_layers == ("MatMul_1", "MatMul_6")
    assert [(each.name, each.reason) for each in result.skipped] == [("MatMul_3", "'MatMul_3' is in denied_nodes")]
    assert not result.from_cache
    assert result.seconds > 0
    assert all(0 < entry.error < 0.05 for entry in result.recipe.layers)


def test_bias_correction_takes_the_mean_error_away():
    model, feeds = block(), feeds_of(block(), count=20)
    expected = np.concatenate([run(model, feed)[0].reshape(-1, 64) for feed in feeds])

    def mean_error(**settings):
        quantized = quantize_segment(model, feeds, QuantizationSettings(**settings)).model
        actual = np.concatenate([run(quantized, feed)[0].reshape(-1, 64) for feed in feeds])
        return np.abs((actual - expected).mean(axis=0)).mean()

    assert mean_error() < 0.85 * mean_error(correct_bias=False)


def test_smoothing_helps_where_a_channel_sticks_out():
    model = block()
    feeds = feeds_of(model)
    (unseen,) = feeds_of(model, count=1, seed=99)
    expected = run(model, unseen)[1]

    def error(**settings):
        return relative_error(
            expected, run(quantize_segment(model, feeds, QuantizationSettings(**settings)).model, unseen)[1]
        )

    assert error() < 0.7 * error(smoothing=())


def test_nothing_to_quantize_is_an_error_with_reasons():
    model = model_of(
        "g (float[B, 64] input_0, float[64, 8] input_1) => (float[B, 8] y) { y = MatMul (input_0, input_1) }"
    )
    with pytest.raises(CalibrationError, match="MatMul_0: both inputs change"):
        quantize_segment(model, [])
    with pytest.raises(CalibrationError, match="It has none"):
        quantize_segment(model_of("g (float[B] input_0) => (float[B] y) { y = Relu (input_0) }"), [])


def test_zeros_cannot_be_calibrated_with():
    model = model_of("g (float[B, 64] input_0) => (float[B, 64] y) { y = MatMul (input_0, w) }", w=matrix(0))
    with pytest.raises(CalibrationError, match="is 0 in the calibration feeds"):
        quantize_segment(model, [{"input_0": np.zeros((200, 64), np.float32)}])


def test_a_layer_that_only_saw_zeros_stays_in_floating_point():
    model = model_of(
        """g (float[B, 64] input_0, float[B, 64] input_1) => (float[B, 64] y, float[B, 64] z) {
            y = MatMul (input_0, w)
            z = MatMul (input_1, v)
        }""",
        w=matrix(0),
        v=matrix(1),
    )
    feed = {"input_0": matrix(2, 200), "input_1": np.zeros((200, 64), np.float32)}
    result = quantize_segment(model, [feed])
    assert result.quantized_layers == ("MatMul_0",)
    assert [each.name for each in result.skipped] == ["MatMul_1"]
    assert "was 0 in all" in result.skipped[0].reason


def test_a_saturating_multiply_add_does_not_show():
    """Processors without VNNI add two products in 16 bits: with 8-bit weights of one sign that overflows."""
    weight = np.abs(matrix(0, 256, 64)) + 1
    model = model_of("g (float[B, 256] input_0) => (float[B, 64] y) { y = MatMul (input_0, w) }", w=weight)
    feeds = [{"input_0": np.random.default_rng(seed).uniform(0, 1, (100, 256)).astype(np.float32)} for seed in range(3)]
    result = quantize_segment(model, feeds)
    (by_definition,), (by_kernel,) = run(result.model, feeds[0]), run(result.model, feeds[0], optimize=True)
    np.testing.assert_allclose(by_kernel, by_definition, rtol=1e-5)


def test_progress_is_shown_where_asked_for_and_nothing_is_printed_otherwise(capfd):
    output = io.StringIO()
    with Progress(console=Console(file=output, force_terminal=True, width=100)) as progress:
        quantize_segment(block(), feeds_of(block()), progress=progress)
    assert "calibrate" in output.getvalue()
    capfd.readouterr()
    quantize_segment(block(), feeds_of(block()))
    assert capfd.readouterr() == ("", "")


def test_convolutions_that_stay_are_told():
    model = model_of(
        """g (float[B, 8, 8] input_0) => (float[B, 8, 64] z) {
            y = ConvTranspose <kernel_shape = [3], pads = [1, 1]> (input_0, filters)
            z = MatMul (y, w)
        }""",
        filters=matrix(0, 64, 3).reshape(8, 8, 3),
        w=matrix(1, 8),
    )
    settings = QuantizationSettings(minimum_weight_elements=1)
    feeds = [{"input_0": matrix(2, 64 * 8, 8).reshape(64, 8, 8)}]
    note = quantize_segment(model, feeds, settings).notes[-1]
    assert note == "1 of 1 convolutions stays in floating point: transposed convolutions are not quantized (1)."
    assert not [note for note in quantize_segment(block(), feeds_of(block())).notes if "convolution" in note]
