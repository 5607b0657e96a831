"""The default pipelines on whole models and on control flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf
import transformers
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tests.passes.tf.pass_testing import Graph, check_same_behaviour, graph_of, node_of, ops, placeholder
from tf_opt.passes.tf.pass_base import Border, PassPipeline
from tf_opt.passes.tf.pipeline import EXPORT_PASSES, GRAPH_PASSES
from tf_opt.weights import attach_weights, detach_weights

SEQUENCES = ((1, 16), (3, 7), (2, 1))


def freeze(function: Callable[..., Any], specs: list[tf.TensorSpec], lower_control_flow: bool = False) -> Graph:
    """Traces and freezes a function; weights stay in the graph."""
    concrete = tf.function(function).get_concrete_function(*specs)
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=lower_control_flow)
    inputs = tuple(tensor.op.name for tensor in frozen.inputs if tensor.dtype != tf.resource)
    return frozen.graph.as_graph_def(), Border(inputs, tuple(tensor.name for tensor in frozen.outputs))


def tokens(*names: str) -> list[tf.TensorSpec]:
    return [tf.TensorSpec([None, None], tf.int32, name=name) for name in names]


def optimize(graph: Graph, sizes: Any, atol: float = 1e-4) -> tuple[GraphDef, GraphDef]:
    """Runs both pipelines on the light graph, compares with the weights attached; returns both light graphs."""
    graph_def, border = graph
    light, weights = detach_weights(graph_def)
    optimized = PassPipeline(GRAPH_PASSES).run(light, border)
    exported = PassPipeline(EXPORT_PASSES_AFTER_GRAPH).run(light, border)
    for result in (optimized, exported):
        check_same_behaviour(graph_def, attach_weights(result, weights), border, sizes=sizes, atol=atol)
    return optimized, exported


EXPORT_PASSES_AFTER_GRAPH = (*GRAPH_PASSES, *EXPORT_PASSES)
SHAPE_OPS = frozenset({"Prod", "ConcatV2", "GatherV2", "Shape", "Pack", "StridedSlice"})


@pytest.fixture(scope="module")
def hugging_face_bert() -> Graph:
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=100,
        max_position_embeddings=64,
    )
    model = transformers.TFBertModel(config)
    model(model.dummy_inputs)

    def call(ids: tf.Tensor, mask: tf.Tensor, types: tf.Tensor) -> list[tf.Tensor]:
        outputs = model(input_ids=ids, attention_mask=mask, token_type_ids=types)
        return [outputs.last_hidden_state, outputs.pooler_output]

    return freeze(call, tokens("input_ids", "attention_mask", "token_type_ids"))


def test_hugging_face_bert(hugging_face_bert: Graph) -> None:
    optimized, exported = optimize(hugging_face_bert, SEQUENCES)
    counts = ops(optimized)
    assert not {"Erfc", "Assert", "StopGradient", "Prod", "ConcatV2", "NoOp"} & set(counts)
    # Heads, merged heads and the mask, each once in all layers; and in each layer the result of attention, the hidden
    # states and the inner ones of the MLP, whose length follows from no other tensor if the mask has another batch.
    assert counts["Pack"] <= 3 + 3 * 2
    assert counts["Identity"] == 2
    exported_counts = ops(exported)
    assert exported_counts["MatMul"] == 1  # the pooler's
    # Six dense layers and two attention products in each of two layers.
    assert exported_counts["BatchMatMulV2"] == 2 * (6 + 2)
    # Heads are split three times and merged once in each layer; the mask gets two more dimensions.
    assert exported_counts["Reshape"] == 2 * 4 + 1


def test_shape_arithmetic_does_not_grow_with_the_layers(hugging_face_bert: Graph) -> None:
    _, exported = optimize(hugging_face_bert, SEQUENCES[:1])
    assert ops(exported)["Shape"] <= 3
    assert sum(count for op, count in ops(exported).items() if op in SHAPE_OPS) <= 14


def test_a_second_run_finds_nothing(hugging_face_bert: Graph) -> None:
    graph_def, border = hugging_face_bert
    light, _ = detach_weights(graph_def)
    pipeline = PassPipeline(EXPORT_PASSES_AFTER_GRAPH)
    once = PassPipeline(GRAPH_PASSES).run(light, border)
    PassPipeline(GRAPH_PASSES).run(once, border)
    again = PassPipeline(GRAPH_PASSES)
    assert again.run(once, border) is once
    assert not any(again.counts.values())
    assert pipeline.records == []


@pytest.mark.slow
def test_keras_hub_bert() -> None:
    import keras_hub  # Its layers are Keras 3's whatever TF_USE_LEGACY_KERAS says.

    model = keras_hub.models.BertBackbone(
        vocabulary_size=100, num_layers=2, num_heads=4, hidden_dim=32, intermediate_dim=64, max_sequence_length=64
    )
    names = ("token_ids", "padding_mask", "segment_ids")

    def call(*inputs: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tuple(model(dict(zip(names, inputs, strict=True))).values())

    optimized, exported = optimize(freeze(call, tokens(*names)), (*SEQUENCES, (0, 4)))
    assert not {"Einsum", "BroadcastTo", "Prod", "ConcatV2", "StopGradient"} & set(ops(optimized))
    assert ops(exported)["BatchMatMulV2"] == 2 * (6 + 2)
    assert ops(exported)["Transpose"] == 2 * 4


@pytest.mark.parametrize("causal", [False, True])
def test_attention_on_empty_tensors(causal: bool) -> None:
    import keras  # Keras 3 whatever TF_USE_LEGACY_KERAS says; TensorFlow depends on it.

    attention = keras.layers.MultiHeadAttention(2, 4)
    attention(tf.zeros([1, 2, 8]), tf.zeros([1, 2, 8]))

    def call(x: tf.Tensor) -> tf.Tensor:
        return attention(x, x, use_causal_mask=causal)

    graph = freeze(call, [tf.TensorSpec([None, None, 8], tf.float32, name="x")])
    optimized, _ = optimize(graph, ((2, 5), (0, 5), (2, 0), (0, 0)))
    assert "Einsum" not in ops(optimized)


def test_small_cnn() -> None:
    from keras import Sequential, layers

    model = Sequential(
        [
            layers.Input((16, 16, 3)),
            layers.Conv2D(8, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.DepthwiseConv2D(3),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    graph = freeze(lambda image: model(image), [tf.TensorSpec([None, 16, 16, 3], tf.float32, name="image")])
    optimized, _ = optimize(graph, ((1,), (3,)))
    assert not {"Squeeze", "Shape", "Pack", "StridedSlice", "Rsqrt", "NoOp"} & set(ops(optimized))


@pytest.mark.slow
def test_resnet() -> None:
    from keras.applications import ResNet50

    model = ResNet50(weights=None, include_top=False, input_shape=(None, None, 3), pooling="avg")
    graph = freeze(lambda image: model(image), [tf.TensorSpec([None, None, None, 3], tf.float32, name="image")])
    optimized, _ = optimize(graph, ((1, 64, 64), (2, 40, 48)))
    assert not {"Squeeze", "Shape", "ExpandDims"} & set(ops(optimized))
    # BiasAdd reads the weights themselves; what is left belongs to variances, before they meet an image.
    weights = {node.name for node in optimized.node if "_tf_opt_weight" in node.attr}
    assert all(node.input[0] in weights for node in optimized.node if node.op == "Reshape")
    assert all(node.input[1] in weights for node in optimized.node if node.op == "BiasAdd")


def loops(v2: bool, build: Callable[[], Any]) -> Graph:
    was_enabled = tf.compat.v1.control_flow_v2_enabled()
    (tf.compat.v1.enable_control_flow_v2 if v2 else tf.compat.v1.disable_control_flow_v2)()
    try:
        return graph_of(build)
    finally:
        (tf.compat.v1.enable_control_flow_v2 if was_enabled else tf.compat.v1.disable_control_flow_v2)()


def loop_model() -> list[tf.Tensor]:
    """Shape arithmetic, constants and duplicates before, in and after two loops, one in the other, and a cond."""
    x = placeholder("x", [None, None, 8])
    shape = tf.shape(x)
    flat = tf.reshape(x, tf.stack([tf.reduce_prod(shape[:2]), 8]))

    def inner(j: tf.Tensor, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return j + 1, tf.identity(z) * 0.5 + tf.identity(z) * 0.5 + tf.sqrt(tf.constant(4.0))

    def outer(i: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = tf.reshape(tf.transpose(tf.transpose(y)), tf.stack([tf.shape(y)[0], 8]))
        (_, z) = tf.compat.v1.while_loop(lambda j, z: j < 2, inner, [tf.constant(0), rows])
        return i + 1, tf.math.erfc(-z) + tf.cast(tf.shape(x)[0] - shape[0], tf.float32)

    (_, looped) = tf.compat.v1.while_loop(lambda i, y: i < 3, outer, [tf.constant(0), flat])
    chosen = tf.cond(
        tf.reduce_sum(x) > 0.0,
        lambda: tf.identity(looped) + tf.sqrt(tf.constant(4.0)),
        lambda: tf.identity(looped) - tf.sqrt(tf.constant(4.0)),
    )
    after = tf.reshape(tf.identity(looped), tf.concat([shape[:2], [2, 4]], 0))
    return [tf.nn.relu(chosen, name="chosen_output"), tf.nn.relu(after, name="after_output")]


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_control_flow(v2: bool) -> None:
    graph_def, border = loops(v2, loop_model)
    used = ops(graph_def)
    assert ("Enter" in used) != v2
    for passes in (GRAPH_PASSES, EXPORT_PASSES_AFTER_GRAPH):
        result = PassPipeline(passes).run(graph_def, border)
        check_same_behaviour(graph_def, result, border)
        assert ops(result)["Enter"] == used["Enter"]
        assert "Prod" not in ops(result)


def test_lowered_function_with_a_loop() -> None:
    def call(x: tf.Tensor) -> tf.Tensor:
        total = tf.zeros_like(x)
        for _ in tf.range(tf.shape(x)[1]):
            total += tf.reshape(tf.identity(x), tf.shape(x)) * 2.0
        return tf.reshape(total, [tf.shape(x)[0] * tf.shape(x)[1]])

    spec = [tf.TensorSpec([None, None], tf.float32, name="x")]
    for lower in (False, True):
        graph_def, border = freeze(call, spec, lower_control_flow=lower)
        result = PassPipeline(GRAPH_PASSES).run(graph_def, border)
        check_same_behaviour(graph_def, result, border)


def test_dead_branches_stay_dead() -> None:
    """A constant in a branch of a v1 cond must not become alive in the other one."""

    def build() -> tf.Tensor:
        x = placeholder("x", [None, 4])
        flag = tf.reduce_sum(x) > 0.0
        return tf.cond(flag, lambda: tf.identity(tf.constant(1.0)), lambda: tf.identity(tf.constant(2.0)))

    graph_def, border = loops(False, build)
    result = PassPipeline(GRAPH_PASSES).run(graph_def, border)
    check_same_behaviour(graph_def, result, border)
    assert node_of(result, "x").op == "Placeholder"


def test_default_lists_hold_their_requirements() -> None:
    PassPipeline(EXPORT_PASSES_AFTER_GRAPH)
    names = [member.name for member in EXPORT_PASSES_AFTER_GRAPH if hasattr(member, "name")]
    assert names[0] == "prune"
