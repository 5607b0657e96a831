from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.passes.onnx.pass_checks import apply_pass, model_of, only, ops
from tf_opt.passes.onnx.fuse_gelu import FuseGelu

CONSTANTS = {
    "half": 0.5,
    "one": 1.0,
    "two": 2.0,
    "three": 3.0,
    "inverse_root": math.sqrt(0.5),
    "root": math.sqrt(2),
    "k": math.sqrt(2 / math.pi),
    "c": 0.044715,
    "kc": math.sqrt(2 / math.pi) * 0.044715,
}

EXACT = {
    "tensorflow": "h = Mul(half, x)  a = Mul(x, inverse_root)  e = Erf(a)  f = Add(one, e)  y = Mul(h, f)",
    "divided": "a = Div(x, root)  e = Erf(a)  f = Add(e, one)  g = Mul(x, f)  y = Mul(g, half)",
    "halves": "a = Mul(inverse_root, x)  e = Erf(a)  h = Mul(half, e)  f = Add(half, h)  y = Mul(x, f)",
    "division by two": "a = Mul(x, inverse_root)  e = Erf(a)  f = Add(e, one)  g = Mul(f, x)  y = Div(g, two)",
    "distributed": "h = Mul(x, half)  a = Mul(x, inverse_root)  e = Erf(a)  f = Mul(h, e)  y = Add(f, h)",
    "negated": "n = Neg(x)  a = Div(n, root)  b = Neg(a)  e = Erf(b)  f = Add(one, e)  g = Mul(x, f)  y = Mul(half, g)",
}
TANH = {
    "pow": "h = Mul(half, x)  p = Pow(x, three)  q = Mul(c, p)  r = Add(x, q)  s = Mul(k, r)  t = Tanh(s)"
    "  f = Add(one, t)  y = Mul(h, f)",
    "products": "a = Mul(x, x)  b = Mul(a, x)  q = Mul(b, c)  r = Add(q, x)  s = Mul(r, k)  t = Tanh(s)"
    "  f = Add(t, one)  g = Mul(x, f)  y = Mul(g, half)",
    "horner": "a = Mul(x, x)  q = Mul(a, c)  r = Add(one, q)  s = Mul(x, k)  u = Mul(s, r)  t = Tanh(u)"
    "  f = Add(t, one)  h = Mul(x, half)  y = Mul(h, f)",
    "merged constants": "p = Pow(x, three)  q = Mul(kc, p)  r = Mul(k, x)  s = Add(q, r)  t = Tanh(s)"
    "  f = Add(t, one)  h = Mul(x, half)  y = Mul(h, f)",
    "square": "p = Pow(x, two)  q = Mul(p, kc)  r = Add(q, k)  s = Mul(r, x)  t = Tanh(s)"
    "  f = Add(t, one)  h = Mul(x, half)  y = Mul(h, f)",
}


def gelu_model(body, outputs="float[B, 8] y", inputs="float[B, 8] x", opset=20, dtype=np.float32, **constants):
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    known = {name: np.asarray(value, dtype) for name, value in {**CONSTANTS, **constants}.items() if name in words}
    return model_of(f"g ({inputs}) => ({outputs}) {{ {body} }}", opset, **known)


@pytest.mark.parametrize("body", EXACT.values(), ids=EXACT)
def test_exact(body):
    result = apply_pass(FuseGelu(), gelu_model(body), changes=1)
    assert ops(result) == {"Gelu": 1}
    assert only(result, "Gelu").attributes["approximate"].as_string() == "none"


@pytest.mark.parametrize("body", TANH.values(), ids=TANH)
def test_with_tanh(body):
    result = apply_pass(FuseGelu(), gelu_model(body), changes=1)
    assert ops(result) == {"Gelu": 1}
    assert only(result, "Gelu").attributes["approximate"].as_string() == "tanh"


@pytest.mark.parametrize("body", [EXACT["tensorflow"], TANH["pow"]], ids=["exact", "tanh"])
def test_behind_a_sum_which_is_no_part_of_it(body):
    body = "x = Add(w, bias)  " + body
    model = gelu_model(body, inputs="float[B, 8] w", bias=np.arange(8))
    assert ops(apply_pass(FuseGelu(), model, changes=1)) == {"Add": 1, "Gelu": 1}


@pytest.mark.parametrize("body", [EXACT["tensorflow"], TANH["pow"]], ids=["exact", "tanh"])
def test_of_products_which_are_no_part_of_it(body):
    """What the GELU is of looks like a part of it."""
    body = "v = Mul(half, w)  x = Mul(v, one)  " + body.replace("y = ", "z = ") + "  y = Mul(z, half)"
    result = apply_pass(FuseGelu(), gelu_model(body, inputs="float[B, 8] w"), changes=1)
    assert ops(result) == {"Mul": 3, "Gelu": 1}


def test_float16():
    model = gelu_model(TANH["pow"], "float16[B, 8] y", "float16[B, 8] x", dtype=np.float16)
    apply_pass(FuseGelu(), model, changes=1, atol=5e-3, rtol=5e-3)


def test_an_output_inside_keeps_the_pattern():
    for inner in ("h", "a", "e", "f"):
        model = gelu_model(EXACT["tensorflow"], f"float[B, 8] y, float[B, 8] {inner}")
        apply_pass(FuseGelu(), model, changes=0)


