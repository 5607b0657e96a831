from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.passes.onnx.pass_checks import apply_pass, model_of, only, ops
from tf_opt.passes.onnx.fuse_layer_normalization import FuseLayerNormalization

RANDOM = np.random.default_rng(0)
GAMMA = RANDOM.normal(size=8).astype(np.float32)
BETA = RANDOM.normal(size=8).astype(np.float32)
EPSILON = np.float32(1e-3)

MOMENTS = "m = ReduceMean <axes=[-1]> (x)  d = Sub(x, m)  q = Mul(d, d)  v = ReduceMean <axes=[-1]> (q)"
TENSORFLOW = """
    a = Add(v, epsilon)  s = Sqrt(a)  i = Reciprocal(s)  r = Mul(i, gamma)
    mr = Mul(m, r)  b = Sub(beta, mr)  xr = Mul(x, r)  y = Add(xr, b)
"""
KERAS = """
    n = Neg(m)  a = Add(v, epsilon)  s = Sqrt(a)  i = Reciprocal(s)  r = Mul(i, gamma)
    xr = Mul(x, r)  nr = Mul(n, r)  b = Add(nr, beta)  y = Add(xr, b)
"""
TEXTBOOK = "a = Add(v, epsilon)  s = Sqrt(a)  n = Div(d, s)  g = Mul(n, gamma)  y = Add(g, beta)"
POWER = "a = Add(epsilon, v)  i = Pow(a, minus_half)  n = Mul(i, d)  g = Mul(gamma, n)  y = Add(beta, g)"
SQUARED_OTHERWISE = """
    m = ReduceMean <axes=[-1]> (x)  e = Sub(m, x)  q = Pow(e, two)  v = ReduceMean <axes=[-1]> (q)  d = Sub(x, m)
    a = Add(v, epsilon)  s = Sqrt(a)  n = Div(d, s)  g = Mul(n, gamma)  y = Add(g, beta)
"""
POOLED = MOMENTS.replace("ReduceMean <axes=[-1]>", "GlobalAveragePool")
ONE_OVER = TEXTBOOK.replace("n = Div(d, s)", "i = Div(one, s)  n = Mul(d, i)")


def layer_norm(body, outputs="float[B, S, 8] y", inputs="float[B, S, 8] x", **constants):
    known = {"gamma": GAMMA, "beta": BETA, "epsilon": EPSILON}
    known |= {"two": np.float32(2), "one": np.float32(1), "minus_half": np.float32(-0.5)}
    used = {name: value for name, value in {**known, **constants}.items() if name in body}
    return model_of(f"g ({inputs}) => ({outputs}) {{ {body} }}", **used)


@pytest.mark.parametrize(
    "body",
    [
        MOMENTS + TENSORFLOW,
        POOLED + TENSORFLOW,
        MOMENTS + KERAS,
        POOLED + KERAS,
        MOMENTS + TEXTBOOK,
        MOMENTS + POWER,
        MOMENTS + ONE_OVER,
        SQUARED_OTHERWISE,
    ],
    ids=["tensorflow", "tensorflow-pooled", "keras", "keras-pooled", "textbook", "power", "one-over", "mean-minus-x"],
)
def test_all_spellings_become_one_operator(body):
    result = apply_pass(FuseLayerNormalization(), layer_norm(body), changes=1)
    assert ops(result) == {"LayerNormalization": 1}
    node = only(result, "LayerNormalization")
    assert [value.name for value in node.inputs] == ["x", "gamma", "beta"]
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-3)
    assert node.attributes["axis"].as_int() == -1


def test_without_bias_and_without_scale():
    plain = "a = Add(v, epsilon)  s = Sqrt(a)  y = Div(d, s)"
    result = apply_pass(FuseLayerNormalization(), layer_norm(MOMENTS + plain), changes=1)
    scale = only(result, "LayerNormalization").inputs[1]
    np.testing.assert_array_equal(scale.const_value.numpy(), np.ones(8, np.float32))
    scaled = "a = Add(v, epsilon)  s = Sqrt(a)  n = Div(d, s)  y = Mul(n, gamma)"
    result = apply_pass(FuseLayerNormalization(), layer_norm(MOMENTS + scaled), changes=1)
    assert len(only(result, "LayerNormalization").inputs) == 2


