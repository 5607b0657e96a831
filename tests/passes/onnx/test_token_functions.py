"""What attention makes of a mask, by its values at padding and at a token."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.onnx.pass_checks import model_of
from tf_opt.passes.onnx.token_facts import MaskFunction
from tf_opt.passes.onnx.token_functions import MaskFunctions
from tf_opt.passes.onnx.token_layout import token_layout

FUNCTIONS = {
    "added, as Hugging Face's BERT does": (
        "r = Reshape(mask, wide) c = Cast<to=1>(r) s = Sub(one, c) m = Mul(s, minus) y = Add(tiny, m)",
        MaskFunction(0, 3, -10000 + 1e-9, 1e-9),
    ),
    "subtracted, as DistilBERT does": (
        "c = Cast<to=1>(mask) r = Unsqueeze(c, axes) s = Sub(one, r) m = Mul(huge, s) y = Sub(tiny, m)",
        MaskFunction(0, 3, -1e30, 1e-9),
    ),
    "a condition": ("c = Cast<to=9>(mask) n = Not(c) y = Unsqueeze(n, axes)", MaskFunction(0, 3, 1, 0)),
    "a comparison": ("y = Equal(mask, zero)", MaskFunction(0, 1, 1, 0)),
    "a selection": ("c = Cast<to=9>(mask) y = Where(c, tiny, minus)", MaskFunction(0, 1, -10000, 1e-9)),
    "in half precision": (
        "c = Cast<to=10>(mask) s = Sub(half_one, c) m = Mul(s, half_low) y = Cast<to=10>(m)",
        MaskFunction(0, 1, -60000, 0),
    ),
    "transposed": ("y = Transpose<perm=[1, 0]>(mask)", MaskFunction(1, 0, 0, 1)),
    "with itself": ("a = Cast<to=1>(mask) y = Mul(a, a)", MaskFunction(0, 1, 0, 1)),
    "with more axes on one side": (
        "a = Cast<to=1>(mask) b = Unsqueeze(a, first) y = Mul(a, b)",
        MaskFunction(1, 2, 0, 1),
    ),
    "expanded": ("s = Shape(mask) y = Expand(mask, s)", MaskFunction(0, 1, 0, 1)),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_function(case):
    text, expected = FUNCTIONS[case]
    found = function_of(text)
    assert found is not None
    assert (found.batch_axis, found.sequence_axis) == (expected.batch_axis, expected.sequence_axis)
    assert (found.padded, found.real) == pytest.approx((expected.padded, expected.real))


def function_of(text: str) -> MaskFunction | None:
    model = model_of(
        f"g (int64[B, S] mask, float[B, S] other) => (float y) {{ {text} }}",
        wide=np.array([0, 1, 1, -1], np.int64),
        axes=np.array([1, 2], np.int64),
        last=np.array([2], np.int64),
        first=np.array([0], np.int64),
        zero=np.array(0, np.int64),
        one=np.float32(1),
        tiny=np.float32(1e-9),
        huge=np.float32(1e30),
        minus=np.float32(-10000),
        half_one=np.float16(1),
        half_low=np.float16(-60000),
        many=np.ones(8, np.float32),
    )
    functions = MaskFunctions(token_layout(model, "mask"))
    for node in model.graph:
        functions.visit(node)
    return functions.get(model.graph.outputs[0].producer().outputs[0])


NO_FUNCTIONS = {
    "another input": "y = Relu(other)",
    "the mask and another input": "c = Cast<to=1>(mask) y = Mul(c, other)",
    "a vector of constants": "c = Cast<to=1>(mask) u = Unsqueeze(c, last) y = Mul(u, many)",
    "rows by positions": ("c = Cast<to=1>(mask) u = Unsqueeze(c, last) t = Transpose<perm=[0, 2, 1]>(u) y = Mul(u, t)"),
    "a running sum": "y = CumSum(mask, zero)",
    "all positions at once": "c = Cast<to=1>(mask) y = ReduceSum(c)",
    "some of the rows": "y = Slice(mask, first, last, first)",
}


@pytest.mark.parametrize("case", NO_FUNCTIONS)
def test_no_function(case):
    assert function_of(NO_FUNCTIONS[case]) is None


def test_mask_of_one_row():
    model = model_of("g (bool[1, S] mask) => (bool y) { y = Not(mask) }")
    functions = MaskFunctions(token_layout(model, "mask"))
    functions.visit(model.graph[0])
    assert functions.get(model.graph.outputs[0]) == MaskFunction(None, 1, 1, 0)
    assert functions.get(None) is None
