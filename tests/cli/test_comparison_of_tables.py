"""`tf-opt compare` with signatures that look something up: they cannot be frozen, and run as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.cli.conftest import Invoke, content
from tests.saved_model.saved_models import QUICK, rows, several


class Pair(NamedTuple):
    """A model with a table, what was made of it, and one with another table."""

    original: Path
    optimized: Path
    other: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("tables")
    original = several(folder / "original")
    tf_opt.optimize_saved_model(
        original, folder / "optimized", feeds={"dense": [{"x": rows()}]}, signatures="dense", **QUICK
    )
    loaded = tf.saved_model.load(str(original))
    words = tf.lookup.KeyValueTensorInitializer(["a", "b"], [2, 2])
    loaded.other_table = tf.lookup.StaticHashTable(words, -1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
    def look_up(words: Any) -> Any:
        return {**loaded.signatures["look_up"](words=words), "ids": loaded.other_table.lookup(words)}

    tf.saved_model.save(loaded, str(folder / "other"), signatures={"look_up": look_up})
    return Pair(original, folder / "optimized", folder / "other")


def arrays(path: Path, **values: Any) -> Path:
    np.savez(path, **values)
    return path


def test_one_file_serves_all_signatures(pair: Pair, tmp_path: Path, invoke: Invoke) -> None:
    feeds = arrays(tmp_path / "feeds.npz", x=rows(), words=np.array(["a", "b", "c"]))
    found = content(invoke("compare", pair.original, pair.optimized, "--feeds", feeds, "--json"))
    assert found["passed"] is True
    assert found["not_compared"] == {}
    assert set(found["signatures"]) == {"dense", "twice", "look_up"}
    ids, words = found["signatures"]["look_up"]["outputs"]
    assert (ids["key"], ids["elements"], words["key"], words["elements"]) == ("ids", 3, "rows", 96)


def test_a_table_of_other_content_is_a_difference(pair: Pair, tmp_path: Path, invoke: Invoke) -> None:
    feeds = arrays(tmp_path / "feeds.npz", words=np.array(["b", "a", "c"]))
    result = invoke("compare", pair.original, pair.other, "--signature", "look_up", "--feeds", feeds, "--json")
    assert result.exit_code == 3
    ids, _ = json.loads(result.stdout)["signatures"]["look_up"]["outputs"]
    assert (ids["mismatched"], ids["worst_index"], ids["maximum_absolute"]) == (1, [1], 1.0)


def test_texts_feed_strings_as_they_are(pair: Pair, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "words.jsonl").write_text('"a"\n{"text": "c"}\n"b"\n')
    line = [
        "compare",
        pair.original,
        pair.optimized,
        "--texts",
        tmp_path / "words.jsonl",
        "--batch-size",
        "2",
        "--json",
    ]
    result = invoke(*line)
    assert result.exit_code == 4
    found = json.loads(result.stdout)
    assert found["signatures"]["look_up"]["feeds"] == 2
    assert set(found["not_compared"]) == {"dense", "twice"}
    assert "--texts needs --tokenizer for 'x', which is float32" in found["not_compared"]["dense"]
    assert content(invoke(*line, "--signature", "look_up"))["passed"]


def test_what_has_no_feed_is_listed_and_fails_no_other(pair: Pair, tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("compare", pair.original, pair.optimized)
    assert result.exit_code == 4
    assert "Signature look_up\nnot compared: its strings are not made up" in result.stdout
    assert "--shape: words." in result.stdout
    assert "Not compared: look_up." in result.stderr
    result = invoke("compare", pair.original, pair.optimized, "--feeds", arrays(tmp_path / "x.npz", x=rows()), "--json")
    assert result.exit_code == 4
    found = json.loads(result.stdout)
    assert found["passed"] is True
    assert found["not_compared"] == {"look_up": f"{tmp_path / 'x.npz'} lacks 'words'."}


def test_strings_are_made_up_for_a_shape(pair: Pair, invoke: Invoke) -> None:
    line = ["compare", pair.original, pair.optimized, "--shape", "words=5", "--shape", "x=2x32", "--json"]
    found = content(invoke(*line))
    assert found["signatures"]["look_up"]["outputs"][0]["elements"] == 5


def test_a_signature_that_only_the_first_has(pair: Pair, tmp_path: Path, invoke: Invoke) -> None:
    feeds = arrays(tmp_path / "feeds.npz", x=rows(), words=np.array(["c"]))
    result = invoke("compare", pair.original, pair.other, "--feeds", feeds, "--json")
    assert result.exit_code == 1  # The array x is for nothing that both have.
    feeds = arrays(tmp_path / "feeds.npz", words=np.array(["c"]))
    # A single signature is that of the other model, whatever it is called; here there are three.
    result = invoke("compare", pair.original, pair.other, "--feeds", feeds, "--json")
    assert result.exit_code == 4
    assert "has no signature 'dense' beside that of" in json.loads(result.stdout)["not_compared"]["dense"]


def test_nothing_that_can_be_compared_is_an_error(pair: Pair, tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("compare", pair.original, pair.optimized, "--signature", "look_up")
    assert result.exit_code == 1
    assert "Error: The signature 'look_up': its strings are not made up" in result.stderr
    assert result.stdout == ""
    feeds = arrays(tmp_path / "feeds.npz", y=rows())
    result = invoke("compare", pair.original, pair.optimized, "--feeds", feeds)
    assert result.exit_code == 1
    assert "feeds.npz: The graph has no input 'y'" in result.stderr
    feeds = arrays(tmp_path / "feeds.npz", x=rows().astype(np.float64))
    result = invoke("compare", pair.original, pair.optimized, "--feeds", feeds)
    assert result.exit_code == 1
    assert "has dtype float64, expected float32" in result.stderr


def test_a_signature_that_fails_on_its_feed_is_listed(tmp_path: Path, invoke: Invoke) -> None:
    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def odd(self, x: Any) -> Any:
            return {"y": tf.reshape(x, [-1, 7])}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def same(self, x: Any) -> Any:
            return {"y": x + 1.0}

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "both"), signatures={"odd": module.odd, "same": module.same})
    result = invoke("compare", tmp_path / "both", tmp_path / "both", "--shape", "x=4", "--json")
    assert result.exit_code == 4
    [reason] = json.loads(result.stdout)["not_compared"].values()
    assert reason.startswith("it fails on these feeds: Input to reshape is a tensor with 4 values")


def test_signatures_of_loaded_models_are_compared_in_python(pair: Pair) -> None:
    first, second, other = (tf.saved_model.load(str(folder)) for folder in pair)
    feeds = [{"words": ["a", "b", "d"]}, {"words": np.array(["b"])}]
    found = tf_opt.compare(first.signatures["look_up"], second.signatures["look_up"], feeds, show=False)
    assert found.passed
    assert found["rows"].elements == 4 * 32
    assert not tf_opt.compare(first.signatures["look_up"], other.signatures["look_up"], feeds, show=False).passed
    with pytest.raises(tf_opt.errors.InvalidFeedError, match=r"no input 'word'.*Did you mean 'words'"):
        tf_opt.compare(first.signatures["look_up"], second.signatures["look_up"], [{"word": ["a"]}], show=False)
    measured = tf_opt.benchmark(
        {"before": first.signatures["look_up"], "after": second.signatures["look_up"]}, feeds[:1], 0, 1, show=False
    )
    assert [row.batch for row in measured.rows] == [3, 3]
