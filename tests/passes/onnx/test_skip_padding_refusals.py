"""Where a real token could depend on a padded position, padding is not skipped, and the error names the node."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from tests.passes.onnx.pass_checks import model_of
from tests.passes.onnx.token_checks import RESIDUAL, encoder
from tf_opt.errors import PassError, SkipPaddingError
from tf_opt.passes.onnx.pass_base import OnnxPipeline
from tf_opt.passes.onnx.skip_padding import SkipPadding

REFUSED = {
    "a convolution": (
        "t = Transpose<perm=[0, 2, 1]>(narrow) c = Conv<name='c', pads=[1, 1]>(t, kernel) y = Relu(c)",
        "Conv",
    ),
    "a running sum": ("y = CumSum(narrow, axis)", "CumSum"),
    "a softmax over positions": ("y = Softmax<axis=1>(narrow)", "Softmax"),
    "a mean over all positions": ("y = ReduceMean<axes=[1], keepdims=1>(narrow)", "ReduceMean"),
    "a maximum over all positions": ("y = ReduceMax<axes=[1], keepdims=1>(narrow)", "ReduceMax"),
    "normalization over positions": ("y = LayerNormalization<axis=1>(narrow, plane)", "LayerNormalization"),
    "a sum over the batch": ("y = ReduceSum<keepdims=1>(narrow, axis_0)", "ReduceSum"),
    "tokens side by side": ("y = Concat<axis=1>(narrow, normal)", "Concat"),
    "positions shifted by one": ("y = Slice(narrow, axis_1, far, axis_1)", "Slice"),
    "positions that are counted as features": ("y = Reshape(narrow, rows_first)", "Reshape"),
    "a product of tokens": ("t = Transpose<perm=[0, 2, 1]>(narrow) y = MatMul(t, normal)", "MatMul"),
    "the first token for everyone": (
        "f = Slice(narrow, axis_0, axis_1, axis_1) y = Add(narrow, f)",
        "Add",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_what_mixes_tokens(case):
    ends, op_type = REFUSED[case]
    model = encoder(
        ends.replace("name='c', ", ""),
        outputs="float[B, T, N] y",
        axis=np.array(1, np.int64),
        axis_0=np.array([0], np.int64),
        axis_1=np.array([1], np.int64),
        far=np.array([2**31 - 1], np.int64),
        rows_first=np.array([0, 8, -1], np.int64),
        kernel=np.ones((8, 8, 3), np.float32),
        plane=np.ones((1, 8), np.float32),
    )
    for node in model.graph:
        node.name = f"the {node.op_type}"
    text = str(ir.serde.serialize_model(model))
    with pytest.raises(SkipPaddingError, match=f"{op_type} node 'the {op_type}'"):
        SkipPadding("mask").run(model)
    assert str(ir.serde.serialize_model(model)) == text, "a refusal has to leave the model as it was"


@pytest.mark.parametrize(
    "mask",
    [
        "weights = Softmax<axis=-1>(scores)",
        "real = Cast<to=1>(mask) wide = Unsqueeze(real, axes_1_2) masked = Add(scores, wide) "
        "weights = Softmax<axis=-1>(masked)",
        "real = Cast<to=1>(mask) wide = Unsqueeze(real, axes_1_2) bias = Mul(wide, minus) masked = Add(scores, bias) "
        "weights = Softmax<axis=-1>(masked)",
        "real = Cast<to=1>(mask) wide = Unsqueeze(real, axes_1_3) absent = Sub(one, wide) bias = Mul(absent, minus) "
        "masked = Add(scores, bias) weights = Softmax<axis=-1>(masked)",
        "real = Cast<to=9>(mask) wide = Unsqueeze(real, axes_1_2) masked = Where(wide, minus, scores) "
        "weights = Softmax<axis=-1>(masked)",
        "real = Cast<to=9>(mask) always = Or(real, yes) wide = Unsqueeze(always, axes_1_2) "
        "masked = Where(wide, scores, minus) weights = Softmax<axis=-1>(masked)",
    ],
    ids=["no mask", "too small", "the wrong way round", "of queries", "selects padding", "selects everything"],
)
def test_refuses_attention_that_sees_padding(mask):
    model = encoder(RESIDUAL, mask=mask, axes_1_3=np.array([1, 3], np.int64), yes=np.array(True))
    with pytest.raises(SkipPaddingError, match="Softmax"):
        SkipPadding("mask").run(model)


def test_refuses_attention_by_another_mask():
    text = """g (float[B, S, 8] x, int64[B, S] mask, float[B, 1, 1, S] other) => (float[B, S, 8] y) {
        h = MatMul(x, w) c = Unsqueeze(h, axis) t = Transpose<perm=[0, 1, 3, 2]>(c) s = MatMul(c, t)
        m = Add(s, other) p = Softmax<axis=-1>(m) a = MatMul(p, c) b = Squeeze(a, axis)
        real = Cast<to=1>(mask) column = Unsqueeze(real, last) y = Mul(b, column)
    }"""
    constants = {"w": np.ones((8, 8), np.float32), "axis": np.array([1], np.int64), "last": np.array([2], np.int64)}
    with pytest.raises(SkipPaddingError, match="Softmax"):
        SkipPadding("mask").run(model_of(text, **constants))


def test_refuses_a_mask_that_is_none():
    model = encoder(RESIDUAL)
    with pytest.raises(SkipPaddingError, match=r"no graph input 'input_mask'.*x, mask"):
        SkipPadding("input_mask").run(model)
    with pytest.raises(SkipPaddingError, match="shape"):
        SkipPadding("x").run(model)


def test_refuses_tokens_in_an_inner_graph():
    text = """g (float[B, S, 8] x, int64[B, S] mask, bool flag) => (float[B, S, 8] y) {
        r = Cast<to=1>(mask) c = Unsqueeze(r, last) h0 = MatMul(x, w) h = Mul(h0, c)
        y = If (flag) <then_branch = a () => (float[B, S, 8] p) { p = Relu(h) },
                       else_branch = b () => (float[B, S, 8] q) { q = Neg(h) }>
    }"""
    model = model_of(text, w=np.ones((8, 8), np.float32), last=np.array([2], np.int64))
    with pytest.raises(SkipPaddingError, match="If"):
        SkipPadding("mask").run(model)


def test_a_pipeline_says_which_pass_refused():
    model = encoder("y = CumSum(narrow, axis)", axis=np.array(1, np.int64))
    with pytest.raises(PassError, match="'skip_padding' failed") as caught:
        OnnxPipeline([SkipPadding("mask")]).run(model)
    assert isinstance(caught.value.__cause__, SkipPaddingError)