def test_scale_and_bias_of_the_rank_of_the_tensor_become_vectors():
    constants = {"gamma": GAMMA.reshape(1, 1, 8), "beta": BETA.reshape(1, 8)}
    result = apply_pass(FuseLayerNormalization(), layer_norm(MOMENTS + KERAS, **constants), changes=1)
    assert ops(result) == {"LayerNormalization": 1}
    assert [value.shape.numpy() for value in only(result, "LayerNormalization").inputs[1:]] == [(8,), (8,)]


def test_big_constants_are_reshaped_in_the_graph_and_not_read():
    size = 768
    random = np.random.default_rng(1)
    constants = {"gamma": random.normal(size=(1, 1, size)).astype(np.float32), "beta": np.ones(size, np.float32)}
    body = (MOMENTS + KERAS).replace("8] y", f"{size}] y")
    model = layer_norm(body, f"float[B, S, {size}] y", f"float[B, S, {size}] x", **constants)
    result = apply_pass(FuseLayerNormalization(), model, changes=1)
    assert ops(result) == {"LayerNormalization": 1, "Reshape": 1}


def test_axes_as_input_at_opset_18():
    body = (MOMENTS + TEXTBOOK).replace("ReduceMean <axes=[-1]> (x)", "ReduceMean(x, axes)")
    body = body.replace("ReduceMean <axes=[-1]> (q)", "ReduceMean(q, axes)")
    constants = {"gamma": GAMMA, "beta": BETA, "epsilon": EPSILON, "axes": np.array([2])}
    text = f"g (float[B, S, 8] x) => (float[B, S, 8] y) {{ {body} }}"
    assert ops(apply_pass(FuseLayerNormalization(), model_of(text, 18, **constants), changes=1)) == {
        "LayerNormalization": 1
    }


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_16_bit(kind):
    name = {"float16": "float16", "bfloat16": "bfloat16"}[np.dtype(kind).name]
    constants = {"gamma": GAMMA.astype(kind), "beta": BETA.astype(kind), "epsilon": np.asarray(1e-3, kind)}
    body = f"g ({name}[B, S, 8] x) => ({name}[B, S, 8] y) {{ {MOMENTS + TEXTBOOK} }}"
    model = model_of(body, **{key: value for key, value in constants.items() if kind is np.float16})
    if kind is np.float16:
        apply_pass(FuseLayerNormalization(), model, changes=1, atol=2e-2, rtol=1e-2)
        return
    for key, value in constants.items():  # ONNX Runtime has no bfloat16 kernels here, so nothing is compared.
        tensor = ir.tensor(value, name=key)
        model.graph.initializers[key] = ir.Value(
            name=key, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
        )
    read = {value.name: value for node in model.graph for value in node.inputs}
    for key in constants:
        read[key].replace_all_uses_with(model.graph.initializers[key])
    assert FuseLayerNormalization().run(model) == 1


def test_an_output_keeps_its_name_and_one_inside_keeps_the_pattern():
    body = MOMENTS + TENSORFLOW
    apply_pass(FuseLayerNormalization(), layer_norm(body, "float[B, S, 8] y"), changes=1)
    for inner, shape in (("m", "B, S, 1"), ("v", "B, S, 1"), ("i", "B, S, 1"), ("xr", "B, S, 8")):
        outputs = f"float[B, S, 8] y, float[{shape}] {inner}"
        apply_pass(FuseLayerNormalization(), layer_norm(body, outputs), changes=0)


def test_an_intermediate_that_is_read_elsewhere_keeps_the_pattern():
    for inner in ("d", "v", "s"):
        body = MOMENTS + TEXTBOOK + f"  z = Relu({inner})"
        shape = "B, S, 8" if inner == "d" else "B, S, 1"
        apply_pass(FuseLayerNormalization(), layer_norm(body, f"float[B, S, 8] y, float[{shape}] z"), changes=0)


