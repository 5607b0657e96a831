"""Numbers that 16 bits do not hold keep the nodes that compute them in fp32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from tests.passes.onnx.conversion_checks import TYPES, both_precisions, convert, feeds_of, narrow, types, weight
from tests.passes.onnx.pass_checks import model_of, ops
from tests.passes.onnx.precision_checks import bert, random_bert_weights, run_emulated
from tf_opt.passes.onnx.convert_precision import ConvertPrecision


@both_precisions
@pytest.mark.parametrize(
    ("mask_value", "in_fp16", "in_bf16"),
    [(-10000.0, True, True), (-1e9, False, True), (float(np.finfo(np.float32).min), False, False)],
)
def test_attention_is_in_16_bits_unless_its_mask_overflows(precision, mask_value, in_fp16, in_bf16):
    model = bert(random_bert_weights(layers=1), heads=4, mask_value=mask_value)
    result = convert(precision, model, tolerance=16)
    fits = in_fp16 if precision == "fp16" else in_bf16
    found = types(result)
    names = ["l0_scaled", "l0_masked", "l0_softmax"]
    assert [found[name] is TYPES[precision] for name in names] == [fits] * 3
    assert {found["mask_added"], found["padding"]} == {ir.DataType.FLOAT}
    assert all(found[name] is TYPES[precision] for name in ("l0_scores", "l0_context"))


@both_precisions
def test_a_row_that_is_masked_altogether_is_no_nan(precision):
    """-3.4e38 would become -inf in either type, and a Softmax of nothing but -inf is NaN."""
    model = bert(random_bert_weights(layers=1), heads=4, mask_value=float(np.finfo(np.float32).min))
    ConvertPrecision(precision).run(model)
    (feed, *_) = feeds_of(model)
    feed["mask"][:] = 0
    (hidden,) = run_emulated(model, feed)
    assert np.isfinite(hidden).all()


@both_precisions
@pytest.mark.parametrize("known", [False, True])
def test_a_mask_of_unknown_size_keeps_the_softmax_in_fp32(precision, known):
    """What a graph input holds may overflow; what is made of a boolean does not."""
    mask = "Cast<to=1>(m)" if known else "Identity(f)"
    model = model_of(
        f"""g (float[B, 8, 4] x, float[B, 8, 8] f, bool[B, 8, 8] m) => (float[B, 8, 4] y) {{
            t = Transpose<perm=[0, 2, 1]>(x)
            scores = MatMul(x, t)
            n = {mask}
            masked = Add(scores, n)
            softmax = Softmax<axis=-1>(masked)
            y = MatMul(softmax, x)
        }}"""
    )
    found = types(convert(precision, model, tolerance=32))
    assert {found["masked"], found["softmax"]} == {TYPES[precision] if known else ir.DataType.FLOAT}
    assert {found["scores"], found["y"]} == {TYPES[precision]}


@pytest.mark.parametrize(("number", "fits"), [(65504.0, True), (65520.0, False), (np.inf, True), (1e-6, False)])
def test_constants_out_of_range_keep_their_node_in_fp32(number, fits):
    model = model_of(
        "g (float[B, 8] x) => (float[B, 8] y) { p = MatMul(x, w) q = Min(p, c) y = MatMul(q, w) }",
        w=weight(8, 8),
        c=np.float32(number),
    )
    result = convert("fp16", model, tolerance=16)
    assert (types(result)["q"] is ir.DataType.FLOAT16) == fits
    # Large numbers may come out of the node as well, and the product that reads them stays fp32 with it.
    assert (types(result)["y"] is ir.DataType.FLOAT16) == (number != 65520.0)
    assert "Min" in narrow(convert("bf16", model, tolerance=16))


@both_precisions
def test_sums_behind_an_error_function_stay_fp32(precision):
    """1 + Erf(x) is about 0 for negative x, of which a rounded Erf would leave nothing."""
    model = model_of(
        """g (float[B, 32] x) => (float[B, 32] y) {
            p = MatMul(x, w)
            s = Mul(p, scale)
            e = Erf(s)
            o = Add(e, one)
            h = Mul(p, half)
            g = Mul(h, o)
            y = MatMul(g, w)
        }""",
        w=weight(32, 32),
        scale=np.float32(0.5**0.5),
        one=np.float32(1),
        half=np.float32(0.5),
    )
    result = convert(precision, model, changes=2)
    assert narrow(result) == ["MatMul", "MatMul"]
    assert ops(result)["Cast"] == 5  # x, w, p, g and y.


@both_precisions
def test_layer_normalization_that_is_written_out_stays_fp32(precision):
    model = model_of(
        """g (float[B, 32] x) => (float[B, 32] y) {
            p = MatMul(x, w)
            mean = ReduceMean<axes=[-1]>(p)
            d = Sub(p, mean)
            dd = Mul(d, d)
            v = ReduceMean<axes=[-1]>(dd)
            ve = Add(v, epsilon)
            root = Sqrt(ve)
            n = Div(d, root)
            s = Mul(n, w1)
            y = MatMul(s, w)
        }""",
        w=weight(32, 32),
        w1=weight(32),
        epsilon=np.float32(1e-12),
    )
    assert narrow(convert(precision, model, changes=2)) == ["MatMul", "MatMul"]
