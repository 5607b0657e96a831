from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.small_graphs import mlp
from tf_opt.errors import InvalidGraphError
from tf_opt.weights import MINIMUM_WEIGHT_ELEMENTS, attach_weights, detach_weights, is_weight


def test_round_trip_is_exact():
    graph_def = mlp()
    light, store = detach_weights(graph_def)
    assert attach_weights(light, store) == graph_def
    assert {node.name for node in light.node if is_weight(node)} == set(store) == {"first"}
    assert light.ByteSize() < graph_def.ByteSize() / 2


def test_placeholder_keeps_dtype_shape_and_control_inputs():
    graph = tf.Graph()
    with graph.as_default():
        first = tf.no_op(name="first")
        with tf.control_dependencies([first]):
            tf.constant(np.ones((600, 2), np.float16), name="weight")
    light, store = detach_weights(graph.as_graph_def())
    (placeholder,) = [node for node in light.node if node.name == "weight"]
    assert list(placeholder.input) == ["^first"]
    assert placeholder.attr["dtype"].type == tf.half.as_datatype_enum
    assert [dimension.size for dimension in placeholder.attr["shape"].shape.dim] == [600, 2]
    assert store.info("weight").shape == (600, 2)
    assert store.size_bytes == store.size_of("weight") == 2400


@pytest.mark.parametrize(
    "value",
    [
        np.arange(MINIMUM_WEIGHT_ELEMENTS, dtype=np.int64),
        np.zeros((MINIMUM_WEIGHT_ELEMENTS,), np.float32),  # Stored as one repeated value, not as raw bytes.
        np.tile([True, False], MINIMUM_WEIGHT_ELEMENTS),
        np.linspace(-1, 1, MINIMUM_WEIGHT_ELEMENTS).astype(tf.bfloat16.as_numpy_dtype),
    ],
    ids=["int64", "repeated", "bool", "bfloat16"],
)
def test_array_has_the_values(value):
    graph = tf.Graph()
    with graph.as_default():
        tf.constant(value, name="weight")
    _, store = detach_weights(graph.as_graph_def())
    array = store.array("weight")
    np.testing.assert_array_equal(array, value)
    assert array.dtype == value.dtype
    assert not array.flags.writeable


def test_small_and_string_constants_stay():
    graph = tf.Graph()
    with graph.as_default():
        tf.constant(np.zeros(MINIMUM_WEIGHT_ELEMENTS - 1, np.float32))
        tf.constant([b"text"] * MINIMUM_WEIGHT_ELEMENTS)
    light, store = detach_weights(graph.as_graph_def())
    assert not store
    assert light == graph.as_graph_def()


def test_renamed_weight_is_an_error():
    light, store = detach_weights(mlp())
    next(node for node in light.node if is_weight(node)).name = "renamed"
    with pytest.raises(InvalidGraphError, match="renamed"):
        attach_weights(light, store)
