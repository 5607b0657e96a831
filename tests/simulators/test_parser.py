from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.simulators.tensorrt import models
from tests.simulators.tensorrt.fixture import Simulation
from tests.simulators.tensorrt.questions import Asked

FLOAT = TensorProto.FLOAT


def parse(asked: Asked, model: bytes) -> tuple[bool, list[object]]:
    """Returns what the parser answers, and its errors."""
    network = asked.trt.Builder(asked.log).create_network(0)
    parser = asked.trt.OnnxParser(network, asked.log)
    answer = parser.parse(model)
    return answer, [parser.get_error(index) for index in range(parser.num_errors)]


def test_no_model(asked: Asked) -> None:
    answer, errors = parse(asked, b"this is no model")

    assert not answer
    assert errors[0].code() == asked.trt.ErrorCode.MODEL_DESERIALIZE_FAILED
    assert any("ERROR" in line for line in asked.log.lines)


def test_model_without_an_operator_set_or_output(asked: Asked) -> None:
    for field in ("opset_import", "graph.output"):
        model = onnx.ModelProto.FromString(models.dense())
        del (model.graph.output if field == "graph.output" else model.opset_import)[:]

        answer, errors = parse(asked, model.SerializeToString())

        assert not answer
        assert errors[0].code() == asked.trt.ErrorCode.MODEL_DESERIALIZE_FAILED


def test_parser_needs_a_network(asked: Asked) -> None:
    with pytest.raises(TypeError):
        asked.trt.OnnxParser(asked.trt.Builder(asked.log), asked.log)


def test_invalid_model(asked: Asked) -> None:
    unknown_input = models.model(
        [helper.make_node("Relu", ["nowhere"], ["y"])], [("x", FLOAT, [1])], [("y", FLOAT, [1])]
    )

    assert parse(asked, unknown_input)[0] is False


@pytest.mark.parametrize("operator", ["Unique", "Compress", "BitShift", "MatMulInteger", "DynamicQuantizeLinear"])
def test_unsupported_operator_names_its_node(asked: Asked, operator: str) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "before"),
        helper.make_node(operator, ["r"], ["y"], "culprit"),
    ]
    answer, errors = parse(asked, models.model(nodes, [("x", FLOAT, [4])], [("y", FLOAT, [None])]))

    assert not answer
    assert [(error.node(), error.node_name(), error.node_operator()) for error in errors] == [(1, "culprit", operator)]
    assert errors[0].code() == asked.trt.ErrorCode.UNSUPPORTED_NODE


def test_operator_of_another_domain_is_refused(asked: Asked) -> None:
    node = helper.make_node("FusedMatMul", ["x", "x"], ["y"], "culprit", domain="com.microsoft")

    answer, errors = parse(asked, models.model([node], [("x", FLOAT, [4, 4])], [("y", FLOAT, [4, 4])]))

    assert not answer
    assert errors[0].node_name() == "culprit"


@pytest.mark.parametrize("element_type", [TensorProto.INT16, TensorProto.UINT32, TensorProto.STRING])
def test_unsupported_type(asked: Asked, element_type: int) -> None:
    node = helper.make_node("Identity", ["x"], ["y"], "copy")

    answer, errors = parse(asked, models.model([node], [("x", element_type, [4])], [("y", element_type, [4])]))

    assert not answer
    assert asked.trt.ErrorCode.UNSUPPORTED_NODE_DATATYPE in [error.code() for error in errors]


@pytest.mark.parametrize(("opset", "accepted"), [(8, False), (9, True), (20, True), (25, False)])
def test_opset_limits(asked: Asked, opset: int, accepted: bool) -> None:
    assert parse(asked, models.dense(opset))[0] is accepted


def test_opset_21_is_above_the_limit_of_10(simulation: Simulation, asked: Asked) -> None:
    assert parse(asked, models.dense(21))[0] is (simulation.library.major >= 11)


def test_unknown_rank_is_refused(asked: Asked) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])

    assert parse(asked, models.model([node], [("x", FLOAT, None)], [("y", FLOAT, None)]))[0] is False


