from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.quantization.convolution_networks import KINDS, images, network
from tests.quantization.segments import block, feeds_of, nodes, relative_error, run
from tf_opt.errors import CalibrationError
from tf_opt.quantization import QuantizationSettings, quantize_segment, rank_layers


@pytest.mark.slow
@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
@pytest.mark.parametrize("smoothing", [(0.5,), ()])
def test_nncf_finds_ranges_smoothing_and_biases(target, smoothing, capfd):
    pytest.importorskip("nncf")
    model = block()
    settings = QuantizationSettings(method="nncf", target=target, smoothing=smoothing)
    capfd.readouterr()
    result = quantize_segment(model, feeds_of(model), settings)
    assert capfd.readouterr().out == ""  # nncf would show its progress there.
    assert result.quantized_layers == ("MatMul_1", "MatMul_3", "MatMul_6")
    assert len(nodes(result.model, "QuantizeLinear")) == 2
    assert all((entry.smoothing is not None) == bool(smoothing) for entry in result.recipe.layers)
    (feed,) = feeds_of(model, count=1, seed=99)
    for expected, actual in zip(run(model, feed), run(result.model, feed), strict=True):
        assert 0 < relative_error(expected, actual) < 0.1
    assert all(0 < error < 0.1 for _, error in rank_layers(model, result))


@pytest.mark.slow
def test_layers_that_are_denied_are_no_business_of_nncf():
    pytest.importorskip("nncf")
    settings = QuantizationSettings(method="nncf", denied_nodes=["MatMul_1"], correct_bias=False)
    result = quantize_segment(block(), feeds_of(block()), settings)
    assert result.quantized_layers == ("MatMul_3", "MatMul_6")
    assert all(entry.bias_shift is None for entry in result.recipe.layers)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_nncf_quantizes_convolutions(target):
    pytest.importorskip("nncf")
    result = quantize_segment(network(), images(6), QuantizationSettings(method="nncf", target=target))
    assert result.quantized_layers == KINDS
    (feed,) = images(1, seed=99)
    assert 0 < relative_error(run(network(), feed)[0], run(result.model, feed)[0]) < 0.05
    assert all(0 < entry.error < 0.1 for entry in result.recipe.layers)


def test_without_nncf_the_other_method_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(CalibrationError, match=r"pip install 'tf_opt\[int8\]'.*method='search'"):
        quantize_segment(block(), feeds_of(block()), QuantizationSettings(method="nncf"))


@pytest.mark.slow
def test_what_makes_nncf_fail_is_told(monkeypatch):
    nncf = pytest.importorskip("nncf")

    def fail(*arguments, **keywords):
        raise RuntimeError("no luck")

    monkeypatch.setattr(nncf, "quantize", fail)
    with pytest.raises(CalibrationError, match="nncf cannot quantize the segment: no luck"):
        quantize_segment(block(), feeds_of(block()), QuantizationSettings(method="nncf"))
    assert np.isfinite(quantize_segment(block(), feeds_of(block())).recipe.layers[0].error)
