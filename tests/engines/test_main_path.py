"""The way from a graph to engines in a Session, on every engine."""

from __future__ import annotations

import threading
from typing import Any

import bert_models
import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests import trained_models
from tests.simulators.tensorrt.fixture import simulated_tensorrt
from tests.small_graphs import engine_nodes, feed, mlp, run_graph_def, two_towers
from tf_opt import errors
from tf_opt.engine_selection import select_engines
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.ops import reset_statistics, statistics
from tf_opt.options import Options
from tf_opt.precision import available_precisions

SIZES = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def optimize(graph_def, outputs, feeds, engine, **options):
    optimizer = tf_opt.Tf2TrtOpt(**{"engine": engine, "adopt": "always", "strict": True, "progress": False, **options})
    return optimizer.optimize_graph_def(graph_def, outputs, feeds), optimizer.report


def counted(name):
    return sum(each[name] for each in statistics().values())


def assert_equal(optimized, original, outputs, feeds):
    for each in feeds:
        results = run_graph_def(optimized, outputs, each), run_graph_def(original, outputs, each)
        for actual, expected in zip(*results, strict=True):
            assert np.asarray(actual).dtype == np.asarray(expected).dtype
            np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize(("build", "outputs"), [(mlp, ["y:0"]), (two_towers, ["left:0", "right:0"])])
def test_engines_give_what_the_graph_gives(engine, build, outputs):
    feeds = [feed(batch, batch) for batch in (1, 5, 2)]
    optimized, report = optimize(build(), outputs, feeds, engine)
    assert {node.attr["runtime"].s.decode() for node in engine_nodes(optimized)} == {report.engine} == {engine}
    reset_statistics()
    assert_equal(optimized, build(), outputs, feeds)
    assert counted("runs") == len(feeds) * len(engine_nodes(optimized))
    assert counted("fallback_runs") == 0


def test_shapes_that_nothing_was_built_for(engine):
    optimized, _ = optimize(mlp(), ["y:0"], [feed(2), feed(4)], engine)
    reset_statistics()
    assert_equal(optimized, mlp(), ["y:0"], [feed(9)])
    # TensorRT engines take the range they were built for; the segment's own nodes take the rest.
    assert counted("fallback_runs") == (engine == "tensorrt")


def test_no_rows_at_all(engine):
    optimized, _ = optimize(mlp(), ["y:0"], [feed(2)], engine)
    assert_equal(optimized, mlp(), ["y:0"], [feed(0)])


def test_convolutions(engine):
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", input_shape=(16, 16, 3)),
            tf.keras.layers.BatchNormalization(),
            tf.keras.layers.DepthwiseConv2D(3, padding="same"),
            tf.keras.layers.MaxPool2D(),
            tf.keras.layers.GlobalAveragePooling2D(),
            tf.keras.layers.Dense(5, activation="softmax"),
        ]
    )
    frozen = tf_opt.freeze_keras(model)
    feeds = [tf_opt.random_feeds(frozen, batch=batch)[0] for batch in (1, 3)]
    optimizer = tf_opt.Tf2TrtOpt(engine=engine, adopt="always", strict=True)
    optimized = optimizer.optimize(frozen, feeds)
    assert optimizer.report.engine_count == 1
    assert tf_opt.compare(frozen, optimized, feeds, show=False).passed


def test_threads_at_once(engine):
    feeds = [feed(batch, batch) for batch in (1, 2, 3, 4)]
    optimized, _ = optimize(mlp(), ["y:0"], feeds, engine)
    expected = [run_graph_def(mlp(), ["y:0"], each)[0] for each in feeds]
    failures = []
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(optimized, name="")

        def serve(number):
            try:
                for _ in range(10):
                    np.testing.assert_allclose(session.run("y:0", feeds[number]), expected[number], atol=1e-5)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=serve, args=(number,)) for number in range(len(feeds))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def integers_and_booleans():
    """int64 rows of a table -> argmax (int64), whether it is positive (bool), sum with an int32."""
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 6], name="x")
        ids = tf.compat.v1.placeholder(tf.int64, [None], name="ids")
        keep = tf.compat.v1.placeholder(tf.bool, [None, 6], name="keep")
        kept = tf.where(keep, tf.tanh(x) * 2.0, tf.zeros_like(x))
        tf.add(tf.argmax(kept, axis=1), ids, name="best")
        tf.greater(tf.reduce_sum(tf.nn.relu(kept), axis=1), 0.5, name="positive")
    return graph.as_graph_def()


