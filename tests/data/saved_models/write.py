"""Writes small SavedModels with the TensorFlow that runs this, and what they answer, for tests of a newer TensorFlow.

    python -m venv old && old/bin/pip install "tensorflow-cpu==2.12.*"
    old/bin/python tests/data/saved_models/write.py

makes tf-2.12/ beside this file: a folder for each model, and answers.npz with the arrays that each signature was fed
("<model>/<signature>/feed/<input>") and returned ("<model>/<signature>/answer/<output>").
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1
VERSION = ".".join(tf.__version__.split(".")[:2])
KERAS_2 = tf.keras.__version__.startswith("2.")
TEXTS = np.array([b"the cat sat", b"dogs", b"a very long line of words"])


def floats(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def keras_functional(folder):
    """Two inputs, an embedding, GELU, layer normalization."""
    tf.keras.utils.set_random_seed(1)
    ids = tf.keras.Input([6], dtype="int32", name="ids")
    features = tf.keras.Input([4], name="features")
    pooled = tf.keras.layers.GlobalAveragePooling1D()(tf.keras.layers.Embedding(20, 8)(ids))
    joined = tf.keras.layers.Concatenate()([pooled, tf.keras.layers.Dense(8, "gelu")(features)])
    normalized = tf.keras.layers.LayerNormalization()(joined)
    model = tf.keras.Model([ids, features], tf.keras.layers.Dense(3, "softmax", name="classes")(normalized))
    save_keras(model, folder)
    return {"serving_default": {"ids": np.arange(12, dtype=np.int32).reshape(2, 6), "features": floats(2, 4)}}


def keras_lstm(folder):
    """A recurrent layer, which is a While of TensorFlow 2."""
    tf.keras.utils.set_random_seed(2)
    steps = tf.keras.Input([None, 3], name="steps")
    # Units that cuDNN would not take keep the one implementation that every machine has.
    state = tf.keras.layers.LSTM(4, use_bias=False)(steps)
    save_keras(tf.keras.Model(steps, tf.keras.layers.Dense(2, name="score")(state)), folder)
    return {"serving_default": {"steps": floats(2, 5, 3)}}


def save_keras(model, folder):
    if KERAS_2:
        # Without the traces of every layer, which take ten times the room, and with those of the signature.
        specs = [tf.TensorSpec(tensor.shape, tensor.dtype, tensor.name) for tensor in model.inputs]
        call = tf.function(lambda *tensors: {model.output_names[0]: model(tensors if len(tensors) > 1 else tensors[0])})
        signatures = call.get_concrete_function(*specs)
        model.save(folder, save_format="tf", save_traces=False, include_optimizer=False, signatures=signatures)
    else:
        model.export(folder, verbose=False)


class TwoSignatures(tf.Module):
    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(floats(8, 16), name="weight")
        self.head = tf.Variable(floats(16, 2), name="head")

    @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32, name="x")])
    def encode(self, x):
        hidden = tf.nn.relu(x @ self.weight)
        return {"hidden": hidden, "norm": tf.norm(hidden, axis=1)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 16], tf.float32, name="hidden"),
            tf.TensorSpec([], tf.float32, name="temperature"),
        ]
    )
    def score(self, hidden, temperature):
        return {"probabilities": tf.nn.softmax(tf.tanh(hidden) @ self.head / temperature)}


def two_signatures(folder):
    """A module whose signatures share a variable's module, one with a structured output, one with two inputs."""
    module = TwoSignatures()
    tf.saved_model.save(module, str(folder), signatures={"encode": module.encode, "score": module.score})
    return {
        "encode": {"x": floats(3, 8)},
        "score": {"hidden": floats(3, 16), "temperature": np.array(0.5, np.float32)},
    }


class SplitAndHash(tf.Module):
    def __init__(self):
        super().__init__()
        self.table = tf.Variable(floats(50, 8), name="table")
        self.weight = tf.Variable(floats(8, 8), name="weight")

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="text"),
            tf.TensorSpec([None, 8], tf.float32, name="context"),
        ]
    )
    def __call__(self, text, context):
        words = tf.strings.split(tf.strings.lower(text))
        buckets = tf.ragged.map_flat_values(tf.strings.to_hash_bucket_fast, words, 50).to_tensor(default_value=0)
        mean = tf.reduce_mean(tf.gather(self.table, buckets), axis=1)
        return {"scores": tf.nn.softmax(tf.nn.relu(mean @ self.weight + context) * 2.0 - 0.5), "text": text}


def split_and_hash(folder):
    """Strings that are split and hashed in front of the numbers, and one that is handed through."""
    module = SplitAndHash()
    tf.saved_model.save(module, str(folder), signatures=module.__call__)
    return {"serving_default": {"text": TEXTS, "context": floats(3, 8)}}


