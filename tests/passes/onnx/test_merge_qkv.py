from __future__ import annotations

import numpy as np

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