def integer_feed(batch, largest=7):
    random = np.random.default_rng(batch)
    return {
        "x:0": random.normal(size=(batch, 6)).astype(np.float32),
        "ids:0": random.integers(0, largest, batch),
        "keep:0": random.random((batch, 6)) < 0.5,
    }


def test_integers_and_booleans_cross_the_border(engine):
    feeds = [integer_feed(3), integer_feed(1)]
    optimized, _ = optimize(integers_and_booleans(), ["best:0", "positive:0"], feeds, engine)
    assert engine_nodes(optimized)
    assert_equal(optimized, integers_and_booleans(), ["best:0", "positive:0"], feeds)


def test_integers_of_64_bits(engine):
    feeds = [integer_feed(3)]
    optimized, _ = optimize(integers_and_booleans(), ["best:0", "positive:0"], feeds, engine)
    large = {**feeds[0], "ids:0": np.array([2**40, -(2**40), 3])}
    assert_equal(optimized, integers_and_booleans(), ["best:0", "positive:0"], [large])


def test_output_whose_size_depends_on_values(engine):
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        tf.identity(tf.where(tf.nn.relu(tf.tanh(x) * 3.0) > 1.0), name="places")
    random = np.random.default_rng(0)
    feeds = [{"x:0": random.normal(size=(rows, 4)).astype(np.float32)} for rows in (3, 5)]
    optimized, _ = optimize(graph.as_graph_def(), ["places:0"], feeds, engine)
    assert_equal(optimized, graph.as_graph_def(), ["places:0"], feeds)


def test_input_that_holds_a_shape(engine):
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 6], name="x")
        shape = tf.compat.v1.placeholder(tf.int32, [2], name="shape")
        tf.multiply(tf.tanh(tf.reshape(tf.nn.relu(x), shape)), 0.5, name="y")
    random = np.random.default_rng(0)
    feeds = [
        {"x:0": random.normal(size=(rows, 6)).astype(np.float32), "shape:0": np.array(shape, np.int32)}
        for rows, shape in ((2, (3, 4)), (4, (3, 8)), (2, (6, 2)))
    ]
    optimized, _ = optimize(graph.as_graph_def(), ["y:0"], feeds, engine)
    assert_equal(optimized, graph.as_graph_def(), ["y:0"], feeds)


def test_what_no_engine_takes_stays_tensorflow_and_says_why(engine):
    _, report = optimize(two_towers(), ["left:0", "right:0"], [feed()], engine)
    (reason,) = {node.reason for node in report.refused if node.op == "Betainc"}
    assert "Betainc" in reason


def test_bfloat16_in_the_middle_costs_no_more_than_itself(engine):
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 16], name="x")
        front = tf.cast(tf.nn.relu(tf.tanh(x)) * 2.0 + 1.0, tf.bfloat16) + tf.constant(1.0, tf.bfloat16)
        tf.identity(tf.nn.softmax(tf.tanh(tf.cast(front, tf.float32)) * 3.0) + 1.0, name="y")
    optimized, report = optimize(graph.as_graph_def(), ["y:0"], [feed()], engine)
    assert len(engine_nodes(optimized)) == 2
    assert any("bfloat16" in node.reason for node in report.refused)
    assert_equal(optimized, graph.as_graph_def(), ["y:0"], [feed()])


def test_measured_adoption(engine):
    _, report = optimize(mlp(), ["y:0"], [feed()], engine, adopt="measured", measurement_seconds=0.5)
    (segment,) = report.segments
    assert segment.adopted != bool(segment.reason)
    assert segment.measurement is not None


def test_second_run_builds_nothing(engine, tmp_path, monkeypatch):
    options = {"engine": engine, "cache_dir": tmp_path}
    first, _ = optimize(mlp(), ["y:0"], [feed()], **options)
    monkeypatch.setattr("tf_opt.segment_models.SegmentModels.candidate", None)
    second, report = optimize(mlp(), ["y:0"], [feed()], **options)
    assert report.from_cache
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_result_of_another_version_is_not_taken_from_the_cache(tmp_path):
    for version in ("10.16", "11.4", "10.16"):
        with simulated_tensorrt(version):
            _, report = optimize(mlp(), ["y:0"], [feed()], "tensorrt", cache_dir=tmp_path)
        assert all(f"tensorrt {version}" in segment.library for segment in report.segments)
    assert report.from_cache


