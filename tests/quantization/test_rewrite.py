"""Before: y = MatMul(x, W); z = Add(y, b). After: Mul, QuantizeLinear once, DequantizeLinear for each layer."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from tests.quantization.segments import HIDDEN, block, feeds_of, matrix, model_of, nodes, relative_error, run, vector
from tf_opt.passes.onnx.pass_base import border_of
from tf_opt.quantization import QuantizationSettings, quantize_segment

UNSEEN = 99


def quantized(model, **settings):
    return quantize_segment(model, feeds_of(model), QuantizationSettings(**settings))


def check(model, maximum_error=0.04, **settings):
    """Quantizes, checks border and outputs on a feed that was not used for it, and returns the quantized model."""
    before = ir.serde.serialize_model(model).SerializeToString()
    result = quantized(model, **settings)
    assert ir.serde.serialize_model(model).SerializeToString() == before
    assert border_of(result.model) == border_of(model)
    (feed,) = feeds_of(model, count=1, seed=UNSEEN)
    for expected, actual in zip(run(model, feed), run(result.model, feed), strict=True):
        assert actual.dtype == expected.dtype
        assert 0 < relative_error(expected, actual) < maximum_error
    return result.model


@pytest.mark.parametrize("target", ["openvino", "onnxruntime", "tensorrt"])
@pytest.mark.parametrize("opset", [17, 20])
def test_products_become_quantized(target, opset):
    model = check(block(opset), target=target)
    counts = Counter(node.op_type for node in model.graph)
    assert counts["QuantizeLinear"] == 2  # One for each tensor that products read.
    assert counts["DequantizeLinear"] == 3 + 3  # One for each product and each weight.
    (first, second, third) = nodes(model, "MatMul")
    sources = [product.inputs[0].producer().inputs[0] for product in (first, second, third)]
    assert sources[0] is sources[1]
    assert first.inputs[0] is not second.inputs[0]
    # An output of the graph stays the product's own.
    assert second.outputs[0].name == "output_1"


@pytest.mark.parametrize(
    ("target", "dtype", "levels"), [("openvino", ir.DataType.UINT8, 63), ("tensorrt", ir.DataType.INT8, 127)]
)
def test_form_of_activations_and_weights(target, dtype, levels):
    model = check(block(), target=target)
    for node in nodes(model, "QuantizeLinear"):
        zero_point = node.inputs[2].const_value
        assert zero_point.dtype == dtype
        assert target != "tensorrt" or zero_point.numpy() == 0
    weights = [value.const_value for name, value in model.graph.initializers.items() if name.endswith("_int8")]
    assert len(weights) == 3
    for weight in weights:
        assert weight.dtype == ir.DataType.INT8
        values = weight.numpy()
        assert values.shape == (HIDDEN, HIDDEN)
        assert np.abs(values).max(axis=0).tolist() == [levels] * HIDDEN
    assert not {"w_q", "w_k", "w_o"} & set(model.graph.initializers)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("with_bias", [True, False])
def test_gemm(transposed, with_bias):
    weight = matrix(0, HIDDEN, 96)
    bias = ", b" if with_bias else ""
    model = model_of(
        f"g (float[B, 64] input_0) => (float[B, 96] y) {{ y = Gemm <transB = {transposed}> (input_0, w{bias}) }}",
        w=weight.T if transposed else weight,
        **({"b": vector(1, 96)} if with_bias else {}),
    )
    feeds = [{"input_0": np.random.default_rng(seed).normal(size=(40, 64)).astype(np.float32)} for seed in range(9)]
    result = quantize_segment(model, feeds[:8])
    (expected,), (actual,) = run(model, feeds[8]), run(result.model, feeds[8])
    assert 0 < relative_error(expected, actual) < 0.03


def test_a_joined_weight_is_stored_joined():
    parts = {name: matrix(seed) for seed, name in enumerate("abc")}
    model = check(
        model_of(
            """g (float[B, S, 64] input_0) => (float[B, S, 192] y) {
                w = Concat <axis = 1> (a, b, c)
                y = MatMul (input_0, w)
            }""",
            **parts,
        )
    )
    assert not nodes(model, "Concat")
    assert not set(parts) & set(model.graph.initializers)


def test_a_weight_of_several_layers_is_stored_once():
    model = check(
        model_of(
            """g (float[B, S, 64] input_0) => (float[B, S, 64] y) {
                a = MatMul (input_0, w)
                b = Tanh (a)
                y = MatMul (b, w)
            }""",
            w=matrix(0),
        )
    )
    assert len([name for name in model.graph.initializers if name.endswith("_int8")]) == 1


def test_a_bias_that_others_read_is_corrected_for_its_product_only():
    model = check(
        model_of(
            """g (float[B, S, 64] input_0) => (float[B, S, 64] y, float[B, S, 64] z) {
                p = MatMul (input_0, w)
                y = Add (p, b)
                t = MatMul (input_0, v)
                z = Mul (t, b)
            }""",
            w=matrix(0),
            v=matrix(1),
            b=vector(1) + 3,
        )
    )
    add, multiply = nodes(model, "Add")[0], nodes(model, "Mul")[-1]
    assert add.inputs[1].name != "b"
    assert multiply.inputs[1].name == "b"
    assert 0 < np.abs(add.inputs[1].const_value.numpy() - multiply.inputs[1].const_value.numpy()).max() < 0.1


def test_names_that_are_taken_are_not_taken_again():
    model = block()
    model.graph.node("Mul_4").outputs[0].name = "MatMul_1/quantized"
    model.graph.initializers["gamma"].name = "MatMul_1/weight_int8"
    quantized_model = check(model)
    names = [value.name for node in quantized_model.graph for value in node.outputs]
    names += list(quantized_model.graph.initializers)
    assert len(names) == len(set(names))


class Watched(ir.LazyTensor):
    """A constant that counts how often it is read."""

    def __init__(self, tensor):
        self.reads = 0

        def read():
            self.reads += 1
            return tensor

        super().__init__(read, dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)


def test_constants_are_kept_or_quantized_when_read():
    model = block()
    for value in model.graph.initializers.values():
        value.const_value = Watched(value.const_value)
    kept = {name: value.const_value for name, value in model.graph.initializers.items()}
    result = quantized(model, denied_nodes=["MatMul_6"])
    # What was not quantized is the very same tensor, and quantized weights wait until somebody wants them.
    for name in ("gamma", "beta", "w_o", "b_o"):
        assert result.model.graph.initializers[name].const_value is kept[name]
    reads = kept["w_q"].reads
    weight = result.model.graph.initializers["MatMul_1/weight_int8"].const_value
    assert kept["w_q"].reads == reads
    assert weight.numpy().dtype == np.int8
    assert kept["w_q"].reads == reads + 1
