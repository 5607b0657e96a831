"""What a model states itself stays: its int8 products, its own Casts, the bodies of its branches."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tests.passes.onnx.conversion_checks import TYPES, both_precisions, convert, narrow, types, weight
from tests.passes.onnx.pass_checks import model_of, only, ops
from tf_opt.passes.onnx.convert_precision import ConvertPrecision


@both_precisions
def test_quantized_products_are_left_alone(precision):
    model = model_of(
        """g (float[B, 32] x) => (float[B, 32] y) {
            q = QuantizeLinear(x, scale, zero)
            d = DequantizeLinear(q, scale, zero)
            wd = DequantizeLinear(wq, scale, zero)
            wt = Transpose<perm=[1, 0]>(wd)
            p = MatMul(d, wt)
            b = Add(p, bias)
            y = MatMul(b, w)
        }""",
        scale=np.float32(0.05),
        zero=np.int8(0),
        wq=np.random.default_rng(0).integers(-9, 9, (32, 32)).astype(np.int8),
        w=weight(32, 32),
        bias=weight(32),
    )
    result = convert(precision, model, changes=1, tolerance=64)
    assert narrow(result) == ["MatMul"]
    assert types(result)["y"] is TYPES[precision]
    assert types(result)["b"] is ir.DataType.FLOAT


def test_roundings_of_the_model_stay():
    """A Cast to fp16 and back changes values: of it nothing is removed. A second Cast to the same type is."""
    model = model_of(
        """g (float[B, 8] x) => (float[B, 8] y, float16[B, 8] z) {
            h = Cast<to=10>(x)
            r = Cast<to=1>(h)
            p = MatMul(r, w)
            e = Exp(r)
            z = Cast<to=10>(e)
            y = Add(p, e)
        }""",
        w=weight(8, 8),
    )
    result = convert("fp16", model, changes=1, tolerance=16)
    assert only(result, "MatMul").inputs[0].name == "h"
    assert only(result, "Exp").inputs[0].name == "r"
    in_bf16 = model.clone()
    assert ConvertPrecision("bf16").run(in_bf16) == 1
    assert only(in_bf16, "MatMul").inputs[0].producer().inputs[0].name == "r"


def test_a_cast_of_the_model_to_the_same_type_is_shared():
    model = model_of(
        """g (float[B, 8] x) => (float16[B, 8] y, float[B, 8] z) {
            h = Cast<to=10>(x)
            y = Relu(h)
            p = MatMul(x, w)
            c = Cast<to=10>(p)
            n = Neg(c)
            z = Cast<to=1>(n)
        }""",
        w=weight(8, 8),
    )
    result = convert("fp16", model, changes=1)
    assert ops(result) == {"Cast": 2, "Relu": 1, "MatMul": 1, "Neg": 1}
    assert only(result, "Neg").inputs[0] is only(result, "MatMul").outputs[0]


@both_precisions
def test_bodies_of_branches_stay_fp32(precision):
    """A branch reads a value of the main graph that is in 16 bits: it gets the value in fp32."""
    model = model_of(
        """g (float[B, 8] x, bool c) => (float[B, 8] y) {
            p = MatMul(x, w)
            i = If(c) <
                then_branch = t () => (float[B, 8] a) { a = MatMul(p, w) },
                else_branch = e () => (float[B, 8] b) { b = Exp(p) }
            >
            y = MatMul(i, w)
        }""",
        w=weight(8, 8),
    )
    result = convert(precision, model, changes=2, tolerance=64)
    assert result.graph.initializers["w"].dtype is ir.DataType.FLOAT
    for name in ("then_branch", "else_branch"):
        (inner,) = only(result, "If").attributes[name].as_graph()
        assert inner.inputs[0].producer().op_type == "Cast"