@pytest.mark.parametrize(("rank", "accepted"), [(8, True), (9, False)])
@pytest.mark.parametrize("first", [1, "n"])
def test_rank_of_inputs(asked: Asked, rank: int, accepted: bool, first: int | str) -> None:
    shape = [first] + [1] * (rank - 1)
    node = helper.make_node("Relu", ["x"], ["y"])

    answer, errors = parse(asked, models.model([node], [("x", FLOAT, shape)], [("y", FLOAT, shape)]))

    assert answer is accepted
    assert not errors or f"has {rank} dimensions" in errors[0].desc()


@pytest.mark.parametrize(("rank", "accepted"), [(8, True), (9, False)])
def test_rank_of_tensors_inside(asked: Asked, rank: int, accepted: bool) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "fine"),
        helper.make_node("Reshape", ["r", "long"], ["s"], "culprit"),
        helper.make_node("Reshape", ["s", "flat"], ["y"], "back"),
    ]
    weights = {"long": np.array([1] * (rank - 1) + [8]), "flat": np.array([8])}

    answer, errors = parse(asked, models.model(nodes, [("x", FLOAT, [8])], [("y", FLOAT, [8])], weights))

    assert answer is accepted
    assert {error.node_name() for error in errors} == (set() if accepted else {"culprit", "back"})


def test_double_becomes_float_with_a_warning(asked: Asked) -> None:
    _, network, _, errors = asked.parsed(models.dense(element_type=TensorProto.DOUBLE))

    assert not errors
    assert network.get_input(0).dtype == asked.trt.DataType.FLOAT
    assert any("WARNING" in line and "DOUBLE" in line for line in asked.log.lines)


def test_uint8_passes_only_at_the_border(asked: Asked) -> None:
    uint8 = TensorProto.UINT8
    cast = helper.make_node("Cast", ["x"], ["y"], to=FLOAT)
    inside = [helper.make_node("Cast", ["x"], ["u"], to=uint8), helper.make_node("Mul", ["u", "u"], ["y"], "inside")]

    assert parse(asked, models.model([cast], [("x", uint8, [4])], [("y", FLOAT, [4])]))[0] is True
    answer, errors = parse(asked, models.model(inside, [("x", FLOAT, [4])], [("y", uint8, [4])], opset=14))
    assert not answer
    assert "inside" in [error.node_name() for error in errors]


def test_int64_stays_int64(asked: Asked) -> None:
    _, network, _, _ = asked.parsed(models.integers())

    assert network.get_input(0).dtype == asked.trt.DataType.INT64


def test_axes_have_to_be_constant(asked: Asked) -> None:
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], "sum")
    inputs = [("x", FLOAT, [2, 3]), ("axes", TensorProto.INT64, [1])]

    answer, errors = parse(asked, models.model([node], inputs, [("y", FLOAT, [None, None])]))

    assert not answer
    assert errors[0].node_name() == "sum"


def test_top_k_below_3840(asked: Asked) -> None:
    def top(count: int) -> bytes:
        node = helper.make_node("TopK", ["x", "k"], ["y", "i"], "top")
        outputs = [("y", FLOAT, [1, None]), ("i", TensorProto.INT64, [1, None])]
        return models.model([node], [("x", FLOAT, [1, 5000])], outputs, {"k": np.array([count])})

    assert parse(asked, top(3839))[0] is True
    assert parse(asked, top(3840))[0] is False


def external(folder: Path) -> tuple[bytes, bytes]:
    """Returns a model whose weights lie in a file, and the weights."""
    model = onnx.ModelProto.FromString(models.dense())
    weights = model.graph.initializer[0].raw_data
    (folder / "weights.bin").write_bytes(weights)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "weights.bin", 0, len(weights))
    model.graph.initializer[0].ClearField("raw_data")
    return model.SerializeToString(), weights


def test_external_weights_are_read_beside_the_model(asked: Asked, tmp_path: Path) -> None:
    model, _ = external(tmp_path)
    network = asked.trt.Builder(asked.log).create_network(0)

    assert asked.trt.OnnxParser(network, asked.log).parse(model, path=str(tmp_path / "model.onnx"))