class Vocabulary(tf.Module):
    def __init__(self):
        super().__init__()
        words = tf.constant(["the", "cat", "sat", "dogs"])
        entries = tf.lookup.KeyValueTensorInitializer(words, tf.range(1, 5, dtype=tf.int64))
        self.lookup = tf.lookup.StaticHashTable(entries, default_value=0)
        self.table = tf.Variable(floats(5, 8), name="table")
        self.weight = tf.Variable(floats(8, 8), name="weight")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="word")])
    def __call__(self, word):
        vectors = tf.gather(self.table, self.lookup.lookup(word))
        return {"scores": tf.nn.softmax(tf.nn.relu(vectors @ self.weight) * 2.0 - 0.5)}


def vocabulary(folder):
    """Words that are looked up in a table of the SavedModel."""
    module = Vocabulary()
    tf.saved_model.save(module, str(folder), signatures=module.__call__)
    return {"serving_default": {"word": np.array([b"cat", b"dogs", b"bird"])}}


def v1_variables(folder):
    """What a program for TensorFlow 1 exports: reference variables, a builder, control flow of plain nodes."""
    feeds = {"x": floats(3, 8), "training": np.array(False)}
    with tf.Graph().as_default(), tf1.Session() as session:
        tf1.disable_resource_variables()
        tf1.disable_control_flow_v2()
        x = tf1.placeholder(tf.float32, [None, 8], name="x")
        training = tf1.placeholder(tf.bool, [], name="training")
        weight = tf1.get_variable("weight", initializer=tf.constant(floats(8, 16)))
        bias = tf1.get_variable("bias", initializer=tf.constant(floats(16)))
        hidden = tf.nn.relu(tf.matmul(x, weight) + bias)
        chosen = tf1.cond(training, lambda: tf.nn.dropout(hidden, 0.5), lambda: tf.tanh(hidden) * 0.5)
        output = tf.nn.softmax(tf.matmul(chosen, tf1.get_variable("head", initializer=tf.constant(floats(16, 4)))))
        save_session(session, folder, {"x": x, "training": training}, {"probabilities": output})
    return {"serving_default": feeds}


def v1_dynamic_rnn(folder):
    """A dynamic_rnn of TensorFlow 1: a while loop of plain nodes around TensorArrays."""
    feeds = {"steps": floats(2, 5, 3), "lengths": np.array([5, 2], np.int32)}
    with tf.Graph().as_default(), tf1.Session() as session:
        tf1.disable_resource_variables()
        tf1.disable_control_flow_v2()
        steps = tf1.placeholder(tf.float32, [None, None, 3], name="steps")
        lengths = tf1.placeholder(tf.int32, [None], name="lengths")
        tf1.set_random_seed(3)
        cell = tf1.nn.rnn_cell.BasicLSTMCell(4)
        outputs, state = tf1.nn.dynamic_rnn(cell, steps, sequence_length=lengths, dtype=tf.float32)
        save_session(
            session, folder, {"steps": steps, "lengths": lengths}, {"outputs": outputs, "state": tf.nn.softmax(state.h)}
        )
    return {"serving_default": feeds}


def save_session(session, folder, inputs, outputs):
    session.run(tf1.global_variables_initializer())
    builder = tf1.saved_model.Builder(str(folder))
    signature = tf1.saved_model.predict_signature_def(inputs, outputs)
    builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, clear_devices=True)
    builder.save()


def answers(folder, signature, feeds):
    """Returns what a signature returns, from a session of its own."""
    with tf.Graph().as_default(), tf1.Session() as session:
        meta_graph = tf1.saved_model.load(session, ["serve"], str(folder))
        definition = meta_graph.signature_def[signature]
        fed = {definition.inputs[key].name: value for key, value in feeds.items()}
        return session.run({key: info.name for key, info in definition.outputs.items()}, fed)


MODELS = [keras_functional, two_signatures]
if KERAS_2:
    # What later versions write of the others differs in nothing; Keras 3 has no cells for TensorFlow 1.
    MODELS += [keras_lstm, split_and_hash, vocabulary, v1_variables, v1_dynamic_rnn]


def main():
    target = Path(__file__).resolve().parent / f"tf-{VERSION}"
    shutil.rmtree(target, ignore_errors=True)
    arrays = {}
    for model in MODELS:
        name = model.__name__
        for signature, feeds in model(target / name).items():
            for key, value in feeds.items():
                arrays[f"{name}/{signature}/feed/{key}"] = value
            for key, value in answers(target / name, signature, feeds).items():
                # Fixed-length bytes, which can be read without unpickling.
                arrays[f"{name}/{signature}/answer/{key}"] = value.astype(bytes) if value.dtype == object else value
        for leftover in ("keras_metadata.pb", "fingerprint.pb", "assets"):
            path = target / name / leftover
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    np.savez_compressed(target / "answers.npz", **arrays)


if __name__ == "__main__":
    main()