@pytest.fixture(scope="module")
def bert() -> tf_opt.FrozenGraph:
    return tf_opt.freeze_keras(bert_models.random_bert(**SIZES, intermediate_size=128))


def cosine(frozen: tf_opt.FrozenGraph, optimized: tf_opt.FrozenGraph, given: Any) -> float:
    original, actual = (tf_opt.run(each, given)["last_hidden_state"].reshape(-1, 64) for each in (frozen, optimized))
    lengths = np.linalg.norm(original, axis=1) * np.linalg.norm(actual, axis=1)
    return float(((original * actual).sum(axis=1) / lengths).min())


@pytest.mark.parametrize(("precision", "limit"), [("bf16", 0.999), ("fp16", 0.9999), ("int8", 0.99)])
def test_fewer_bits(engine, bert, precision, limit):
    feeds = [tf_opt.random_feeds(bert, batch=2, sequence=sequence, seed=sequence)[0] for sequence in (9, 12)]
    optimizer = tf_opt.Tf2TrtOpt(engine=engine, precision=precision, adopt="always", strict=True, progress=False)
    if available_precisions(select_engines(Options(engine=engine))[0].backends[0])[precision]:
        with pytest.raises(errors.UnsupportedPrecisionError, match=precision):
            optimizer.optimize(bert, feeds)
        return
    optimized = optimizer.optimize(bert, feeds)
    (segment,) = optimizer.report.segments
    assert (segment.adopted, segment.precision) == (True, precision)
    reset_statistics()
    assert limit <= cosine(bert, optimized, feeds[0]) < 1 - 1e-9
    assert counted("fallback_runs") == 0


def test_no_work_for_padding(engine, bert):
    (given,) = tf_opt.random_feeds(bert, batch=3, sequence=12)
    given["attention_mask"] = (np.arange(12) < np.array([[5], [12], [1]])).astype(np.int32)
    optimizer = tf_opt.Tf2TrtOpt(engine=engine, skip_padding="attention_mask", adopt="always", strict=True)
    optimized = optimizer.optimize(bert, [given])
    assert optimizer.report.segments[0].onnx_pass_changes["skip_padding"] > 0
    assert tf_opt.compare(bert, optimized, [given], mask="attention_mask", show=False).passed


# What the versions of TensorRT differ in shows on small models: of those that are simulated, one is enough here.
@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    ["openvino", "onnxruntime", "simulated tensorrt 11.4", pytest.param("tensorrt", marks=pytest.mark.gpu)],
    indirect=True,
)
def test_trained_weights_keep_the_meaning_of_sentences(engine):
    frozen, _ = trained_models.minilm()
    sentences = bert_models.SENTENCES
    feeds = [trained_models.sentence_feed(batch) for batch in (sentences, sentences[:1], sentences[2:4])]
    optimizer = tf_opt.Tf2TrtOpt(engine=engine, adopt="always", strict=True, progress=False)
    optimized = optimizer.optimize(frozen, feeds[:2])
    report = optimizer.report
    assert report.patterns == {"layer_normalization": 13, "gelu": 6, "attention": 6}
    assert report.engine_count == 1
    assert report.nodes_in_engines / report.compute_nodes >= 0.98, report.text()
    # Weights stand once, whatever the engine and the fallback read.
    assert optimized.size_bytes < frozen.size_bytes * 1.01
    reset_statistics()
    assert tf_opt.compare(frozen, optimized, feeds, rtol=1e-6, atol=1e-4, show=False).passed
    assert counted("fallback_runs") == 0
    original, actual = sentence_embeddings(frozen, feeds[0]), sentence_embeddings(optimized, feeds[0])
    assert (original * actual).sum(axis=1).min() >= 0.99999
    # What the package's authors give for these sentences: the weights really are the trained ones.
    assert original[0] @ original[1] == pytest.approx(0.689, abs=2e-3)
    assert original[0] @ original[2] == pytest.approx(-0.02, abs=1e-2)


def sentence_embeddings(graph, given):
    """Mean-pooled embeddings of length 1, [sentences, hidden]."""
    hidden = tf_opt.run(graph, given)["last_hidden_state"]
    mask = given["attention_mask"][..., None]
    pooled = (hidden * mask).sum(axis=1) / mask.sum(axis=1)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def test_analysis_needs_no_feeds(engine):
    report = tf_opt.Tf2TrtOpt(engine=engine).analyze(mlp(), ["y:0"])
    assert report.coverage == 1.0
    assert frozen_from_graph_def(mlp(), ["y:0"]).inputs
