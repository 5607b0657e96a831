from __future__ import annotations

import numpy as np
import pytest

from tests.passes.onnx.attention_graphs import BOTH_SCALED, HUGGING_FACE, KERAS, attention, mask_feeds
from tests.passes.onnx.pass_checks import apply_pass, model_of, only, ops
from tf_opt.passes.onnx.canonical_attention import CanonicalAttention
from tf_opt.passes.onnx.onnx_attention import OnnxAttention


def canonical(body, **options):
    model = attention(body, opset=23, **options)
    CanonicalAttention().run(model)
    return model


@pytest.mark.parametrize("body", [HUGGING_FACE, BOTH_SCALED, KERAS], ids=["mask", "no mask", "selection"])
def test_blocks_become_one_operator(body):
    result = apply_pass(OnnxAttention(), canonical(body), changes=1, feeds=mask_feeds())
    assert ops(result)["Attention"] == 1
    assert ops(result)["Softmax"] == 0
    expected = 0.25 if body is BOTH_SCALED else 0.5
    assert only(result, "Attention").attributes["scale"].as_float() == expected


def test_keys_that_are_transposed_back():
    text = """g (float[B, 2, S, 4] q, float[B, 2, T, 4] k, float[B, 2, T, 3] v) => (float[B, 2, S, 3] y) {
        kt = Transpose <perm=[0, 1, 3, 2]> (k)  s = MatMul(q, kt)  c = Mul(s, scale)
        p = Softmax <axis=-1> (c)  y = MatMul(p, v)
    }"""
    result = apply_pass(OnnxAttention(), model_of(text, 23, scale=np.float32(0.5)), changes=1)
    assert ops(result) == {"Attention": 1}
    assert [value.name for value in only(result, "Attention").inputs] == ["q", "k", "v"]


def test_a_selection_without_zeroed_values_stays():
    """A row in which every score is replaced has equal probabilities; adding the mask would not give that."""
    body = KERAS.replace("MatMul(z, vt)", "MatMul(p, vt)").replace("z = Where(mc, p, zero)", "")
    apply_pass(OnnxAttention(), canonical(body), changes=0, feeds=mask_feeds())


def test_a_selection_of_a_small_number_stays():
    body = KERAS
    apply_pass(OnnxAttention(), canonical(body, minus_big=np.float32(-10)), changes=0, feeds=mask_feeds())


def test_probabilities_that_are_read_elsewhere_stay():
    body = HUGGING_FACE + "  z = Relu(p)"
    model = canonical(body, outputs="float[B, S, 8] y, float[B, 2, S, S] z")
    apply_pass(OnnxAttention(), model, changes=0, feeds=mask_feeds())
    model = canonical(HUGGING_FACE, outputs="float[B, S, 8] y, float[B, 2, S, S] p")
    apply_pass(OnnxAttention(), model, changes=0, feeds=mask_feeds())


def test_an_output_behind_it():
    model = canonical(HUGGING_FACE.split("ot = ")[0], outputs="float[B, 2, S, 4] o")
    apply_pass(OnnxAttention(), model, changes=1, feeds=mask_feeds())


def test_below_opset_23_it_stays():
    apply_pass(OnnxAttention(), attention(HUGGING_FACE, opset=20), changes=0, feeds=mask_feeds())


def test_several_masks_are_added_and_widened_once():
    body = HUGGING_FACE.replace("a = Add(c, ma)", "b = Add(c, ma)  a = Add(b, position)")
    second = body.split("mu = Unsqueeze")[1].split("ma = Mul(mn, minus_big)")[1]
    names = "q k v q4 k4 v4 qt kt vt s c b a p o ot".split()
    for name in names:
        second = second.replace(f"{name} = ", f"{name}_2 = ")
        for before, after in (("(", ","), ("(", ")"), (" ", ")")):
            second = second.replace(f"{before}{name}{after}", f"{before}{name}_2{after}")
    model = canonical(
        body + second.replace("y = ", "z = "),
        outputs="float[B, S, 8] y, float[B, S, 8] z",
        inputs="float[B, S, 8] x, float[B, S] mask, float[S, S] position",
    )
    feeds = mask_feeds()
    for feed in feeds:
        length = feed["x"].shape[1]
        feed["position"] = np.random.default_rng(1).normal(size=(length, length)).astype(np.float32)
    result = apply_pass(OnnxAttention(), model, changes=2, feeds=feeds)
    assert ops(result)["Expand"] <= 1
    assert ops(result)["Add"] == 1
