from __future__ import annotations

import numpy as np

from tests.passes.onnx.pass_checks import apply_pass, model_of, ops
from tf_opt.passes.onnx.prune import Prune


def model(body, outputs="float[B, 8] y", inputs="float[B, 8] x", **constants):
    return model_of(f"g ({inputs}) => ({outputs}) {{ {body} }}", **constants)


def test_constants_identities_and_what_nothing_reads():
    body = "c = Constant <value_float=2.0> ()  i = Identity(x)  unread = Neg(x)  y = Mul(i, c)"
    result = apply_pass(Prune(), model(body, unused=np.ones(3)), changes=4)
    assert ops(result) == {"Mul": 1}
    assert list(result.graph.initializers) == ["c"]


def test_nothing_to_do():
    apply_pass(Prune(), model("y = Mul(x, c)", c=np.float32(2)), changes=0)


def test_an_identity_that_names_an_output():
    result = apply_pass(Prune(), model("r = Relu(x)  y = Identity(r)"), changes=1)
    assert ops(result) == {"Relu": 1}
    result = apply_pass(
        Prune(), model("r = Relu(x)  y = Identity(r)  z = Neg(r)", "float[B, 8] y, float[B, 8] z"), changes=1
    )
    assert ops(result) == {"Relu": 1, "Neg": 1}


def test_identities_that_have_to_stay():
    apply_pass(Prune(), model("y = Identity(x)"), changes=0)
    apply_pass(
        Prune(), model("y = Identity(c)  z = Neg(x)", "float[8] y, float[B, 8] z", c=np.ones(8, np.float32)), changes=0
    )
    apply_pass(Prune(), model("y = Relu(x)  z = Identity(y)", "float[B, 8] y, float[B, 8] z"), changes=0)


def test_a_shared_identity():
    body = "i = Identity(x)  a = Relu(i)  b = Neg(i)  y = Add(a, b)"
    assert ops(apply_pass(Prune(), model(body), changes=1)) == {"Relu": 1, "Neg": 1, "Add": 1}


def test_an_unread_input_stays():
    result = apply_pass(Prune(), model("y = Relu(x)", inputs="float[B, 8] x, float[B] w"), changes=0)
    assert [value.name for value in result.graph.inputs] == ["x", "w"]
