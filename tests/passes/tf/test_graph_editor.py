from __future__ import annotations

import tensorflow as tf

from tests.passes.tf.pass_testing import graph_of, node_of, placeholder
from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.node_defs import make_node


def editor() -> GraphEditor:
    def build() -> list[tf.Tensor]:
        x = placeholder("x", [None])
        a = tf.nn.relu(x, name="a")
        b = tf.nn.elu(a, name="b")
        return [tf.add(b, a, name="y")]

    return GraphEditor(*graph_of(build))


def test_without_edits_the_graph_is_handed_back() -> None:
    edited = editor()
    result = edited.finish()
    assert result.graph_def is edited.graph_def
    assert not result.changed


def test_redirects_follow_each_other_and_drop_what_nothing_reads() -> None:
    edited = editor()
    edited.redirect("b", "a")
    edited.redirect("a:0", "x")
    assert edited.resolve("b") == "x"
    after = edited.finish().graph_def
    assert [(node.name, list(node.input)) for node in after.node] == [("x", []), ("y", ["x", "x"])]


def test_added_nodes_stand_before_their_reader_and_get_unique_names() -> None:
    edited = editor()
    first = edited.add(make_node("a", "Relu6", ["x"], T=tf.float32), before="b")
    second = edited.add(make_node("c", "Relu6", [first], T=tf.float32), before="b")
    edited.set_input("b", 0, second)
    after = edited.finish().graph_def
    assert [node.name for node in after.node] == ["x", "a", "a_1", "c", "b", "y"]
    assert node_of(after, "c").input == ["a_1"]


def test_discarded_nodes_leave_no_trace() -> None:
    edited = editor()
    edited.discard(edited.add(make_node("c", "Relu6", ["x"], T=tf.float32), before="b"))
    assert not edited.finish().changed


def test_the_graph_that_was_given_is_never_changed() -> None:
    edited = editor()
    before = edited.graph_def.SerializeToString(deterministic=True)
    edited.set_input("y", 1, "x")
    edited.replace(make_node("b", "Selu", ["a"], T=tf.float32))
    after = edited.finish().graph_def
    assert edited.graph_def.SerializeToString(deterministic=True) == before
    assert (node_of(after, "b").op, list(node_of(after, "y").input)) == ("Selu", ["b", "x"])
