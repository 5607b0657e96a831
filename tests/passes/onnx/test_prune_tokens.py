"""Tokens that nobody reads are not computed, and the others come out as before."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.passes.onnx.pass_checks import apply_pass, model_of, only, ops, random_feeds, session_of
from tests.passes.onnx.token_checks import PRODUCTS, SELECTED_MASK, encoder, pack
from tf_opt.passes.onnx.prune_tokens import PruneTokens

FIRST = "normed = LayerNormalization<axis=-1>(narrow, gamma, beta) y = Gather<axis=1>(normed, index)"
INDEX = {"index": np.array(0, np.int64)}
SIZES = ({"B": 2, "S": 3}, {"B": 1, "S": 1}, {"B": 3, "S": 7})


def prune(model: ir.Model, changes: int | None = None, **options: Any) -> ir.Model:
    return apply_pass(PruneTokens(), model, changes=changes, sizes=SIZES, **options)


def rows_of(model: ir.Model, name: str, rank: int = 3) -> int:
    """Returns how many positions of a tensor are computed for 7: the length of its axis before the last."""
    proto = ir.serde.serialize_model(model)
    shape = [f"D{axis}" for axis in range(rank)]
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, shape))
    (feed,) = random_feeds(model, [{"B": 3, "S": 7}])
    (result,) = session_of(ir.serde.deserialize_model(proto)).run(None, feed)
    return int(result.shape[-2])


def test_classifier_on_the_first_token():
    """The docstring's example."""
    pruned = prune(encoder(FIRST, outputs="float[B, 8] y", **INDEX))
    assert ops(pruned)["Gather"] == 0
    assert {name: rows_of(pruned, name) for name in ("q", "k", "v", "dense", "wide_layer", "narrow")} == {
        "q": 1,
        "k": 7,
        "v": 7,
        "dense": 1,
        "wide_layer": 1,
        "narrow": 1,
    }
    assert rows_of(pruned, "weights", 4) == 1
    # One slice of the layer's input serves the queries and the residual.
    assert only(pruned, "Slice").inputs[0].name == "x"
    assert only(pruned, "Squeeze").outputs[0].name == "y"


@pytest.mark.parametrize(
    ("start", "end", "outputs"),
    [(0, 1, "float[B, 1, 8] y"), (-1, 2**63 - 1, "float[B, 1, 8] y"), (-1, 2**31 - 1, "float[B, 1, 8] y")],
)
def test_slice_of_one_position(start, end, outputs):
    ends = "y = Slice(narrow, start, end, axes)"
    model = encoder(
        ends,
        outputs=outputs,
        start=np.array([0, start], np.int64),
        end=np.array([2**63 - 1, end], np.int64),
        axes=np.array([0, 1], np.int64),
    )
    pruned = prune(model)
    assert only(pruned, "Identity").outputs[0].name == "y"
    assert rows_of(pruned, "q") == 1


def test_last_token_by_its_index():
    pruned = prune(encoder(FIRST, outputs="float[B, 8] y", index=np.array(-1, np.int64)))
    assert rows_of(pruned, "q") == 1


def test_slice_of_several_positions():
    """They may be more than there are; the slice is then shorter, in front of the layer as behind it."""
    ends = "y = Slice(narrow, start, end, axes)"
    bounds = {name: np.array([number], np.int64) for name, number in (("start", 1), ("end", 4), ("axes", 1))}
    pruned = prune(encoder(ends, outputs="float[B, T, 8] y", **bounds))
    assert rows_of(pruned, "q") == 3
    assert rows_of(pruned, "k") == 7


def test_slice_of_several_positions_stops_at_what_may_be_broadcast():
    text = """g (float[B, S, 8] x, float[B, T, 8] z) => (float[B, U, 8] y) {
        a = Add(x, z) b = MatMul(a, w) y = Slice(b, start, end, axes)
    }"""
    bounds = {name: np.array([number], np.int64) for name, number in (("start", 1), ("end", 3), ("axes", 1))}
    model = model_of(text, w=np.ones((8, 8), np.float32), **bounds)
    feeds = [
        {"x": np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32), "z": np.ones((2, 1, 8), np.float32)}
    ]
    pruned = apply_pass(PruneTokens(), model, changes=1, feeds=feeds)
    assert only(pruned, "Slice").inputs[0].name == "a"


