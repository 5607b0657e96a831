"""SavedModels that tests share, and what holds for every pair of an original and what was written of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.saved_model import loader_impl

import tf_opt

QUICK: Mapping[str, Any] = {"engine": "openvino", "adopt": "always", "minimum_segment_size": 1, "progress": False}
"""Options under which the smallest graph gets an engine, without time spent on measurements."""


def two_inputs(folder: Path, hidden: int = 80) -> Path:
    """A Keras model with two inputs and two outputs, as `model.export` writes it."""
    keras.utils.set_random_seed(0)
    left, right = keras.Input([8], name="left"), keras.Input([8], name="right")
    joined = keras.layers.Dense(hidden, "gelu")(keras.layers.Concatenate()([left, right]))
    outputs = {"first": keras.layers.Dense(3)(joined), "second": keras.layers.Dense(2)(joined)}
    keras.Model({"left": left, "right": right}, outputs).export(folder, verbose=False)
    return folder


def two_feeds(batch: int = 5) -> dict[str, Any]:
    """A feed for `two_inputs`."""
    random = np.random.default_rng(0)
    return {name: random.normal(size=(batch, 8)).astype(np.float32) for name in ("left", "right")}


class Several(tf.Module):
    """Signatures that share a weight, structures in and out, a table, and a function with two forms."""

    def __init__(self) -> None:
        super().__init__()
        random = np.random.default_rng(0)
        self.weight = tf.Variable(random.normal(size=(32, 32)), dtype=tf.float32)
        self.bias = tf.Variable(random.normal(size=32), dtype=tf.float32)
        words = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2])
        self.table = tf.lookup.StaticHashTable(words, -1)

    @tf.function(input_signature=[tf.TensorSpec([None, 32], tf.float32, name="x")])
    def dense(self, x: Any) -> dict[str, Any]:
        return {"y": tf.nn.relu(x @ self.weight + self.bias)}

    @tf.function(input_signature=[tf.TensorSpec([None, 32], tf.float32, name="x")])
    def twice(self, x: Any) -> dict[str, Any]:
        return {"once": x @ self.weight, "again": x @ self.weight @ self.weight}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
    def look_up(self, words: Any) -> dict[str, Any]:
        return {
            "ids": self.table.lookup(words),
            "rows": tf.gather(self.weight, tf.maximum(self.table.lookup(words), 0)),
        }

    @tf.function
    def nested(self, pair: Any, scale: float = 2.0, *, shift: Any = None) -> Any:
        left, right = pair["left"] @ self.weight, pair["right"][0] * scale
        return {"z": [left + right, (right,)], "a": left if shift is None else left + shift}

    @tf.function
    def two_forms(self, x: Any, training: bool = False) -> Any:
        return tf.nn.dropout(x, 0.5) if training else x @ self.weight


def several(folder: Path) -> Path:
    """Writes `Several` with three signatures."""
    module = Several()
    pair = {"left": tf.TensorSpec([None, 32], tf.float32), "right": (tf.TensorSpec([None, 32], tf.float32),)}
    module.nested.get_concrete_function(pair, 3.0, shift=tf.TensorSpec([], tf.float32))
    for training in (False, True):
        module.two_forms.get_concrete_function(tf.TensorSpec([None, 32], tf.float32), training=training)
    signatures = {"dense": module.dense, "twice": module.twice, "look_up": module.look_up}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


def rows(batch: int = 4) -> Any:
    """A value for the inputs of `Several`."""
    return np.random.default_rng(1).normal(size=(batch, 32)).astype(np.float32)


def assert_same_signatures(
    original: Path, optimized: Path, feeds: Mapping[str, Mapping[str, Any]], atol: float = 1e-4
) -> None:
    """Holds the signatures of two SavedModels to the same names, types, shapes and answers."""
    before, after = tf.saved_model.load(str(original)), tf.saved_model.load(str(optimized))
    assert set(after.signatures) == set(before.signatures) == set(feeds)
    for name, function in before.signatures.items():
        found = after.signatures[name]
        assert found.structured_input_signature == function.structured_input_signature
        # Those of TensorFlow 1 have tensors where others have their descriptions.
        described = [{k: (t.dtype, str(t.shape)) for k, t in f.structured_outputs.items()} for f in (function, found)]
        assert described[0] == described[1]
        assert found._arg_keywords == function._arg_keywords
        assert_close(function(**tensors(feeds[name])), found(**tensors(feeds[name])), atol)


def tensors(feed: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a feed as tensors."""
    return {name: tf.constant(value) for name, value in feed.items()}


def assert_close(expected: Any, found: Any, atol: float = 1e-4) -> None:
    """Compares two structures of tensors."""
    tf.nest.assert_same_structure(expected, found)
    for a, b in zip(tf.nest.flatten(expected), tf.nest.flatten(found), strict=True):
        assert a.dtype == b.dtype
        if a.dtype.is_floating:
            np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4)
        else:
            np.testing.assert_array_equal(a, b)


def stored_nodes(folder: Path) -> Iterator[Any]:
    """All nodes of the graph and the functions that a SavedModel stores."""
    stored = loader_impl.parse_saved_model(str(folder)).meta_graphs[0].graph_def
    yield from stored.node
    for function in stored.library.function:
        yield from function.node_def


def variables(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a SavedModel has in its checkpoint."""
    listed = tf.train.list_variables(str(folder / "variables" / "variables"))
    return {name: tuple(shape) for name, shape in listed if shape}


def in_new_process(program: str, *arguments: object) -> str:
    """Runs a program in a process of its own, and returns what it prints."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(tf_opt.__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout
