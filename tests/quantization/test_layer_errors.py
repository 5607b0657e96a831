from __future__ import annotations

import numpy as np
import pytest

from tests.quantization.segments import block, feeds_of, nodes, relative_error, run
from tf_opt.errors import CalibrationError
from tf_opt.quantization import QuantizationSettings, quantize_segment, rank_layers, revert_layers
from tf_opt.quantization.cache import read_recipe


@pytest.fixture(scope="module")
def result():
    return quantize_segment(block(), feeds_of(block()))


def test_the_worst_layer_comes_first(result):
    ranked = rank_layers(result.original, result)
    assert sorted(name for name, _ in ranked) == ["MatMul_1", "MatMul_3", "MatMul_6"]
    assert [error for _, error in ranked] == sorted((error for _, error in ranked), reverse=True)


def test_other_feeds_give_errors_of_their_own(result):
    kept = dict(rank_layers(result.original, result))
    same = dict(rank_layers(result.original, result, feeds_of(block())))
    other = dict(rank_layers(result.original, result, feeds_of(block(), seed=5)))
    for name, error in kept.items():
        assert same[name] == pytest.approx(error, rel=1e-3)
        # Some rows leave the ranges, which costs more than rounding does.
        assert 0.5 * error < other[name] < 0.2
        assert other[name] != pytest.approx(error, rel=1e-3)


def test_a_layer_that_is_reverted_is_exact_again(result):
    """The second product reads the input's normalization, so its output depends on no other layer."""
    (feed,) = feeds_of(block(), count=1, seed=99)
    expected = run(result.original, feed)
    assert relative_error(expected[1], run(result.model, feed)[1]) > 1e-3
    model = revert_layers(result, ["MatMul_3"])
    actual = run(model, feed)
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-6, atol=1e-6)
    assert relative_error(expected[0], actual[0]) > 1e-3
    assert len(nodes(model, "QuantizeLinear")) == 2
    # The original weight again, not a copy.
    assert model.graph.initializers["w_k"].const_value is result.original.graph.initializers["w_k"].const_value


def test_reverting_all_gives_the_original(result):
    (feed,) = feeds_of(block(), count=1, seed=99)
    model = revert_layers(result, result.quantized_layers)
    assert not nodes(model, "QuantizeLinear")
    for expected, actual in zip(run(result.original, feed), run(model, feed), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_unknown_layers_are_refused(result):
    with pytest.raises(CalibrationError, match=r"MatMul_2.*Near 'MatMul_2' are"):
        revert_layers(result, ["MatMul_2"])


def test_a_cached_result_is_ranked_and_reverted_too(tmp_path):
    for _ in range(2):
        result = quantize_segment(block(), feeds_of(block()), QuantizationSettings(), cache_dir=tmp_path)
    assert result.from_cache
    assert rank_layers(result.original, result)[0][1] > 0
    assert len(nodes(revert_layers(result, ["MatMul_1", "MatMul_3"]), "QuantizeLinear")) == 1
    assert read_recipe(None, "", []) is None
