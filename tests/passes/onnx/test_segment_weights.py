from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.passes.onnx.pass_checks import model_of
from tf_opt.errors import InvalidGraphError
from tf_opt.passes.onnx.nodes import add_constant
from tf_opt.passes.onnx.segment_weights import (
    KNOWN_SHAPE,
    KNOWN_VECTOR,
    InputFacts,
    OriginalWeight,
    detach_segment,
    load_segment,
)
from tf_opt.passes.tf.symbolic_dims import symbol
from tf_opt.tensor_info import TensorInfo

TEXT = """g (float[B, 32] input_0, float[32, 32] weight_0, float[32, 16] weight_1)
    => (float[B, 16] output_0) { h = MatMul(input_0, weight_0)  output_0 = MatMul(h, weight_1) }"""
INFOS = [
    TensorInfo(name="a:0", dtype="float32", shape=(32, 32)),
    TensorInfo(name="b:0", dtype="float32", shape=(32, 16)),
]


def exported():
    return ir.serde.serialize_model(model_of(TEXT))


class Reader:
    """Returns weights and counts how often it was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, index):
        self.calls.append(index)
        return np.full(INFOS[index].shape, index + 1, np.float32)


@pytest.mark.parametrize("as_bytes", [True, False])
def test_weights_become_initializers_that_are_read_on_demand(as_bytes):
    reader, proto = Reader(), exported()
    model = load_segment(proto.SerializeToString() if as_bytes else proto, INFOS, reader)
    assert [value.name for value in model.graph.inputs] == ["input_0"]
    assert list(model.graph.initializers) == ["weight_0", "weight_1"]
    second = model.graph.initializers["weight_1"]
    assert second.shape.numpy() == (32, 16)
    assert second.dtype == ir.DataType.FLOAT
    assert reader.calls == []
    np.testing.assert_array_equal(second.const_value.numpy(), np.full((32, 16), 2, np.float32))
    assert reader.calls == [1]


def test_the_argument_is_left_as_it_was():
    proto = exported()
    before = proto.SerializeToString()
    load_segment(proto, INFOS, Reader())
    assert proto.SerializeToString() == before


def test_a_model_that_lacks_a_weight():
    with pytest.raises(InvalidGraphError, match=r"weight_2.*3 weights"):
        load_segment(exported(), [*INFOS, INFOS[0]], Reader())


def test_detached_again_it_is_what_it_was():
    reader, proto = Reader(), exported()
    content, weights = detach_segment(load_segment(proto, INFOS, reader))
    assert reader.calls == []
    again = onnx.ModelProto.FromString(content)
    assert [value.name for value in again.graph.input] == ["input_0", "weight_0", "weight_1"]
    assert [list(node.input) for node in again.graph.node] == [["input_0", "weight_0"], ["h", "weight_1"]]
    assert [weight.original for weight in weights] == [0, 1]
    assert [(weight.dtype, weight.shape) for weight in weights] == [("float32", (32, 32)), ("float32", (32, 16))]
    onnx.checker.check_model(again, full_check=True)


def test_detaching_changes_nothing_and_can_be_repeated():
    model = load_segment(exported(), INFOS, Reader())
    first = detach_segment(model)[0]
    assert detach_segment(model)[0] == first
    assert list(model.graph.initializers) == ["weight_0", "weight_1"]


def test_derived_weights_are_numbered_with_the_originals():
    model = load_segment(exported(), INFOS, Reader())
    derived = np.ones((32, 32), ml_dtypes.bfloat16)
    value = add_constant(model.graph, derived, "packed")
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})
    model.graph.insert_before(model.graph[0], cast)
    model.graph[1].replace_input_with(1, cast.outputs[0])
    content, weights = detach_segment(model)
    # The first original is not read any more, so it is left out.
    assert [(weight.original, weight.dtype) for weight in weights] == [(1, "float32"), (None, "bfloat16")]
    assert weights[1].array() is not None
    np.testing.assert_array_equal(weights[1].array(), derived)
    names = [value.name for value in onnx.ModelProto.FromString(content).graph.input]
    assert names == ["input_0", "weight_0", "weight_1"]


def test_small_constants_stay_in_the_model():
    text = "g (float[B, 16] input_0) => (float[B, 16] output_0) { output_0 = Add(input_0, c) }"
    small = model_of(text, c=np.ones(16, np.float32))
    content, weights = detach_segment(small)
    assert weights == []
    assert len(onnx.ModelProto.FromString(content).graph.initializer) == 1


def test_a_value_inside_with_the_name_of_a_weight():
    text = """g (float[B, 32] input_0, float[32, 32] weight_0) => (float[B, 32] output_0)
        { weight_1 = MatMul(input_0, weight_0)  output_0 = MatMul(weight_1, second) }"""
    model = load_segment(
        ir.serde.serialize_model(model_of(text, second=np.ones((32, 32), np.float32))), INFOS[:1], Reader()
    )
    content, weights = detach_segment(model)
    assert len(weights) == 2
    onnx.checker.check_model(onnx.ModelProto.FromString(content), full_check=True)


def test_a_copy_refers_to_the_same_weights():
    copy = load_segment(exported(), INFOS, Reader()).clone()
    assert isinstance(copy.graph.initializers["weight_1"].const_value, OriginalWeight)
    assert [weight.original for weight in detach_segment(copy)[1]] == [0, 1]


def test_what_is_known_of_inputs_is_kept():
    batch = symbol("ids[0]")
    model = load_segment(exported(), INFOS, Reader(), [InputFacts(shape=(batch, 32), vector=(batch,))])
    (value,) = model.clone().graph.inputs
    assert value.meta[KNOWN_SHAPE] == (batch, 32)
    assert value.meta[KNOWN_VECTOR] == (batch,)
