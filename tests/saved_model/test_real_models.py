"""Real models as SavedModels: converted by the command line, loaded in a new process, equal to the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from tests.cli.conftest import content
from tests.saved_model.saved_models import in_new_process, tensors
from tests.trained_models import bert_models
from tf_opt.cli.program import app
from tf_opt.cli.saved_model_files import read_signatures
from tf_opt.sizes import size_text, stored_bytes

RTOL, ATOL = 1e-6, 1e-3

Arrays: TypeAlias = Mapping[str, Any]

RUN_ALL_SIGNATURES = """
import sys
import numpy as np
import tensorflow as tf
import tf_opt

loaded = tf.saved_model.load(sys.argv[1])
feeds, answers = np.load(sys.argv[2]), {}
for name, signature in loaded.signatures.items():
    feed = {key: tf.constant(feeds[f"{name}/{key}"]) for key in signature.structured_input_signature[1]}
    answers |= {f"{name}/{key}": value.numpy() for key, value in signature(**feed).items()}
np.savez(sys.argv[3], **answers)
"""


def bert(model: Any, folder: Path, *functions: str) -> Any:
    """Writes a BERT with some functions of `serving_module` as signatures of these names; returns that module."""
    module = bert_models.serving_module(model)
    written = tf.Module()
    # Not the model itself: Keras would trace each of its layers alone, which takes longer than all else here.
    written.parameters = model.variables
    signatures = {name: getattr(module, name) for name in functions}
    tf.saved_model.save(written, str(folder), signatures=signatures)
    return module


def bert_base(folder: Path) -> tuple[dict[str, Arrays], dict[str, Arrays]]:
    random = np.random.default_rng(0)
    feed = {
        "input_ids": random.integers(1, 30_000, (3, 20)).astype(np.int32),
        "attention_mask": (np.arange(20) < np.array([[20], [7], [1]])).astype(np.int32),
        "token_type_ids": np.tile((np.arange(20) > 9).astype(np.int32), (3, 1)),
    }
    module = bert(bert_models.random_bert(), folder, "serve", "embed")
    two = {name: feed[name] for name in ("input_ids", "attention_mask")}
    return {"serve": feed, "embed": two}, {"serve": module.serve(tensors(feed)), "embed": module.embed(**tensors(two))}


def minilm(folder: Path) -> tuple[dict[str, Arrays], dict[str, Arrays]]:
    model, tokenizer = bert_models.minilm()
    module = bert(model, folder, "embed")
    tokens = tokenizer(list(bert_models.SENTENCES), padding=True, return_tensors="np")
    feed = {name: tokens[name].astype(np.int32) for name in ("input_ids", "attention_mask")}
    answer = module.embed(**tensors(feed))
    embeddings = answer["embedding"].numpy()
    # What the package's authors give for these sentences: the weights really are the trained ones.
    assert embeddings[0] @ embeddings[1] == pytest.approx(0.689, abs=2e-3)
    return {"embed": feed}, {"embed": answer}


def resnet50(folder: Path) -> tuple[dict[str, Arrays], dict[str, Arrays]]:
    keras.utils.set_random_seed(0)
    # Logits: the probabilities of 1000 classes are so small that all of them would be within the tolerance.
    model = keras.applications.ResNet50(weights=None, classifier_activation=None)
    model.export(folder, verbose=False)
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    [key] = (info.key for info in read_signatures(folder)["serve"].inputs)
    names = ("serve", "serving_default")
    return {name: {key: images} for name in names}, {name: {"output_0": model(images)} for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("write", [bert_base, minilm, resnet50], ids=lambda write: write.__name__)
def test_converted_by_the_command_line(
    tmp_path: Path, write: Callable[[Path], tuple[dict[str, Arrays], dict[str, Arrays]]]
) -> None:
    original, optimized = tmp_path / "original", tmp_path / "optimized"
    feeds, expected = write(original)
    options = ["--engine", "openvino", "--adopt", "always", "--no-cache", "--json"]
    report = content(CliRunner().invoke(app, ["optimize", str(original), str(optimized), *options]))["report"]
    sizes = f"{size_text(stored_bytes(original))} before, {size_text(stored_bytes(optimized))} after"
    assert set(report["signatures"]) == set(expected)
    assert all(each["engine_count"] == 1 for each in report["signatures"].values()), sizes
    assert stored_bytes(optimized) < 1.01 * stored_bytes(original), sizes

    np.savez(tmp_path / "feeds.npz", **flat(feeds))
    in_new_process(RUN_ALL_SIGNATURES, optimized, tmp_path / "feeds.npz", tmp_path / "answers.npz")
    found = dict(np.load(tmp_path / "answers.npz").items())
    answers = {name: np.asarray(value) for name, value in flat(expected).items()}
    assert found.keys() == answers.keys()
    for name, value in answers.items():
        assert found[name].dtype == value.dtype
        assert np.abs(value).max() > 20 * ATOL, f"{name} is too small to tell whether it is equal"
        np.testing.assert_allclose(found[name], value, RTOL, ATOL, err_msg=f"{name}; {sizes}")


def flat(arrays: Mapping[str, Arrays]) -> dict[str, Any]:
    """Arrays by "signature/name"."""
    return {f"{signature}/{name}": array for signature, each in arrays.items() for name, array in each.items()}