def test_scale_and_bias_stay_where_the_normalized_tensor_is_read_elsewhere():
    body = MOMENTS + TEXTBOOK + "  z = Relu(n)"
    result = apply_pass(FuseLayerNormalization(), layer_norm(body, "float[B, S, 8] y, float[B, S, 8] z"), changes=1)
    assert ops(result) == {"LayerNormalization": 1, "Mul": 1, "Add": 1, "Relu": 1}


def test_a_bias_that_is_subtracted_stays():
    body = MOMENTS + TEXTBOOK.replace("y = Add(g, beta)", "y = Sub(g, beta)")
    assert ops(apply_pass(FuseLayerNormalization(), layer_norm(body), changes=1)) == {"LayerNormalization": 1, "Sub": 1}


def test_the_normalized_tensor_may_be_read_elsewhere():
    body = MOMENTS + TEXTBOOK + "  z = Add(x, y)"
    result = apply_pass(FuseLayerNormalization(), layer_norm(body, "float[B, S, 8] z"), changes=1)
    assert ops(result) == {"LayerNormalization": 1, "Add": 1}


def test_two_that_follow_each_other():
    # The second one reads y in place of x, and names everything else anew.
    second = re.sub(r"\b([mdqvasirnby]|xr|nr)\b", r"\g<1>2", MOMENTS + KERAS)
    second = re.sub(r"\bx\b", "y", second)
    model = layer_norm(MOMENTS + TENSORFLOW + second, "float[B, S, 8] y2")
    assert ops(apply_pass(FuseLayerNormalization(), model, changes=2)) == {"LayerNormalization": 2}


NEAR_MISSES = {
    "another axis": (MOMENTS + TEXTBOOK).replace("axes=[-1]", "axes=[1]"),
    "two axes": (MOMENTS + TEXTBOOK).replace("axes=[-1]", "axes=[1, 2]"),
    "axis of the variance differs": (MOMENTS + TEXTBOOK).replace("axes=[-1]> (q)", "axes=[1]> (q)"),
    "epsilon behind the root": MOMENTS + "s = Sqrt(v)  a = Add(s, epsilon)  n = Div(d, a)  y = Mul(n, gamma)",
    "multiplied with the deviation": MOMENTS + "a = Add(v, epsilon)  s = Sqrt(a)  n = Mul(d, s)  y = Mul(n, gamma)",
    "scale in one term only": MOMENTS
    + "a = Add(v, epsilon)  s = Sqrt(a)  i = Reciprocal(s)  r = Mul(i, gamma)  xr = Mul(x, r)  mi = Mul(m, i)"
    + "  t = Sub(xr, mi)  y = Add(t, beta)",
    "mean is added": MOMENTS
    + "a = Add(v, epsilon)  s = Sqrt(a)  i = Reciprocal(s)  xr = Mul(x, i)  mi = Mul(m, i)  y = Add(xr, mi)",
    "root mean square": "q = Mul(x, x)  v = ReduceMean <axes=[-1]> (q)  a = Add(v, epsilon)  s = Sqrt(a)"
    + "  n = Div(x, s)  y = Mul(n, gamma)",
    "variance around another mean": "m = ReduceMean <axes=[-1]> (x)  o = Mul(m, half)  d = Sub(x, o)  q = Mul(d, d)"
    + "  v = ReduceMean <axes=[-1]> (q)"
    + TEXTBOOK,
    "cube instead of square": (MOMENTS + TEXTBOOK).replace("q = Mul(d, d)", "e = Mul(d, d)  q = Mul(e, d)"),
    "normalizes another tensor": MOMENTS
    + "w = Relu(x)  e = Sub(w, m)  a = Add(v, epsilon)  s = Sqrt(a)  n = Div(e, s)  y = Mul(n, gamma)",
    "variance is scaled": MOMENTS
    + "u = Mul(v, half)  a = Add(u, epsilon)  s = Sqrt(a)  n = Div(d, s)  y = Mul(n, gamma)",
    "exponent": (MOMENTS + POWER).replace("minus_half", "half"),
}


