"""One suite that every engine backend runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tf_opt
from tests.small_graphs import engine_nodes, feed, mlp, run_graph_def, two_towers
from tf_opt import engines, errors
from tf_opt.engines.base import SegmentModel, ShapeProfile
from tf_opt.engines.blob import EngineBlob
from tf_opt.tensor_info import TensorInfo

BACKENDS = ("openvino", "onnxruntime")


def model_of(*nodes, inputs=("input_0",)):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in inputs]
    outputs = [helper.make_tensor_value_info("output_0", TensorProto.FLOAT, ["batch", 4])]
    graph = helper.make_graph(list(nodes), "segment", values, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def segment_of(model, inputs=1):
    infos = tuple(TensorInfo(name=f"in{i}:0", dtype="float32", shape=(None, 4)) for i in range(inputs))
    outputs = (TensorInfo(name="out:0", dtype="float32", shape=(None, 4)),)
    return SegmentModel(
        name="s", model=model, inputs=infos, outputs=outputs, weight_array=lambda index: np.zeros(index)
    )


@pytest.fixture(params=BACKENDS)
def backend(request):
    return engines.create_backend(request.param)


def test_build_stores_the_model_and_who_built_it(backend):
    model = model_of(helper.make_node("Relu", ["input_0"], ["output_0"]))
    engine = backend.build(segment_of(model))
    blob = EngineBlob.unpack(engine.blob)
    assert blob.payload == model
    assert blob.header["runtime"] == engine.runtime == backend.name
    assert blob.header["library_version"] in engine.library
    assert blob.header["tf_opt_version"] == tf_opt.__version__


@pytest.mark.parametrize("model", [b"", b"no model", model_of(helper.make_node("NoSuchOp", ["input_0"], ["output_0"]))])
def test_refused_model_names_the_segment(backend, model):
    with pytest.raises(errors.EngineBuildError, match=r"\bs\b"):
        backend.build(segment_of(model))


def test_refusals_of_tensors(backend):
    fine = TensorInfo(name="a:0", dtype="float32", shape=(None, 4))
    strange = TensorInfo(name="b:0", dtype="complex64", shape=(None, 4))
    assert backend.refusal("Add", [fine, fine], [fine]) is None
    assert "complex64" in backend.refusal("Add", [fine, strange], [fine])
    assert "b:0" in backend.refusal("Add", [fine], [strange])


def test_openvino_asks_for_known_ranks_of_inputs_only():
    fine = TensorInfo(name="a:0", dtype="float32", shape=(None, 4))
    unknown = TensorInfo(name="b:0", dtype="float32")
    backend = engines.create_backend("openvino")
    assert "unknown rank" in backend.refusal("Add", [fine, unknown], [fine])
    assert backend.refusal("FusedBatchNormV3", [fine], [fine, unknown]) is None


def test_openvino_refuses_what_it_computes_in_fewer_bits():
    backend = engines.create_backend("openvino")
    double = TensorInfo(name="a:0", dtype="float64", shape=(None, 4))
    assert "float64" in backend.refusal("AddV2", [double], [double])


@pytest.mark.parametrize("name", BACKENDS)
def test_engine_in_a_session_equals_the_original(name):
    for graph_def, outputs in ((mlp(), ["y:0"]), (two_towers(), ["left:0", "right:0"])):
        optimizer = tf_opt.Tf2TrtOpt(engine=name, adopt="always")
        optimized = optimizer.optimize_graph_def(graph_def, outputs, [feed()])
        assert engine_nodes(optimized)
        assert all(node.attr["runtime"].s.decode() == name for node in engine_nodes(optimized))
        for batch in (1, 5, 2):
            expected = run_graph_def(graph_def, outputs, feed(batch, batch))
            actual = run_graph_def(optimized, outputs, feed(batch, batch))
            for left, right in zip(actual, expected, strict=True):
                np.testing.assert_allclose(left, right, atol=1e-5)


@pytest.mark.parametrize(
    "shapes",
    [((2, 4), (1, 4), (3, 4)), ((1, 4), (2, 4), (1, 4)), ((1, 4), (1, 4, 1), (1, 4)), ((-1, 4), (1, 4), (1, 4))],
)
def test_inconsistent_profile(shapes):
    minimum, optimum, maximum = ({"x": shape} for shape in shapes)
    with pytest.raises(errors.EngineBuildError, match="'x'"):
        ShapeProfile(minimum=minimum, optimum=optimum, maximum=maximum)
    with pytest.raises(errors.EngineBuildError, match="different inputs"):
        ShapeProfile(minimum={"x": (1,)}, optimum={"y": (1,)}, maximum={"x": (1,)})


def test_models_are_valid_onnx():
    onnx.checker.check_model(onnx.ModelProto.FromString(model_of(helper.make_node("Relu", ["input_0"], ["output_0"]))))
