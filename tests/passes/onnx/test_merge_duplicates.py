from __future__ import annotations

import numpy as np

from tests.passes.onnx.pass_checks import apply_pass, model_of, ops
from tf_opt.passes.onnx.merge_duplicates import MergeDuplicates


def model(body, outputs="float[B, 8] y", inputs="float[B, 8] x, float[B, 8] m", **constants):
    return model_of(f"g ({inputs}) => ({outputs}) {{ {body} }}", **constants)


def test_mask_arithmetic_of_each_layer_becomes_one():
    body = (
        "a = Sub(one, m)  b = Mul(a, big)  c = Sub(uno, m)  d = Mul(c, big)  e = Add(x, b)  f = Relu(e)  y = Add(f, d)"
    )
    constants = {"one": np.float32(1), "uno": np.float32(1), "big": np.float32(-1e4)}
    result = apply_pass(MergeDuplicates(), model(body, **constants), changes=3)
    assert ops(result) == {"Sub": 1, "Mul": 1, "Add": 2, "Relu": 1}
    assert sorted(result.graph.initializers) == ["big", "one"]


def test_constants_are_equal_only_with_type_and_shape():
    body = "a = Add(x, scalar)  b = Add(a, vector)  c = Cast <to=6> (b)  d = Add(c, whole)  y = Cast <to=1> (d)"
    constants = {"scalar": np.float32(1), "vector": np.ones(1, np.float32), "whole": np.int32(1)}
    apply_pass(MergeDuplicates(), model(body, inputs="float[B, 8] x", **constants), changes=0)


def test_negative_zero_is_no_zero():
    body = "a = Div(x, zero)  b = Div(x, negative)  y = Max(a, b)"
    constants = {"zero": np.float32(0), "negative": np.float32(-0.0)}
    apply_pass(MergeDuplicates(), model(body, inputs="float[B, 8] x", **constants), changes=0)


def test_big_constants_are_not_compared():
    big = np.ones((8, 64), np.float32)
    body = "a = MatMul(x, w)  b = MatMul(x, v)  y = Add(a, b)"
    apply_pass(MergeDuplicates(), model(body, "float[B, 64] y", "float[B, 8] x", w=big, v=big), changes=0)


def test_attributes_inputs_and_operators_have_to_agree():
    body = "a = Softmax <axis=0> (x)  b = Softmax <axis=1> (x)  c = Sub(a, b)  d = Sub(b, a)  y = Div(c, d)"
    apply_pass(MergeDuplicates(), model(body, inputs="float[B, 8] x"), changes=0)


def test_outputs_keep_their_names():
    body = "a = Relu(x)  y = Relu(x)  z = Neg(a)"
    result = apply_pass(MergeDuplicates(), model(body, "float[B, 8] y, float[B, 8] z", "float[B, 8] x"), changes=1)
    assert ops(result) == {"Relu": 1, "Identity": 1, "Neg": 1}
    body = "y = Relu(x)  a = Relu(x)  z = Neg(a)"
    result = apply_pass(MergeDuplicates(), model(body, "float[B, 8] y, float[B, 8] z", "float[B, 8] x"), changes=1)
    assert ops(result) == {"Relu": 1, "Neg": 1}
    body = "y = Relu(x)  z = Relu(x)"
    result = apply_pass(MergeDuplicates(), model(body, "float[B, 8] y, float[B, 8] z", "float[B, 8] x"), changes=1)
    assert ops(result) == {"Relu": 1, "Identity": 1}


def test_random_numbers_stay_apart():
    body = "a = RandomUniform <shape=[8]> ()  b = RandomUniform <shape=[8]> ()"
    body += "  s = Sub(a, b)  n = Mul(s, zero)  y = Add(x, n)"
    built = model(body, inputs="float[B, 8] x", zero=np.float32(0))
    assert ops(apply_pass(MergeDuplicates(), built, changes=0))["RandomUniform"] == 2


def test_several_outputs():
    body = "a, b = Split <axis=1> (x, s)  c, d = Split <axis=1> (x, s)  e = Add(a, d)  y = Mul(e, e)"
    built = model(body, "float[B, 4] y", "float[B, 8] x", s=np.array([4, 4]))
    assert ops(apply_pass(MergeDuplicates(), built, changes=1))["Split"] == 1


def test_control_flow_stays():
    body = "".join(
        f"{name} = If <then_branch = g{name} () => (float[B, 8] n{name}) {{ n{name} = Neg(x) }}, "
        f"else_branch = h{name} () => (float[B, 8] r{name}) {{ r{name} = Relu(x) }}> (flag)  "
        for name in "ab"
    )
    built = model(body + "y = Add(a, b)", inputs="float[B, 8] x, bool flag")
    assert ops(apply_pass(MergeDuplicates(), built, changes=0))["If"] == 2
