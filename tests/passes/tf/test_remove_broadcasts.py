from __future__ import annotations

import tensorflow as tf

from tests.passes.tf.pass_testing import apply_pass, graph_of, node_of, ops, placeholder, weight
from tf_opt.passes.tf.remove_broadcasts import RemoveBroadcasts


def test_docstring_before_and_after() -> None:
    def build() -> list[tf.Tensor]:
        x, g = placeholder("x", [None, None, 8]), weight("g", [8])
        p = tf.reduce_sum(x, axis=0, name="p")
        added = tf.add(x, tf.broadcast_to(p, tf.shape(x)), name="added")
        return [added, tf.multiply(x, tf.reshape(g, [1, 1, 8]), name="scaled")]

    after = apply_pass(RemoveBroadcasts(), graph_of(build), changed=True)
    assert node_of(after, "added").input == ["x", "p"]
    assert node_of(after, "scaled").input == ["x", "g"]
    assert not {"BroadcastTo", "Reshape"} & set(ops(after))


def test_a_broadcast_that_makes_the_result_larger_stays() -> None:
    def build() -> list[tf.Tensor]:
        x, g = placeholder("x", [8]), weight("g", [8])
        return [x + tf.broadcast_to(g, [3, 8]), x * tf.reshape(g, [1, 8])]

    apply_pass(RemoveBroadcasts(), graph_of(build), changed=False)


def test_a_reshape_that_moves_entries_stays() -> None:
    def build() -> tf.Tensor:
        return placeholder("x", [None, 4, 2]) * tf.reshape(weight("g", [8]), [1, 4, 2])

    apply_pass(RemoveBroadcasts(), graph_of(build), changed=False)


def test_two_broadcasts_do_not_vouch_for_each_other() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, 8])
        target = tf.stack([5, tf.shape(x)[0], 8])
        return tf.broadcast_to(x, target) + tf.broadcast_to(x * 2.0, target)

    after = apply_pass(RemoveBroadcasts(), graph_of(build))
    assert ops(after)["BroadcastTo"] == 1


def test_fetched_broadcast_stays() -> None:
    def build() -> list[tf.Tensor]:
        x = placeholder("x", [None, 8])
        wide = tf.broadcast_to(weight("g", [8]), tf.shape(x), name="wide")
        return [wide, tf.add(x, wide, name="y")]

    after = apply_pass(RemoveBroadcasts(), graph_of(build), changed=True)
    assert node_of(after, "wide").op == "BroadcastTo"
    assert node_of(after, "y").input == ["x", "g"]


def test_shared_broadcast_stays_for_a_reader_that_does_not_broadcast() -> None:
    def build() -> list[tf.Tensor]:
        x = placeholder("x", [None, 8])
        wide = tf.tile(weight("g", [1, 8]), tf.stack([tf.shape(x)[0], 1]))
        return [tf.subtract(x, wide, name="y"), tf.nn.softmax(wide)]

    after = apply_pass(RemoveBroadcasts(), graph_of(build))
    assert ops(after)["Tile"] == 1