@pytest.mark.parametrize("body", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_near_misses_stay(body):
    model = layer_norm(body, half=np.float32(0.5))
    apply_pass(FuseLayerNormalization(), model, changes=0, is_idempotent=False)


@pytest.mark.parametrize(
    "constants",
    [
        {"gamma": np.float32(2)},
        {"gamma": np.ones((1, 3, 8), np.float32)},
        {"gamma": np.ones((1, 1, 1, 8), np.float32), "beta": np.zeros((1, 1, 1, 8), np.float32)},
        {"beta": np.ones((1, 3, 1), np.float32)},
        {"epsilon": np.full((1, 3, 1), 1e-3, np.float32)},
        {"epsilon": np.full((1, 1, 1, 1), 1e-3, np.float32)},
        {"epsilon": np.float32(-1e-3)},
        {"epsilon": np.float32(np.nan)},
    ],
    ids="scalar-scale scale-of-positions rank-4 bias-of-positions epsilons epsilon-of-rank-4 negative nan".split(),
)
def test_constants_of_other_shapes_or_values_stay(constants):
    rank = 4 if any(np.ndim(value) == 4 for value in constants.values()) else 3
    outputs = f"float[{', '.join(['A', 'B', 'S', '8'][-rank:])}] y"
    model = layer_norm(MOMENTS + TEXTBOOK, outputs, **constants)
    sizes = [{"A": 1, "B": 2, "S": 3}]
    result = apply_pass(FuseLayerNormalization(), model, sizes=sizes)
    # What remains without the odd constant is a normalization all the same.
    has_odd_scale = "gamma" in constants or "beta" in constants
    assert ops(result)["LayerNormalization"] == (1 if has_odd_scale else 0)
    assert ops(result)["Mul"] + ops(result)["Add"] >= (1 if has_odd_scale else 3)


def test_float64_stays():
    constants = {"gamma": GAMMA.astype(np.float64), "beta": BETA.astype(np.float64), "epsilon": np.float64(1e-3)}
    text = f"g (double[B, S, 8] x) => (double[B, S, 8] y) {{ {MOMENTS + TEXTBOOK} }}"
    apply_pass(FuseLayerNormalization(), model_of(text, **constants), changes=0)


def test_unknown_sizes_stay():
    model = layer_norm(MOMENTS + TEXTBOOK, "float[B, S, N] y", "float[B, S, N] x")
    apply_pass(FuseLayerNormalization(), model, changes=0, sizes=[{"N": 8}])


def test_pooling_of_four_dimensions_averages_two_and_stays():
    body = POOLED + TEXTBOOK
    model = layer_norm(body, "float[B, S, 8, 8] y", "float[B, S, 8, 8] x")
    apply_pass(FuseLayerNormalization(), model, changes=0)


def test_a_tensor_of_size_one_that_the_scale_widens_stays():
    model = layer_norm(MOMENTS + TEXTBOOK, "float[B, S, 8] y", "float[B, S, 1] x")
    result = apply_pass(FuseLayerNormalization(), model, changes=1)
    assert ops(result) == {"LayerNormalization": 1, "Mul": 1, "Add": 1}  # Of size 1, without scale and bias.


@given(
    size=st.integers(1, 17),
    rank=st.integers(1, 4),
    epsilon=st.floats(1e-6, 0.5),
    spelling=st.sampled_from([TENSORFLOW, KERAS, TEXTBOOK, ONE_OVER]),
    seed=st.integers(0, 1000),
)
def test_any_size_rank_and_epsilon(size, rank, epsilon, spelling, seed):
    random = np.random.default_rng(seed)
    shape = ", ".join([*"ABC"[: rank - 1], str(size)])
    constants = {
        "gamma": random.normal(size=size).astype(np.float32),
        "beta": random.normal(size=size).astype(np.float32),
        "epsilon": np.float32(epsilon),
    }
    model = layer_norm(MOMENTS + spelling, f"float[{shape}] y", f"float[{shape}] x", **constants)
    result = apply_pass(FuseLayerNormalization(), model, changes=1, sizes=[{"A": 2, "B": 1, "C": 3}])
    assert ops(result) == {"LayerNormalization": 1}
