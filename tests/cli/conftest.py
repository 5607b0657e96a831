"""Small models of every kind that the command line takes, and how a test calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from typer.testing import CliRunner, Result

from tests.small_graphs import mlp
from tf_opt.cli.program import app

Invoke: TypeAlias = Callable[..., Result]

WORDS = ("a", "man", "is", "eating", "food", "the", "market", "fell", "today", "dogs", "run", ".")


@dataclass(frozen=True)
class Models:
    """Where they lie, and what they can be fed. The SavedModel and the graph compute the same."""

    folder: Path
    saved_model: Path
    optimized: Path
    graph: Path
    tokens: Path
    keras: Path
    hugging_face: Path
    arrays: Path
    texts: Path


@pytest.fixture
def invoke() -> Invoke:
    """Runs the program in this process; the arguments may be paths."""

    def call(*arguments: Any, **options: Any) -> Result:
        return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(each) for each in arguments], **options)

    return call


def saved_model(folder: Path) -> Path:
    """Two signatures of one net: x [?, 16] -> y [?, 4], and to the half of it."""
    frozen = mlp()
    function = tf.compat.v1.wrap_function(
        lambda: tf.import_graph_def(frozen, name="", return_elements=["x:0", "y:0"]), []
    )
    net = function.prune(function.outputs[0], function.outputs[1])

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 16], tf.float32, name="x")])
        def serving_default(self, x: Any) -> Any:
            return {"y": net(x)}

        @tf.function(input_signature=[tf.TensorSpec([None, 16], tf.float32, name="x")])
        def half(self, x: Any) -> Any:
            return {"half": net(x) / 2.0}

    module = Module()
    module.net = net
    tf.saved_model.save(module, str(folder), {"serving_default": module.serving_default, "half": module.half})
    return folder


def hugging_face(folder: Path) -> Path:
    """A BERT of one layer with its tokenizer."""
    from transformers import BertConfig, BertTokenizerFast, TFBertModel

    tf.keras.utils.set_random_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    model = TFBertModel(config)
    model(model.dummy_inputs)
    model.save_pretrained(folder)
    vocabulary = folder / "words.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(str(vocabulary), model_max_length=64).save_pretrained(folder)
    return folder


def token_graph() -> GraphDef:
    """The inputs of a BERT, and the sum over its tokens of rows of a table: quicker to load than a model with them."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    with tf.Graph().as_default() as graph:
        ids, mask, types = (tf.compat.v1.placeholder(tf.int32, [None, None], name=name) for name in names)
        table = tf.constant(np.random.default_rng(0).normal(size=(40, 32)).astype(np.float32))
        rows = tf.gather(table, ids + types) * tf.cast(mask, tf.float32)[..., tf.newaxis]
        tf.reduce_sum(rows, axis=1, name="y")
    return graph.as_graph_def()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """One folder for all tests, which do not write into it."""
    import keras

    folder = tmp_path_factory.mktemp("models")
    graph = folder / "net.pb"
    graph.write_bytes(mlp().SerializeToString())
    tokens = folder / "tokens.pb"
    tokens.write_bytes(token_graph().SerializeToString())
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.layers.Input([16], name="x"), keras.layers.Dense(48, "relu"), keras.layers.Dense(4)])
    net.save(folder / "net.keras")
    np.savez(folder / "feeds.npz", x=np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32))
    texts = folder / "texts.jsonl"
    texts.write_text("\n".join(json.dumps(each) for each in ("a man is eating .", {"text": "the market fell today"})))
    models = Models(
        folder=folder,
        saved_model=saved_model(folder / "net"),
        optimized=folder / "fast",
        graph=graph,
        tokens=tokens,
        keras=folder / "net.keras",
        hugging_face=hugging_face(folder / "bert"),
        arrays=folder / "feeds.npz",
        texts=texts,
    )
    optimize = ["optimize", models.saved_model, models.optimized, "--adopt", "always", "--no-cache"]
    result = CliRunner().invoke(app, [str(each) for each in optimize])
    assert result.exit_code == 0, result.output
    return models


def content(result: Result) -> dict[str, Any]:
    """What --json printed; stdout must hold nothing else."""
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found
