"""A graph beside its weights is the graph with its weights in it, and holds no copy of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

import tf_opt
from tf_opt.freeze.function import freeze_light, host_array
from tf_opt.light_graph import light_graph
from tf_opt.weights import WeightStore, attach_weights, constant_without_value, is_weight

WEIGHT = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
SPEC = tf.TensorSpec([None, 32], tf.float32, name="x")


class Layer(tf.Module):
    """A big variable, a small one, and a big constant."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = tf.Variable(WEIGHT)
        self.bias = tf.Variable(tf.ones([32]))

    @tf.function(input_signature=[SPEC])
    def call(self, x: Any) -> dict[str, Any]:
        return {"y": tf.nn.relu(x @ self.weight + self.bias) @ tf.constant(WEIGHT.T)}


def test_weights_are_the_memory_of_the_variables() -> None:
    layer = Layer()
    light = freeze_light(layer.call)
    weights = [node.name for node in light.graph_def.node if is_weight(node)]
    assert sorted(weights) == sorted(light.weights)
    arrays = [light.weights.array(name) for name in weights]
    assert sum(np.shares_memory(array, host_array(layer.weight)) for array in arrays) == 1
    assert len(arrays) == 2  # The variable and the constant; the bias is small.
    assert not any(array.flags.writeable for array in arrays)
    assert light.graph_def.ByteSize() < WEIGHT.nbytes


def test_attached_graph_is_what_freezing_makes() -> None:
    layer = Layer()
    frozen, attached = tf_opt.freeze_concrete_function(layer.call), freeze_light(layer.call).attached()
    assert attached.inputs == frozen.inputs
    assert attached.outputs == frozen.outputs
    feed = {"x": np.ones([2, 32], np.float32)}
    np.testing.assert_array_equal(tf_opt.run(attached, feed)["y"], tf_opt.run(frozen, feed)["y"])
    again = light_graph(frozen)
    assert {name: again.weights.info(name) for name in again.weights} == {
        name: again.weights.info(name) for name in freeze_light(layer.call).weights
    }


def test_optimizer_takes_a_light_graph() -> None:
    layer = Layer()
    light = freeze_light(layer.call)
    options = {"engine": "openvino", "adopt": "always", "minimum_segment_size": 1, "progress": False}
    feeds = [{"x": WEIGHT[:4]}]
    optimizer = tf_opt.Tf2TrtOpt(**options)
    optimized = optimizer.optimize_light(light, feeds)
    assert optimizer.report.engine_count == 1
    assert {id(optimized.weights.node(name)) for name in light.weights} == {
        id(light.weights.node(name)) for name in light.weights
    }
    expected = tf_opt.run(light.attached(), feeds[0])
    np.testing.assert_allclose(tf_opt.run(optimized.attached(), feeds[0])["y"], expected["y"], atol=1e-4)
    nothing = tf_opt.Tf2TrtOpt(**{**options, "minimum_segment_size": 100})
    assert nothing.optimize_light(light, feeds) is light


def test_store_of_arrays() -> None:
    node = constant_without_value("weight", WEIGHT, tf.float32.as_datatype_enum)
    store = WeightStore({"weight": node}, {"weight": WEIGHT})
    assert node.ByteSize() < 100
    assert store.array("weight") is WEIGHT
    assert store.size_of("weight") == WEIGHT.nbytes
    assert store.info("weight").shape == (32, 32)
    np.testing.assert_array_equal(tf.make_ndarray(store["weight"]), WEIGHT)
    both = store.with_names({"copy": "weight"})
    assert both.node("copy") is both.node("weight")
    assert both.array("copy") is WEIGHT
    other = constant_without_value("weight", WEIGHT, tf.float32.as_datatype_enum)
    other.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(WEIGHT + 1))
    np.testing.assert_array_equal(both.extended({"weight": other}).array("weight"), WEIGHT + 1)
    joined = store.joined(WeightStore({"other": other}))
    np.testing.assert_array_equal(joined.array("other"), WEIGHT + 1)
    light = tf.compat.v1.GraphDef()
    placeholder = light.node.add(name="weight", op="Placeholder")
    placeholder.attr["_tf_opt_weight"].b = True
    (constant,) = attach_weights(light, store).node
    np.testing.assert_array_equal(tf.make_ndarray(constant.attr["value"].tensor), WEIGHT)
