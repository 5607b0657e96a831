"""One operation over different types, which a strongly typed network does not allow."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.simulators.tensorrt import models
from tests.simulators.tensorrt.models import Value
from tests.simulators.tensorrt.questions import Asked

FLOAT, HALF, BOOL, INT32 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BOOL, TensorProto.INT32


def built(asked: Asked, model: bytes) -> bool:
    """Returns whether a model becomes an engine; one that does not is said to have mixed types."""
    builder, network, config, errors = asked.parsed(model)
    assert not errors
    answer = builder.build_serialized_network(network, config) is not None
    refused = any("'mixed'" in line and "strongly typed" in line for line in asked.log.lines)
    assert answer is not refused
    return answer


def operation(operator: str, second: int, *, condition: bool = False, output: int = FLOAT, opset: int = 17) -> bytes:
    """Returns a model with one operation over a float32 tensor and one of another type."""
    inputs: list[Value] = [("c", BOOL, [2, 2])] if condition else []
    inputs += [("a", FLOAT, [2, 2]), ("b", second, [2, 2])]
    attributes = {"axis": 0} if operator == "Concat" else {}
    node = helper.make_node(operator, [name for name, *_ in inputs], ["y"], "mixed", **attributes)
    shape = [4, 2] if operator == "Concat" else [2, 2]
    return models.model([node], inputs, [("y", output, shape)], opset=opset)


@pytest.mark.parametrize(
    "operator", ["Add", "Sub", "Mul", "Div", "MatMul", "Gemm", "Max", "Min", "Sum", "Mean", "Concat", "PRelu", "Pow"]
)
def test_arithmetic(asked: Asked, operator: str) -> None:
    assert built(asked, operation(operator, FLOAT)) is True
    assert built(asked, operation(operator, HALF)) is False


@pytest.mark.parametrize("operator", ["Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"])
@pytest.mark.parametrize("second", [HALF, INT32])
def test_comparisons(asked: Asked, operator: str, second: int) -> None:
    assert built(asked, operation(operator, FLOAT, output=BOOL)) is True
    assert built(asked, operation(operator, second, output=BOOL)) is False


@pytest.mark.parametrize("opset", [9, 13, 20])
def test_selection(asked: Asked, opset: int) -> None:
    assert built(asked, operation("Where", FLOAT, condition=True, opset=opset)) is True
    assert built(asked, operation("Where", HALF, condition=True, opset=opset)) is False


@pytest.mark.parametrize("position", [1, 2])
def test_one_bound_of_a_clip(asked: Asked, position: int) -> None:
    for bound_type, accepted in ((np.float32, True), (np.float16, False)):
        names = ["x", *([""] * (position - 1)), "bound"]
        node = helper.make_node("Clip", names, ["y"], "mixed")
        weights = {"bound": np.array(0.5, bound_type)}

        assert built(asked, models.model([node], [("x", FLOAT, [4])], [("y", FLOAT, [4])], weights)) is accepted


def test_inputs_whose_types_are_independent(asked: Asked) -> None:
    node = helper.make_node("Gather", ["x", "i"], ["y"])
    model = models.model([node], [("x", HALF, [4]), ("i", TensorProto.INT64, [2])], [("y", HALF, [2])])

    assert built(asked, model) is True


def test_behind_an_operation_that_changes_the_type(asked: Asked) -> None:
    for cast_to, accepted in ((FLOAT, True), (HALF, False)):
        nodes = [
            helper.make_node("Relu", ["x"], ["r"]),
            helper.make_node("Cast", ["r"], ["h"], to=cast_to),
            helper.make_node("Equal", ["h", "r"], ["y"], "mixed"),
        ]

        assert built(asked, models.model(nodes, [("x", FLOAT, [4])], [("y", BOOL, [4])])) is accepted


def test_inside_of_a_branch(asked: Asked) -> None:
    def body(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, [4])])

    for cast_to, accepted in ((FLOAT, True), (HALF, False)):
        inner = [
            helper.make_node("Cast", ["x"], ["h"], to=cast_to),
            helper.make_node("Where", ["w", "x", "h"], ["o"], "mixed"),
        ]
        other = body("else", helper.make_node("Identity", ["x"], ["p"]))
        node = helper.make_node("If", ["c"], ["y"], "choice", then_branch=body("then", *inner), else_branch=other)
        inputs: list[Value] = [("x", FLOAT, [4]), ("w", BOOL, [4]), ("c", BOOL, [])]

        assert built(asked, models.model([node], inputs, [("y", FLOAT, [4])])) is accepted
