from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.small_graphs import engine_nodes, feed, mlp, optimize, run_graph_def, two_towers
from tf_opt import errors
from tf_opt.engines import openvino as openvino_backend
from tf_opt.graph_checks import frozen_from_graph_def


@pytest.mark.parametrize("outputs", [["y"], ["y:0"], "y"])
@pytest.mark.parametrize("name", ["x", "x:0"])
def test_names_with_and_without_index(outputs, name):
    graph_def = mlp()
    optimized, report = optimize(graph_def, outputs, [feed(name=name)])
    assert len(engine_nodes(optimized)) == 1
    assert report.coverage == 1.0
    for batch in (1, 2, 7):
        expected, actual = (run_graph_def(each, ["y:0"], feed(batch, batch))[0] for each in (graph_def, optimized))
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-5)


def test_positional_call():
    optimized = tf_opt.Tf2TrtOpt(adopt="always").optimize_graph_def(mlp(), ["y"], [feed()], True)
    assert engine_nodes(optimized)


def test_argument_is_not_changed():
    graph_def = mlp()
    before = graph_def.SerializeToString(deterministic=True)
    optimize(graph_def, ["y"], [feed()])
    assert graph_def.SerializeToString(deterministic=True) == before


def test_every_compute_node_has_an_engine_or_a_reason():
    optimized, report = optimize(two_towers(), ["left", "right"], [feed()])
    assert len(engine_nodes(optimized)) == 2
    assert report.nodes_in_segments + len(report.refused) == report.compute_nodes
    (refused,) = report.refused
    assert refused.op == "Betainc"
    assert "Betainc" in refused.reason
    np.testing.assert_allclose(
        run_graph_def(optimized, ["left:0", "right:0"], feed())[1],
        run_graph_def(two_towers(), ["left:0", "right:0"], feed())[1],
        atol=1e-5,
    )


def test_two_segments_share_one_copy_of_a_weight():
    optimized, _ = optimize(two_towers(), ["left", "right"], [feed()])
    assert [node.name for node in optimized.node].count("weight") == 1
    assert all("weight" in node.input for node in engine_nodes(optimized))


def test_inner_tensor_stays_fetchable():
    graph_def = mlp()
    optimized, _ = optimize(graph_def, ["y", "activation"], [feed()])
    assert engine_nodes(optimized)
    for expected, actual in zip(
        run_graph_def(graph_def, ["y:0", "activation:0"], feed()),
        run_graph_def(optimized, ["y:0", "activation:0"], feed()),
        strict=True,
    ):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_analyze_builds_nothing(monkeypatch):
    monkeypatch.setattr(openvino_backend.OpenVINOBackend, "build", lambda *_: pytest.fail("an engine was built"))
    optimizer = tf_opt.Tf2TrtOpt()
    report = optimizer.analyze(two_towers(), ["right"])
    assert report is optimizer.report
    assert [segment.adopted for segment in report.segments] == [False, False]
    assert report.nodes_in_engines == 0
    assert "Betainc" in report.text()


def test_options_reach_segmentation():
    denied, report = optimize(mlp(), ["y"], [feed()], denied_ops=["Softmax"])
    # The Identity behind it would be a segment of one node.
    assert [node.op for node in report.refused] == ["Softmax", "Identity"]
    assert [node.op for node in denied.node].count("Softmax") == 1
    _, report = optimize(mlp(), ["y"], [feed()], denied_nodes=["prob*"])
    assert [node.name for node in report.refused] == ["probabilities", "y"]
    _, report = optimize(mlp(), ["y"], [feed()], node_filter=lambda node: node.op != "Relu", minimum_segment_size=1)
    assert [node.op for node in report.refused] == ["Relu"]
    _, report = optimize(mlp(), ["y"], [feed()], supported_list=["MatMul", "BiasAdd"], minimum_segment_size=2)
    assert {node.op for node in report.refused} >= {"Relu", "Softmax"}
    untouched, report = optimize(mlp(), ["y"], [feed()], minimum_segment_size=50)
    assert not engine_nodes(untouched)
    assert {node.category for node in report.refused} == {"segment too small"}


