from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.passes.onnx.pass_checks import apply_pass, model_of, only
from tf_opt.passes.onnx.raise_opset import RaiseOpset


def model(body, outputs="float[B, S, 8] y", inputs="float[B, S, 8] x", opset=17, **constants):
    return model_of(f"g ({inputs}) => ({outputs}) {{ {body} }}", opset, **constants)


@pytest.mark.parametrize("opset", [18, 20, 23])
@pytest.mark.parametrize("reduction", ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"])
def test_reductions_get_their_axes_as_input(reduction, opset):
    body = f"e = Exp(x)  y = Reduce{reduction} <axes=[1], keepdims=0> (e)"
    result = apply_pass(RaiseOpset(opset), model(body, "float[B, 8] y"), changes=1)
    assert result.opset_imports[""] == opset
    node = only(result, f"Reduce{reduction}")
    assert "axes" not in node.attributes
    assert node.inputs[1].const_value.numpy().tolist() == [1]


def test_a_reduction_over_everything():
    apply_pass(RaiseOpset(20), model("y = ReduceMax <keepdims=0> (x)", "float y"), changes=1)


def test_an_even_split_says_its_number_of_outputs():
    body = "a, b = Split <axis=2> (x)  y = Add(a, b)"
    result = apply_pass(RaiseOpset(20), model(body, "float[B, S, 4] y"), changes=1)
    assert only(result, "Split").attributes["num_outputs"].as_int() == 2
    body = "a, b = Split <axis=2> (x, sizes)  y = Neg(b)"
    result = apply_pass(RaiseOpset(20), model(body, "float[B, S, 5] y", sizes=np.array([3, 5])), changes=1)
    assert "num_outputs" not in only(result, "Split").attributes


def test_operators_with_new_optional_inputs_and_attributes():
    body = "p = Pad(x, pads)  c = Cast <to=10> (p)  d = Cast <to=1> (c)  r = Resize(d, , scales)  y = Identity(r)"
    constants = {"pads": np.array([0, 0, 1, 0, 0, 1]), "scales": np.array([1, 1, 2], np.float32)}
    apply_pass(RaiseOpset(23), model(body, "float[B, S, 20] y", **constants), changes=1, atol=1e-2)


def test_inside_of_control_flow():
    branch = "{name} = If <then_branch = t () => (float[B, 8] a) {{ a = ReduceMax <axes=[1], keepdims=0> (x) }}, "
    branch += "else_branch = e () => (float[B, 8] b) {{ b = ReduceMin <axes=[1], keepdims=0> (x) }}> (flag)"
    built = model(branch.format(name="y"), "float[B, 8] y", "float[B, S, 8] x, bool flag")
    result = apply_pass(RaiseOpset(20), built, changes=1)
    assert {node.op_type for node in result.graph.all_nodes()} == {"If", "ReduceMax", "ReduceMin"}


@pytest.mark.parametrize(
    ("body", "inputs", "outputs"),
    [
        ("y = AveragePool <kernel_shape=[2], strides=[2], ceil_mode=1> (x)", "float[B, S, 7] x", "float[B, S, 4] y"),
        ("y = MaxPool <kernel_shape=[2], strides=[2], ceil_mode=1> (x)", "float[B, S, 7] x", "float[B, S, 4] y"),
        ("y = GridSample(x, grid)", "float[B, S, 8, 8] x, float[B, 4, 4, 2] grid", "float[B, S, 4, 4] y"),
    ],
    ids=["average", "maximum", "grid"],
)
def test_operators_whose_meaning_changed_keep_the_model_as_it_is(body, inputs, outputs):
    result = apply_pass(RaiseOpset(23), model(f"{body}", outputs, inputs), changes=0)
    assert result.opset_imports[""] == 17


def test_pooling_without_ceil_mode():
    body = "y = AveragePool <kernel_shape=[3], pads=[1, 1], count_include_pad=1> (x)"
    apply_pass(RaiseOpset(23), model(body), changes=1)


def test_models_that_are_new_enough_or_have_nothing_to_gain():
    assert apply_pass(RaiseOpset(20), model("y = Relu(x)", opset=20), changes=0).opset_imports[""] == 20
    assert apply_pass(RaiseOpset(20), model("y = Relu(x)", opset=23), changes=0).opset_imports[""] == 23
    assert apply_pass(RaiseOpset(20, {"Erf"}), model("y = Relu(x)"), changes=0).opset_imports[""] == 17
    assert apply_pass(RaiseOpset(20, {"Erf"}), model("y = Erf(x)"), changes=1).opset_imports[""] == 20


def test_an_output_and_another_reader():
    body = "r = ReduceMean <axes=[-1]> (x)  y = Sub(x, r)"
    apply_pass(RaiseOpset(20), model(body, "float[B, S, 8] y, float[B, S, 1] r"), changes=1)


def test_an_unknown_operator_keeps_the_model_as_it_is():
    built = model("y = Relu(x)")
    (node,) = built.graph
    node.op_type = "NoSuchOperator"
    assert RaiseOpset(20).run(built) == 0


def test_the_format_version_follows():
    built = model("y = Erf(x)")
    built.ir_version = 8
    RaiseOpset(20).run(built)
    assert built.ir_version == 9
    onnx.checker.check_model(ir.serde.serialize_model(built))
