from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import transformers

from tf_opt.errors import FreezeError
from tf_opt.freeze.models import freeze_keras
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.session import GraphRunner

KERAS_VERSIONS = pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras 3", "tf-keras"])


def ops(frozen: FrozenGraph) -> set[str]:
    inner = {node.op for function in frozen.graph_def.library.function for node in function.node_def}
    return inner | {node.op for node in frozen.graph_def.node}


def array(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")


def check(frozen: FrozenGraph, feed: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-5) -> None:
    with GraphRunner(frozen) as runner:
        result = runner.run(feed)
    assert sorted(result) == sorted(expected)
    for key, value in result.items():
        np.testing.assert_allclose(value, np.asarray(expected[key]), rtol=tolerance, atol=tolerance)


@KERAS_VERSIONS
def test_functional_model_with_named_inputs_and_outputs(k: Any) -> None:
    left, right = k.Input((4,), name="left"), k.Input((4,), name="right")
    hidden = k.layers.BatchNormalization()(k.layers.Dropout(0.5)(left + right))
    model = k.Model([left, right], [k.layers.Dense(3, name="zebra")(hidden), k.layers.Dense(2, name="ant")(left)])
    frozen = freeze_keras(model)
    assert [(info.key, info.name) for info in frozen.inputs] == [("left", "left:0"), ("right", "right:0")]
    assert [(info.key, info.name) for info in frozen.outputs] == [("zebra", "Identity:0"), ("ant", "Identity_1:0")]
    assert not {"ReadVariableOp", "RandomUniform", "StatelessRandomUniformV2", "AssignVariableOp"} & ops(frozen)
    for rows in (1, 5):
        feed = {"left": array(rows, 4), "right": array(rows, 4) * 2}
        zebra, ant = model([feed["left"], feed["right"]], training=False)
        check(frozen, feed, {"zebra": zebra, "ant": ant})


@KERAS_VERSIONS
def test_model_of_mappings(k: Any) -> None:
    left, right = k.Input((4,), name="left"), k.Input((4,), name="right")
    model = k.Model({"left": left, "right": right}, {"z": left - right, "a": left + right})
    feed = {"right": array(2, 4), "left": array(2, 4) * 3}
    check(freeze_keras(model), feed, model(feed))
    # A specification may come in any order.
    frozen = freeze_keras(model, {"right": ((2, 4), "float32"), "left": ((2, 4), tf.float32)})
    assert frozen.input("left").shape == (2, 4)
    check(frozen, feed, model(feed))


@KERAS_VERSIONS
def test_recurrent_model_keeps_one_loop(k: Any) -> None:
    model = k.Sequential([k.layers.Input((7, 3)), k.layers.LSTM(5), k.layers.Dense(2)])
    frozen = freeze_keras(model)
    assert "StatelessWhile" in {node.op for node in frozen.graph_def.node}
    key = frozen.inputs[0].key
    with GraphRunner(frozen) as runner:
        for rows in (1, 3):
            x = array(rows, 7, 3)
            (result,) = runner.run({key: x}).values()
            np.testing.assert_allclose(result, np.asarray(model(x)), rtol=1e-5, atol=1e-6)


@KERAS_VERSIONS
def test_input_spec_forms(k: Any) -> None:
    model = k.Sequential([k.layers.Dense(2)])
    model.build((None, 4))
    x = array(3, 4)
    for spec in (
        tf.TensorSpec([None, 4], tf.float32, name="x"),
        ((None, 4), "float32"),
        [((3, 4), "float32")],
        {"x": tf.TensorSpec([3, 4])},
    ):
        frozen = freeze_keras(model, spec)
        (key,) = (info.key for info in frozen.inputs)
        (result,) = GraphRunner(frozen).run({key: x}).values()
        np.testing.assert_allclose(result, np.asarray(model(x)), rtol=1e-5, atol=1e-6)


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, text: Any, scale: Any = None, training: bool | None = None) -> Any:
        y = self.dense(text)
        if training:
            y = y * 0.0
        return {"y": y if scale is None else y * scale}


