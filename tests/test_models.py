"""The whole way on real models: equal to the original, in as few engines as the model allows."""

from __future__ import annotations

import bert_models
import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.small_graphs import engine_nodes


def optimized_and_report(frozen, feeds, **options):
    optimizer = tf_opt.Tf2TrtOpt(adopt="always", strict=True, **options)
    return optimizer.optimize(frozen, feeds), optimizer.report


def check(frozen, feeds, minimum_coverage=0.99, maximum_engines=2):
    """Optimizes with the first feed and compares on all of them; returns the optimized graph."""
    optimized, report = optimized_and_report(frozen, feeds[:1])
    assert report.nodes_in_engines / report.compute_nodes >= minimum_coverage, report.text()
    assert 1 <= report.engine_count <= maximum_engines
    comparison = tf_opt.compare(frozen, optimized, feeds, rtol=1e-6, atol=1e-3)
    assert comparison.passed
    return optimized


def token_feeds(frozen, shapes):
    return [tf_opt.random_feeds(frozen, batch=batch, sequence=sequence)[0] for batch, sequence in shapes]


def test_small_bert_at_several_shapes():
    model = bert_models.random_bert(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
    frozen = tf_opt.freeze_keras(model)
    # Two layers have few nodes beside the lookups of embeddings, which stay TensorFlow.
    check(frozen, token_feeds(frozen, [(1, 16), (3, 7), (2, 33)]), minimum_coverage=0.95, maximum_engines=1)


def test_ids_outside_of_the_vocabulary_are_refused_as_before():
    model = bert_models.random_bert(
        vocab_size=50, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128
    )
    frozen = tf_opt.freeze_keras(model)
    (feed,) = token_feeds(frozen, [(1, 8)])
    optimized, _ = optimized_and_report(frozen, [feed])
    feed["input_ids"][0, 3] = 50
    for graph in (frozen, optimized):
        with pytest.raises(tf.errors.InvalidArgumentError, match="50 is not in"):
            tf_opt.run(graph, feed)


def test_feeding_ids_alone():
    """A model traced with token ids only: the mask and the types are made in the graph."""
    model = bert_models.random_bert(hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128)
    frozen = tf_opt.freeze_keras(model, {"input_ids": tf.TensorSpec([None, None], tf.int32)})
    ids = np.random.default_rng(0).integers(1, 30000, (2, 9)).astype(np.int32)
    optimized = tf_opt.Tf2TrtOpt(adopt="always").optimize_graph_def(
        frozen.graph_def, ["Identity"], [{"input_ids:0": ids}], True
    )
    assert engine_nodes(optimized)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(optimized, name="")
        actual = session.run("Identity:0", {"input_ids:0": ids})
    np.testing.assert_allclose(actual, tf_opt.run(frozen, {"input_ids": ids})["last_hidden_state"], atol=1e-4)


@pytest.mark.slow
def test_keras_hub_bert():
    import keras_hub

    model = keras_hub.models.BertBackbone(
        vocabulary_size=3000, num_layers=2, num_heads=12, hidden_dim=768, intermediate_dim=3072
    )
    frozen = tf_opt.freeze_keras(model)
    # Fourteen nodes that look up, or work on ids and masks as integers, stay TensorFlow: many beside two layers.
    check(frozen, token_feeds(frozen, [(1, 16), (2, 40)]), minimum_coverage=0.92, maximum_engines=1)


@pytest.mark.slow
def test_resnet50():
    model = tf.keras.applications.ResNet50(weights=None)
    frozen = tf_opt.freeze_keras(model)
    feeds = [tf_opt.random_feeds(frozen, batch=batch)[0] for batch in (1, 3)]
    check(frozen, feeds, maximum_engines=1)
    # Frozen, it answers what Keras does.
    [images] = feeds[1].values()
    found = tf_opt.run(frozen, feeds[1])
    assert list(found) == ["predictions"]
    np.testing.assert_allclose(found["predictions"], model(images, training=False), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("functional", [True, False], ids=["functional", "lowered"])
def test_while_loop(functional):
    """A loop of data-dependent length around a small network; nodes in front of it and behind it too."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(32, 32)).astype(np.float32) / 6
    head = random.normal(size=(32, 32)).astype(np.float32) / 6

    def body(step, state):
        state = tf.nn.tanh(tf.matmul(state, weight) * 0.5 + 0.1)
        return step + 1, state

    def model(x, steps):
        state = tf.nn.relu(tf.matmul(x, head) + 0.5) * 0.25
        if functional:
            _, state = tf.while_loop(lambda step, _: step < steps, body, (tf.constant(0), state))
        else:
            _, state = tf.compat.v1.while_loop(lambda step, _: step < steps, body, (tf.constant(0), state))
        return tf.identity(tf.nn.softmax(tf.matmul(state, head) * 2.0), name="y")

    graph = tf.Graph()
    with graph.as_default():
        if not functional:
            tf.compat.v1.disable_control_flow_v2()
        try:
            x = tf.compat.v1.placeholder(tf.float32, [None, 32], name="x")
            steps = tf.compat.v1.placeholder(tf.int32, [], name="steps")
            model(x, steps)
        finally:
            tf.compat.v1.enable_control_flow_v2()
    graph_def = graph.as_graph_def()
    feeds = [
        {"x:0": random.normal(size=(batch, 32)).astype(np.float32), "steps:0": np.int32(count)}
        for batch, count in ((1, 3), (4, 0), (2, 9))
    ]
    optimizer = tf_opt.Tf2TrtOpt(adopt="always", strict=True)
    optimized = optimizer.optimize_graph_def(graph_def, ["y"], feeds)
    engines = len(engine_nodes(optimized))
    assert engines == (2 if functional else 3)  # Lowered, the body of the loop has an engine of its own.
    for feed in feeds:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            tf.import_graph_def(graph_def, name="")
            expected = session.run("y:0", feed)
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            tf.import_graph_def(optimized, name="")
            np.testing.assert_allclose(session.run("y:0", feed), expected, atol=1e-5)