def test_an_intermediate_that_is_read_elsewhere_keeps_the_pattern():
    for inner in ("h", "a", "e", "f"):
        model = gelu_model(EXACT["tensorflow"] + f"  z = Relu({inner})", "float[B, 8] y, float[B, 8] z")
        apply_pass(FuseGelu(), model, changes=0)


def test_two_of_one_tensor():
    renamed = re.sub(r"\b([haef])\b", r"\g<1>1", EXACT["tensorflow"])
    body = renamed + "  " + TANH["pow"].replace("y = ", "z = ")
    result = apply_pass(FuseGelu(), gelu_model(body, "float[B, 8] y, float[B, 8] z"), changes=2)
    assert ops(result) == {"Gelu": 2}


def test_below_opset_20_it_stays():
    apply_pass(FuseGelu(), gelu_model(EXACT["tensorflow"], opset=17), changes=0)


def test_float64_stays():
    model = gelu_model(TANH["pow"], "double[B, 8] y", "double[B, 8] x", dtype=np.float64)
    apply_pass(FuseGelu(), model, changes=0)


EXACT_NEAR_MISSES = {
    "sigmoid-like scale": {"inverse_root": 0.702},
    "four digits": {"inverse_root": 0.7071},
    "six digits": {"inverse_root": 0.707107},
    "not halved": {"half": 1.0},
    "no one": {"one": 0.999},
}
TANH_NEAR_MISSES = {
    "another cube": {"c": 0.044},
    "rounded cube": {"c": 0.0447},
    "another scale": {"k": 0.8},
    "rounded scale": {"k": 0.79788},
    "another power": {"three": 2.0},
    "fractional power": {"three": 2.5},
    "not halved": {"half": 0.25},
    "two": {"one": 2.0},
}


@pytest.mark.parametrize("constants", EXACT_NEAR_MISSES.values(), ids=EXACT_NEAR_MISSES)
def test_exact_with_other_constants_stays(constants):
    apply_pass(FuseGelu(), gelu_model(EXACT["tensorflow"], **constants), changes=0)


@pytest.mark.parametrize("constants", TANH_NEAR_MISSES.values(), ids=TANH_NEAR_MISSES)
def test_tanh_with_other_constants_stays(constants):
    apply_pass(FuseGelu(), gelu_model(TANH["pow"], **constants), changes=0)


LOOKALIKES = {
    "another tensor outside": EXACT["tensorflow"].replace("h = Mul(half, x)", "w = Relu(x)  h = Mul(half, w)"),
    "another tensor inside": EXACT["tensorflow"].replace("a = Mul(x", "w = Relu(x)  a = Mul(w"),
    "subtracted": EXACT["tensorflow"].replace("f = Add(one, e)", "f = Sub(one, e)"),
    "no factor": "a = Mul(x, inverse_root)  e = Erf(a)  f = Add(one, e)  y = Mul(f, half)",
    "squared": EXACT["tensorflow"].replace("y = Mul(h, f)", "i = Mul(h, x)  y = Mul(i, f)"),
    "tanh for erf": EXACT["tensorflow"].replace("Erf", "Tanh"),
    "erf for tanh": TANH["pow"].replace("Tanh", "Erf"),
    "offset inside": EXACT["tensorflow"].replace("e = Erf(a)", "b = Add(a, half)  e = Erf(b)"),
    "cube of another tensor": TANH["pow"].replace("p = Pow(x, three)", "w = Relu(x)  p = Pow(w, three)"),
    "power of a constant": TANH["pow"].replace("Pow(x, three)", "Pow(three, x)"),
    "divided by x": EXACT["divided"].replace("Div(x, root)", "Div(root, x)"),
    "mere erf": "y = Erf(x)",
    "mere tanh": "y = Tanh(x)",
}


@pytest.mark.parametrize("body", LOOKALIKES.values(), ids=LOOKALIKES)
def test_lookalikes_stay(body):
    apply_pass(
        FuseGelu(), gelu_model(body), changes=0, feeds=[{"x": np.linspace(0.1, 2, 16, dtype=np.float32).reshape(2, 8)}]
    )


def test_a_constant_that_adds_a_dimension_stays():
    model = gelu_model(EXACT["tensorflow"], "float[1, B, 8] y", half=np.full((1, 1, 1), 0.5))
    apply_pass(FuseGelu(), model, changes=0)


def test_a_constant_for_each_column_stays():
    model = gelu_model(EXACT["tensorflow"], half=np.full(8, 0.5))
    apply_pass(FuseGelu(), model, changes=0)


@given(error=st.floats(-0.5, 0.5), name=st.sampled_from(["half", "one", "inverse_root"]))
def test_constants_are_taken_only_up_to_rounding(error, name):
    value = CONSTANTS[name] * (1 + error)
    is_rounding = abs(float(np.float32(value)) / CONSTANTS[name] - 1) < 1e-7
    is_wrong = abs(error) > 1e-6
    model = gelu_model(EXACT["tensorflow"], **{name: value})
    changes = FuseGelu().run(model)
    assert changes == 1 or not is_rounding
    assert changes == 0 or not is_wrong
