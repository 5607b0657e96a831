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
"""By the name of an input or output."""

Answers: TypeAlias = dict[str, list[tuple[Arrays, Arrays]]]
"""What each signature is fed, and what the model answers."""

RUN_ALL_SIGNATURES = """
import sys
import numpy as np
import tensorflow as tf
import tf_opt

loaded = tf.saved_model.load(sys.argv[1])
feeds, answers = np.load(sys.argv[2]), {}
for name in {name.rpartition("/")[0] for name in feeds}:
    signature = loaded.signatures[name.split("/")[0]]
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


def bert_base(folder: Path) -> Answers:
    random = np.random.default_rng(0)
    module = bert(bert_models.random_bert(), folder, "serve", "embed")
    answers: Answers = {"serve": [], "embed": []}
    for lengths in ([20, 7, 1], [16], [128]):
        longest = max(lengths)
        feed = {
            "input_ids": random.integers(1, 30_000, (len(lengths), longest)).astype(np.int32),
            "attention_mask": (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int32),
            "token_type_ids": np.tile((np.arange(longest) > 9).astype(np.int32), (len(lengths), 1)),
        }
        answers["serve"].append((feed, module.serve(tensors(feed))))
        two = {name: feed[name] for name in ("input_ids", "attention_mask")}
        answers["embed"].append((two, module.embed(**tensors(two))))
    return answers


def minilm(folder: Path) -> Answers:
    model, tokenizer = bert_models.minilm()
    module = bert(model, folder, "embed")
    tokens = tokenizer(list(bert_models.SENTENCES), padding=True, return_tensors="np")
    feed = {name: tokens[name].astype(np.int32) for name in ("input_ids", "attention_mask")}
    answer = module.embed(**tensors(feed))
    embeddings = answer["embedding"].numpy()
    # What the package's authors give for these sentences: the weights really are the trained ones.
    assert embeddings[0] @ embeddings[1] == pytest.approx(0.689, abs=2e-3)
    return {"embed": [(feed, answer)]}


def resnet50(folder: Path) -> Answers:
    keras.utils.set_random_seed(0)
    # Logits: the probabilities of 1000 classes are so small that all of them would be within the tolerance.
    model = keras.applications.ResNet50(weights=None, classifier_activation=None)
    model.export(folder, verbose=False)
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    [key] = (info.key for info in read_signatures(folder)["serve"].inputs)
    pair = ({key: images}, {"output_0": model(images)})
    return {"serve": [pair], "serving_default": [pair]}


PATTERNS = {
    bert_base: {"layer_normalization": 25, "gelu": 12, "attention": 12},
    minilm: {"layer_normalization": 13, "gelu": 6, "attention": 6},
    resnet50: {},
}


@pytest.mark.slow
@pytest.mark.parametrize("write", PATTERNS, ids=lambda write: write.__name__)
def test_converted_by_the_command_line(tmp_path: Path, write: Callable[[Path], Answers]) -> None:
    original, optimized = tmp_path / "original", tmp_path / "optimized"
    expected = write(original)
    options = ["--engine", "openvino", "--adopt", "always", "--no-cache", "--json"]
    report = content(CliRunner().invoke(app, ["optimize", str(original), str(optimized), *options]))["report"]
    sizes = f"{size_text(stored_bytes(original))} before, {size_text(stored_bytes(optimized))} after"
    assert set(report["signatures"]) == set(expected)
    for each in report["signatures"].values():
        assert each["engine_count"] == 1, sizes
        assert each["compute_nodes"] - each["nodes_in_engines"] <= 20  # Lookups, and what works on ids and masks.
        assert {name: count for name, count in each["patterns"].items() if count} == PATTERNS[write]
    assert stored_bytes(optimized) < 1.01 * stored_bytes(original), sizes

    np.savez(tmp_path / "feeds.npz", **flat(expected, 0))
    in_new_process(RUN_ALL_SIGNATURES, optimized, tmp_path / "feeds.npz", tmp_path / "answers.npz")
    found = dict(np.load(tmp_path / "answers.npz").items())
    answers = {name: np.asarray(value) for name, value in flat(expected, 1).items()}
    assert found.keys() == answers.keys()
    for name, value in answers.items():
        assert found[name].dtype == value.dtype
        assert np.abs(value).max() > 20 * ATOL, f"{name} is too small to tell whether it is equal"
        np.testing.assert_allclose(found[name], value, RTOL, ATOL, err_msg=f"{name}; {sizes}")


def flat(answers: Answers, side: int) -> dict[str, Any]:
    """The fed (0) or answered (1) arrays by "signature/number of the feed/name"."""
    return {
        f"{signature}/{number}/{name}": array
        for signature, pairs in answers.items()
        for number, pair in enumerate(pairs)
        for name, array in pair[side].items()
    }
