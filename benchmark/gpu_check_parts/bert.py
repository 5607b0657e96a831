"""BERT of any size with random weights, from NumPy and plain TensorFlow operations alone.

A machine with a GPU may have neither Keras nor transformers, nor a network to get them. Every process makes the same
weights of the same seed, so that no file has to hold them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
LARGE = {**BASE, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
TINY = {**BASE, "vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"intermediate_size": 128, "max_position_embeddings": 64}

MODELS: dict[str, dict[str, int]] = {"bert-base": BASE, "bert-large": LARGE, "bert-tiny": TINY}

EPSILON = 1e-12
MASKED = -10000.0
"""What is added to the scores of positions without a token."""

Weights = dict[str, np.ndarray[Any, Any]]


def random_weights(config: Mapping[str, int], seed: int = 0) -> Weights:
    """Returns the weights by name; matrices are [inputs, outputs].

    Args:
        config: One of `MODELS`, in the words of Hugging Face's configuration.
        seed: The same seed gives the same weights.
    """
    random = np.random.default_rng(seed)
    weights: Weights = {}

    def normal(name: str, *shape: int, around: float = 0.0, scale: float = 0.02) -> None:
        weights[name] = random.standard_normal(shape, np.float32) * np.float32(scale) + np.float32(around)

    def dense(name: str, inputs: int, outputs: int) -> None:
        normal(f"{name}/kernel", inputs, outputs)
        # Not zero, and gamma not one, so that a weight in the wrong place shows.
        normal(f"{name}/bias", outputs, scale=0.1)

    def layer_norm(name: str) -> None:
        normal(f"{name}/gamma", hidden, around=1.0, scale=0.1)
        normal(f"{name}/beta", hidden, scale=0.1)

    hidden, inner = config["hidden_size"], config["intermediate_size"]
    normal("word", config["vocab_size"], hidden)
    normal("position", config["max_position_embeddings"], hidden)
    normal("type", config["type_vocab_size"], hidden)
    layer_norm("embeddings")
    for layer in layer_names(config):
        for name in ("query", "key", "value", "attention"):
            dense(f"{layer}/{name}", hidden, hidden)
        layer_norm(f"{layer}/attention")
        dense(f"{layer}/inner", hidden, inner)
        dense(f"{layer}/output", inner, hidden)
        layer_norm(f"{layer}/output")
    dense("pooler", hidden, hidden)
    return weights


def layer_names(config: Mapping[str, int]) -> list[str]:
    """Returns what the names of each layer's weights begin with."""
    return [f"layer_{index}" for index in range(config["num_hidden_layers"])]


def graph_def(config: Mapping[str, int], weights: Weights) -> Any:
    """Returns a frozen GraphDef with int32 inputs [batch, sequence] and the outputs Identity and Identity_1.

    Its operations are those that Keras traces for Hugging Face's TFBertModel, which has the same inputs and outputs.
    """
    import tensorflow as tf

    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    size = hidden // heads

    def dense(x: Any, name: str) -> Any:
        product = tf.tensordot(x, tf.constant(weights[f"{name}/kernel"]), [[len(x.shape) - 1], [0]])
        return tf.nn.bias_add(product, tf.constant(weights[f"{name}/bias"]))

    def layer_norm(x: Any, name: str) -> Any:
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        gamma, beta = tf.constant(weights[f"{name}/gamma"]), tf.constant(weights[f"{name}/beta"])
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, EPSILON)

    with tf.Graph().as_default() as graph:
        ids, mask, types = (
            tf.compat.v1.placeholder(tf.int32, [None, None], name)
            for name in ("input_ids", "attention_mask", "token_type_ids")
        )
        batch, length = tf.unstack(tf.shape(ids))

        def split_heads(x: Any) -> Any:
            return tf.transpose(tf.reshape(x, [batch, length, heads, size]), [0, 2, 1, 3])

        x = tf.gather(tf.constant(weights["word"]), ids) + tf.gather(tf.constant(weights["type"]), types)
        x = layer_norm(x + tf.gather(tf.constant(weights["position"]), tf.range(length)), "embeddings")
        masked = (1.0 - tf.cast(mask[:, None, None, :], tf.float32)) * MASKED
        for layer in layer_names(config):
            query, key, value = (split_heads(dense(x, f"{layer}/{name}")) for name in ("query", "key", "value"))
            scores = tf.matmul(query, key, transpose_b=True) / np.sqrt(np.float32(size)) + masked
            context = tf.transpose(tf.matmul(tf.nn.softmax(scores), value), [0, 2, 1, 3])
            attended = dense(tf.reshape(context, [batch, length, hidden]), f"{layer}/attention")
            x = layer_norm(x + attended, f"{layer}/attention")
            inner = tf.nn.gelu(dense(x, f"{layer}/inner"))
            x = layer_norm(x + dense(inner, f"{layer}/output"), f"{layer}/output")
        tf.identity(x, "Identity")
        tf.identity(tf.tanh(dense(x[:, 0], "pooler")), "Identity_1")
    return graph.as_graph_def()
