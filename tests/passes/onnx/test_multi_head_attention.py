from __future__ import annotations

import numpy as np
import pytest

from tests.passes.onnx.attention_graphs import (
    BOTH_SCALED,
    DISTILBERT,
    HUGGING_FACE,
    KERAS,
    attention,
    mask_feeds,
)
from tests.passes.onnx.pass_checks import apply_pass, ops, session_of
from tf_opt.passes.onnx.canonical_attention import CanonicalAttention
from tf_opt.passes.onnx.multi_head_attention import MultiHeadAttention


def canonical(body, **options):
    model = attention(body, **options)
    CanonicalAttention().run(model)
    return model


def run(body, changes, **options):
    return apply_pass(MultiHeadAttention(), canonical(body, **options), changes=changes, feeds=mask_feeds())


@pytest.mark.parametrize(
    "body", [HUGGING_FACE, DISTILBERT, BOTH_SCALED, KERAS], ids=["hugging face", "distilbert", "no mask", "keras"]
)
def test_blocks_become_one_operator_with_the_splitting_of_heads(body):
    result = run(body, 1)
    (node,) = [node for node in result.graph if node.op_type == "MultiHeadAttention"]
    assert node.domain == "com.microsoft"
    assert node.attributes["num_heads"].as_int() == 2
    assert node.outputs[0].name == "y"
    assert ops(result)["Transpose"] == ops(result)["Softmax"] == 0
    assert ops(result)["MatMul"] == 3
    assert [value.name for value in node.inputs[:2]] == ["q", "k"]


def test_onnx_runtime_runs_it_with_its_own_optimizer():
    result = run(HUGGING_FACE, 1)
    feed = mask_feeds()[0]
    expected = session_of(attention(HUGGING_FACE)).run(None, feed)[0]
    np.testing.assert_allclose(session_of(result, optimize=True).run(None, feed)[0], expected, rtol=1e-4, atol=1e-5)


def test_a_selection_without_zeroed_values_stays():
    body = KERAS.replace("MatMul(z, vt)", "MatMul(p, vt)").replace("z = Where(mc, p, zero)", "")
    run(body, 0)


@pytest.mark.parametrize("inner", ["p", "o", "ot", "a"])
def test_outputs_inside_and_other_readers_keep_the_block(inner):
    shape = {"p": "B, 2, S, S", "a": "B, 2, S, S", "o": "B, 2, S, 4", "ot": "B, S, 2, 4"}[inner]
    run(HUGGING_FACE, 0, outputs=f"float[B, S, 8] y, float[{shape}] {inner}")
    run(f"{HUGGING_FACE}  z = Relu({inner})", 0, outputs=f"float[B, S, 8] y, float[{shape}] z")


TURN = "Transpose <perm=[0, 2, 1, 3]>"
OTHERWISE = {
    "not turned back": HUGGING_FACE.split("ot = ")[0] + "  y = Reshape(o, joined)",
    "turned otherwise": HUGGING_FACE.replace(f"ot = {TURN}", "ot = Transpose <perm=[0, 2, 3, 1]>"),
    "activation between": HUGGING_FACE.replace(f"qt = {TURN} (q4)", f"qn = Relu(q4)  qt = {TURN} (qn)"),
    "split otherwise": HUGGING_FACE.replace(
        "v4 = Reshape(v, heads)", "vs = Transpose <perm=[0, 2, 1]> (v)  v4 = Reshape(vs, mixed)"
    ),
}


@pytest.mark.parametrize("body", OTHERWISE.values(), ids=OTHERWISE)
def test_other_ways_of_splitting_and_joining_stay(body):
    constants = {"joined": np.array([0, -1, 8]), "mixed": np.array([0, -1, 2, 4])}
    run(body, 0, outputs="float[B, C, D] y", **constants)


def test_models_with_float64_stay():
    body = HUGGING_FACE.replace("o = MatMul(p, vt)", "pd = Cast <to=11> (p)  pf = Cast <to=1> (pd)  o = MatMul(p, vt)")
    run(body + "  z = Relu(pf)", 0, outputs="float[B, S, 8] y, float[B, 2, S, S] z")
    body = HUGGING_FACE + "  xd = Cast <to=11> (x)  z = Relu(xd)"
    run(body, 0, outputs="float[B, S, 8] y, double[B, S, 8] z")
