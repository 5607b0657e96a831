from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
import tf_opt.ops
from tf_opt.errors import InvalidFeedError, InvalidGraphError, InvalidOptionError
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.session import GraphRunner
from tf_opt.specialization import specialize


def two_dense_layers() -> FrozenGraph:
    """A graph whose first node stays TensorFlow, so that the engine reads something that no one feeds."""
    random = np.random.default_rng(0)
    with tf.Graph().as_default() as built:
        ids = tf.compat.v1.placeholder(tf.int32, [None, None], name="ids")
        table = tf.constant(random.standard_normal((50, 32)), tf.float32)
        values = tf.gather(table, ids)
        for layer in range(2):
            weight = tf.constant(random.standard_normal((32, 32)), tf.float32)
            values = tf.nn.relu(tf.matmul(values, weight), name=f"layer_{layer}")
        tf.identity(values, name="y")
    return frozen_from_graph_def(built.as_graph_def(), ["y"])


@pytest.fixture(scope="module")
def optimized() -> FrozenGraph:
    original = two_dense_layers()
    options = {"adopt": "always", "progress": False, "specialize_after": 0, "maximum_cached_engines": 2}
    return tf_opt.Tf2TrtOpt(**options).optimize(original, feeds_of((1, 4)))


def feeds_of(*shapes: tuple[int, int]) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [{"ids": random.integers(0, 50, shape).astype(np.int32)} for shape in shapes]


def wishes(frozen: FrozenGraph) -> list[list[int]]:
    (node,) = [node for node in frozen.graph_def.node if node.op == "TfOptEngine"]
    return [tf.TensorShape(shape).as_list() for shape in node.attr["specialize_shapes"].list.shape]


def test_engines_for_the_feeds_are_there_at_the_first_run(optimized: FrozenGraph) -> None:
    ready = specialize(optimized, feeds_of((1, 8), (3, 5), (1, 8)))
    assert wishes(ready) == [[1, 8, 32], [3, 5, 32]]
    assert wishes(optimized) == []
    (feed,) = feeds_of((3, 5))
    expected = tf_opt.run(two_dense_layers(), feed)["y"]
    tf_opt.ops.reset_statistics()
    with GraphRunner(ready) as runner:
        np.testing.assert_allclose(runner.run(feed)["y"], expected, rtol=1e-4, atol=1e-4)
    (counters,) = (each for each in tf_opt.ops.statistics().values() if each["runs"])
    assert (counters["runs"], counters["specialized_runs"]) == (1, 1)


def test_wishes_are_replaced_and_can_be_taken_back(optimized: FrozenGraph) -> None:
    ready = specialize(optimized, feeds_of((1, 8)))
    assert wishes(specialize(ready, feeds_of((2, 2)))) == [[2, 2, 32]]
    none = specialize(ready, [])
    assert wishes(none) == []
    (feed,) = feeds_of((1, 8))
    tf_opt.run(none, feed)


def test_more_shapes_than_are_kept(optimized: FrozenGraph) -> None:
    message = "3 shapes, and the graph keeps engines for at most 2. Give fewer, or optimize with Tf2TrtOpt(maximum_ca"
    with pytest.raises(InvalidOptionError, match=re.escape(message)):
        specialize(optimized, feeds_of((1, 8), (1, 9), (1, 10)))


def test_a_graph_without_engines_and_a_feed_that_does_not_fit(optimized: FrozenGraph) -> None:
    with pytest.raises(InvalidGraphError, match="no engine that could be made for one shape"):
        specialize(two_dense_layers(), feeds_of((1, 8)))
    with pytest.raises(InvalidFeedError, match="Feed 0"):
        specialize(optimized, [{"ids": np.zeros((1, 8), np.int64)}])
