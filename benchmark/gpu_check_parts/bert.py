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


def weight_bytes(config: Mapping[str, int]) -> int:
    """Returns how many bytes the weights are, without making them."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    embeddings = (config["vocab_size"] + config["max_position_embeddings"] + config["type_vocab_size"] + 2) * hidden
    layer = 4 * hidden * (hidden + 1) + 2 * hidden * inner + inner + hidden + 4 * hidden
    return 4 * (embeddings + config["num_hidden_layers"] * layer + hidden * (hidden + 1))


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

    def weight(name: str) -> Any:
        # A constant would be copied by each step of making the graph; see _fill_in.
        return tf.compat.v1.placeholder(tf.float32, weights[name].shape, name)

    def dense(x: Any, name: str) -> Any:
        product = tf.tensordot(x, weight(f"{name}/kernel"), [[len(x.shape) - 1], [0]])
        return tf.nn.bias_add(product, weight(f"{name}/bias"))

    def layer_norm(x: Any, name: str) -> Any:
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        gamma, beta = weight(f"{name}/gamma"), weight(f"{name}/beta")
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, EPSILON)

    with tf.Graph().as_default() as graph:
        ids, mask, types = (
            tf.compat.v1.placeholder(tf.int32, [None, None], name)
            for name in ("input_ids", "attention_mask", "token_type_ids")
        )
        batch, length = tf.unstack(tf.shape(ids))

        def split_heads(x: Any) -> Any:
            return tf.transpose(tf.reshape(x, [batch, length, heads, size]), [0, 2, 1, 3])

        x = tf.gather(weight("word"), ids) + tf.gather(weight("type"), types)
        x = layer_norm(x + tf.gather(weight("position"), tf.range(length)), "embeddings")
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
    return _fill_in(graph.as_graph_def(), weights)


def _fill_in(graph_def: Any, weights: Weights) -> Any:
    """Turns the placeholders of weights into constants, in place."""
    for node in graph_def.node:
        if node.name in weights:
            values = weights[node.name]
            dtype = node.attr["dtype"].type
            node.op = "Const"
            node.attr.clear()
            node.attr["dtype"].type = dtype
            tensor = node.attr["value"].tensor
            tensor.dtype = dtype
            for size in values.shape:
                tensor.tensor_shape.dim.add(size=size)
            tensor.tensor_content = values.tobytes()
    return graph_def
