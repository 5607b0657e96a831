"""Padding is skipped: real tokens come out as before, whatever the mask, and products see nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import openvino
import pytest

from tests.passes.onnx.pass_checks import model_of, only, session_of
from tests.passes.onnx.token_checks import (
    PRODUCTS,
    RESIDUAL,
    SELECTED_MASK,
    encoder,
    feed_of,
    masks,
    pack,
    pack_without_check,
)
from tf_opt.passes.onnx.skip_padding import SkipPadding


def test_layer_of_a_transformer():
    """The docstring's example, with everything around it."""
    packed = pack(encoder(RESIDUAL), products=PRODUCTS)
    # x is packed once, the result of attention once; query, key, value and the output get all positions back.
    gathers = [node for node in packed.graph if node.op_type == "Gather"]
    assert len([node for node in gathers if "/packed" in str(node.name)]) == 2
    assert len([node for node in gathers if "/unpacked" in str(node.name)]) == 4


def test_only_the_mask_is_computed_for_all_positions():
    """The docstring's After: attention reads unpacked tensors, the next product reads packed ones."""
    packed = pack(encoder(RESIDUAL))
    softmax = only(packed, "Softmax")
    assert softmax.outputs[0].shape is None or len(softmax.outputs[0].shape) == 4
    query = next(node for node in packed.graph if node.outputs[0].name == "q4")
    assert query.inputs[0].producer().op_type == "Gather"
    dense = next(node for node in packed.graph if node.outputs[0].name == "dense")
    assert dense.inputs[0].producer().op_type == "Gather"


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