def test_external_weights_that_are_not_there(asked: Asked, tmp_path: Path) -> None:
    model, _ = external(tmp_path)
    network = asked.trt.Builder(asked.log).create_network(0)

    assert not asked.trt.OnnxParser(network, asked.log).parse(model, path=str(tmp_path / "elsewhere" / "model.onnx"))


def test_weights_from_memory(simulation: Simulation, asked: Asked, tmp_path: Path) -> None:
    if simulation.library.version < (10, 16):
        assert not hasattr(asked.trt.OnnxParser, "load_initializer")
        return
    model, weights = external(tmp_path)
    held = np.frombuffer(weights, np.uint8)

    def parser() -> object:
        made = asked.trt.OnnxParser(asked.trt.Builder(asked.log).create_network(0), asked.log)
        assert made.load_model_proto(model)
        return made

    good, small, none = parser(), parser(), parser()
    assert good.load_initializer("w", held.ctypes.data, held.nbytes)
    assert good.parse_model_proto()
    assert not small.load_initializer("w", held.ctypes.data, held.nbytes - 4)
    assert not none.load_initializer("nope", held.ctypes.data, held.nbytes)
    assert not none.parse_model_proto()
    unloaded = asked.trt.OnnxParser(asked.trt.Builder(asked.log).create_network(0), asked.log)
    assert not unloaded.load_initializer("w", held.ctypes.data, held.nbytes)
    assert not unloaded.parse_model_proto()


def test_support_by_subgraph(simulation: Simulation, asked: Asked) -> None:
    if simulation.library.version < (10, 16):
        assert not hasattr(asked.trt.OnnxParser, "supports_model_v2")
        return
    parser = asked.trt.OnnxParser(asked.trt.Builder(asked.log).create_network(0), asked.log)

    assert not parser.supports_model_v2(models.unsupported())
    found = [(parser.get_subgraph_nodes(i), parser.is_subgraph_supported(i)) for i in range(parser.num_subgraphs)]
    assert found == [([0], True), ([1], False)]
    assert hasattr(parser, "supports_model") is (simulation.library.major < 11)


def test_output_declared_without_a_shape_gets_one(asked: Asked) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])

    _, network, _, errors = asked.parsed(models.model([node], [("x", FLOAT, ["n", 3])], [("y", FLOAT, None)]))

    assert not errors
    assert network.get_output(0).shape == (-1, 3)


def branch(name: str, *nodes: onnx.NodeProto, rank: int = 1) -> onnx.GraphProto:
    """Returns the body of an If whose output is the last node's."""
    output = helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, [None] * rank)
    return helper.make_graph(nodes, name, [], [output])


def choice(output: str, name: str, then_branch: onnx.GraphProto) -> onnx.NodeProto:
    """Returns an If whose other branch copies x."""
    other = branch("else", helper.make_node("Identity", ["x"], [f"{output}_other"]))
    return helper.make_node("If", ["c"], [output], name, then_branch=then_branch, else_branch=other)


def repetition(output: str, name: str, *nodes: onnx.NodeProto) -> onnx.NodeProto:
    """Returns a Loop over nodes that make "o" of x."""
    inputs = [("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("before", FLOAT, [4])]
    outputs = [("go_on", TensorProto.BOOL, []), ("o", FLOAT, [4])]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), *nodes],
        "body",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
    )
    return helper.make_node("Loop", ["", "c", "x"], [output], name, body=body)


def controlled(node: onnx.NodeProto) -> bytes:
    """Returns a model of one node that makes y of x and the condition c."""
    inputs = [("x", FLOAT, [4]), ("c", TensorProto.BOOL, [])]
    return models.model([node], inputs, [("y", FLOAT, [None])], opset=14)


def conditional(asked: Asked, then_node: onnx.NodeProto, rank: int) -> tuple[bool, list[object]]:
    """Parses an If whose branches copy x; the first through `then_node`, with an output of this rank."""
    return parse(asked, controlled(choice("y", "choice", branch("then", then_node, rank=rank))))


def inside_of_an_if_in_an_if(*nodes: onnx.NodeProto) -> onnx.NodeProto:
    inner = choice("inner_choice", "inner choice", branch("then", *nodes))
    return choice("y", "outermost", branch("then", inner))


def inside_of_a_loop(*nodes: onnx.NodeProto) -> onnx.NodeProto:
    return repetition("y", "outermost", *nodes)


