from __future__ import annotations

import numpy as np
import pytest

from tests.passes.onnx.pass_checks import apply_pass, model_of, only, ops
from tf_opt.passes.onnx.merge_qkv import MergeQkv

RANDOM = np.random.default_rng(0)


def matrix(columns=6, rows=8):
    return RANDOM.normal(size=(rows, columns)).astype(np.float32)


def model(body, outputs, **constants):
    return model_of(f"g (float[B, S, 8] x) => ({outputs}) {{ {body} }}", **constants)


BIASED = """
    q = MatMul(x, wq)  qb = Add(q, bq)  q1 = Relu(qb)  k = MatMul(x, wk)  kb = Add(k, bk)  k1 = Relu(kb)
    v = MatMul(x, wv)  vb = Add(v, bv)  v1 = Relu(vb)
"""
OUTPUTS = "float[B, S, 6] q1, float[B, S, 6] k1, float[B, S, 4] v1"
WEIGHTS = {"wq": matrix(), "wk": matrix(), "wv": matrix(4)}
BIASES = {"bq": matrix(6)[0], "bk": matrix(6)[0], "bv": matrix(4)[0]}


def test_three_products_with_biases_become_one():
    result = apply_pass(MergeQkv(), model(BIASED, OUTPUTS, **WEIGHTS, **BIASES), changes=1)
    assert ops(result) == {"Concat": 2, "MatMul": 1, "Add": 1, "Split": 1, "Relu": 3}
    assert only(result, "Split").inputs[1].const_value.numpy().tolist() == [6, 6, 4]


def test_without_biases():
    body = "q = MatMul(x, wq)  q1 = Relu(q)  k = MatMul(x, wk)  k1 = Relu(k)"
    constants = {name: WEIGHTS[name] for name in ("wq", "wk")}
    result = apply_pass(MergeQkv(), model(body, "float[B, S, 6] q1, float[B, S, 6] k1", **constants), changes=1)
    assert ops(result) == {"Concat": 1, "MatMul": 1, "Split": 1, "Relu": 2}


def test_big_weights_are_not_read():
    big = {"wq": matrix(64, 8), "wk": matrix(64, 8)}
    body = "q = MatMul(x, wq)  q1 = Relu(q)  k = MatMul(x, wk)  k1 = Relu(k)"
    apply_pass(MergeQkv(), model(body, "float[B, S, 64] q1, float[B, S, 64] k1", **big), changes=1)


def test_weights_with_separate_heads():
    body = "wf = Reshape(wq, flat)  q = MatMul(x, wf)  q1 = Relu(q)"
    body += "  wg = Reshape(wk, flat)  k = MatMul(x, wg)  k1 = Relu(k)"
    heads = {name: matrix().reshape(8, 2, 3) for name in ("wq", "wk")}
    built = model(body, "float[B, S, 6] q1, float[B, S, 6] k1", **heads, flat=np.array([8, 6]))
    assert ops(apply_pass(MergeQkv(), built, changes=1))["MatMul"] == 1


def test_outputs_stay_what_they_are():
    body = "q = MatMul(x, wq)  k = MatMul(x, wk)  k1 = Relu(k)"
    constants = {name: WEIGHTS[name] for name in ("wq", "wk")}
    apply_pass(MergeQkv(), model(body, "float[B, S, 6] q, float[B, S, 6] k1", **constants), changes=0)
    result = apply_pass(MergeQkv(), model(BIASED, OUTPUTS + ", float[B, S, 6] qb", **WEIGHTS, **BIASES), changes=1)
    assert ops(result)["MatMul"] == 2


def test_a_product_that_is_read_with_and_without_its_bias():
    body = BIASED + " q2 = Relu(q)"
    built = model(body, OUTPUTS + ", float[B, S, 6] q2", **WEIGHTS, **BIASES)
    apply_pass(MergeQkv(), built, changes=0)


def test_what_is_too_different_stays():
    body = "q = MatMul(x, wq)  q1 = Relu(q)  k = MatMul(x, wide)  k1 = Relu(k)"
    constants = {"wq": matrix(6), "wide": matrix(48)}
    apply_pass(MergeQkv(), model(body, "float[B, S, 6] q1, float[B, S, 48] k1", **constants), changes=0)
    other = "r = Relu(x)  q = MatMul(x, wq)  q1 = Relu(q)  k = MatMul(r, wk)  k1 = Relu(k)"
    constants = {name: WEIGHTS[name] for name in ("wq", "wk")}
    apply_pass(MergeQkv(), model(other, "float[B, S, 6] q1, float[B, S, 6] k1", **constants), changes=0)


def quantized(columns=6, zero_points=False):
    """Returns an int8 matrix, a scale for each of its columns and, on demand, zero points."""
    scales = RANDOM.uniform(0.01, 0.02, columns).astype(np.float32)
    values = [RANDOM.integers(-64, 65, (8, columns)).astype(np.int8), scales]
    return [*values, RANDOM.integers(-3, 4, columns).astype(np.int8)] if zero_points else values


def dequantizing(name, constants, attributes="<axis=1>"):
    """Returns text that multiplies x by a matrix made of the constants, and these by their names."""
    names = [f"{name}_{kind}" for kind, _ in zip(("i", "s", "z"), constants, strict=False)]
    text = f"w{name} = DequantizeLinear {attributes} ({', '.join(names)})  {name} = MatMul(x, w{name})  "
    return f"{text}{name}1 = Relu({name})  ", dict(zip(names, constants, strict=True))


QUANTIZED_OUTPUTS = "float[B, S, 6] q1, float[B, S, 6] k1"


@pytest.mark.parametrize("zero_points", [False, True])
def test_weights_in_int8_are_merged_as_they_are_stored(zero_points):
    (q, of_q), (k, of_k) = (dequantizing(name, quantized(zero_points=zero_points)) for name in "qk")
    result = apply_pass(MergeQkv(), model(q + k, QUANTIZED_OUTPUTS, **of_q, **of_k), changes=1)
    concatenations = 3 if zero_points else 2
    assert ops(result) == {"Concat": concatenations, "DequantizeLinear": 1, "MatMul": 1, "Split": 1, "Relu": 2}
    assert only(result, "MatMul").inputs[1].producer() is only(result, "DequantizeLinear")


def test_weights_that_are_stored_differently_stay():
    q, of_q = dequantizing("q", quantized())
    plain = "k = MatMul(x, wk)  k1 = Relu(k)"
    apply_pass(MergeQkv(), model(q + plain, QUANTIZED_OUTPUTS, **of_q, wk=matrix()), changes=0)
    k, of_k = dequantizing("k", quantized(zero_points=True))
    apply_pass(MergeQkv(), model(q + k, QUANTIZED_OUTPUTS, **of_q, **of_k), changes=0)
    by_row = [quantized(8)[0], RANDOM.uniform(0.01, 0.02, 8).astype(np.float32)]
    both = [dequantizing(name, by_row, "<axis=0>") for name in "qk"]
    outputs = "float[B, S, 8] q1, float[B, S, 8] k1"
    apply_pass(MergeQkv(), model(both[0][0] + both[1][0], outputs, **both[0][1], **both[1][1]), changes=0)


def test_a_weight_in_int8_that_another_node_reads_stays_beside_the_merged_one():
    (q, of_q), (k, of_k) = (dequantizing(name, quantized()) for name in "qk")
    outputs = f"{QUANTIZED_OUTPUTS}, float[8, 6] weight"
    result = apply_pass(MergeQkv(), model(q + k + "weight = Neg(wq)", outputs, **of_q, **of_k), changes=1)
    assert ops(result)["DequantizeLinear"] == 2
