"""Convolutions of all kinds become quantized, with what is multiplied and added behind them, and run so."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from tests.quantization.convolution_networks import KINDS, channels, filters, images, network
from tests.quantization.int8_kernels import ONNXRuntimeModel, OpenVINOModel
from tests.quantization.segments import model_of, nodes, relative_error, run
from tf_opt.errors import CalibrationError
from tf_opt.passes.onnx.pass_base import border_of
from tf_opt.quantization import QuantizationSettings, quantize_segment, rank_layers, revert_layers
from tf_opt.quantization.convolutions import Convolution
from tf_opt.quantization.layers import find_layers

TARGETS = ("openvino", "onnxruntime", "tensorrt")


def quantized(model: ir.Model, **settings: Any) -> Any:
    return quantize_segment(model, images(6), QuantizationSettings(**settings))


def only_convolution(model: ir.Model) -> Convolution:
    ((found,), _) = find_layers(model, QuantizationSettings())
    assert isinstance(found, Convolution)
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_all_kinds_keep_their_meaning(target):
    model = network()
    before = ir.serde.serialize_model(model).SerializeToString()
    result = quantized(model, target=target)
    assert result.quantized_layers == KINDS
    assert not [note for note in result.notes if "convolution" in note]
    assert ir.serde.serialize_model(model).SerializeToString() == before
    assert border_of(result.model) == border_of(model)
    (feed,) = images(1, seed=99)
    (expected,), (actual,) = run(model, feed), run(result.model, feed)
    assert 0 < relative_error(expected, actual) < 0.03
    counts = Counter(node.op_type for node in result.model.graph)
    # Factors and biases are inside, apart from the shortcut's sum.
    assert (counts["Mul"], counts["Add"]) == (0, 1)
    assert counts["QuantizeLinear"] == (7 if target == "onnxruntime" else 5)


def test_weights_have_a_step_for_each_filter():
    for node in nodes(quantized(network()).model, "Conv"):
        dequantize = node.inputs[1].producer()
        values = dequantize.inputs[0].const_value.numpy()
        assert dequantize.attributes["axis"].as_int() == 0
        assert values.dtype == np.int8
        assert np.abs(values).reshape(len(values), -1).max(axis=1).tolist() == [63] * len(values)


def test_openvino_runs_all_of_them_in_int8():
    compiled = OpenVINOModel(quantized(network()).model)
    assert len(compiled.convolutions) == compiled.int8_convolutions == 5, compiled.convolutions


@pytest.mark.parametrize("attributes", ["strides = [2, 2]", 'strides = [2, 2], auto_pad = "SAME_UPPER"'])
def test_strides_of_single_elements_become_a_pooling_in_openvino(attributes):
    """OpenVINO pools in front of such a convolution itself, where the tensor is floating point again."""
    model = model_of(
        f"""g (float[B, 3, 16, 16] input_0) => (float[B, 8] output_0) {{
            c0 = Conv <pads = [1, 1, 1, 1]> (input_0, w0)
            a0 = Relu (c0)
            c1 = Conv <{attributes}> (a0, w1)
            c2 = Conv <{attributes}> (a0, w2)
            sum = Add (c1, c2)
            a1 = Relu (sum)
            mean = GlobalAveragePool (a1)
            output_0 = Flatten (mean)
        }}""",
        w0=filters(0, 16, 3, 3, 3),
        w1=filters(1, 8, 16, 1, 1),
        w2=filters(2, 8, 16, 1, 1),
    )
    result = quantized(model).model
    compiled = OpenVINOModel(result)
    assert len(compiled.convolutions) == compiled.int8_convolutions == 3, compiled.convolutions
    assert [tuple(node.attributes["strides"].as_ints()) for node in nodes(result, "MaxPool")] == [(2, 2)] * 2
    (feed,) = images(1, seed=99)
    (expected,) = run(model, feed)
    assert 0 < relative_error(expected, run(result, feed)[0]) < 0.03
    assert relative_error(expected, compiled.run(feed)[0]) < 0.03
    assert not nodes(quantized(model, target="onnxruntime").model, "MaxPool")


def test_strides_that_pass_over_no_place_or_read_neighbours_stay():
    assert not nodes(quantized(network()).model, "MaxPool")


def test_onnx_runtime_runs_all_of_them_in_int8(tmp_path):
    compiled = ONNXRuntimeModel(quantized(network(), target="onnxruntime").model, tmp_path)
    assert compiled.operators["QLinearConv"] == 5
    assert not compiled.operators["Conv"] + compiled.operators["FusedConv"]
    (feed,) = images(1, seed=99)
    assert relative_error(run(network(), feed)[0], compiled.run(feed)[0]) < 0.03


def test_a_result_that_leaves_the_segment_stays_in_floating_point_in_onnx_runtime():
    def model():
        return model_of(
            """g (float[B, 3, 16, 16] input_0) => (float[B, 8, 16, 16] c, float[B, 8, 16, 16] d) {
                c = Conv (input_0, w)
                e = Conv (c, v)
                d = Sigmoid (e)
            }""",
            w=filters(0, 8, 3, 1, 1),
            v=filters(1, 8, 8, 1, 1),
        )

    result = quantized(model(), target="onnxruntime")
    assert result.quantized_layers == ("Conv_1",)
    assert "1 of 2 convolutions stays in floating point: its result leaves the segment" in result.notes[-1]
    assert quantized(model()).quantized_layers == ("Conv_0", "Conv_1")


def test_what_is_behind_a_convolution_goes_into_it():
    random = np.random.default_rng(0)
    statistics = {name: random.uniform(0.5, 1.5, 8).astype(np.float32) for name in ("s", "o", "m", "v")}
    model = model_of(
        """g (float[B, 3, 16, 16] input_0) => (float[B, 8, 16, 16] y) {
            c = Conv (input_0, w, b)
            n = BatchNormalization (c, s, o, m, v)
            d = Div (n, two)
            root = Sqrt (v)
            column = Reshape (root, shape)
            e = Sub (d, column)
            y = Sub (f, e)
        }""",
        w=filters(0, 8, 3, 1, 1),
        b=channels(1, 8).reshape(-1),
        two=np.float32(2),
        shape=np.asarray([8, 1, 1]),
        f=np.float32(1),
        **statistics,
    )
    layer = only_convolution(model)
    assert layer.result.name == "e"
    (feed,) = images(1)
    convolution = model_of(
        "g (float[B, 3, 16, 16] input_0) => (float[B, 8, 16, 16] y) { y = Conv (input_0, w, b) }",
        w=layer.matrix().T.reshape(layer.shape),
        b=layer.bias,
    )
    np.testing.assert_allclose(1 - run(convolution, feed)[0], run(model, feed)[0], atol=1e-5)
    assert relative_error(run(model, feed)[0], run(quantized(model).model, feed)[0]) < 0.02


def test_what_is_no_number_for_a_channel_stays_behind():
    text = """g (float[B, 3, 8, 8] input_0) => (float[B, 8, 8, 8] y) {
        c = Conv (input_0, w)
        y = Add (c, b)
    }"""
    whole = model_of(text, w=filters(0, 8, 3, 1, 1), b=np.ones((8, 8, 8), np.float32))
    assert only_convolution(whole).bias is None
    row = model_of(text, w=filters(0, 8, 3, 1, 1), b=np.ones(8, np.float32))
    assert only_convolution(row).bias is None


@pytest.mark.parametrize(
    ("text", "shape", "reason"),
    [
        ("(float[B, 3, 8] input_0, float[4, 3, 1] w) => (float[B, 4, 8] y)", None, "its filters or its bias change"),
        ("(float[B, 3, 8, 8, 8] input_0) => (float[B, 4, 8, 8, 8] y)", (4, 3, 1, 1, 1), "along 3 axes"),
        ("(double[B, 3, 8] input_0) => (double[B, 4, 8] y)", (4, 3, 1), "computes in DOUBLE"),
    ],
)
def test_what_cannot_be_quantized_has_a_reason(text, shape, reason):
    dtype = np.float64 if "double" in text else np.float32
    constants = {} if shape is None else {"w": filters(0, *shape).astype(dtype)}
    layers, (skipped,) = find_layers(
        model_of(f"g {text} {{ y = Conv (input_0, w) }}", **constants), QuantizationSettings()
    )
    assert not layers
    assert reason in skipped.reason


def test_settings_deny_convolutions():
    result = quantized(network(), denied_nodes=["d*"], target="onnxruntime")
    assert result.quantized_layers == ("strided", "grouped", "pointwise")
    assert "2 of 5 convolutions stay in floating point: 'd*' is in denied_nodes (2)" in result.notes[-1]
    (feed,) = images(1, seed=99)
    assert 0 < relative_error(run(network(), feed)[0], run(result.model, feed)[0]) < 0.03
    with pytest.raises(CalibrationError, match="Conv is in denied_ops"):
        quantized(network(), denied_ops=["Conv"])


def test_one_dimension():
    model = model_of(
        """g (float[B, 8, 50] input_0) => (float[B, 16, 50] y) {
            c = Conv <pads = [1, 1]> (input_0, w)
            y = Relu (c)
        }""",
        w=filters(0, 16, 8, 3),
    )
    feeds = [{"input_0": np.random.default_rng(seed).normal(size=(4, 8, 50)).astype(np.float32)} for seed in range(5)]
    result = quantize_segment(model, feeds[:4])
    assert 0 < relative_error(run(model, feeds[4])[0], run(result.model, feeds[4])[0]) < 0.03


def test_bias_correction_takes_the_mean_error_away():
    model = network()
    model.graph.outputs[:] = [nodes(model, "Conv")[-1].outputs[0]]
    model.graph.outputs[0].type, model.graph.outputs[0].shape = (
        ir.TensorType(ir.DataType.FLOAT),
        ir.Shape(["B", 32, 8, 8]),
    )
    others = [kind for kind in KINDS if kind != "pointwise"]

    def mean_error(**settings):
        result = quantized(model, denied_nodes=others, **settings).model
        return np.mean([run(result, feed)[0] - run(model, feed)[0] for feed in images(6)], axis=(0, 1, 3, 4))

    assert np.abs(mean_error()).max() < 1e-5 < np.abs(mean_error(correct_bias=False)).max()


def test_filters_next_to_zero_keep_their_bias():
    weight = filters(0, 8, 3, 1, 1)
    weight[0], weight[1] = 0, 1e-20
    model = model_of(
        """g (float[B, 3, 16, 16] input_0) => (float[B, 8, 1, 1] y) {
            c = Conv (input_0, w, b)
            a = Relu (c)
            y = GlobalAveragePool (a)
        }""",
        w=weight,
        b=np.full(8, 0.3, np.float32),
    )
    (feed,) = images(1)
    actual = run(quantized(model, target="onnxruntime").model, feed, optimize=True)[0]
    np.testing.assert_allclose(actual[:, :2], 0.3, atol=0.02)  # A step of the result is 0.015.


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_errors_rank_layers_that_can_be_taken_back(target):
    result = quantized(network(), target=target)
    ranked = rank_layers(result.original, result)
    assert {name for name, _ in ranked} == set(KINDS)
    assert all(0 < error < 0.05 for _, error in ranked)
    again = dict(rank_layers(result.original, result, images(6)))
    assert again == pytest.approx(dict(ranked), rel=1e-3)
    (feed,) = images(1, seed=99)
    expected = run(result.original, feed)[0]
    for count in range(1, 5):
        reverted = revert_layers(result, [name for name, _ in ranked[:count]])
        assert 0 < relative_error(expected, run(reverted, feed)[0]) < 0.03
    np.testing.assert_array_equal(run(revert_layers(result, KINDS), feed)[0], expected)


def test_the_second_run_reads_what_the_first_found(tmp_path):
    settings = QuantizationSettings(target="onnxruntime")
    first, second = (quantize_segment(network(), images(6), settings, cache_dir=tmp_path) for _ in range(2))
    assert (first.from_cache, second.from_cache) == (False, True)
    (feed,) = images(1)
    np.testing.assert_array_equal(run(second.model, feed)[0], run(first.model, feed)[0])


def test_values_that_are_not_finite_name_the_layer():
    feeds = images(2)
    feeds[1]["input_0"][0, 0, 5] = np.nan
    with pytest.raises(CalibrationError, match="flows into strided is not finite"):
        quantize_segment(network(), feeds)


def test_images_count_as_few_rows():
    """An image of 16 by 16 has 256 places, and eight of them would already be too many rows."""
    assert not quantize_segment(network(), images(12)).notes
    assert "Only 64 rows" in quantize_segment(network(), images(1)).notes[0]
