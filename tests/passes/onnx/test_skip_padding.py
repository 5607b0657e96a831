"""Padding is skipped: real tokens come out as before, whatever the mask, and what cannot be proven is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.passes.onnx.pass_checks import model_of, only, ops, session_of
from tests.passes.onnx.token_checks import (
    PRODUCTS,
    SELECTED_MASK,
    encoder,
    feed_of,
    masks,
    pack,
)
from tf_opt.errors import PassError, SkipPaddingError
from tf_opt.passes.onnx.nodes import constant
from tf_opt.passes.onnx.pass_base import OnnxPipeline
from tf_opt.passes.onnx.skip_padding import SkipPadding

RESIDUAL = "y = Add(narrow, normal)"


def test_layer_of_a_transformer():
    """The docstring's example, with everything around it."""
    packed = pack(encoder(RESIDUAL), products=PRODUCTS)
    # x is packed once, the result of attention once; query, key, value and the output get all positions back.
    gathers = [node for node in packed.graph if node.op_type == "Gather"]
    assert len([node for node in gathers if "/packed" in str(node.name)]) == 2
    assert len([node for node in gathers if "/unpacked" in str(node.name)]) == 4


def test_products_see_real_tokens_only():
    packed = pack(encoder(RESIDUAL))
    products = [node for node in packed.graph if node.op_type == "MatMul" and str(node.inputs[1].name).startswith("w")]
    assert len(products) == PRODUCTS
    proto = ir.serde.serialize_model(packed)
    names = [str(node.outputs[0].name) for node in products]
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, [1, "T", "N"]) for name in names)
    session = session_of(ir.serde.deserialize_model(proto))
    for kind, mask in masks(3, 7):
        results = session.run(names, feed_of(packed, mask))
        assert {result.shape[:2] for result in results} == {(1, max(1, mask.sum()))}, kind


def test_mask_that_selects_scores():
    pack(encoder(RESIDUAL, mask=SELECTED_MASK, mask_type="bool[B, S]"), products=PRODUCTS)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool", "float", "float16", "double"])
def test_mask_of_each_type(dtype):
    pack(encoder(RESIDUAL, mask_type=f"{dtype}[B, S]"), shapes=[(3, 7)])


def test_mask_with_axes_between():
    selected = SELECTED_MASK.replace("Unsqueeze(real, axes_1_2)", "Unsqueeze(real, axis_1)")
    pack(
        encoder(RESIDUAL, mask=selected, mask_type="bool[B, 1, S]", axis_1=np.array([1], np.int64)),
        products=PRODUCTS,
    )


def test_mask_that_is_real_where_it_is_not_zero():
    model = encoder(RESIDUAL, mask_type="float[B, S]")
    packed = pack(model)
    feed = feed_of(model, np.array([[1, 0.5, 0, 0], [0.25, 1, 1, 0]]))
    (result,) = session_of(packed).run(None, feed)
    assert (np.abs(result).sum(axis=-1) > 0).tolist() == [[True, True, False, False], [True, True, True, False]]


def test_sizes_that_are_numbers():
    """As many positions as features, and as many rows as heads: sizes alone say nothing."""
    model = encoder(
        RESIDUAL,
        outputs="float[2, 8, 8] y",
        mask_type="int64[2, 8]",
        x_type="float[2, 8, 8]",
        split=np.array([2, 8, 2, 4], np.int64),
        join=np.array([2, -1, 8], np.int64),
    )
    pack(model, products=PRODUCTS, shapes=[(2, 8)])


def test_one_row_by_design():
    model = encoder(RESIDUAL, outputs="float[1, S, 8] y", mask_type="int64[1, S]", x_type="float[1, S, 8]")
    pack(model, products=PRODUCTS, shapes=[(1, 5), (1, 8)])


def test_constant_for_each_position():
    """Position embeddings behind a product, in a model made for one length."""
    table = np.random.default_rng(0).normal(size=(1, 8, 8)).astype(np.float32)
    model = encoder(
        "p = Add(narrow, table) y = Add(p, normal)",
        outputs="float[B, 8, 8] y",
        mask_type="int64[B, 8]",
        x_type="float[B, 8, 8]",
        table=table,
    )
    pack(model, shapes=[(1, 8), (3, 8)])


def test_inputs_for_each_position_and_for_each_row():
    text = """g (float[B, S, 8] x, float[1, S, 8] positions, float[B, 1, 8] rows, int64[B, S] mask)
        => (float[B, S, 8] y) {
        a = MatMul(x, w) b = Add(a, positions) c = Mul(b, rows) d = Cast<to=1>(mask) e = Unsqueeze(d, last)
        y = Mul(c, e)
    }"""
    w = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    pack(model_of(text, w=w, last=np.array([2], np.int64)), products=1)


