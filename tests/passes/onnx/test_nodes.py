from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from tests.passes.onnx.pass_checks import model_of, watch_weights
from tf_opt.passes.onnx.nodes import (
    add_constant,
    bypass,
    constant,
    insert,
    integers,
    is_closed,
    is_constant,
    is_inner,
    producer,
    real_constant,
    rewrite,
    scalar,
)


@pytest.fixture
def model():
    text = """g (float[B, 8] x, float[8] fed) => (float[B, 8] y, float[B, 8] z) {
        c = Constant <value_float=2.0> ()  a = Mul(x, c)  b = Add(a, one)  d = Sub(b, b)  y = Relu(d)  z = Add(b, fed)
    }"""
    return model_of(text, one=np.ones(1, np.float32), big=np.ones((32, 32), np.float32), index=np.array([3, 4]))


def node(model, op_type, position=0):
    return [node for node in model.graph if node.op_type == op_type][position]


def test_constants(model):
    watched = watch_weights(model)
    values = model.graph.initializers
    assert scalar(values["one"], 1) == 1
    assert scalar(values["one"]) is None  # It has a dimension.
    assert scalar(node(model, "Mul").inputs[1]) == 2
    assert integers(values["index"]) == (3, 4)
    assert integers(values["one"]) is None
    assert constant(values["big"]) is None
    assert is_constant(values["big"])
    assert not watched["big"].reads
    for value in (*model.graph.inputs, None, node(model, "Add").outputs[0]):
        assert constant(value) is None
        assert not is_constant(value)


def test_an_input_with_a_default_is_no_constant(model):
    value = model.graph.initializers["one"]
    model.graph.inputs.append(value)
    assert constant(value) is None
    assert not is_constant(value)


def test_producers_are_found_by_operator_of_the_default_domain(model):
    mul = node(model, "Mul")
    assert producer(mul.outputs[0], "Add", "Mul") is mul
    assert producer(mul.outputs[0], "Add") is None
    assert producer(model.graph.inputs[0], "Mul") is None
    mul.domain = "com.microsoft"
    assert producer(mul.outputs[0], "Mul") is None


def test_who_reads_a_value(model):
    mul, first, sub = node(model, "Mul"), node(model, "Add"), node(model, "Sub")
    assert is_inner(mul.outputs[0])
    assert not is_inner(first.outputs[0])
    assert not is_inner(node(model, "Relu").outputs[0])
    assert is_closed([mul, first], first)
    assert not is_closed([mul, first, sub], sub)
    assert not is_closed([node(model, "Relu"), sub], sub)


def test_a_rewritten_node_keeps_its_name_and_output(model):
    relu = node(model, "Relu")
    relu.name = "end"
    rewrite(relu, "Gelu", [model.graph.inputs[0]], {"approximate": "tanh"})
    assert (relu.name, relu.op_type, relu.outputs[0].name) == ("end", "Gelu", "y")
    assert model.graph.outputs[0] is relu.outputs[0]
    assert [node.op_type for node in model.graph] == ["Constant", "Mul", "Add", "Gelu", "Add"]  # Sub is gone.


def test_names_are_unique(model):
    relu = node(model, "Relu")
    names = [insert(relu, "Neg", [model.graph.inputs[0]], name="new").producer().name for _ in range(3)]
    assert names == ["new", "new_1", "new_2"]
    constants = [add_constant(model.graph, np.ones(1), name).name for name in ("one", "one", "y", "x")]
    assert constants == ["one_1", "one_2", "y_1", "x_1"]


def test_constants_of_16_bit(model):
    value = real_constant(model.graph, 0.5, ir.DataType.BFLOAT16, "half")
    assert value.dtype == ir.DataType.BFLOAT16
    assert value.const_value.numpy().dtype == ml_dtypes.bfloat16
    assert scalar(value) == 0.5


def test_an_output_cannot_be_bypassed(model):
    relu, first = node(model, "Relu"), node(model, "Add")
    assert not bypass(relu, model.graph.inputs[0])
    assert bypass(first, model.graph.inputs[0])
    assert [node.op_type for node in model.graph] == ["Sub", "Relu", "Add"]
