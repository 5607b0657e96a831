from __future__ import annotations

import numpy as np
import pytest

from tests.passes.onnx.pass_checks import apply_pass, model_of, only, ops
from tf_opt.passes.onnx.bias_after_matmul import BiasAfterMatMul

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(8, 6)).astype(np.float32)


def bias(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def model(body, outputs="float[B, S, 6] y", **constants):
    known = {"w": WEIGHT, "b": bias(6), "split": np.array([0, 0, 2, 3]), **constants}
    used = {name: value for name, value in known.items() if f"{name})" in body or f"({name}," in body}
    return model_of(f"g (float[B, S, 8] x) => ({outputs}) {{ {body} }}", **used)


SPLIT = "m = MatMul(x, w)  r = Reshape(m, split)  y = Add(r, b)"


def test_a_bias_behind_the_splitting_of_columns_moves_in_front_of_it():
    result = apply_pass(BiasAfterMatMul(), model(SPLIT, "float[B, S, 2, 3] y", b=bias(2, 3)), changes=1)
    assert [node.op_type for node in result.graph] == ["MatMul", "Add", "Reshape"]
    assert only(result, "Add").inputs[1].shape.numpy() == (6,)


def test_a_bias_in_front_becomes_the_second_operand():
    result = apply_pass(BiasAfterMatMul(), model("m = MatMul(x, w)  y = Add(b, m)"), changes=1)
    assert [value.name for value in only(result, "Add").inputs] == ["m", "b"]


@pytest.mark.parametrize("shape", [(1, 6), (1, 1, 6)])
def test_a_bias_of_more_dimensions_becomes_a_vector(shape):
    result = apply_pass(BiasAfterMatMul(), model("m = MatMul(x, w)  y = Add(m, b)", b=bias(*shape)), changes=1)
    assert only(result, "Add").inputs[1].shape.numpy() == (6,)


def test_a_bias_behind_the_last_reshape_of_a_tensordot():
    body = "f = Reshape(x, flat)  m = MatMul(f, w)  h = Shape <start=0, end=2> (x)  t = Concat <axis=0> (h, six)"
    body += "  r = Reshape(m, t)  y = Add(r, b)"
    constants = {"flat": np.array([-1, 8]), "six": np.array([6])}
    result = apply_pass(BiasAfterMatMul(), model(body, **constants), changes=1)
    assert [node.op_type for node in result.graph][-2:] == ["Add", "Reshape"]


def test_a_big_bias_is_reshaped_in_the_graph():
    body = "m = MatMul(x, w)  r = Reshape(m, split)  y = Add(r, b)"
    constants = {"w": bias(8, 768), "b": bias(12, 64), "split": np.array([0, 0, 12, 64])}
    result = apply_pass(BiasAfterMatMul(), model(body, "float[B, S, 12, 64] y", **constants), changes=1, atol=1e-4)
    assert ops(result) == {"MatMul": 1, "Add": 1, "Reshape": 2}


def test_outputs_inside_keep_the_order():
    for inner, shape in (("m", "B, S, 6"), ("r", "B, S, 2, 3")):
        outputs = f"float[B, S, 2, 3] y, float[{shape}] {inner}"
        apply_pass(BiasAfterMatMul(), model(SPLIT, outputs, b=bias(2, 3)), changes=0)


def test_an_intermediate_that_is_read_elsewhere_keeps_the_order():
    for inner, shape in (("m", "B, S, 6"), ("r", "B, S, 2, 3")):
        outputs = f"float[B, S, 2, 3] y, float[{shape}] z"
        apply_pass(BiasAfterMatMul(), model(f"{SPLIT}  z = Relu({inner})", outputs, b=bias(2, 3)), changes=0)


DIRECT = "m = MatMul(x, w)  y = Add(m, b)"
WHAT_STAYS = {
    "canonical": (DIRECT, "B, S, 6", {}),
    "scalar": (DIRECT, "B, S, 6", {"b": bias(1)}),
    "of positions": (DIRECT, "B, 3, 6", {"b": bias(3, 6)}),
    "of rank 4": (DIRECT, "1, B, S, 6", {"b": bias(1, 1, 1, 6)}),
    "of part of the columns": (SPLIT, "B, S, 2, 3", {"b": bias(3)}),
    "of some columns": (SPLIT, "B, S, 2, 3", {"b": bias(2, 1)}),
    "widens the batch": (SPLIT, "3, S, 2, 3", {"b": bias(3, 1, 2, 3)}),
    "rows and columns mixed": (SPLIT, "B, 3, S, 2", {"split": np.array([0, 3, -1, 2]), "b": bias(2)}),
    "not directly behind": ("m = MatMul(x, w)  n = Neg(m)  y = Add(n, b)", "B, S, 6", {}),
}


@pytest.mark.parametrize(("body", "shape", "constants"), WHAT_STAYS.values(), ids=WHAT_STAYS)
def test_what_stays(body, shape, constants):
    built = model(body, f"float[{shape}] y", **constants)
    apply_pass(BiasAfterMatMul(), built, changes=0, sizes=[{"B": 1, "S": 3}])


def test_a_product_of_two_inputs_stays():
    text = "g (float[B, 4, 8] x, float[B, 8, 6] w) => (float[B, 4, 6] y) { m = MatMul(x, w)  y = Add(b, m) }"
    apply_pass(BiasAfterMatMul(), model_of(text, b=bias(6)), changes=0)
