"""Operators become 16-bit as far as their definitions allow: by operator set, and operand by operand for attention."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import openvino
import pytest

from tests.passes.onnx.conversion_checks import TYPES, both_precisions, convert, narrow, weight
from tests.passes.onnx.pass_checks import model_of, only, ops, session_of
from tf_opt.passes.onnx.convert_precision import ConvertPrecision
from tf_opt.passes.onnx.pass_base import border_of


def test_bf16_needs_an_opset_that_allows_it():
    """Conv takes bf16 from opset 22 on, MatMul from 13 on; fp16 was always allowed."""
    text = """g (float[B, 4, 8, 8] x) => (float[B, 4, 8, 8] y) {
        c = Conv<kernel_shape=[1, 1]>(x, k)
        r = Relu(c)
        y = MatMul(r, w)
    }"""
    constants = {"k": weight(4, 4, 1, 1), "w": weight(8, 8)}
    for precision, opset, expected in (
        ("bf16", 17, ["MatMul"]),
        ("bf16", 22, ["Conv", "Relu", "MatMul"]),
        ("fp16", 17, ["Conv", "Relu", "MatMul"]),
    ):
        model = model_of(text, opset=opset, **constants)
        assert narrow(convert(precision, model, tolerance=16)) == expected


def test_bf16_does_not_enter_operators_of_opset_12():
    model = model_of("g (float[B, 8] x) => (float[B, 8] y) { y = MatMul(x, w) }", opset=12, w=weight(8, 8))
    assert ConvertPrecision("bf16").run(model) == 0
    assert ConvertPrecision("fp16").run(model) == 1


ATTENTION = """g (float[B, 2, S, 8] q, float[B, 2, S, 8] k, float[B, 2, S, 8] v, {mask} m) => (float[B, 2, S, 8] y) {{
    {body}
}}"""


@both_precisions
@pytest.mark.parametrize(
    ("mask", "body", "mask_type"),
    [
        ("bool[S, S]", "y = Attention(q, k, v, m)", ir.DataType.BOOL),
        ("int32[S, S]", "f = Cast<to=1>(m) g = Mul(f, large) y = Attention(q, k, v, g)", None),
        ("float[S, S]", "y = Attention(q, k, v)", ir.DataType.UNDEFINED),
    ],
)
def test_attention_operator(precision, mask, body, mask_type):
    """ONNX's Attention: OpenVINO takes a mask of the operands' type only; the Softmax inside is asked for in fp32."""
    model = model_of(ATTENTION.format(mask=mask, body=body), opset=23, large=np.float32(-10000))
    result = model.clone()
    assert ConvertPrecision(precision).run(result) == 1
    onnx.checker.check_model(ir.serde.serialize_model(result), full_check=True)
    node = only(result, "Attention")
    assert [value.dtype for value in node.inputs[:3]] == [TYPES[precision]] * 3
    if mask_type is not ir.DataType.UNDEFINED:
        assert node.inputs[3].dtype is (mask_type or TYPES[precision])
    assert node.attributes["softmax_precision"].as_int() == int(ir.DataType.FLOAT)
    assert border_of(result) == border_of(model)
    assert ConvertPrecision(precision).run(result) == 0
    core = openvino.Core()
    core.compile_model(core.read_model(ir.serde.serialize_model(result).SerializeToString()), "CPU")


@both_precisions
@pytest.mark.parametrize(
    ("mask", "body"),
    [
        ("float[S, S]", "y = Attention(q, k, v, m)"),
        ("int32[S, S]", "f = Cast<to=1>(m) g = Mul(f, large) y = Attention(q, k, v, g)"),
    ],
)
def test_attention_operator_with_a_mask_that_may_overflow_stays_fp32(precision, mask, body):
    large = np.finfo(np.float32).min
    model = model_of(ATTENTION.format(mask=mask, body=body), opset=23, large=large)
    assert ConvertPrecision(precision).run(model) == 0


@both_precisions
def test_attention_of_onnxruntime(precision):
    model = model_of(
        """g (float[B, S, 16] q, float[B, S, 16] k, float[B, S, 16] v, int32[B] lengths) => (float[B, S, 16] y) {
            a = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, v, bias, lengths)
            y = MatMul(a, w)
        }""",
        bias=weight(48),
        w=weight(16, 16),
    )
    result = model.clone()
    assert ConvertPrecision(precision).run(result) == 2
    node = only(result, "MultiHeadAttention")
    assert [value.dtype for value in node.inputs] == [TYPES[precision]] * 4 + [ir.DataType.INT32]
    if precision == "fp16":  # On the CPU, ONNX Runtime has no kernel of it for bf16.
        session_of(result)
    assert ops(result)["Cast"] == 4  # The three inputs and the output: none between attention and product.