def inside_of_a_loop_in_an_if(*nodes: onnx.NodeProto) -> onnx.NodeProto:
    return choice("y", "outermost", branch("then", repetition("repeated", "inner loop", *nodes)))


NESTED_FAULTS = {
    "Unique": [helper.make_node("Unique", ["x"], ["o"], "culprit")],
    "UINT8": [
        helper.make_node("Cast", ["x"], ["u"], to=TensorProto.UINT8),
        helper.make_node("Mul", ["u", "u"], ["v"], "culprit"),
        helper.make_node("Cast", ["v"], ["o"], to=FLOAT),
    ],
    "INT16": [
        helper.make_node("Cast", ["x"], ["u"], "culprit", to=TensorProto.INT16),
        helper.make_node("Cast", ["u"], ["o"], to=FLOAT),
    ],
    "must be a constant": [
        helper.make_node("Cast", ["x"], ["axes"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["x", "axes"], ["o"], "culprit"),
    ],
}


@pytest.mark.parametrize("place", [inside_of_an_if_in_an_if, inside_of_a_loop, inside_of_a_loop_in_an_if])
@pytest.mark.parametrize("fault", NESTED_FAULTS)
def test_refused_at_any_depth(asked: Asked, place: Callable[..., onnx.NodeProto], fault: str) -> None:
    assert parse(asked, controlled(place(helper.make_node("Relu", ["x"], ["o"]))))[0] is True

    answer, errors = parse(asked, controlled(place(*NESTED_FAULTS[fault])))

    assert not answer
    assert {(error.node(), error.node_name()) for error in errors} == {(0, "outermost")}
    assert any(fault in error.desc() and "'culprit' in a subgraph" in error.desc() for error in errors)


def test_operator_inside_of_a_branch(asked: Asked) -> None:
    assert conditional(asked, helper.make_node("Relu", ["x"], ["o"]), 1)[0] is True

    answer, errors = conditional(asked, helper.make_node("Unique", ["x"], ["o"], "inner"), 1)

    assert not answer
    assert errors[0].node_name() == "choice"
    assert "inner" in errors[0].desc()


def test_branches_of_different_ranks(asked: Asked) -> None:
    answer, errors = conditional(asked, helper.make_node("Relu", ["x"], ["o"]), 2)

    assert not answer
    assert errors[0].node_operator() == "If"


def quantized(zero_point: np.ndarray) -> bytes:
    """A model that quantizes x and takes it back."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], "back"),
    ]
    weights = {"scale": np.array(0.5, np.float32), "zero": zero_point}
    return models.model(nodes, [("x", FLOAT, [4])], [("y", FLOAT, [4])], weights)


def test_symmetric_quantization(asked: Asked) -> None:
    assert parse(asked, quantized(np.array(0, np.int8)))[0] is True


@pytest.mark.parametrize("zero_point", [np.array(3, np.int8), np.array(0, np.uint8)])
def test_other_quantization_is_refused(asked: Asked, zero_point: np.ndarray) -> None:
    answer, errors = parse(asked, quantized(zero_point))

    assert not answer
    assert {error.node_name() for error in errors} == {"quantize", "back"}


def test_bias_in_int32_cannot_be_dequantized(asked: Asked) -> None:
    node = helper.make_node("DequantizeLinear", ["b", "scale"], ["y"], "bias")
    weights = {"b": np.array([1, 2], np.int32), "scale": np.array(0.5, np.float32)}

    answer, errors = parse(asked, models.model([node], [("x", FLOAT, [1])], [("y", FLOAT, [2])], weights))

    assert not answer
    assert errors[0].node_name() == "bias"


def test_unsupported_type_inside_names_its_node(asked: Asked) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], "narrow", to=TensorProto.INT16),
        helper.make_node("Cast", ["i"], ["y"], "wide", to=FLOAT),
    ]

    answer, errors = parse(asked, models.model(nodes, [("x", FLOAT, [4])], [("y", FLOAT, [4])]))

    assert not answer
    assert {error.node_name() for error in errors} == {"narrow", "wide"}
    assert all("INT16" in error.desc() for error in errors)
