"""The op's own edit of a stored model: weights from graph inputs to external initializers."""

from __future__ import annotations

import contextlib
from typing import Any

import hypothesis
import numpy as np
import onnx
import pytest
from hypothesis import strategies
from onnx import TensorProto, helper

from tests.engines.native_engine import NativeError, declared
from tests.engines.onnx_models import Array, model_of, relu_model
from tf_opt.engines.onnxruntime.session import declare_external

FLOAT = TensorProto.FLOAT
WEIGHTS = [np.ones((4, 3), np.float32), np.zeros(3, np.float32)]


def assert_as_in_python(model: bytes, weights: list[Array]) -> None:
    expected, _ = declare_external(model)
    assert onnx.ModelProto.FromString(declared(model, weights)) == onnx.ModelProto.FromString(expected)


def test_it_is_the_edit_that_python_makes() -> None:
    assert_as_in_python(relu_model(), WEIGHTS)


def test_everything_else_stays() -> None:
    """A function, metadata, a subgraph with a name of ours, an initializer, weights without dimensions."""
    names = ("weight_0", "weight_12", "weights_1", "my_weight_0", "input_0")
    inputs: dict[str, Any] = {name: (FLOAT, [2, 1]) for name in names}
    inputs["weight_3"] = (TensorProto.INT64, [])
    branch = helper.make_graph([], "branch", [], [helper.make_tensor_value_info("weight_0", FLOAT, None)])
    nodes = [
        helper.make_node("If", ["input_0"], ["output_0"], then_branch=branch, else_branch=branch, epsilon=0.5),
        helper.make_node("Sum", list(inputs), ["output_1"]),
    ]
    constants = {"weight_99": np.array([1.5], np.float32)}
    model = onnx.ModelProto.FromString(model_of(nodes, inputs, {"output_0": FLOAT, "output_1": FLOAT}, constants))
    model.metadata_props.add(key="key", value="value")
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], [], [helper.make_opsetid("", 17)]))
    model.graph.doc_string = "äöü" * 100
    weights: list[Array] = [np.ones((2, 1), np.float32)] * 13
    weights[3] = np.array(7)
    assert_as_in_python(model.SerializeToString(), weights)


def test_dimensions_that_the_model_leaves_open_are_those_of_the_node() -> None:
    nodes = [helper.make_node("Relu", ["weight_0"], ["output_0"])]
    shapes: list[Any] = [["n", 3], None]
    for shape in shapes:
        model = model_of(nodes, {"weight_0": (FLOAT, shape)}, {"output_0": FLOAT})
        (initializer,) = onnx.ModelProto.FromString(declared(model, WEIGHTS)).graph.initializer
        assert list(initializer.dims) == [4, 3]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (WEIGHTS[:1], "reads weight_1, the node has 1 weights"),
        ([WEIGHTS[0], np.zeros(4, np.float32)], r"weight_1 .*shape \[3\].*shape \[4\]"),
        ([WEIGHTS[0], np.zeros((1, 3), np.float32)], r"weight_1 .*shape \[3\].*shape \[1,3\]"),
        ([WEIGHTS[0], np.zeros(3, np.int32)], "weight_1 has ONNX's element type 1 .*has type 6"),
    ],
)
def test_weights_that_do_not_fit(weights: list[Array], message: str) -> None:
    with pytest.raises(NativeError, match=f"{message}.*Optimize the original model again"):
        declared(relu_model(), weights)


def test_no_model() -> None:
    for payload in (b"\xff" * 40, relu_model()[:-3], b"\x0b", b"\x3a\x05\x5a"):
        with pytest.raises(NativeError, match="no ONNX model"):
            declared(payload, WEIGHTS)


@hypothesis.given(strategies.data())
@hypothesis.settings(max_examples=300)
def test_damaged_bytes_are_read_within_their_bounds(data: strategies.DataObject) -> None:
    model = bytearray(relu_model())
    for _ in range(data.draw(strategies.integers(1, 4))):
        model[data.draw(strategies.integers(0, len(model) - 1))] = data.draw(strategies.integers(0, 255))
    with contextlib.suppress(NativeError):
        declared(bytes(model), WEIGHTS)
