"""Models that come out of Keras 3's own file format become engines and answer as the loaded model does."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tf_opt
from tests.small_graphs import engine_nodes


@keras.saving.register_keras_serializable("tf_opt_tests")
class Gated(keras.layers.Layer):
    """A layer of the user's: a product with a gate that is computed of the same input."""

    def __init__(self, units, **arguments):
        super().__init__(**arguments)
        self.units = units
        self.value = keras.layers.Dense(units)
        self.gate = keras.layers.Dense(units, "sigmoid")

    def build(self, input_shape):
        self.value.build(input_shape)
        self.gate.build(input_shape)

    def call(self, inputs):
        return self.value(inputs) * self.gate(inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tf_opt_tests")
class Classifier(keras.Model):
    """A subclassed model that behaves differently in training."""

    def __init__(self, classes=3, **arguments):
        super().__init__(**arguments)
        self.classes = classes
        self.hidden = Gated(24)
        self.dropout = keras.layers.Dropout(0.5)
        self.normalize = keras.layers.LayerNormalization()
        self.head = keras.layers.Dense(classes, "softmax")

    def call(self, inputs, training=False):
        return self.head(self.normalize(self.dropout(self.hidden(inputs), training=training)))

    def get_config(self):
        return {**super().get_config(), "classes": self.classes}


def functional():
    inputs = keras.Input([12], name="features")
    hidden = keras.layers.Dense(32, "gelu")(inputs)
    outputs = keras.layers.Dense(4, "softmax", name="classes")(keras.layers.BatchNormalization()(hidden))
    return keras.Model(inputs, outputs), {"features": floats(5, 12)}


def several_inputs_and_outputs():
    ids = keras.Input([None], dtype="int32", name="ids")
    features = keras.Input([8], name="features")
    words = keras.layers.Embedding(30, 16)(ids)
    attended = keras.layers.MultiHeadAttention(2, 8, name="attention")(words, words)
    pooled = keras.layers.GlobalMaxPooling1D()(Gated(16)(attended))
    joined = keras.layers.Concatenate()([pooled, keras.layers.Dense(16, "relu")(features)])
    outputs = {
        "score": keras.layers.Dense(1, name="score")(joined),
        "classes": keras.layers.Dense(3, "softmax", name="classes")(joined),
    }
    feeds = {"ids": np.arange(14, dtype=np.int32).reshape(2, 7), "features": floats(2, 8)}
    return keras.Model({"ids": ids, "features": features}, outputs), feeds


def subclassed():
    model = Classifier()
    features = floats(5, 12)
    model(features)
    return model, features


def convolutional():
    inputs = keras.Input([16, 16, 3], name="image")
    hidden = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    hidden = keras.layers.BatchNormalization()(keras.layers.SeparableConv2D(8, 3, strides=2)(hidden))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.MaxPooling2D()(hidden))
    return keras.Model(inputs, keras.layers.Dense(4)(pooled)), {"image": floats(2, 16, 16, 3)}


def floats(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    "make", [functional, several_inputs_and_outputs, subclassed, convolutional], ids=lambda make: make.__name__
)
def test_file_of_keras_3_becomes_an_engine(make, tmp_path):
    keras.utils.set_random_seed(0)
    model, fed = make()
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    expected = loaded(fed, training=False)
    expected = expected if isinstance(expected, dict) else {"": expected}
    # The file of a subclassed model does not say what it takes.
    spec = {"inputs": ((None, 12), "float32")} if make is subclassed else None
    frozen = tf_opt.freeze_keras(loaded, spec)
    feed = fed if isinstance(fed, dict) else {frozen.inputs[0].key: fed}
    assert {info.key for info in frozen.inputs} == set(feed)
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", adopt="always", cache=False)
    optimized = optimizer.optimize(frozen, [feed])
    assert engine_nodes(optimized.graph_def)
    for graph in (frozen, optimized):
        values = tf_opt.run(graph, feed)
        assert len(values) == len(expected)
        for key, array in expected.items():
            value = values[key] if key else next(iter(values.values()))
            np.testing.assert_allclose(value, keras.ops.convert_to_numpy(array), rtol=1e-4, atol=1e-5)
