"""What is made of packed tokens: outputs on the way, the first token, means and maxima over the real ones."""

from __future__ import annotations

import numpy as np

from tests.passes.onnx.pass_checks import ops, session_of
from tests.passes.onnx.token_checks import PRODUCTS, RESIDUAL, encoder, feed_of, pack


def test_graph_outputs_on_the_way():
    """Packed tensors and attention weights that are fetched: 0 where the position is padding."""
    model = encoder(RESIDUAL, outputs="float[B, S, 8] y, float[B, S, 8] q, float[B, 2, S, S] weights")
    pack(model, compares=("tokens", "tokens", "queries"), products=PRODUCTS)


def test_shared_intermediates():
    """What is packed once serves every reader, packed or not."""
    ends = """
        other = MatMul(normal, wq)
        third = Add(other, narrow)
        y = Add(third, normal)
        z = Relu(narrow)
    """
    packed = pack(
        encoder(ends, outputs="float[B, S, 8] y, float[B, S, 8] z, float[B, S, 8] narrow"),
        compares=("tokens",) * 3,
        products=PRODUCTS + 1,
    )
    names = [str(node.name) for node in packed.graph if node.op_type == "Gather"]
    assert len(names) == len(set(names))
    assert len([name for name in names if "/packed" in name]) == 2


def test_first_token():
    """It is 0 where it is padding, before anything is computed of it."""
    ends = "first = Gather<axis=1>(narrow, index) y = MatMul(first, wq)"
    for index in (np.array(0, np.int64), np.array([0], np.int64)):
        outputs = f"float[B, {'1, ' if index.ndim else ''}8] y"
        model = encoder(ends, outputs=outputs, index=index)
        packed = pack(model, compares=("first",), products=PRODUCTS)
        mask = np.array([[0, 1, 1], [1, 1, 0]])
        (result,) = session_of(packed).run(None, feed_of(model, mask))
        assert not result[0].any()
        assert result[1].any()


def test_first_token_by_a_slice_of_several_axes():
    model = encoder(
        "part = Slice(narrow, from, to, axes) y = Squeeze(part, axis_1)",
        outputs="float[B, 8] y",
        **{"from": np.array([0, 0, 0], np.int64)},
        to=np.array([2**31 - 1, 1, 2**31 - 1], np.int64),
        axes=np.array([0, 1, -1], np.int64),
        axis_1=np.array([1], np.int64),
    )
    pack(model, compares=("first",), products=PRODUCTS)


def test_first_token_of_what_attention_returns():
    ends = "first = Gather<axis=1>(joined, index) y = Tanh(first)"
    model = encoder(ends, outputs="float[B, 8] y", index=np.array(0, np.int64))
    packed = pack(model, compares=("first",), products=PRODUCTS)
    mask = np.array([[0, 1, 1], [1, 1, 0]])
    (result,) = session_of(packed).run(None, feed_of(model, mask))
    assert not result[0].any()


def test_mean_over_the_tokens():
    """Padding is multiplied by 0 in the original too, so that the sums are equal in every row."""
    ends = """
        column = Unsqueeze(real, last)
        kept = Mul(narrow, column)
        total = ReduceSum<keepdims=0>(kept, axis_1)
        count = ReduceSum<keepdims=0>(column, axis_1)
        bounded = Max(count, one)
        y = Div(total, bounded)
    """
    model = encoder(ends, outputs="float[B, 8] y", last=np.array([2], np.int64), axis_1=np.array([1], np.int64))
    packed = pack(model, compares=("all",), products=PRODUCTS)
    assert "Where" in ops(packed)


def test_sum_over_the_tokens_as_a_product():
    ends = "row = Unsqueeze(real, axis_1) total = MatMul(row, narrow) y = Squeeze(total, axis_1)"
    model = encoder(ends, outputs="float[B, 8] y", axis_1=np.array([1], np.int64))
    pack(model, compares=("all",), products=PRODUCTS)


def test_mean_over_the_tokens_by_weights():
    ends = """
        column = Unsqueeze(real, last)
        count = ReduceSum<keepdims=1>(column, axis_1)
        shares = Div(column, count)
        kept = Mul(narrow, shares)
        y = ReduceSum<keepdims=0>(kept, axis_1)
    """
    model = encoder(ends, outputs="float[B, 8] y", last=np.array([2], np.int64), axis_1=np.array([1], np.int64))
    pack(model, compares=("rows",), products=PRODUCTS)


def test_maximum_over_the_tokens():
    ends = """
        column = Unsqueeze(real, last)
        gone = Sub(one, column)
        low = Mul(gone, minus)
        lowered = Add(narrow, low)
        y = ReduceMax<axes=[1], keepdims=0>(lowered)
    """
    pack(encoder(ends, outputs="float[B, 8] y", last=np.array([2], np.int64)), compares=("rows",), products=PRODUCTS)