def test_two_layers():
    """Only the last one is pruned: all keys and values of it are computed from all tokens."""
    ends = """
        q_2 = MatMul(narrow, wq)  k_2 = MatMul(narrow, wk)
        t_2 = Transpose<perm=[0, 2, 1]>(k_2)
        s_2 = MatMul(q_2, t_2)
        p_2 = Softmax<axis=-1>(s_2)
        a_2 = MatMul(p_2, narrow)
        y = Gather<axis=1>(a_2, index)
    """
    pruned = prune(encoder(ends, outputs="float[B, 8] y", **INDEX))
    assert (rows_of(pruned, "q_2"), rows_of(pruned, "k_2"), rows_of(pruned, "narrow")) == (1, 7, 7)


def test_computed_targets():
    """A Reshape whose target is computed keeps the other sizes as they are computed."""
    ends = """
        shape = Shape(x)
        batch = Slice(shape, start, end)
        target = Concat<axis=0>(batch, rest)
        parted = Reshape(narrow, target)
        flat = Relu(parted)
        joined_again = Reshape(flat, shape)
        y = Gather<axis=1>(joined_again, index)
    """
    constants = {"start": np.array([0], np.int64), "end": np.array([1], np.int64)}
    model = encoder(ends, outputs="float[B, 8] y", rest=np.array([-1, 2, 4], np.int64), **constants, **INDEX)
    assert rows_of(prune(model), "narrow") == 1


def test_selected_scores_and_raw_normalization():
    ends = """
        mean = ReduceMean<axes=[-1], keepdims=1>(narrow)
        centred = Sub(narrow, mean)
        pooled = GlobalAveragePool(centred)
        flat = Add(centred, pooled)
        wide_1 = Unsqueeze(flat, axes_1_2)
        narrow_1 = Squeeze(wide_1, axes_1_2)
        both = Concat<axis=2>(narrow_1, centred)
        part = Slice(both, five, nine, two)
        y = Gather<axis=1>(part, index)
    """
    constants = {name: np.array([number], np.int64) for name, number in (("five", 5), ("nine", 9), ("two", 2))}
    model = encoder(ends, outputs="float[B, 4] y", mask=SELECTED_MASK, mask_type="bool[B, S]", **constants, **INDEX)
    assert rows_of(prune(model), "q") == 1


def test_gemm_over_joined_heads():
    text = """g (float[B, S, 8] x) => (float[B, 8] y) {
        a = MatMul(x, w) b = Gather<axis=1>(a, index) c = Gemm(b, w, d) y = Relu(c)
    }"""
    model = model_of(text, w=np.ones((8, 8), np.float32), d=np.ones(8, np.float32), **INDEX)
    pruned = prune(model, changes=1)
    assert rows_of(pruned, "a") == 1


def test_nothing_where_all_tokens_are_fetched():
    model = encoder(FIRST, outputs="float[B, 8] y, float[B, S, 8] normed", **INDEX)
    prune(model, changes=0)


def test_first_row_of_a_batch():
    """An axis of rows is as good as one of positions: keys and values of the other rows go as well."""
    pruned = prune(encoder("y = Gather<axis=0>(narrow, index)", outputs="float[S, 8] y", **INDEX))
    assert {str(node.inputs[0].name) for node in pruned.graph if node.op_type == "Slice"} == {"x", "mask"}


def test_stops_at_a_fetched_intermediate():
    pruned = prune(encoder(FIRST, outputs="float[B, 8] y, float[B, S, 8] normal", **INDEX))
    assert rows_of(pruned, "normal") == 7
    assert rows_of(pruned, "wide_layer") == 1
    assert only(pruned, "Slice").inputs[0].name == "normal"


