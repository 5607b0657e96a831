from __future__ import annotations

import numpy as np
import pytest

from tests.passes.onnx.pass_checks import apply_pass, model_of, ops
from tf_opt.passes.onnx.collapse_tensordot import CollapseTensordot
from tf_opt.quantization import QuantizationSettings
from tf_opt.quantization.layers import find_layers, possible_layer_names

RANDOM = np.random.default_rng(0)
CONSTANTS = {
    "w": RANDOM.normal(size=(8, 6)).astype(np.float32),
    "b": RANDOM.normal(size=6).astype(np.float32),
    "flat": np.array([-1, 8]),
    "six": np.array([6]),
}
FRONT = "f = Reshape(x, flat)  m = MatMul(f, w)  h = Shape <start=0, end=2> (x)  t = Concat <axis=0> (h, six)  "


def model(body, outputs="float[B, S, 6] y", **constants):
    used = {name: value for name, value in {**CONSTANTS, **constants}.items() if f"{name})" in body}
    return model_of(f"g (float[B, S, 8] x) => ({outputs}) {{ {body} }}", **used)


def test_without_a_bias():
    result = apply_pass(CollapseTensordot(), model(FRONT + "y = Reshape(m, t)"), changes=1)
    assert ops(result) == {"MatMul": 1}


def test_with_a_bias_in_between():
    result = apply_pass(CollapseTensordot(), model(FRONT + "a = Add(m, b)  y = Reshape(a, t)"), changes=1)
    assert [node.op_type for node in result.graph] == ["MatMul", "Add"]


def test_a_product_written_anew_has_a_name_that_options_know():
    given = model(FRONT + "a = Add(m, b)  y = Reshape(a, t)")
    for number, node in enumerate(given.graph):
        node.name = "dense/MatMul" if node.op_type == "MatMul" else f"node_{number}"
    result = apply_pass(CollapseTensordot(), given, changes=1)
    layers, skipped = find_layers(result, QuantizationSettings())
    [name] = [each.name for each in (*layers, *skipped)]
    assert name == "dense/MatMul/unflattened"
    assert name in possible_layer_names("dense/MatMul")


@pytest.mark.parametrize("inner", ["m", "a"])
def test_an_output_or_another_reader_in_between_keeps_it(inner):
    body = FRONT + "a = Add(m, b)  y = Reshape(a, t)"
    apply_pass(CollapseTensordot(), model(body, f"float[B, S, 6] y, float[N, 6] {inner}"), changes=0)
    apply_pass(CollapseTensordot(), model(f"{body}  z = Relu({inner})", "float[B, S, 6] y, float[N, 6] z"), changes=0)


def test_a_flattened_tensor_that_others_read_too():
    body = FRONT + "n = MatMul(f, v)  y = Reshape(m, t)  z = Reshape(n, t)"
    result = apply_pass(
        CollapseTensordot(), model(body, "float[B, S, 6] y, float[B, S, 6] z", v=CONSTANTS["w"] + 1), changes=2
    )
    assert ops(result) == {"MatMul": 2}


@pytest.mark.parametrize(
    "body",
    [
        FRONT + "y = Reshape(m, swapped)",
        FRONT + "y = Reshape(m, split)",
        FRONT.replace("flat", "halved").replace("w)", "narrow)") + "y = Reshape(m, any)",
        FRONT + "a = Add(m, column)  y = Reshape(a, t)",
    ],
    ids=["other order", "splits columns", "flattens otherwise", "bias of rows"],
)
def test_what_stays(body):
    constants = {
        "swapped": np.array([3, -1, 6]),
        "split": np.array([2, 3, 2, 3]),
        "halved": np.array([-1, 4]),
        "narrow": CONSTANTS["w"][:4],
        "any": np.array([2, 6, 6]),
        "column": np.ones((6, 1), np.float32),
    }
    rank = 4 if "split)" in body else 3
    outputs = f"float[{', '.join('ABCD'[:rank])}] y"
    apply_pass(CollapseTensordot(), model(body, outputs, **constants), changes=0, sizes=[{"B": 2, "S": 3}])
