"""What has to be sliced in front of each operator, so that its result is sliced."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.onnx.pass_checks import model_of
from tf_opt.passes.onnx.prune_tokens_rules import END, Selection, SliceShapes, input_axes, selected

FIRST = Selection(0, 1)
SOME = Selection(1, 3)

RULES = {
    "elementwise, broadcast": ("y = Add(x, vector)", 1, [1, None]),
    "elementwise, an axis of size 1": ("y = Mul(x, column)", 1, [1, None]),
    "elementwise, ranks that differ": ("y = Add(x, plane)", 1, [1, 0]),
    "unary": ("y = Gelu(x)", 1, [1]),
    "quantization by one number": ("y = QuantizeLinear(x, number)", 1, [1, None]),
    "quantization by axis": ("y = QuantizeLinear<axis=1>(x, vector)", 1, None),
    "layer normalization": ("y = LayerNormalization<axis=-1>(x, vector)", 1, [1, None]),
    "normalization over the axis": ("y = LayerNormalization<axis=1>(x, square)", 1, None),
    "softmax over another axis": ("y = Softmax<axis=1>(x)", 2, [2]),
    "softmax over the axis": ("y = Softmax<axis=1>(x)", 1, None),
    "reduction": ("y = ReduceMax<axes=[-1]>(x)", 1, [1]),
    "reduction of the axis": ("y = ReduceMax<axes=[1]>(x)", 1, None),
    "reduction in front that drops an axis": ("y = ReduceMax<axes=[0], keepdims=0>(x)", 0, [1]),
    "reduction of every axis": ("y = ReduceMax(x)", 1, None),
    "pooling": ("y = GlobalAveragePool(x)", 1, [1]),
    "pooling over the axis": ("y = GlobalAveragePool(x)", 2, None),
    "product": ("y = MatMul(x, square)", 1, [1, None]),
    "product, columns": ("y = MatMul(x, square)", 2, None),
    "product, batch": ("t = Transpose<perm=[0, 2, 1]>(x) y = MatMul(x, t)", 0, [0, 0]),
    "product, right operand": ("t = Transpose<perm=[0, 2, 1]>(x) y = MatMul(x, t)", 1, [1, None]),
    "matrix product": ("m = Reshape(x, matrix) y = Gemm(m, square, vector)", 0, [0, None, None]),
    "matrix product, transposed": ("m = Reshape(x, matrix) y = Gemm<transA=1>(m, plane_8)", 0, None),
    "matrix product, a summand for each row": ("m = Reshape(x, matrix) y = Gemm(m, square, m)", 0, None),
    "transpose": ("y = Transpose<perm=[1, 0, 2]>(x)", 0, [1]),
    "transpose of all axes": ("y = Transpose(x)", 1, [1]),
    "splitting of heads": ("y = Reshape(x, split)", 1, [1, None]),
    "splitting of heads, the heads": ("y = Reshape(x, split)", 2, None),
    "joining of tokens": ("y = Reshape(x, matrix)", 0, None),
    "zeros that are sizes": ("y = Reshape<allowzero=1>(x, split)", 1, None),
    "an axis that moves to the front": ("t = Transpose<perm=[1, 0, 2]>(x) y = Reshape(t, keep_first)", 0, [0, None]),
    "squeeze": ("c = Unsqueeze(x, axis_1) y = Squeeze(c, axis_1)", 1, [2, None]),
    "unsqueeze": ("y = Unsqueeze(x, axis_1)", 2, [1, None]),
    "unsqueeze, the new axis": ("y = Unsqueeze(x, axis_1)", 1, None),
    "concatenation": ("y = Concat<axis=2>(x, x)", 1, [1, 1]),
    "concatenation along the axis": ("y = Concat<axis=1>(x, x)", 1, None),
    "features": ("y = Slice(x, axis_1, three, two)", 1, [1, None, None, None]),
    "one feature": ("y = Gather<axis=2>(x, index)", 1, [1, None]),
    "a table of features in front": ("y = Gather<axis=0>(x, table)", 2, [1, None]),
    "a table of features, its axis": ("y = Gather<axis=0>(x, table)", 1, None),
    "one row": ("y = Gather<axis=0>(x, index)", 1, [2, None]),
    "unknown": ("y = CumSum(x, index)", 1, None),
}


@pytest.mark.parametrize("case", RULES)
def test_rule(case):
    text, axis, expected = RULES[case]
    model = model_of(
        f"g (float[B, S, 8] x, float[S, 8] plane) => (float y) {{ {text} }}",
        opset=20 if "Gelu" in text else 17,
        vector=np.ones(8, np.float32),
        column=np.ones((1, 1), np.float32),
        number=np.float32(1),
        square=np.ones((8, 8), np.float32),
        plane_8=np.ones((8, 8), np.float32),
        split=np.array([0, 0, 2, 4], np.int64),
        keep_first=np.array([0, -1], np.int64),
        matrix=np.array([-1, 8], np.int64),
        axis_1=np.array([1], np.int64),
        two=np.array([2], np.int64),
        three=np.array([3], np.int64),
        index=np.array(0, np.int64),
        table=np.array([[0, 0]], np.int64),
    )
    node = model.graph.outputs[0].producer()
    assert node is not None
    assert input_axes(node, axis, FIRST, SliceShapes(model)) == expected


def test_operand_that_may_be_broadcast():
    """One position of an axis of size 1 is all of it; of several positions it has none."""
    model = model_of("g (float[B, S, 8] x, float[B, T, 8] z) => (float y) { y = Add(x, z) }")
    node, shapes = model.graph[0], SliceShapes(model)
    assert input_axes(node, 1, FIRST, shapes) == [1, 1]
    assert input_axes(node, 1, Selection(-1, END), shapes) == [1, 1]
    assert input_axes(node, 1, SOME, shapes) is None
    same = model_of("g (float[B, S, 8] x, float[B, S, 8] z) => (float y) { y = Add(x, z) }")
    assert input_axes(same.graph[0], 1, SOME, SliceShapes(same)) == [1, 1]


def test_several_positions_that_change_their_place():
    """Behind the slice their number is not known, so that no constant can say it."""
    model = model_of(
        "g (float[1, S, 8] x) => (float y) { y = Reshape(x, target) }", target=np.array([-1, 2, 4], np.int64)
    )
    node, shapes = model.graph[0], SliceShapes(model)
    assert input_axes(node, 0, SOME, shapes) is None
    assert input_axes(node, 0, FIRST, shapes) == [1, None]


SELECTIONS = {
    "y = Gather<axis=1>(x, first)": (1, Selection(0, 1)),
    "y = Gather<axis=-2>(x, last)": (1, Selection(-1, END)),
    "y = Gather<axis=1>(x, one)": (1, Selection(1, 2)),
    "y = Gather<axis=1>(x, both)": None,
    "y = Slice(x, one, three, one)": (1, Selection(1, 3)),
    "y = Slice(x, one, three, one, one)": (1, Selection(1, 3)),
    "y = Slice(x, one, three, one, three)": None,
    "y = Slice(x, one_two, three_three, one_two)": None,
    "a = Cast<to=7>(x) b = Shape(a) y = Slice(x, b, b, b)": None,
    "y = Relu(x)": None,
}


@pytest.mark.parametrize("text", SELECTIONS)
def test_what_is_selected(text):
    model = model_of(
        f"g (float[B, S, 8] x) => (float y) {{ {text} }}",
        first=np.array(0, np.int64),
        last=np.array([-1], np.int64),
        one=np.array([1], np.int64),
        three=np.array([3], np.int64),
        both=np.array([0, 1], np.int64),
        one_two=np.array([1, 2], np.int64),
        three_three=np.array([3, 3], np.int64),
    )
    node = model.graph.outputs[0].producer()
    assert node is not None
    assert selected(node, SliceShapes(model)) == SELECTIONS[text]