def test_static_shapes_on_request():
    optimized, _ = optimize(mlp(), ["y"], [feed(3)], dynamic_opt=False)
    (placeholder,) = [node for node in optimized.node if node.name == "x"]
    assert [dimension.size for dimension in placeholder.attr["shape"].shape.dim] == [3, 16]
    frozen = frozen_from_graph_def(mlp(), ["y"], keys={"x:0": "features"})
    optimizer = tf_opt.Tf2TrtOpt(dynamic_opt=False, adopt="always")
    described = optimizer.optimize(frozen, [feed(3)])
    assert (described.inputs[0].key, described.inputs[0].shape) == ("features", (3, 16))
    assert described.outputs[0].shape == (3, 4)
    optimized, _ = optimize(mlp(), ["y"], [feed(3), feed(5)], dynamic_opt=False)
    (placeholder,) = [node for node in optimized.node if node.name == "x"]
    assert [dimension.size for dimension in placeholder.attr["shape"].shape.dim] == [-1, 16]


def test_result_loads_in_a_new_process(tmp_path):
    optimized, _ = optimize(mlp(), ["y"], [feed()])
    (tmp_path / "optimized.pb").write_bytes(optimized.SerializeToString())
    np.save(tmp_path / "x.npy", feed()["x:0"])
    np.save(tmp_path / "y.npy", run_graph_def(mlp(), ["y:0"], feed())[0])
    program = """
import sys
import tf_opt
assert not {"tensorflow", "openvino"} & set(sys.modules)
import numpy as np
import tensorflow as tf
graph_def = tf.compat.v1.GraphDef.FromString(open("optimized.pb", "rb").read())
with tf.Graph().as_default() as graph:
    tf.import_graph_def(graph_def, name="")
session = tf.compat.v1.Session(graph=graph)
actual = session.run("y:0", {"x:0": np.load("x.npy")})
np.testing.assert_allclose(actual, np.load("y.npy"), atol=1e-5)
# The session stays open: the process must end well with an engine loaded.
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=300)


@pytest.mark.parametrize("keep_fallback", [True, False])
def test_result_can_be_wrapped_and_saved(keep_fallback, tmp_path):
    optimized, _ = optimize(two_towers(), ["left", "right"], [feed()], keep_fallback=keep_fallback)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(optimized, name="")
        graph = session.graph
        tf.compat.v1.saved_model.simple_save(
            session,
            str(tmp_path / "model"),
            {"x": graph.get_tensor_by_name("x:0")},
            {"right": graph.get_tensor_by_name("right:0")},
        )
    function = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    actual = function(x=tf.constant(feed()["x:0"]))["right"]
    np.testing.assert_allclose(actual, run_graph_def(two_towers(), ["right:0"], feed())[0], atol=1e-5)


def test_grappler_leaves_the_engine_intact():
    from tensorflow.core.protobuf import rewriter_config_pb2

    optimized, _ = optimize(two_towers(), ["left", "right"], [feed()])
    config = tf.compat.v1.ConfigProto()
    rewrites = config.graph_options.rewrite_options
    for name in (
        "constant_folding",
        "layout_optimizer",
        "function_optimization",
        "remapping",
        "dependency_optimization",
    ):
        setattr(rewrites, name, rewriter_config_pb2.RewriterConfig.AGGRESSIVE)
    rewrites.min_graph_nodes = -1
    metadata = tf.compat.v1.RunMetadata()
    options = tf.compat.v1.RunOptions(output_partition_graphs=True)
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        tf.import_graph_def(optimized, name="")
        values = session.run(["left:0", "right:0"], feed(), options=options, run_metadata=metadata)
    executed = [node.op for graph in metadata.partition_graphs for node in graph.node]
    assert executed.count("TfOptEngine") == 2
    expected = run_graph_def(two_towers(), ["left:0", "right:0"], feed())
    np.testing.assert_allclose(values[1], expected[1], atol=1e-5)


def test_no_report_before_a_run():
    with pytest.raises(errors.TfOptError, match="no report yet"):
        _ = tf_opt.Tf2TrtOpt().report


def test_second_run_on_the_same_model_feeds_and_options_comes_from_the_cache(tmp_path):
    def run(**options):
        optimizer = tf_opt.Tf2TrtOpt(adopt="always", cache_dir=tmp_path, **options)
        graph_def = optimizer.optimize_graph_def(mlp(), ["y"], [feed()])
        return graph_def, optimizer.report

    first, made = run()
    second, stored = run()
    assert not made.from_cache
    assert stored.from_cache
    assert second.SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)
    assert stored.segments == made.segments
    assert "From the cache" in stored.text()
    assert not run(keep_fallback=False)[1].from_cache
    assert not run(cache=False)[1].from_cache
    # What is to be dumped has to be made.
    assert not run(dump_dir=tmp_path / "dump")[1].from_cache