def test_stops_at_a_shared_intermediate():
    """Another reader needs all positions."""
    ends = f"{FIRST} total = ReduceSum<keepdims=0>(active, axis_1)"
    model = encoder(ends, outputs="float[B, 8] y, float[B, 16] total", axis_1=np.array([1], np.int64), **INDEX)
    pruned = prune(model)
    assert rows_of(pruned, "active") == 7
    assert rows_of(pruned, "narrow") == 1


def test_two_readers_of_the_same_token():
    ends = "y = Gather<axis=1>(narrow, index) z = Slice(narrow, zeros, ones, ones)"
    constants = {"zeros": np.array([0], np.int64), "ones": np.array([1], np.int64)}
    pruned = prune(encoder(ends, outputs="float[B, 8] y, float[B, 1, 8] z", **constants, **INDEX))
    assert rows_of(pruned, "q") == 1


def test_two_readers_of_different_tokens():
    ends = "y = Gather<axis=1>(narrow, index) z = Gather<axis=1>(narrow, other)"
    model = encoder(ends, outputs="float[B, 8] y, float[B, 8] z", other=np.array(-1, np.int64), **INDEX)
    prune(model, changes=0)


NOT_MOVED = {
    "a running sum": "a = CumSum(narrow, axis) y = Gather<axis=1>(a, index)",
    "a softmax over positions": "a = Softmax<axis=1>(narrow) y = Gather<axis=1>(a, index)",
    "normalization over positions": "a = LayerNormalization<axis=1>(narrow, plane) y = Gather<axis=1>(a, index)",
    "the shape is read": "a = Shape(narrow) b = Cast<to=1>(a) c = ReduceSum(b) d = Add(narrow, c) "
    "y = Gather<axis=1>(narrow, index) z = Gather<axis=1>(d, index)",
    "positions become features": "a = Reshape(narrow, rows_first) y = Gather<axis=1>(a, index)",
    "a computed position": "a = ReduceMax<keepdims=0>(mask) y = Gather<axis=1>(narrow, a)",
    "several positions by index": "y = Gather<axis=1>(narrow, two)",
    "every other position": "y = Slice(narrow, zero_1, far, one_1, two_1)",
    "features": "y = Gather<axis=2>(narrow, index)",
}


@pytest.mark.parametrize("case", NOT_MOVED)
def test_leaves_alone(case):
    outputs = {
        "the shape is read": "float[B, 8] y, float[B, 8] z",
        "several positions by index": "float[B, 2, 8] y",
        "every other position": "float[B, T, 8] y",
        "features": "float[B, S] y",
    }
    model = encoder(
        NOT_MOVED[case],
        outputs=outputs.get(case, "float[B, N] y"),
        axis=np.array(1, np.int64),
        plane=np.ones((1, 8), np.float32),
        rows_first=np.array([0, 8, -1], np.int64),
        two=np.array([0, 0], np.int64),
        zero_1=np.array([0], np.int64),
        one_1=np.array([1], np.int64),
        two_1=np.array([2], np.int64),
        far=np.array([2**31 - 1], np.int64),
        **INDEX,
    )
    sizes = [{"B": 1, "S": 1}] if "normalization" in case else [{"B": 2, "S": 3}]
    apply_pass(PruneTokens(), model, changes=0, sizes=sizes)


def test_a_slice_that_saves_nothing_stays():
    text = """g (float[B, S, 8] x) => (float[B, 8] y) {
        a = Relu(x) b = Add(a, x) y = Gather<axis=1>(b, index)
    }"""
    prune(model_of(text, **INDEX), changes=0)


def test_together_with_skipped_padding():
    """Keys and values of real tokens, one query for each row."""
    pruned = prune(encoder(FIRST, outputs="float[B, 8] y", **INDEX))
    packed = pack(pruned, products=2, compares=("first",))
    assert rows_of(packed, "q") == 1
    unpruned = pack(encoder(FIRST, outputs="float[B, 8] y", **INDEX), products=PRODUCTS, compares=("first",))
    assert ops(packed)["Gather"] < ops(unpruned)["Gather"]
