"""What is promised of transformers: all blocks are found, padding costs nothing, int8 keeps the meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bert_models
import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests import trained_models
from tests.passes.onnx.token_checks import masks

ROOT = Path(__file__).resolve().parent
LAYERS = 2
CONFIG = {"vocab_size": 500, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}


def bert() -> Any:
    return bert_models.random_bert(num_hidden_layers=LAYERS, **CONFIG)


def distilbert() -> Any:
    from transformers import DistilBertConfig, TFDistilBertModel

    model = TFDistilBertModel(DistilBertConfig(vocab_size=500, dim=64, n_layers=LAYERS, n_heads=4, hidden_dim=128))
    model(model.dummy_inputs)
    return model


def electra() -> Any:
    from transformers import ElectraConfig, TFElectraModel

    model = TFElectraModel(ElectraConfig(embedding_size=32, num_hidden_layers=LAYERS, **CONFIG))
    model(model.dummy_inputs)
    return model


def keras_hub_bert() -> Any:
    import keras_hub

    return keras_hub.models.BertBackbone(
        vocabulary_size=500, num_layers=LAYERS, num_heads=4, hidden_dim=64, intermediate_dim=128, max_sequence_length=64
    )


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "bert": (bert, "attention_mask"),
    "distilbert": (distilbert, "attention_mask"),
    "electra": (electra, "attention_mask"),
    "keras_hub_bert": (keras_hub_bert, "padding_mask"),
}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest) -> tuple[tf_opt.FrozenGraph, str]:
    """A small random model, frozen, and the name of its mask."""
    build, mask = MODELS[request.param]
    return tf_opt.freeze_keras(build()), mask


def padded_feed(frozen: tf_opt.FrozenGraph, mask: str, lengths: list[int], sequence: int, seed: int = 0) -> Any:
    (feed,) = tf_opt.random_feeds(frozen, batch=len(lengths), sequence=sequence, seed=seed)
    real = np.arange(sequence) < np.asarray(lengths)[:, None]
    feed[mask] = real.astype(feed[mask].dtype)
    return feed


def optimize(frozen: tf_opt.FrozenGraph, feeds: list[Any], **options: Any) -> tuple[tf_opt.FrozenGraph, Any]:
    optimizer = tf_opt.Tf2TrtOpt(adopt="always", strict=True, progress=False, cache=False, **options)
    return optimizer.optimize(frozen, feeds), optimizer.report


def test_every_block_is_found(model: tuple[tf_opt.FrozenGraph, str], engine: str) -> None:
    frozen, mask = model
    feeds = [padded_feed(frozen, mask, [9, 4], 9), padded_feed(frozen, mask, [3], 12)]
    optimized, report = optimize(frozen, feeds, engine=engine)
    assert report.patterns == {"layer_normalization": 2 * LAYERS + 1, "gelu": LAYERS, "attention": LAYERS}
    assert report.engine_count == 1
    assert tf_opt.compare(frozen, optimized, feeds, show=False).passed


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_padding_is_skipped(model: tuple[tf_opt.FrozenGraph, str], engine: str) -> None:
    frozen, mask = model
    feeds = [
        padded_feed(frozen, mask, [5, 12, 1], 12),
        padded_feed(frozen, mask, [7, 7], 7, seed=1),
        padded_feed(frozen, mask, [1], 30, seed=2),
    ]
    optimized, report = optimize(frozen, feeds[:1], engine=engine, skip_padding=mask)
    (segment,) = report.segments
    assert segment.onnx_pass_changes["skip_padding"] >= 6 * LAYERS
    assert tf_opt.compare(frozen, optimized, feeds, mask=mask, show=False).passed
    (drawn,) = tf_opt.random_feeds(frozen, batch=3, sequence=7)
    for feed in (*feeds, *({**drawn, mask: each.astype(drawn[mask].dtype)} for _, each in masks(3, 7))):
        real = np.asarray(feed[mask], bool)
        expected, actual = tf_opt.run(frozen, feed), tf_opt.run(optimized, feed)
        for name, wanted in expected.items():
            # An output without a sequence is read from the first token.
            rows = real if wanted.ndim == 3 else real[:, 0]
            np.testing.assert_allclose(actual[name][rows], wanted[rows], atol=1e-4)
            assert wanted.ndim < 3 or not actual[name][~real].any()


@pytest.mark.slow
def test_padding_of_real_sentences_is_skipped() -> None:
    frozen, _ = trained_models.minilm()
    feed = trained_models.sentence_feed(bert_models.SENTENCES)
    real = feed["attention_mask"] == 1
    assert 0.3 < real.mean() < 0.8, "these sentences are to need padding"
    optimized, _ = optimize(frozen, [feed], engine="openvino", skip_padding="attention_mask")
    original, actual = tf_opt.run(frozen, feed), tf_opt.run(optimized, feed)
    np.testing.assert_allclose(actual["last_hidden_state"][real], original["last_hidden_state"][real], atol=1e-4)
    np.testing.assert_allclose(actual["pooler_output"], original["pooler_output"], atol=1e-4)


def test_mask_that_is_no_input_is_refused(model: tuple[tf_opt.FrozenGraph, str]) -> None:
    frozen, mask = model
    optimizer = tf_opt.Tf2TrtOpt(skip_padding=mask + "s")
    with pytest.raises(tf_opt.errors.InvalidOptionError, match=f"Did you mean .*{mask}"):
        optimizer.optimize(frozen, [padded_feed(frozen, mask, [3], 5)])


@pytest.mark.parametrize("skip", [False, True])
def test_only_the_tokens_that_are_read_are_computed(skip: bool) -> None:
    frozen = tf_opt.freeze_keras(bert())
    pooled = next(info for info in frozen.outputs if len(info.shape or ()) == 2)
    feed = padded_feed(frozen, "attention_mask", [5, 12], 12)
    optimizer = tf_opt.Tf2TrtOpt(
        adopt="always",
        strict=True,
        progress=False,
        cache=False,
        skip_padding="attention_mask" if skip else None,
    )
    given = {name: feed[name] for name in feed}
    graph_def = optimizer.optimize_graph_def(frozen.graph_def, [pooled.name], [given])
    (segment,) = optimizer.report.segments
    assert segment.onnx_pass_changes["prune_tokens"] > 0
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(graph_def, name="")
        actual = session.run(pooled.name, {f"{name}:0": value for name, value in given.items()})
    np.testing.assert_allclose(actual, tf_opt.run(frozen, feed)[pooled.key], atol=1e-5)


def test_types_of_tokens_may_be_left_to_the_model(engine: str) -> None:
    module = bert_models.serving_module(electra())
    frozen = tf_opt.freeze_concrete_function(module.embed.get_concrete_function())
    feeds = [padded_feed(frozen, "attention_mask", [9, 4], 9), padded_feed(frozen, "attention_mask", [3], 12)]
    optimized, report = optimize(frozen, feeds[:1], engine=engine)
    assert report.patterns == {"layer_normalization": 2 * LAYERS + 1, "gelu": LAYERS, "attention": LAYERS}
    assert report.engine_count == 1
    assert tf_opt.compare(frozen, optimized, feeds, show=False).passed


@pytest.mark.parametrize(("family", "products"), [("bert", 6 * LAYERS), ("electra", 6 * LAYERS + 1)])
def test_padding_is_skipped_in_a_mean_over_the_tokens(family: str, products: int) -> None:
    module = bert_models.serving_module(MODELS[family][0]())
    frozen = tf_opt.freeze_concrete_function(module.embed.get_concrete_function())
    feeds = [padded_feed(frozen, "attention_mask", [9, 4], 9), padded_feed(frozen, "attention_mask", [3], 12)]
    optimized, report = optimize(frozen, feeds[:1], engine="openvino", skip_padding="attention_mask")
    (segment,) = report.segments
    assert segment.onnx_pass_changes["skip_padding"] == products
    assert tf_opt.compare(frozen, optimized, feeds, show=False).passed


def keras_hub_with_a_head() -> tuple[tf_opt.FrozenGraph, str]:
    """Attention reads the mask as bool, the mean over the tokens as float."""
    import keras

    backbone = keras_hub_bert()
    mask, hidden = backbone.input["padding_mask"], backbone.output["sequence_output"]
    weights = keras.ops.expand_dims(keras.ops.cast(mask, "float32"), -1)
    mean = keras.ops.sum(hidden * weights, axis=1) / keras.ops.sum(weights, axis=1)
    return tf_opt.freeze_keras(keras.Model(backbone.input, {**backbone.output, "mean": mean})), "padding_mask"


def bert_with_a_head() -> tuple[tf_opt.FrozenGraph, str]:
    """Attention reads the mask as float, the sum over the tokens as bool."""
    model = bert()

    @tf.function(
        input_signature=[tf.TensorSpec([None, None], tf.int32, name=name) for name in ("input_ids", "attention_mask")]
    )
    def call(input_ids: Any, attention_mask: Any) -> Any:
        outputs = model(input_ids, attention_mask=attention_mask, training=False)
        hidden = outputs.last_hidden_state
        total = tf.reduce_sum(tf.where(tf.cast(attention_mask, tf.bool)[..., None], hidden, 0.0), axis=1)
        return {"hidden": hidden, "pooled": outputs.pooler_output, "sum": total}

    return tf_opt.freeze_concrete_function(call.get_concrete_function()), "attention_mask"


@pytest.mark.parametrize(
    ("build", "engine"),
    [(keras_hub_with_a_head, "openvino"), (keras_hub_with_a_head, "onnxruntime"), (bert_with_a_head, "openvino")],
)
def test_padding_is_skipped_where_a_head_reads_the_mask_too(build: Any, engine: str) -> None:
    frozen, mask = build()
    feeds = [padded_feed(frozen, mask, [5, 12, 1], 12), padded_feed(frozen, mask, [7, 7], 7, seed=1)]
    optimized, report = optimize(frozen, feeds[:1], engine=engine, skip_padding=mask)
    (segment,) = report.segments
    assert segment.onnx_pass_changes["skip_padding"] == 6 * LAYERS
    assert report.patterns["attention"] == LAYERS
    # The first token and the mean of real ones are compared whole.
    assert tf_opt.compare(frozen, optimized, feeds, mask=mask, show=False).passed


def test_padding_is_skipped_beside_a_bias_for_each_distance() -> None:
    """MPNet looks up what it adds to the scores by the distance of two positions."""
    from transformers import MPNetConfig, TFMPNetModel

    model = TFMPNetModel(MPNetConfig(num_hidden_layers=LAYERS, **CONFIG))
    model(model.dummy_inputs)
    frozen = tf_opt.freeze_keras(model)
    feeds = [padded_feed(frozen, "attention_mask", [5, 12, 1], 12), padded_feed(frozen, "attention_mask", [7, 6], 7)]
    optimized, report = optimize(frozen, feeds[:1], engine="openvino", skip_padding="attention_mask")
    (segment,) = report.segments
    assert segment.onnx_pass_changes["skip_padding"] == 6 * LAYERS
    assert report.patterns["attention"] == LAYERS
    assert tf_opt.compare(frozen, optimized, feeds, mask="attention_mask", show=False).passed


def test_the_report_says_where_no_product_works_on_tokens() -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, None, 64], name="x")
        mask = tf.compat.v1.placeholder(tf.int32, [None, None], name="mask")
        tf.nn.softmax(tf.nn.relu(x) * tf.cast(mask, tf.float32)[..., None] * 0.5, name="y")
    feed = {"x": np.ones([2, 3, 64], np.float32), "mask": np.ones([2, 3], np.int32)}
    optimizer = tf_opt.Tf2TrtOpt(adopt="always", progress=False, cache=False, skip_padding="mask")
    optimizer.optimize_graph_def(graph.as_graph_def(), ["y"], [feed])
    (segment,) = optimizer.report.segments
    assert any("none of its matrix products is known to work on the tokens" in note for note in segment.notes)


def test_padding_is_kept_where_tensorflow_goes_on_computing_with_it() -> None:
    frozen = tf_opt.freeze_keras(bert())
    hidden = next(info for info in frozen.outputs if len(info.shape or ()) == 3)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen.graph_def, name="")
        # Betainc has no conversion; a maximum over all positions would see zeros at padding.
        values = graph.get_tensor_by_name(hidden.name)
        tf.math.betainc(1.0, 1.0, tf.sigmoid(values), name="scores")
    feed = padded_feed(frozen, "attention_mask", [5, 12], 12)
    optimizer = tf_opt.Tf2TrtOpt(adopt="always", progress=False, cache=False, skip_padding="attention_mask")
    optimizer.optimize_graph_def(graph.as_graph_def(), ["scores"], [feed])
    notes = [note for segment in optimizer.report.segments for note in segment.notes]
    assert any("Betainc" in note and "padded positions" in note for note in notes)
    strict = tf_opt.Tf2TrtOpt(adopt="always", progress=False, cache=False, skip_padding="attention_mask", strict=True)
    with pytest.raises(tf_opt.errors.SkipPaddingError, match="Betainc"):
        strict.optimize_graph_def(graph.as_graph_def(), ["scores"], [feed])


def embeddings(graph: tf_opt.FrozenGraph, feeds: list[Any]) -> np.ndarray[Any, Any]:
    """Mean-pooled sentence embeddings of length 1, [sentences, hidden]."""
    pooled = []
    for feed in feeds:
        hidden = tf_opt.run(graph, feed)["last_hidden_state"]
        mask = feed["attention_mask"][..., None]
        pooled.append((hidden * mask).sum(axis=1) / mask.sum(axis=1))
    joined = np.concatenate(pooled)
    return np.asarray(joined / np.linalg.norm(joined, axis=1, keepdims=True))


def rank_correlation(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Spearman's correlation of two lists of numbers without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


@pytest.fixture(scope="module")
def sentences() -> tuple[list[Any], list[Any], np.ndarray[Any, Any]]:
    """MiniLM's feeds for calibration, others for judging, and its embeddings of these in fp32."""
    texts = (ROOT / "data" / "sentences.txt").read_text().splitlines()
    feeds = [trained_models.sentence_feed(texts[start : start + 8]) for start in range(0, len(texts), 8)]
    calibration, unseen = feeds[:8], feeds[8:]
    assert sum(len(feed["input_ids"]) for feed in unseen) >= 200
    return calibration, unseen, embeddings(trained_models.minilm()[0], unseen)


@pytest.mark.slow
@pytest.mark.parametrize("skip_padding", [None, "attention_mask"])
def test_int8_keeps_the_embeddings_of_real_sentences(sentences: Any, skip_padding: str | None) -> None:
    calibration, unseen, original = sentences
    frozen, _ = trained_models.minilm()
    optimized, report = optimize(frozen, calibration, precision="int8", skip_padding=skip_padding)
    assert report.segments[0].precision == "int8"
    actual = embeddings(optimized, unseen)
    assert (original * actual).sum(axis=1).min() >= 0.99
    pairs = np.triu_indices(len(original), 1)
    assert rank_correlation((original @ original.T)[pairs], (actual @ actual.T)[pairs]) >= 0.98
