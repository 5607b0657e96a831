"""Matrix products and the work around them become 16-bit; all else, and the border, stay as they are."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.passes.onnx.conversion_checks import (
    ROUNDING,
    TYPES,
    both_precisions,
    convert,
    dense_and_norm,
    narrow,
    types,
    weight,
)
from tests.passes.onnx.pass_checks import model_of, only, ops, random_feeds
from tests.passes.onnx.precision_checks import run_emulated
from tf_opt.errors import InvalidOptionError
from tf_opt.passes.onnx.convert_precision import ConvertPrecision
from tf_opt.passes.onnx.segment_weights import detach_segment


@both_precisions
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


@both_precisions
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


@both_precisions
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


@both_precisions
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


@both_precisions
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


@both_precisions
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


@both_precisions
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


@both_precisions
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


@both_precisions
def test_shapes_are_read_without_a_cast(precision):
    model = model_of(
        "g (float[B, 8] x) => (float[B, 8] y, int64[2] n) { p = MatMul(x, w) n = Shape(p) y = MatMul(p, w) }",
        w=weight(8, 8),
    )
    result = convert(precision, model, changes=2)
    assert only(result, "Shape").inputs[0].dtype is TYPES[precision]


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
