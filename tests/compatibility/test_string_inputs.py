"""Models that read texts beside numbers: the part with the texts stays TensorFlow, the numbers run in an engine."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.small_graphs import engine_nodes, run_graph_def
from tf_opt import errors


def floats(*shape):
    return (0.3 * np.random.default_rng(sum(shape)).standard_normal(shape)).astype(np.float32)


TEXTS = np.array([b"Red  shoes", b"", b"a blue hat with ribbons"], object)


def ranking_model():
    """Two inputs of strings, one of numbers and one of lengths; outputs a score and one of the strings, cleaned."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="query"),
            tf.TensorSpec([None], tf.string, name="category"),
            tf.TensorSpec([None, 8], tf.float32, name="features"),
        ]
    )
    def rank(query, category, features):
        clean = tf.strings.regex_replace(tf.strings.lower(tf.strings.strip(query)), r"\s+", " ")
        words = tf.strings.split(clean)
        buckets = tf.ragged.map_flat_values(tf.strings.to_hash_bucket_fast, words, 64)
        vectors = tf.gather(tf.constant(floats(64, 16)), buckets.to_tensor(default_value=0))
        mean = tf.reduce_sum(vectors, axis=1)
        named = tf.gather(tf.constant(floats(32, 16)), tf.strings.to_hash_bucket_strong(category, 32, [1, 2]))
        length = tf.cast(tf.strings.length(clean), tf.float32)[:, None] / 10.0
        joined = tf.concat([mean, named, features, length], axis=1)
        hidden = tf.nn.gelu(tf.matmul(joined, tf.constant(floats(41, 32))) + 0.1)
        return {"score": tf.nn.softmax(tf.matmul(hidden, tf.constant(floats(32, 4)))), "clean": clean}

    return rank


def feed(count=3):
    return {
        "query": TEXTS[:count],
        "category": np.array([b"shoe", b"none", b"hat"], object)[:count],
        "features": floats(count, 8),
    }


def test_numbers_run_in_an_engine_and_texts_stay():
    frozen = tf_opt.freeze_concrete_function(ranking_model().get_concrete_function())
    assert {info.key: info.dtype for info in frozen.inputs} == {
        "query": "string",
        "category": "string",
        "features": "float32",
    }
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", adopt="always", cache=False)
    optimized = optimizer.optimize(frozen, [feed()])
    assert engine_nodes(optimized.graph_def)
    kept = {node.op for node in optimized.graph_def.node}
    assert {"StringLower", "StringSplitV2", "StringToHashBucketFast", "StringToHashBucketStrong"} <= kept
    reasons = {each.op: each.reason for each in optimizer.report.refused}
    assert "string" in reasons["StringLower"] or "no conversion" in reasons["StringLower"]
    for count in (1, 3):
        expected, actual = tf_opt.run(frozen, feed(count)), tf_opt.run(optimized, feed(count))
        np.testing.assert_allclose(actual["score"], expected["score"], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(actual["clean"], expected["clean"])
        assert actual["clean"][0] == b"red shoes"


def test_adoption_compares_outputs_of_strings():
    frozen = tf_opt.freeze_concrete_function(ranking_model().get_concrete_function())
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", measurement_seconds=0.1, cache=False)
    optimizer.optimize(frozen, [feed(), feed(1)])
    assert all(segment.adopted or "slower" in segment.reason for segment in optimizer.report.segments)


def test_example_protos_are_parsed_by_tensorflow():
    with tf.Graph().as_default() as graph:
        serialized = tf.compat.v1.placeholder(tf.string, [None], name="serialized")
        parsed = tf.io.parse_example(serialized, {"x": tf.io.FixedLenFeature([16], tf.float32)})
        hidden = tf.nn.relu(tf.matmul(parsed["x"], tf.constant(floats(16, 32))) + 0.1)
        tf.nn.softmax(hidden * 2.0 - 0.5, name="y")
    graph_def = graph.as_graph_def()
    examples = [
        tf.train.Example(
            features=tf.train.Features(feature={"x": tf.train.Feature(float_list=tf.train.FloatList(value=row))})
        ).SerializeToString()
        for row in floats(3, 16)
    ]
    fed = {"serialized:0": np.array(examples, object)}
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", adopt="always", cache=False)
    optimized = optimizer.optimize_graph_def(graph_def, ["y"], [fed])
    assert engine_nodes(optimized)
    expected, actual = (run_graph_def(each, ["y:0"], fed)[0] for each in (graph_def, optimized))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_table_in_front_is_refused_with_what_to_do():
    initializer = tf.lookup.KeyValueTensorInitializer(tf.constant(["red", "blue"]), tf.constant([1, 2], tf.int64))
    table = tf.lookup.StaticHashTable(initializer, 0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="word")])
    def look_up(word):
        return tf.nn.relu(tf.gather(tf.constant(floats(3, 16)), table.lookup(word)))

    with pytest.raises(errors.FreezeError, match="table"):
        tf_opt.freeze_concrete_function(look_up.get_concrete_function())