def test_subclassed_model_needs_a_specification() -> None:
    model = Subclassed()
    with pytest.raises(FreezeError, match=r"declares no inputs.*input_spec="):
        freeze_keras(model)
    x, scale = array(2, 4), array(2, 1)
    frozen = freeze_keras(model, {"scale": ((None, 1), "float32"), "text": ((None, 4), "float32")})
    check(frozen, {"text": x, "scale": scale}, model(x, scale=scale))
    check(freeze_keras(model, {"text": ((None, 4), "float32")}), {"text": x}, model(x))


class Branching(tf_keras.Model):
    def call(self, x: Any) -> Any:
        if tf.shape(x)[0] > 2:
            return x * 2.0
        return x + 1.0


def test_branches_of_python_over_tensors() -> None:
    frozen = freeze_keras(Branching(), {"x": ((None, 4), "float32")})
    for rows in (1, 5):
        x = array(rows, 4)
        (result,) = GraphRunner(frozen).run({"x": x}).values()
        np.testing.assert_allclose(result, x * 2.0 if rows > 2 else x + 1.0, rtol=1e-6)


def test_specification_that_does_not_fit() -> None:
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    model = keras.Model([left, right], left + right)
    spec = ((None, 4), "float32")
    with pytest.raises(FreezeError, match=r"no input 'lft'\. Did you mean 'left'"):
        freeze_keras(model, {"lft": spec, "right": spec})
    with pytest.raises(FreezeError, match="takes 2 inputs"):
        freeze_keras(model, {"left": spec})
    with pytest.raises(FreezeError, match=r"expected a tf\.TensorSpec or \(shape, dtype\)"):
        freeze_keras(model, {"left": 3, "right": spec})
    with pytest.raises(FreezeError, match="could not be traced with the inputs left: float32"):
        freeze_keras(model, {"left": ((None, 5), "float32"), "right": spec})
    with pytest.raises(FreezeError, match="Two inputs are named 'a'"):
        freeze_keras(model, [tf.TensorSpec([None, 4], name="a")] * 2)
    with pytest.raises(FreezeError, match="got int"):
        freeze_keras(3)


def test_composite_inputs_are_an_error() -> None:
    ragged = tf_keras.Input((None,), ragged=True, name="words")
    model = tf_keras.Model(ragged, tf_keras.layers.Lambda(lambda x: x.to_tensor())(ragged))
    with pytest.raises(FreezeError, match=r"'words' is a composite tensor"):
        freeze_keras(model)
    with pytest.raises(FreezeError, match=r"'words' is a composite tensor"):
        freeze_keras(Subclassed(), {"words": tf.SparseTensorSpec([None, 4], tf.float32)})


def bert_config(**options: Any) -> transformers.BertConfig:
    small = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    return transformers.BertConfig(**{**small, "vocab_size": 100, **options})


def bert_feed(batch: int, length: int, vocabulary: int = 100) -> dict[str, Any]:
    generator = np.random.default_rng(length)
    return {
        "input_ids": generator.integers(0, vocabulary, (batch, length)).astype("int32"),
        "attention_mask": (np.arange(length) < generator.integers(1, length + 1, (batch, 1))).astype("int32"),
        "token_type_ids": generator.integers(0, 2, (batch, length)).astype("int32"),
    }


