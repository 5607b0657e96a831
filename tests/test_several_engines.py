"""Graphs whose nodes are for more than one engine."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.simulators.tensorrt import onnx_rules
from tests.simulators.tensorrt.fixture import simulated_tensorrt
from tests.small_graphs import engine_nodes, feed, mlp, run_graph_def
from tf_opt import errors
from tf_opt.engines.openvino import OpenVINOBackend
from tf_opt.engines.tensorrt import TensorRTBackend
from tf_opt.report.json import load_report
from tf_opt.segment_models import graph_node


def optimize(graph_def, outputs, **options):
    options = {"engine": ("openvino", "onnxruntime"), "adopt": "always", "minimum_segment_size": 1, **options}
    optimizer = tf_opt.Tf2TrtOpt(**options)
    return optimizer.optimize_graph_def(graph_def, outputs, [feed()]), optimizer.report


def runtimes(graph_def):
    return {node.name: node.attr["runtime"].s.decode() for node in engine_nodes(graph_def)}


def assert_same(actual, expected, outputs):
    for batch in (1, 4):
        for left, right in zip(
            run_graph_def(actual, outputs, feed(batch, batch)),
            run_graph_def(expected, outputs, feed(batch, batch)),
            strict=True,
        ):
            np.testing.assert_allclose(left, right, atol=1e-5)


def refusing(ops, monkeypatch, backend=OpenVINOBackend):
    """Has a backend refuse ops when it is asked."""
    original = backend.refusal

    def refusal(self, op, inputs, outputs):
        return "not today" if op in ops else original(self, op, inputs, outputs)

    monkeypatch.setattr(backend, "refusal", refusal)


def test_nodes_that_the_first_engine_takes_are_its_own():
    optimized, report = optimize(mlp(), ["y:0"])
    assert set(runtimes(optimized).values()) == {"openvino"}
    assert report.engine == "openvino"


def test_what_the_first_engine_refuses_goes_to_the_next(monkeypatch):
    refusing({"Relu"}, monkeypatch)
    optimized, report = optimize(mlp(), ["y:0"])
    assert sorted(runtimes(optimized).values()) == ["onnxruntime", "openvino", "openvino"]
    assert not report.refused
    assert_same(optimized, mlp(), ["y:0"])


def test_a_node_that_all_refuse_has_the_reason_of_each(monkeypatch):
    refusing({"Relu"}, monkeypatch)
    _, report = optimize(mlp(), ["y:0"], engine="openvino")
    assert [node.reason for node in report.refused if node.op == "Relu"] == ["not today"]
    monkeypatch.setattr("tf_opt.engines.onnxruntime.ONNXRuntimeBackend.refusal", lambda *_: "never")
    _, report = optimize(mlp(), ["y:0"])
    assert [node.reason for node in report.refused if node.op == "Relu"] == ["openvino: not today; onnxruntime: never"]


def test_segments_of_two_engines_that_read_each_other_both_ways_make_no_cycle(monkeypatch):
    """Relu (of the second engine) reads what the first one computes, and gives to it: one segment of each would wait
    for the other."""
    refusing({"Relu"}, monkeypatch)
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 16], name="x")
        one, two = tf.tanh(x), tf.sigmoid(x)
        first, second = tf.nn.relu(one), tf.nn.relu(tf.exp(two) * 0.5)
        tf.identity(tf.tanh(first) + tf.sigmoid(second) + one, name="y")
    graph_def = graph.as_graph_def()
    optimized, _ = optimize(graph_def, ["y:0"])
    assert set(runtimes(optimized).values()) == {"openvino", "onnxruntime"}
    assert_same(optimized, graph_def, ["y:0"])


def test_nodes_that_a_build_blames_go_to_the_next_engine(monkeypatch):
    original = OpenVINOBackend.build

    def build(self, segment, profiles=()):
        if b"Relu" in segment.model:
            raise errors.EngineBuildError("no Relu", nodes=("activation",))
        return original(self, segment, profiles)

    monkeypatch.setattr(OpenVINOBackend, "build", build)
    optimized, _ = optimize(mlp(), ["y:0"])
    assert sorted(runtimes(optimized).values()) == ["onnxruntime", "openvino", "openvino"]
    _, report = optimize(mlp(), ["y:0"], engine="openvino")
    (reason,) = (node.reason for node in report.refused if node.op == "Relu")
    assert reason == "the engine refuses it: no Relu"


def test_a_segment_that_fails_for_no_known_reason_goes_whole_to_the_next_engine(monkeypatch):
    def build(self, segment, profiles=()):
        raise errors.EngineBuildError("out of sorts")

    monkeypatch.setattr(OpenVINOBackend, "build", build)
    optimized, _ = optimize(mlp(), ["y:0"])
    assert set(runtimes(optimized).values()) == {"onnxruntime"}
    assert_same(optimized, mlp(), ["y:0"])


def test_a_precision_that_only_the_first_engine_has_leaves_the_others_in_fp32(monkeypatch):
    refusing({"Relu"}, monkeypatch)
    monkeypatch.setattr(OpenVINOBackend, "precision_refusal", lambda self, precision: None)
    optimized, report = optimize(mlp(), ["y:0"], precision="bf16")
    by_runtime = {
        runtimes(optimized)[segment.name]: segment.precision for segment in report.segments if segment.adopted
    }
    assert by_runtime == {"openvino": "bf16", "onnxruntime": "fp32"}
    notes = [note for segment in report.segments for note in segment.notes]
    assert any("'onnxruntime' does not compute in bf16" in note for note in notes)


def test_auto_takes_tensorrt_on_a_gpu_and_the_next_engine_for_what_that_refuses(monkeypatch):
    with simulated_tensorrt("10.16"):
        refusing({"Relu"}, monkeypatch, TensorRTBackend)
        optimized, report = optimize(mlp(), ["y:0"], engine="auto")
        assert sorted(runtimes(optimized).values()) == ["openvino", "tensorrt", "tensorrt"]
        assert report.engine == "tensorrt"
        assert report.engine_choice.startswith("tensorrt: TensorRT can use the GPU Simulated GPU")
        feeds = feed()
        for left, right in zip(*(run_graph_def(each, ["y:0"], feeds) for each in (optimized, mlp())), strict=True):
            np.testing.assert_allclose(left, right, atol=1e-5)


def test_nodes_that_the_parser_refuses_stay_out_of_the_engine():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 16], name="x")
        counts = tf.bitwise.bitwise_and(tf.cast(tf.nn.relu(x) * 8.0, tf.int32), 3, name="bits")
        tf.identity(tf.tanh(tf.cast(counts, tf.float32) * 0.5) + 1.0, name="y")
    graph_def = graph.as_graph_def()
    with simulated_tensorrt("10.16"):
        optimized, report = optimize(graph_def, ["y:0"], engine="tensorrt")
        assert set(runtimes(optimized).values()) == {"tensorrt"}
        (reason,) = (node.reason for node in report.refused if node.op == "BitwiseAnd")
        assert "Bitwise" in reason
        assert_same(optimized, graph_def, ["y:0"])


def refused_by_the_parser(operators, monkeypatch):
    monkeypatch.setattr(onnx_rules, "UNSUPPORTED_OPERATORS", onnx_rules.UNSUPPORTED_OPERATORS | operators)


def chain(blocks):
    """Blocks of Relu, Tanh and Softmax, one behind the other."""
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 16], name="x")
        for number in range(blocks):
            x = tf.nn.softmax(tf.tanh(tf.nn.relu(x * 2.0) + 1.0, name=f"tanh_{number}") * 3.0 + 0.5)
        tf.identity(x, name="y")
    return graph.as_graph_def()


@pytest.mark.parametrize("engine", ["auto", ("tensorrt", "openvino")])
def test_what_the_parser_refused_is_reported_where_the_next_engine_takes_it(engine, monkeypatch):
    refused_by_the_parser({"Tanh"}, monkeypatch)
    with simulated_tensorrt("10.16"):
        _, report = optimize(chain(2), ["y:0"], engine=engine)
        assert [node.name for node in report.declined] == ["tanh_0", "tanh_1"]
        segments = {segment.name for segment in report.segments}
        for node in report.declined:
            assert (node.op, node.engine) == ("Tanh", "tensorrt")
            assert node.segment in segments
            assert "TensorRT 10.16" in node.reason
            assert "no importer registered for op: Tanh" in node.reason
        assert not report.refused
        assert "Nodes that an engine left to the next" in report.text()
        assert "no importer registered for op: Tanh" in " ".join(report.text().split())
        assert "Nodes that an engine left to the next" in report.to_html()
        assert load_report(report.to_json()) == report


def test_a_node_too_small_for_the_next_engine_names_the_refusal_of_the_first(monkeypatch):
    refused_by_the_parser({"Tanh"}, monkeypatch)
    with simulated_tensorrt("10.16"):
        _, report = optimize(chain(2), ["y:0"], engine=("tensorrt", "openvino"), minimum_segment_size=3)
        reasons = [node.reason for node in report.refused if node.op == "Tanh"]
        assert len(reasons) == 2
        for reason in reasons:
            assert "its segment would have 1 compute node" in reason
            assert "tensorrt: the engine refuses it: TensorRT 10.16" in reason
            assert "no importer registered for op: Tanh" in reason


def test_each_refused_node_has_its_own_error(monkeypatch):
    refused_by_the_parser({"Tanh", "Softmax"}, monkeypatch)
    with simulated_tensorrt("10.16"):
        _, report = optimize(chain(2), ["y:0"], engine="tensorrt")
        assert {node.op for node in report.refused} == {"Tanh", "Softmax"}
        for node in report.refused:
            assert node.reason.count("no importer") == 1
            assert f"no importer registered for op: {node.op}" in node.reason


def test_a_parser_that_names_one_node_at_a_time_is_asked_until_none_is_left(monkeypatch):
    refused_by_the_parser({"Tanh"}, monkeypatch)
    refusals = onnx_rules.refusals
    monkeypatch.setattr(onnx_rules, "refusals", lambda *arguments: refusals(*arguments)[:1])
    built = []
    original = TensorRTBackend.build

    def build(self, segment, profiles=()):
        built.append(segment.name)
        return original(self, segment, profiles)

    monkeypatch.setattr(TensorRTBackend, "build", build)
    with simulated_tensorrt("10.16"):
        optimized, report = optimize(chain(12), ["y:0"], engine="tensorrt")
        assert len(engine_nodes(optimized)) == 13
        assert [node.op for node in report.refused] == ["Tanh"] * 12
        # A segment that a cut leaves as it was is not built again.
        assert len(built) == 12 + 13


@pytest.mark.parametrize("engine", ["tensorrt", ("tensorrt", "openvino")])
def test_the_report_says_where_no_further_cut_was_made(engine, monkeypatch):
    refused_by_the_parser({"Tanh"}, monkeypatch)
    refusals = onnx_rules.refusals
    monkeypatch.setattr(onnx_rules, "refusals", lambda *arguments: refusals(*arguments)[:1])
    monkeypatch.setattr("tf_opt.engine_building.MAXIMUM_CUTS", 2)
    with simulated_tensorrt("10.16"):
        optimized, report = optimize(chain(4), ["y:0"], engine=engine)
        assert "The graph was cut 2 times around refused nodes, and no further" in report.to_json()
        expected = {"tensorrt"} if engine == "tensorrt" else {"tensorrt", "openvino"}
        assert set(runtimes(optimized).values()) == expected
        assert_same(optimized, chain(4), ["y:0"])


@pytest.mark.parametrize("engine", [(), ("openvino", "openvino"), ("auto", "openvino")])
def test_lists_that_are_no_list_of_engines(engine):
    with pytest.raises(errors.InvalidOptionError, match="list of different ones"):
        tf_opt.Tf2TrtOpt(engine=engine)


def test_unknown_name_in_a_list_suggests_the_nearest():
    with pytest.raises(errors.UnknownEngineError, match="Did you mean 'openvino'"):
        tf_opt.Tf2TrtOpt(engine=("openvno", "onnxruntime"))


def test_settings_of_another_type():
    with pytest.raises(errors.InvalidOptionError, match="TensorRTSettings"):
        tf_opt.Tf2TrtOpt(tensorrt={"optimization_level": 5})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layer/MatMul", "layer/MatMul"),
        ("layer/MatMul__12", "layer/MatMul"),
        ("layer/MatMul/reshape", "layer/MatMul"),
        ("layer/MatMul_1", "layer/MatMul_1"),
        ("layer/MatMul_1__5", "layer/MatMul_1"),
        ("other", None),
        ("layer/MatMulish", None),
    ],
)
def test_node_that_a_node_of_the_model_comes_from(name, expected):
    assert graph_node(name, ("layer/MatMul", "layer/MatMul_1", "x")) == expected
