from __future__ import annotations

import numpy as np
import pytest

from tests.quantization.segments import block, matrix, model_of
from tf_opt.quantization import QuantizationSettings
from tf_opt.quantization.calibration import ActivationSample
from tf_opt.quantization.layers import find_layers
from tf_opt.quantization.search import grid_of, layer_error, quantize_group, quantize_weight, weight_scales


def sample_of(rows):
    return ActivationSample(rows=rows, low=rows.min(axis=0), high=rows.max(axis=0))


def product(weight):
    rows, columns = weight.shape
    model = model_of(f"g (float[B, {rows}] input_0) => (float[B, {columns}] y) {{ y = MatMul (input_0, w) }}", w=weight)
    return find_layers(model, QuantizationSettings(minimum_weight_elements=1))[0]


def recipe_of(weight, rows, **settings):
    (entry,) = quantize_group(product(weight), sample_of(rows), QuantizationSettings(**settings))
    return entry


@pytest.mark.parametrize(("low", "high"), [(-3.0, 5.0), (0.5, 4.0), (-4.0, -0.5), (-1e-30, 1e-30), (-7e30, 1e30)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_grid_holds_zero_exactly_and_covers_its_range(low, high, symmetric):
    grid = grid_of(low, high, symmetric)
    assert grid.lowest <= grid.zero_point <= grid.highest
    assert grid.round(np.zeros(1, np.float32))[0] == 0
    ends = np.asarray([low, high], np.float32)
    # Half a step for rounding, half for a zero point that had to be an integer.
    assert np.abs(grid.round(ends) - ends).max() <= grid.scale * 1.01
    assert (grid.lowest, grid.highest) == ((-128, 127) if symmetric else (0, 255))
    assert not symmetric or grid.zero_point == 0


def test_weights_use_their_levels_and_empty_columns_stay_empty():
    weight = matrix(0, 16, 8)
    weight[:, 3] = 0
    scales = weight_scales(weight, 63)
    quantized = quantize_weight(weight, scales, 63)
    assert quantized.dtype == np.int8
    assert np.abs(quantized).max(axis=0).tolist() == [63, 63, 63, 0, 63, 63, 63, 63]
    assert np.abs(quantized * scales - weight).max() <= scales.max() / 2 + 1e-7


def test_smoothing_is_taken_where_channels_differ_and_left_where_they_do_not():
    random = np.random.default_rng(0)
    weight = matrix(1, 64, 64)
    even = random.uniform(-1, 1, (256, 64)).astype(np.float32)
    uneven = even * np.where(np.arange(64) % 16 == 0, 50, 1).astype(np.float32)
    assert recipe_of(weight, uneven).exponent is not None
    assert recipe_of(weight, uneven).error < 0.5 * recipe_of(weight, uneven, smoothing=()).error
    assert recipe_of(np.ones_like(weight), even).smoothing is None


def test_smoothing_that_gains_little_is_not_worth_its_multiplication(monkeypatch):
    rows = np.random.default_rng(0).uniform(-1, 1, (256, 64)).astype(np.float32)
    rows[:, ::16] *= 1.5
    weight = matrix(1, 64, 64)
    entry = recipe_of(weight, rows)
    assert entry.smoothing is None
    monkeypatch.setattr("tf_opt.quantization.search._WORTH_SMOOTHING", 1.0)
    smoothed = recipe_of(weight, rows)
    assert smoothed.smoothing is not None
    assert 0.8 * entry.error < smoothed.error < entry.error


def test_the_exponent_is_judged_on_rows_that_gave_no_ranges():
    """Channels that are large in one half only: smoothing fits the half that it was taken from, and ruins the other."""
    random = np.random.default_rng(0)
    rows = random.uniform(-1, 1, (256, 64)).astype(np.float32)
    rows[:128, ::16] *= 50
    same = np.concatenate([rows[:128], rows[:128]])
    assert recipe_of(matrix(1), same).exponent is not None
    rows[128:, 8::16] *= 50
    assert recipe_of(matrix(1), rows).exponent is None


def test_the_error_is_what_the_quantized_product_has():
    model = block()
    settings = QuantizationSettings()
    layer = find_layers(model, settings)[0][0]
    rows = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)
    (entry,) = quantize_group([layer], sample_of(rows), settings)
    assert 0 < entry.error < 0.05
    assert layer_error(layer, entry, symmetric=False, levels=63, rows=rows) == pytest.approx(entry.error, rel=1e-4)
    # The bias takes the mean error away: what is left sums to nothing.
    grid = grid_of(float(rows.min()), float(rows.max()), symmetric=False)
    assert entry.bias_shift is not None
    if entry.smoothing is None:
        weight = quantize_weight(layer.matrix(), entry.weight_scales, 63) * entry.weight_scales
        left = grid.round(rows) @ weight + entry.bias_shift - rows @ layer.matrix()
        np.testing.assert_allclose(left.mean(axis=0), 0, atol=1e-4)


def test_a_tensor_of_zeros_is_not_quantized():
    assert not quantize_group(product(matrix(0)), sample_of(np.zeros((20, 64), np.float32)), QuantizationSettings())


def test_one_row_is_enough_for_ranges_but_not_for_a_choice():
    entry = recipe_of(matrix(0), np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32))
    assert entry.smoothing is None
    assert np.isfinite(entry.error)


def test_channels_that_are_always_zero_get_finite_factors():
    rows = np.random.default_rng(0).normal(size=(100, 64)).astype(np.float32)
    rows[:, ::2] = 0
    weight = matrix(0)
    weight[1::2] = 0
    entry = recipe_of(weight, rows * 30)
    assert entry.smoothing is None or np.isfinite(entry.smoothing).all()
    assert entry.error == 0  # Nothing of the rows reaches the output.
