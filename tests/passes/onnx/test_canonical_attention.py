from __future__ import annotations

import numpy as np
import pytest

from tests.passes.onnx.attention_graphs import BOTH_SCALED, DISTILBERT, HUGGING_FACE, KERAS, attention, mask_feeds
from tests.passes.onnx.pass_checks import apply_pass, only, ops
from tf_opt.passes.onnx.canonical_attention import CanonicalAttention


def run(body, changes, **options):
    return apply_pass(CanonicalAttention(), attention(body, **options), changes=changes, feeds=mask_feeds())


def chain_to_softmax(result):
    """Operators from the first product to the softmax."""
    value, found = only(result, "Softmax").inputs[0], []
    while not found or found[-1] != "MatMul":
        node = value.producer()
        found.append(node.op_type)
        value = node.inputs[1 if node.op_type == "Where" else 0]
    return found[::-1]


def test_the_form_of_hugging_face_is_canonical():
    result = run(HUGGING_FACE, 0)
    assert chain_to_softmax(result) == ["MatMul", "Mul", "Add"]


def test_a_scaled_query_and_a_mask_on_the_left():
    result = run(DISTILBERT, 1)
    assert chain_to_softmax(result) == ["MatMul", "Mul", "Add"]
    assert only(result, "Softmax").inputs[0].producer().inputs[1].name == "ma"


def test_scalings_in_several_places_are_multiplied():
    result = run(BOTH_SCALED, 1)
    assert chain_to_softmax(result) == ["MatMul", "Mul"]
    assert ops(result)["Div"] == 0
    (scaling,) = [node for node in result.graph if node.op_type == "Mul"]
    assert scaling.inputs[1].const_value.numpy() == pytest.approx(0.25)


def test_scalings_that_cancel_go():
    result = run(BOTH_SCALED, 1, scale=np.float32(2))
    assert chain_to_softmax(result) == ["MatMul"]


def test_probabilities_that_are_set_to_zero():
    result = run(KERAS, 1)
    assert only(result, "Softmax").outputs[0].uses()[0].node.op_type == "MatMul"
    assert chain_to_softmax(result) == ["MatMul", "Mul", "Where"]


def test_a_condition_that_differs_between_queries_stays():
    body = KERAS.replace("z = Where(mc, p, zero)", "z = Where(mt, p, zero)")
    body = body.replace("mc = Cast", "mx = Transpose <perm=[0, 1, 3, 2]> (mu)  mt = Cast <to=9> (mx)  mc = Cast")
    result = run(body, 1)  # The scaling moves.
    assert only(result, "Softmax").outputs[0].uses()[0].node.op_type == "Where"


def test_a_number_added_to_all_scores_goes():
    body = HUGGING_FACE.replace("c = Mul(s, scale)", "d = Mul(s, scale)  c = Add(tiny, d)")
    assert chain_to_softmax(run(body, 1, tiny=np.float32(1e-9))) == ["MatMul", "Mul", "Add"]
    assert chain_to_softmax(run(body, 1, tiny=np.float32(3))) == ["MatMul", "Mul", "Add"]


COMPUTED_JOIN = HUGGING_FACE.replace("y = Reshape(ot, joined)", "h = Shape <start=0, end=1> (x)")
COMPUTED_JOIN += "  t = Concat <axis=0> (h, rest)  y = Reshape(ot, t)"


def test_joining_takes_batch_and_sequence_from_the_tensor():
    body = HUGGING_FACE.replace(
        "y = Reshape(ot, joined)", "h = Shape <start=0, end=1> (x)  t = Concat <axis=0> (h, rest)"
    )
    body += "  y = Reshape(ot, t)"
    result = run(COMPUTED_JOIN, 1, rest=np.array([-1, 8]))
    assert result.graph.outputs[0].producer().inputs[1].const_value.numpy().tolist() == [0, 0, 8]


def test_joining_into_something_else_stays():
    body = HUGGING_FACE.replace(
        "y = Reshape(ot, joined)", "h = Shape <start=0, end=1> (x)  t = Concat <axis=0> (h, rest)"
    )
    body += "  y = Reshape(ot, t)"
    run(COMPUTED_JOIN, 0, rest=np.array([2, -1, 4]), outputs="float[B, C, S, D] y")


@pytest.mark.parametrize("inner", ["s", "c", "a", "p"])
def test_an_output_inside_keeps_the_block(inner):
    body = HUGGING_FACE.replace("Add(c, ma)", "Add(ma, c)")
    run(body, 0, outputs=f"float[B, S, 8] y, float[B, 2, S, S] {inner}")


@pytest.mark.parametrize("inner", ["s", "c", "a", "p"])
def test_an_intermediate_that_is_read_elsewhere_keeps_the_block(inner):
    body = HUGGING_FACE.replace("Add(c, ma)", "Add(ma, c)") + f"  z = Relu({inner})"
    run(body, 0, outputs="float[B, S, 8] y, float[B, 2, S, S] z")


def test_a_scaled_query_that_is_read_elsewhere_stays():
    body = DISTILBERT.replace("Add(ma, s)", "Add(s, ma)") + "  z = Relu(qs)"
    run(body, 0, outputs="float[B, S, 8] y, float[B, S, 2, 4] z")


def test_an_output_behind_it():
    body = DISTILBERT.split("ot = ")[0]
    run(body, 1, outputs="float[B, 2, S, 4] o")


NEAR_MISSES = {
    "softmax over another axis": DISTILBERT.replace("axis=3", "axis=2"),
    "scaled behind the mask": HUGGING_FACE.replace(
        "c = Mul(s, scale)  a = Add(c, ma)", "c = Add(ma, s)  a = Mul(c, scale)"
    ),
    "scaled by a tensor": HUGGING_FACE.replace("Mul(s, scale)", "Mul(ma, s)").replace("Add(c, ma)", "Add(ma, c)"),
    "divided by the scores": HUGGING_FACE.replace("Mul(s, scale)", "Div(scale, s)").replace("Add(c, ma)", "Add(ma, c)"),
    "probabilities on the right": DISTILBERT.replace("MatMul(p, vt)", "MatMul(p, p)").split("ot = ")[0],
    "tanh in between": DISTILBERT.replace("a = Add(ma, s)", "t = Tanh(s)  a = Add(ma, t)"),
    "scaled by infinity": HUGGING_FACE.replace("Mul(s, scale)", "Div(s, zero)").replace("Add(c, ma)", "Add(ma, c)"),
    "set to one": KERAS.replace("Where(mc, p, zero)", "Where(mc, p, one)"),
    "condition reversed": KERAS.replace("Where(mc, p, zero)", "Where(mc, zero, p)"),
}


@pytest.mark.parametrize("body", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_near_misses_stay(body):
    outputs = "float[B, S, 8] y" if " y = " in body else "float[B, 2, S, S] o"
    run(body, 0, outputs=outputs)
