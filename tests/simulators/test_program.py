"""The simulator's arithmetic: types that its processor has few kernels for are held in float32."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.simulators.tensorrt import models
from tests.simulators.tensorrt.program import Program, without_double

HALF, BFLOAT16, DOUBLE, FLOAT = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.FLOAT


def branching(element_type: int, inside: int | None = None) -> onnx.ModelProto:
    """y = x + w where the first of x is positive, else x * 3; the branches compute in `inside`.

    Each branch reads x and has constants of its own, one as an initializer and one in a node.
    """
    inside = element_type if inside is None else inside
    dtype = helper.tensor_dtype_to_np_dtype(inside)

    def branch(op: str, constant: onnx.NodeProto | None, value: float) -> onnx.GraphProto:
        array = np.full([3], value).astype(dtype)
        nodes = [
            helper.make_node("Cast", ["x"], ["own"], to=inside),
            *([] if constant is None else [constant]),
            helper.make_node(op, ["own", "w"], ["z"]),
            helper.make_node("Cast", ["z"], ["result"], to=element_type),
        ]
        output = helper.make_tensor_value_info("result", element_type, [3])
        initializers = [numpy_helper.from_array(array, "w")] if constant is None else []
        return helper.make_graph(nodes, op, [], [output], initializers)

    three = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(np.full([3], 3).astype(dtype)))
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=FLOAT),
        helper.make_node("ReduceMax", ["wide"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["y"], then_branch=branch("Add", None, 1 / 3), else_branch=branch("Mul", three, 3)
        ),
    ]
    border = ("x", element_type, [3]), ("y", element_type, [3])
    return onnx.ModelProto.FromString(models.model(nodes, border[:1], border[1:], {"zero": np.float32(0)}, 17))


@pytest.mark.parametrize(
    ("element_type", "dtype"), [(HALF, np.float16), (BFLOAT16, ml_dtypes.bfloat16)], ids=["float16", "bfloat16"]
)
def test_branches_in_sixteen_bit(element_type: int, dtype: np.dtype) -> None:
    model = branching(element_type)
    onnx.checker.check_model(model, full_check=True)
    program = Program(model)
    for x, expected in (
        (np.array([1, 2, 3], dtype), np.array([1, 2, 3], dtype) + dtype(1 / 3)),
        (np.array([-1, -2, -1 / 3], dtype), np.array([-1, -2, -1 / 3], dtype) * dtype(3)),
    ):
        (y,) = program.run({"x": x})
        assert y.dtype == np.dtype(dtype)
        # Rounded to 16 bit, which float32 would not give.
        np.testing.assert_array_equal(y, expected)


def test_sixteen_bit_in_branches_alone() -> None:
    (y,) = Program(branching(FLOAT, HALF)).run({"x": np.array([1, 2, 3], np.float32)})
    np.testing.assert_array_equal(y, (np.array([1, 2, 3], np.float16) + np.float16(1 / 3)).astype(np.float32))


def test_double_in_branches() -> None:
    model, had_double = without_double(branching(FLOAT, DOUBLE))
    assert had_double
    onnx.checker.check_model(model, full_check=True)
    assert b"DOUBLE" not in onnx.printer.to_text(model).encode()
    (y,) = Program(model).run({"x": np.array([-1, -2, -3], np.float32)})
    np.testing.assert_array_equal(y, np.float32([-3, -6, -9]))


def test_model_without_such_types_is_left_as_it_is() -> None:
    model = branching(FLOAT)
    assert without_double(model) == (model, False)