def test_hugging_face_bert() -> None:
    model = transformers.TFBertModel(bert_config(output_hidden_states=True))
    frozen = freeze_keras(model)
    assert [(info.key, info.name, info.dtype, info.shape) for info in frozen.inputs] == [
        (name, f"{name}:0", "int32", (None, None)) for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    keys = [f"hidden_states_{index}" for index in range(3)] + ["last_hidden_state", "pooler_output"]
    assert [info.key for info in frozen.outputs] == keys
    assert frozen.output("pooler_output").shape == (None, 32)
    assert not {"Assert", "StopGradient", "ReadVariableOp", "ResourceGather"} & ops(frozen)
    for batch, length in ((1, 1), (3, 17)):
        feed = bert_feed(batch, length)
        output = model(feed, training=False)
        expected = {f"hidden_states_{index}": value for index, value in enumerate(output.hidden_states)}
        expected |= {"last_hidden_state": output.last_hidden_state, "pooler_output": output.pooler_output}
        check(frozen, feed, expected)


def test_hugging_face_with_a_specification() -> None:
    model = transformers.TFBertForSequenceClassification(bert_config())
    spec = {name: tf.TensorSpec([None, 8], tf.int32) for name in ("input_ids", "attention_mask")}
    frozen = freeze_keras(model, spec)
    assert frozen.input_names == ("input_ids:0", "attention_mask:0")
    feed = {name: value for name, value in bert_feed(2, 8).items() if name in spec}
    check(frozen, feed, {"logits": model(feed, training=False).logits})


def test_hugging_face_inputs_by_position() -> None:
    model = transformers.TFBertModel(bert_config())
    feed = bert_feed(2, 8)
    for spec in (((None, 8), "int32"), [tf.TensorSpec([None, 8], tf.int32)] * 2):
        frozen = freeze_keras(model, spec)
        names = list(feed)[: 2 if isinstance(spec, list) else 1]
        assert frozen.input_names == tuple(f"{name}:0" for name in names)
        used = {name: feed[name] for name in names}
        check(frozen, used, dict(model(used, training=False)))


@pytest.mark.slow
def test_hugging_face_deberta() -> None:
    """Its attention branches on whether there are as many keys as queries."""
    config = transformers.DebertaV2Config(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
    )
    model = transformers.TFDebertaV2Model(config)
    model(model.dummy_inputs)
    frozen = freeze_keras(model)
    for batch, length in ((1, 5), (3, 9)):
        feed = bert_feed(batch, length)
        check(frozen, feed, dict(model(feed, training=False)))


@pytest.mark.slow
def test_a_bert_adds_its_weights_once() -> None:
    # Layers as they are there, and fewer of them: what is measured are bytes beside those of the weights.
    model = transformers.TFBertModel(transformers.BertConfig(num_hidden_layers=4))
    model(model.dummy_inputs)  # Makes the variables.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    frozen = freeze_keras(model)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert 200e6 < frozen.size_bytes < 220e6
    assert grown < 1.3 * frozen.size_bytes
    for batch, length in ((1, 16), (2, 37)):
        feed = bert_feed(batch, length, 30522)
        output = model(feed, training=False)
        expected = {"last_hidden_state": output.last_hidden_state, "pooler_output": output.pooler_output}
        check(frozen, feed, expected)


@pytest.mark.slow
def test_keras_hub_bert() -> None:
    # KerasHub needs tf.keras to be Keras 3, which is decided for the whole process when TensorFlow is imported.
    script = """
        import keras_hub, numpy as np
        from tf_opt import freeze_keras, run
        model = keras_hub.models.BertBackbone(
            vocabulary_size=100, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32, max_sequence_length=32)
        frozen = freeze_keras(model)
        assert sorted(info.key for info in frozen.inputs) == ["padding_mask", "segment_ids", "token_ids"], frozen.inputs
        for batch, length in ((1, 5), (3, 32)):
            ids = np.random.default_rng(0).integers(0, 100, (batch, length)).astype("int32")
            feed = {"token_ids": ids, "segment_ids": ids % 2, "padding_mask": np.ones_like(ids)}
            expected = model(feed)
            result = run(frozen, feed)
            assert sorted(result) == sorted(expected)
            for key, value in result.items():
                np.testing.assert_allclose(value, expected[key], rtol=1e-5, atol=1e-5)
    """
    environment = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
