from __future__ import annotations

import numpy as np
import pytest

from tests.quantization.segments import HIDDEN, block, matrix, model_of, vector
from tf_opt.quantization import QuantizationSettings
from tf_opt.quantization.layers import find_layers, groups_of


def reasons(model, **settings):
    """Why the only product of a model is skipped."""
    layers, (skipped,) = find_layers(model, QuantizationSettings(**settings))
    assert not layers
    return skipped.reason


def only_layer(model):
    (layer,), skipped = find_layers(model, QuantizationSettings())
    assert not skipped
    return layer


def test_products_with_their_biases_and_groups():
    layers, skipped = find_layers(block(), QuantizationSettings())
    assert not skipped
    assert [(layer.name, layer.position, layer.shape) for layer in layers] == [
        ("MatMul_1", 1, (HIDDEN, HIDDEN)),
        ("MatMul_3", 3, (HIDDEN, HIDDEN)),
        ("MatMul_6", 6, (HIDDEN, HIDDEN)),
    ]
    assert [layer.bias and layer.bias.name for layer in layers] == ["b_q", None, "b_o"]
    assert [[layer.name for layer in group] for group in groups_of(layers)] == [["MatMul_1", "MatMul_3"], ["MatMul_6"]]


def test_nodes_without_a_name_of_their_own_are_named_by_their_output():
    model = block()
    for node in model.graph:
        node.name = "same" if node.op_type == "MatMul" else None
    layers, _ = find_layers(model, QuantizationSettings())
    assert [layer.name for layer in layers] == ["q", "output_1", "o"]


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(transposed):
    weight = matrix(0, HIDDEN, 96)
    layer = only_layer(
        model_of(
            f"g (float[B, 64] input_0) => (float[B, 96] y) {{ y = Gemm <transB = {transposed}> (input_0, w, b) }}",
            w=weight.T if transposed else weight,
            b=vector(1, 96),
        )
    )
    assert layer.shape == (HIDDEN, 96)
    assert layer.channel_axis == 1 - transposed
    assert layer.bias is not None
    np.testing.assert_array_equal(layer.matrix(), weight)


def test_a_weight_is_followed_through_what_moves_it():
    parts = [matrix(seed, HIDDEN, 32) for seed in range(3)]
    layer = only_layer(
        model_of(
            """g (float[B, 64] input_0) => (float[B, 96] output_0) {
                c_t = Transpose <perm = [1, 0]> (c)
                d = Reshape (c_t, shape)
                w = Concat <axis = 1> (a, b, d)
                output_0 = MatMul (input_0, w)
            }""",
            a=parts[0],
            b=parts[1],
            c=parts[2].T,
            shape=np.asarray([0, 32]),
        )
    )
    assert layer.shape == (HIDDEN, 96)
    np.testing.assert_array_equal(layer.matrix(), np.concatenate(parts, axis=1))


@pytest.mark.parametrize("op", ["Reshape(w, shape)", "Identity(w)"])
def test_types_that_nothing_states(op):
    """What moves a weight of float64 has its type, whether or not the model says so."""
    text = f"""g (double[B, 64] input_0) => (double[B, 64] output_0) {{
        moved = {op} doubled = Add(input_0, input_0) output_0 = MatMul (doubled, moved)
    }}"""
    model = model_of(text, w=matrix(0).astype(np.float64), shape=np.asarray([64, 64]))
    assert all(value.dtype is None for node in model.graph for value in node.outputs if value.name != "output_0")
    assert "computes in DOUBLE" in reasons(model)


def test_a_weight_that_is_cast_has_the_type_of_the_cast():
    """A model of mixed precision keeps its weights in float32."""
    text = """g (float16[B, 64] input_0) => (float16[B, 64] output_0) {
        narrow = Cast <to = 10> (w) output_0 = MatMul (input_0, narrow)
    }"""
    assert "computes in FLOAT16" in reasons(model_of(text, w=matrix(0)))


PRODUCT = "g (float[B, 64] input_0) => (float[B, 64] output_0) { output_0 = MatMul (input_0, w) }"


def test_what_cannot_be_quantized_has_a_reason():
    assert "both inputs change" in reasons(
        model_of("g (float[B, 64] input_0, float[64, C] input_1) => (float[B, C] y) { y = MatMul (input_0, input_1) }")
    )
    assert "only its first input is constant" in reasons(
        model_of("g (float[64, C] input_0) => (float[64, C] y) { y = MatMul (w, input_0) }", w=matrix(0))
    )
    assert "no matrix" in reasons(
        model_of(
            "g (float[2, B, 64] input_0) => (float[2, B, 64] y) { y = MatMul (input_0, w) }",
            w=np.stack([matrix(0), matrix(1)]),
        )
    )
    assert "computes in DOUBLE" in reasons(model_of(PRODUCT.replace("float", "double"), w=matrix(0).astype(np.float64)))
    assert "alpha" in reasons(
        model_of("g (float[B, 64] input_0) => (float[B, 64] y) { y = Gemm <alpha = 0.5> (input_0, w) }", w=matrix(0))
    )
    assert "fewer than 4096" in reasons(model_of(PRODUCT.replace("64]", "32]"), w=matrix(0, 32, 32)))


def test_settings_deny_layers():
    model = model_of(PRODUCT, w=matrix(0))
    assert reasons(model, denied_ops=["MatMul"]) == "MatMul is in denied_ops"
    assert reasons(model, denied_nodes=["other", "MatMul_*"]) == "'MatMul_*' is in denied_nodes"
    assert find_layers(model, QuantizationSettings(denied_nodes=["matmul_*"], denied_ops=["Gemm"]))[0]


def test_a_bias_has_to_belong_to_one_product_alone():
    both = model_of(
        """g (float[B, 64] input_0) => (float[B, 64] y, float[B, 64] z) {
            p = MatMul (input_0, w)
            y = Add (p, b)
            z = Relu (p)
        }""",
        w=matrix(0),
        b=vector(1),
    )
    assert only_layer(both).bias is None
    column = model_of(
        "g (float[64, 64] input_0) => (float[64, 64] y) { p = MatMul (input_0, w) y = Add (p, b) }",
        w=matrix(0),
        b=vector(1)[:, None],
    )
    assert only_layer(column).bias is None
