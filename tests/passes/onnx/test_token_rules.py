"""What each operator makes of padded positions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from tests.passes.onnx.pass_checks import model_of
from tf_opt.errors import SkipPaddingError
from tf_opt.passes.onnx.token_facts import ORIGINAL, PaddingFacts, Rows
from tf_opt.passes.onnx.token_functions import MaskFunctions
from tf_opt.passes.onnx.token_layout import token_layout
from tf_opt.passes.onnx.token_rules import Scene, facts_of

X = PaddingFacts(wrong=frozenset({1}))
"""What the tests give for x [B, S, 8]: anything at padded positions."""

SCORES = PaddingFacts(wrong=frozenset({1, 2}))
"""What the tests give for s [B, S, S]."""


def facts(
    wrong: tuple[int, ...] = (),
    zero: tuple[int, ...] = (),
    lowered: dict[int, float] | None = None,
    rows: Rows = Rows.NONE,
) -> PaddingFacts:
    return PaddingFacts(wrong=frozenset(wrong), zero=frozenset(zero), lowered=lowered or {}, rows=rows)


def facts_behind(text: str) -> PaddingFacts:
    """Follows the facts through some nodes to y."""
    model = model_of(
        f"""g (float[B, S, 8] x, float[B, S, S] s, float[B, S, 8] z, float[B, 8] r, int64[B, S] mask) => (float y) {{
            c = Cast<to=1>(mask) column = Unsqueeze(c, two) row = Unsqueeze(c, one_v)
            n = Sub(one, row) low = Mul(n, minus) has = Cast<to=9>(row) has_column = Cast<to=9>(column)
            {text}
        }}""",
        one=np.float32(1),
        half=np.float32(0.5),
        minus=np.float32(-10000),
        nothing=np.float32(0),
        negative=np.float32(-1),
        matrix=np.ones((8, 8), np.float32),
        vector=np.ones(8, np.float32),
        one_v=np.array([1], np.int64),
        two=np.array([2], np.int64),
        zero_v=np.array([0], np.int64),
        heads=np.array([0, 0, 2, 4], np.int64),
        merged=np.array([-1, 8], np.int64),
        twisted=np.array([0, 8, -1], np.int64),
        index=np.array(0, np.int64),
        far=np.array([2**31 - 1], np.int64),
    )
    layout = token_layout(model, "mask")
    functions = MaskFunctions(layout)
    scene = Scene(layout, functions)
    known: dict[ir.Value, PaddingFacts] = {}
    for value in model.graph.inputs:
        known[value] = {"x": X, "s": SCORES, "r": facts(rows=Rows.EMPTY)}.get(str(value.name), ORIGINAL)
    for node in model.graph:
        functions.visit(node)
        seen = [ORIGINAL if value is None else known.get(value, ORIGINAL) for value in node.inputs]
        known.update(dict.fromkeys(node.outputs, facts_of(node, seen, scene)))
    output = model.graph.outputs[0]
    return known[output.producer().outputs[0]]


MASKED = "m = Add(s, low)"

FOLLOWED = {
    "what was original": ("y = Mul(z, half)", facts()),
    "an unknown operator on what was original": ("y = CumSum(z, index)", facts()),
    "elementwise": ("y = Add(x, z)", facts([1])),
    "a product with the mask": ("y = Mul(x, column)", facts(zero=[1], rows=Rows.EMPTY)),
    "a product with the mask on what was original": ("y = Mul(z, column)", facts(zero=[1])),
    "what is 0 stays 0 when it is divided": ("a = Mul(z, column) y = Div(a, half)", facts(zero=[1])),
    "what is 0 stays 0 when a row is divided": (
        "t = ReduceSum<keepdims=1>(c, one_v) u = Unsqueeze(t, one_v) y = Div(column, u)",
        facts(zero=[1]),
    ),
    "a product with weights of a mean": (
        "t = ReduceSum<keepdims=1>(column, one_v) w = Div(column, t) y = Mul(x, w)",
        facts(zero=[1], rows=Rows.EMPTY),
    ),
    "what is 0 does not when each position is divided": ("y = Div(column, z)", facts()),
    "what is 0 does not when it is divided by 0": ("a = Mul(z, column) y = Div(a, nothing)", facts()),
    "what is 0 does not when it is divided by anything": ("a = Mul(z, column) y = Div(a, z)", facts()),
    "what is 0 stays 0 when it is cast": ("a = Mul(z, column) y = Cast<to=1>(a)", facts(zero=[1])),
    "a selection by the mask": ("y = Where(has_column, x, nothing)", facts(zero=[1], lowered={1: 0.0})),
    "a selection of a low number": ("y = Where(has, s, minus)", facts([1], lowered={2: -10000})),
    "a selection of what differs": ("y = Where(has_column, z, x)", facts([1])),
    "a selection by another condition": ("k = Cast<to=9>(z) y = Where(k, x, z)", facts([1])),
    "an added mask": (f"{MASKED} y = Relu(m)", facts([1, 2])),
    "an added mask, scaled": (f"{MASKED} y = Mul(half, m)", facts([1, 2], lowered={2: -5000})),
    "an added mask, divided": (f"{MASKED} y = Div(m, half)", facts([1, 2], lowered={2: -20000})),
    "an added mask, turned": (f"{MASKED} y = Mul(m, negative)", facts([1, 2])),
    "two added masks": (f"{MASKED} y = Add(m, low)", facts([1, 2], lowered={2: -20000})),
    "a mask that is taken away again": (f"{MASKED} y = Sub(m, low)", facts([1, 2])),
    "scores minus masked scores": (f"{MASKED} y = Sub(s, m)", facts([1, 2])),
    "scores plus masked scores": (f"{MASKED} y = Add(s, m)", facts([1, 2], lowered={2: -10000})),
    "the weights of attention": (f"{MASKED} y = Softmax<axis=-1>(m)", facts([1], zero=[2], rows=Rows.EMPTY)),
    "the mixed values": (f"{MASKED} w = Softmax<axis=-1>(m) y = MatMul(w, x)", facts([1], rows=Rows.EMPTY)),
    "values that are 0 in place of weights": (
        "v = Mul(x, column) p = Abs(s) w = Where(has, p, nothing) y = MatMul(w, v)",
        facts([1], rows=Rows.EMPTY),
    ),
    "tokens summed by the mask": ("y = MatMul(row, x)", facts(rows=Rows.EMPTY)),
    "turned tokens summed by the mask": (
        "t = Transpose<perm=[0, 2, 1]>(x) y = MatMul(t, column)",
        facts(rows=Rows.EMPTY),
    ),
    "scores": ("t = Transpose<perm=[0, 2, 1]>(x) y = MatMul(x, t)", facts([1, 2])),
    "a product with weights": ("y = MatMul(x, matrix)", facts([1])),
    "a product with a matrix of tokens": ("m = Reshape(x, merged) y = Gemm(m, matrix, vector)", facts([0])),
    "heads": ("h = Reshape(x, heads) y = Transpose<perm=[0, 2, 1, 3]>(h)", facts([2])),
    "tokens joined and parted": ("m = Reshape(x, merged) q = Shape(z) y = Reshape(m, q)", facts([1])),
    "softmax over features": ("y = Softmax<axis=-1>(x)", facts([1])),
    "normalization": ("y = LayerNormalization<axis=-1>(x, vector)", facts([1])),
    "a sum over features": ("y = ReduceSum<keepdims=0>(x, two)", facts([1])),
    "a sum over tokens": ("a = Mul(x, column) y = ReduceSum<keepdims=0>(a, one_v)", facts(rows=Rows.EMPTY)),
    "a maximum over tokens": (
        "i = Sub(one, column) l = Mul(i, minus) a = Add(x, l) y = ReduceMax<axes=[1], keepdims=0>(a)",
        facts(rows=Rows.EMPTY),
    ),
    "some features": ("y = Slice(x, zero_v, two, two)", facts([1])),
    "one feature": ("y = Gather<axis=-1>(x, index)", facts([1])),
    "features side by side": ("y = Concat<axis=-1>(x, z)", facts([1])),
    "a value for each row without tokens": ("y = Tanh(r)", facts(rows=Rows.EMPTY)),
    "such a value for each token": ("a = Unsqueeze(r, one_v) y = Add(x, a)", facts([1], rows=Rows.EMPTY)),
}

REFUSED = {
    "an unknown operator": "y = CumSum(x, index)",
    "softmax over positions": "y = Softmax<axis=1>(x)",
    "softmax over the batch": "y = Softmax<axis=0>(x)",
    "softmax over scores that are not lowered": "y = Softmax<axis=-1>(s)",
    "log of softmax over lowered scores": f"{MASKED} y = LogSoftmax<axis=-1>(m)",
    "a product over positions": "t = Transpose<perm=[0, 2, 1]>(x) y = MatMul(t, x)",
    "a product with where there is no token": "i = Sub(one, row) y = MatMul(i, x)",
    "tokens of one row summed by the mask of another": "y = MatMul(c, x)",
    "a product over the batch": "t = Transpose<perm=[1, 2, 0]>(x) u = Transpose<perm=[1, 0, 2]>(x) y = MatMul(t, u)",
    "a product of vectors": "y = MatMul(x, vector)",
    "a transposed product": "m = Reshape(x, merged) y = Gemm<transA=1>(m, m)",
    "a sum over all tokens": "y = ReduceSum<keepdims=0>(x, one_v)",
    "a sum over everything": "y = ReduceSum(x)",
    "a sum over the batch": "y = ReduceSum<keepdims=0>(r, zero_v)",
    "a sum over computed axes": "q = Cast<to=7>(z) y = ReduceSum(x, q)",
    "a pool over positions": "t = Transpose<perm=[0, 2, 1]>(x) y = GlobalAveragePool(t)",
    "normalization over positions": "y = LayerNormalization<axis=1>(x, matrix)",
    "a scale for each token": "y = LayerNormalization<axis=-1>(z, x)",
    "positions as features": "y = Reshape(x, twisted)",
    "some positions": "y = Slice(x, zero_v, two, one_v)",
    "positions that are computed": "q = Cast<to=7>(r) y = Gather<axis=2>(z, q)",
    "bounds that are computed": "q = Shape(z) y = Slice(x, q, q, q)",
    "tokens side by side": "y = Concat<axis=1>(x, z)",
    "rows side by side": "y = Concat<axis=0>(x, z)",
}


@pytest.mark.parametrize("case", FOLLOWED)
def test_followed(case):
    text, expected = FOLLOWED[case]
    assert facts_behind(text) == expected


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    with pytest.raises(SkipPaddingError, match="node"):
        facts_behind(REFUSED[case])
