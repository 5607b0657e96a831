from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.small_graphs import feed, mlp, run_graph_def
from tf_opt.trial import PREFIX, Trial, combine_graphs, describe_shapes, representative_feeds
from tf_opt.weights import attach_weights, detach_weights


def test_both_graphs_share_placeholders_and_weights():
    light, weights = detach_weights(mlp())
    combined, constants = combine_graphs(light, light, weights)
    names = [node.name for node in combined.node]
    assert len(names) == len(set(names))
    assert set(constants) == {"first"}
    assert f"{PREFIX}y" in names
    assert f"{PREFIX}x" not in names
    expected, actual = run_graph_def(attach_weights(combined, constants), ["y:0", f"{PREFIX}y:0"], feed())
    np.testing.assert_array_equal(expected, actual)


def test_weight_in_a_loop_is_kept_by_each_graph():
    graph = tf.Graph()
    with graph.as_default():
        anchor = tf.no_op(name="anchor")
        with tf.control_dependencies([anchor]):
            weight = tf.constant(np.ones((16, 48), np.float32), name="weight")
        x = tf.compat.v1.placeholder(tf.float32, [None, 16], name="x")
        tf.matmul(x, weight, name="y")
    light, weights = detach_weights(graph.as_graph_def())
    combined, constants = combine_graphs(light, light, weights)
    assert set(constants) == {"weight", f"{PREFIX}weight"}
    copy = next(node for node in combined.node if node.name == f"{PREFIX}weight")
    assert list(copy.input) == [f"^{PREFIX}anchor"]
    run_graph_def(attach_weights(combined, constants), ["y:0", f"{PREFIX}y:0"], feed())


def test_trial_runs_each_side():
    original, weights = detach_weights(mlp())
    optimized, _ = detach_weights(mlp())
    next(node for node in optimized.node if node.name == "activation").op = "Elu"
    with Trial(original, optimized, weights, ["y:0", "x:0"], [feed()]) as trial:
        left, right = trial.run_original(feed()), trial.run_optimized(feed())
    np.testing.assert_allclose(left["y:0"], run_graph_def(mlp(), ["y:0"], feed())[0], atol=1e-6)
    assert np.abs(left["y:0"] - right["y:0"]).max() > 1e-3
    np.testing.assert_array_equal(left["x:0"], right["x:0"])


def test_representative_feeds_are_one_a_shape():
    feeds = [feed(2, seed=1), feed(3, seed=2), feed(2, seed=3)]
    assert [each["x:0"].shape[0] for each in representative_feeds(feeds)] == [2, 3]
    assert representative_feeds(feeds)[0] is feeds[0]


def test_all_of_a_few_shapes_represent_the_feeds():
    feeds = [feed(size) for size in range(16, 0, -1)]
    assert representative_feeds(feeds) == feeds


def test_many_shapes_are_thinned_out_evenly_by_size():
    feeds = [feed(size) for size in [40, *range(1, 40)]]
    sizes = [each["x:0"].shape[0] for each in representative_feeds(feeds)]
    assert len(sizes) == 16
    assert sizes[:2] == [40, 1]  # In the order given, the largest and the smallest among them.
    assert set(np.diff(sorted(sizes))) == {2, 3}


def test_described_shapes_stand_together():
    shapes = [("ids:0", (1, 16)), ("mask:0", (1, 16)), ("scale:0", ())]
    assert describe_shapes(shapes) == "ids, mask 1×16; scale scalar"