def test_computed_targets_of_reshapes():
    """Shape arithmetic that reads a packed tensor gets the sizes that it had."""
    ends = """
        shape = Shape(narrow)
        rows = Slice(shape, start, end)
        target = Concat<axis=0>(rows, rest)
        parted = Reshape(narrow, target)
        turned = Transpose<perm=[0, 2, 1, 3]>(parted)
        flat = Transpose<perm=[0, 2, 1, 3]>(turned)
        y = Reshape(flat, shape)
    """
    model = encoder(
        ends, start=np.array([0], np.int64), end=np.array([1], np.int64), rest=np.array([-1, 2, 4], np.int64)
    )
    packed = pack(model)
    assert not any(
        "unpacked" in str(node.inputs[0].name) for node in packed.graph if node.op_type == "Shape" and node.inputs[0]
    )


def test_products_of_matrices():
    """Each dense layer joins rows and positions, as Keras's Tensordot does."""
    ends = """
        flat = Reshape(normal, matrix)
        more = MatMul(flat, w3)
        biased = Add(more, beta)
        shape = Shape(normal)
        three = Reshape(biased, shape)
        y = Add(three, narrow)
    """
    w3 = np.random.default_rng(3).normal(size=(8, 8)).astype(np.float32)
    packed = pack(encoder(ends, w3=w3, matrix=np.array([-1, 8], np.int64)), products=PRODUCTS + 1)
    # Between the two there is nothing but real tokens.
    assert len([node for node in packed.graph if "/unpacked" in str(node.name)]) == 4


def test_heads_that_are_split_from_a_matrix():
    ends = """
        flat = Reshape(normal, matrix)
        more = MatMul(flat, w3)
        shape = Shape(x)
        rows = Slice(shape, start, end)
        target = Concat<axis=0>(rows, rest)
        parted = Reshape(more, target)
        turned = Transpose<perm=[0, 2, 1, 3]>(parted)
        back = Transpose<perm=[0, 2, 1, 3]>(turned)
        y = Reshape(back, shape)
    """.replace("back", "returned")
    constants = {
        "w3": np.random.default_rng(3).normal(size=(8, 8)).astype(np.float32),
        "matrix": np.array([-1, 8], np.int64),
        "start": np.array([0], np.int64),
        "end": np.array([1], np.int64),
        "rest": np.array([-1, 2, 4], np.int64),
    }
    packed = pack(encoder(ends, **constants), products=PRODUCTS + 1)
    parted = next(node for node in packed.graph if node.outputs[0].name == "parted")
    assert constant(parted.inputs[1]).tolist() == [0, 0, 2, 4]


def test_shapes_of_packed_tensors():
    """However they are asked for: of joined tokens, from some axis on, of what has no other source."""
    ends = """
        flat = Reshape(narrow, matrix)
        more = MatMul(flat, wq)
        whole = Shape(more)
        tail = Shape<start=1>(narrow)
        head = Shape<end=2>(narrow)
        none = Shape<start=3>(narrow)
        target = Concat<axis=0>(head, none, last)
        same = Reshape(more, whole)
        three = Reshape(same, target)
        size = ReduceProd<keepdims=0>(tail)
        number = Cast<to=1>(size)
        y = Div(three, number)
    """
    constants = {"matrix": np.array([-1, 8], np.int64), "last": np.array([8], np.int64)}
    pack(encoder(ends, **constants), products=PRODUCTS + 1)


def test_work_on_each_vector_by_itself():
    """Axes of features may be added, turned, taken apart and put together without any unpacking."""
    ends = """
        wide = Unsqueeze(narrow, two)
        turned = Transpose<perm=[0, 1, 3, 2]>(wide)
        cubed = MatMul(turned, weight)
        flat = Squeeze(cubed, three)
        left, right = Split<axis=2>(flat, halves)
        both = Concat<axis=-1>(right, left, narrow)
        part = Slice(both, two, ten, minus_one)
        chances = Softmax<axis=-1>(part)
        best = ReduceMax<axes=[-1], keepdims=1>(chances)
        y = Mul(part, best)
    """.replace("wide", "wider")
    constants = {
        name: np.array([number], np.int64)
        for name, number in (("two", 2), ("three", 3), ("ten", 10), ("minus_one", -1))
    }
    weight = np.ones((1, 1, 1, 1), np.float32) * 2
    packed = pack(encoder(ends, weight=weight, halves=np.array([4, 4], np.int64), **constants), products=PRODUCTS + 1)
    assert len([node for node in packed.graph if "/unpacked" in str(node.name)]) == 4


def test_joined_tokens_from_the_start():
    text = """g (float[B, S, 8] x, int64[B, S] mask) => (float[B, S, 8] y) {
        flat = Reshape(x, matrix) a = Gemm(flat, w, b) shape = Shape(x) back = Reshape(a, shape)
        r = Cast<to=1>(mask) m = Unsqueeze(r, last) y = Mul(back, m)
    }"""
    random = np.random.default_rng(0)
    constants = {
        "w": random.normal(size=(8, 8)).astype(np.float32),
        "b": random.normal(size=8).astype(np.float32),
        "matrix": np.array([-1, 8], np.int64),
        "last": np.array([2], np.int64),
    }
    pack(model_of(text, **constants), products=1)


