"""Whole models without work for padding: real tokens as in the original Session, for every family and engine."""

from __future__ import annotations

from typing import Any

import bert_models
import numpy as np
import pytest

import tf_opt
from tests import trained_models
from tests.passes.onnx.token_checks import masks

pytestmark = pytest.mark.slow


def random_model(family: str) -> Any:
    """A small model with random weights."""
    if family == "kerashub":
        import keras_hub

        return keras_hub.models.BertBackbone(
            vocabulary_size=500, num_layers=2, num_heads=4, hidden_dim=64, intermediate_dim=128, max_sequence_length=64
        )
    import transformers

    if family == "distilbert":
        config = transformers.DistilBertConfig(vocab_size=500, dim=64, n_layers=2, n_heads=4, hidden_dim=128)
        model = transformers.TFDistilBertModel(config)
    else:
        sizes: dict[str, int] = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
        sizes.update(vocab_size=500, hidden_size=64)
        if family == "electra":
            model = transformers.TFElectraModel(transformers.ElectraConfig(embedding_size=32, **sizes))
        else:
            model = transformers.TFBertModel(transformers.BertConfig(**sizes))
    model(model.dummy_inputs)
    return model


def feed_of(frozen: Any, mask_name: str, mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    feed = tf_opt.random_feeds(frozen, batch=mask.shape[0], sequence=mask.shape[1])[0]
    return {name: mask.astype(array.dtype) if name == mask_name else array for name, array in feed.items()}


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "kerashub"])
def test_family(family, engine):
    mask_name = "padding_mask" if family == "kerashub" else "attention_mask"
    frozen = tf_opt.freeze_keras(random_model(family))
    feeds = [feed_of(frozen, mask_name, mask) for _, mask in masks(3, 7)]
    optimizer = tf_opt.Tf2TrtOpt(engine=engine, skip_padding=mask_name, adopt="always", strict=True)
    optimized = optimizer.optimize(frozen, feeds[:2])
    changes: dict[str, int] = {}
    for segment in optimizer.report.segments:
        changes.update(segment.onnx_pass_changes)
    assert changes["skip_padding"] >= 12
    for feed in feeds:
        expected, actual = tf_opt.run(frozen, feed), tf_opt.run(optimized, feed)
        real = np.asarray(feed[mask_name], bool)
        for name, wanted in expected.items():
            if wanted.ndim == 3:
                np.testing.assert_allclose(actual[name][real], wanted[real], atol=1e-4)
                assert not actual[name][~real].any()
            else:
                first = real[:, 0]
                np.testing.assert_allclose(actual[name][first], wanted[first], atol=1e-4)


def test_minilm_on_real_sentences():
    frozen, _ = trained_models.minilm()
    feed = trained_models.sentence_feed(bert_models.SENTENCES)
    real = feed["attention_mask"] == 1
    assert 0.3 < real.mean() < 0.8, "these sentences are to need padding"
    original = tf_opt.run(frozen, feed)
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", skip_padding="attention_mask", adopt="always", strict=True)
    actual = tf_opt.run(optimizer.optimize(frozen, [feed]), feed)
    np.testing.assert_allclose(actual["last_hidden_state"][real], original["last_hidden_state"][real], atol=1e-4)
    np.testing.assert_allclose(actual["pooler_output"], original["pooler_output"], atol=1e-4)
    assert not actual["last_hidden_state"][~real].any()