def test_raw_layer_normalization_and_gelu():
    ends = """
        mean = GlobalAveragePool(narrow)
        centred = Sub(narrow, mean)
        squares = Mul(centred, centred)
        variance = ReduceMean<axes=[2], keepdims=1>(squares)
        deviation = Sqrt(variance)
        normalized = Div(centred, deviation)
        erf = Erf(normalized)
        half = Mul(normalized, scale)
        y = Mul(half, erf)
    """
    packed = pack(encoder(ends), products=PRODUCTS)
    assert len([node for node in packed.graph if "/unpacked" in str(node.name)]) == 4


def test_graph_outputs_on_the_way():
    """Packed tensors and attention weights that are fetched: 0 where the position is padding."""
    model = encoder(RESIDUAL, outputs="float[B, S, 8] y, float[B, S, 8] q, float[B, 2, S, S] weights")
    pack(model, compares=("tokens", "tokens", "queries"), products=PRODUCTS)


def pack_without_check(model: ir.Model) -> ir.Model:
    packed = model.clone()
    assert SkipPadding("mask").run(packed) > 0
    return packed


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


def test_maximum_over_the_tokens():
    ends = """
        column = Unsqueeze(real, last)
        gone = Sub(one, column)
        low = Mul(gone, minus)
        lowered = Add(narrow, low)
        y = ReduceMax<axes=[1], keepdims=0>(lowered)
    """
    pack(encoder(ends, outputs="float[B, 8] y", last=np.array([2], np.int64)), compares=("rows",), products=PRODUCTS)


def test_nothing_of_one_row_reaches_another():
    """Even what multiplies to NaN: a row that overflows is that row's misfortune."""
    model = encoder(RESIDUAL)
    packed = pack_without_check(model)
    for kind, mask in masks(4, 6):
        if mask[1].sum() == 0:
            continue
        feed = feed_of(model, mask)
        (expected,) = session_of(packed).run(None, feed)
        feed["x"][1] = np.inf
        (actual,) = session_of(packed).run(None, feed)
        others = [0, 2, 3]
        np.testing.assert_array_equal(actual[others], expected[others], err_msg=kind)
        assert not np.isfinite(actual[1][mask[1] == 1]).any()
        assert not actual[mask == 0].any()


def test_mask_that_is_broadcast_to_the_batch():
    model = encoder(RESIDUAL, mask_type="int64[M, S]")
    packed = pack_without_check(model)
    random = np.random.default_rng(0)
    for mask in ([1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]):
        feed = {"x": random.normal(size=(3, 4, 8)).astype(np.float32), "mask": np.array([mask])}
        (expected,), (actual,) = session_of(model).run(None, feed), session_of(packed).run(None, feed)
        real = np.array(mask, bool)
        np.testing.assert_allclose(actual[:, real], expected[:, real], atol=1e-5)
        assert not actual[:, ~real].any()


def test_empty_batch():
    model = encoder(RESIDUAL)
    packed = pack_without_check(model)
    (result,) = session_of(packed).run(None, feed_of(model, np.ones((0, 4))))
    assert result.shape == (0, 4, 8)


def test_openvino_computes_the_same_bits():
    openvino = pytest.importorskip("openvino")
    model = encoder(RESIDUAL)
    packed = pack_without_check(model)
    core = openvino.Core()

    def run(which: ir.Model, feed: dict[str, Any]) -> Any:
        proto = ir.serde.serialize_model(which).SerializeToString()
        compiled = core.compile_model(core.read_model(proto), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return np.array(compiled(feed)[0])

    for shape in ((1, 5), (3, 7)):
        for kind, mask in masks(*shape):
            feed = feed_of(model, mask)
            expected, actual = run(model, feed), run(packed, feed)
            np.testing.assert_array_equal(actual[mask == 1], expected[mask == 1], err_msg=kind)
            assert not actual[mask == 0].any()


def test_changed_outputs_are_named():
    model = encoder(RESIDUAL, outputs="float[B, S, 8] y, float[B, 1, 1, S] bias")
    skip = SkipPadding("mask")
    skip.run(model)
    assert skip.changed_outputs == ("y",)


def test_nothing_to_pack():
    text = "g (float[B, S, 8] x, int64[B, S] mask) => (float[B, S, 8] y) { y = Relu(x) }"
    pack(model_of(text), products=0, compares=("all",))
    text = "g (float[B, S, 8] x, int64[B, 1] mask) => (float[B, S, 8] y) { y = MatMul(x, w) }"
    assert SkipPadding("mask").run(model_of(text, w=np.ones((8, 8), np.float32))) == 0


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


def test_only_the_mask_is_computed_for_all_positions():
    """The docstring's After: attention reads unpacked tensors, the next product reads packed ones."""
    packed = pack(encoder(RESIDUAL))
    softmax = only(packed, "Softmax")
    assert softmax.outputs[0].shape is None or len(softmax.outputs[0].shape) == 4
    query = next(node for node in packed.graph if node.outputs[0].name == "q4")
    assert query.inputs[0].producer().op_type == "Gather"
    dense = next(node for node in packed.graph if node.outputs[0].name == "dense")
    assert dense.inputs[0].producer().op_type == "Gather"
