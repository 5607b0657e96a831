from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tf_opt import held_weights
from tf_opt.errors import InvalidGraphError
from tf_opt.held_weights import HeldWeights, can_hold
from tf_opt.ops.held_tensors import ID_ATTRIBUTE, HeldTensor
from tf_opt.weights import WeightStore, detach_weights

RANDOM = np.random.default_rng(0)


def weight(*shape: int, dtype: Any = np.float32) -> Any:
    return (RANDOM.normal(size=shape) / np.sqrt(shape[0])).astype(dtype)


def graph_of(build: Callable[[Any], Any], *shape: int | None) -> graph_pb2.GraphDef:
    """A graph from the placeholder "x" of the given shape to "y"."""
    graph = tf.Graph()
    with graph.as_default():
        tf.identity(build(tf.compat.v1.placeholder(tf.float32, shape, name="x")), name="y")
    return graph.as_graph_def()


def ops_that_run(session: tf.compat.v1.Session, feed: Any) -> Counter[str]:
    """What is left after everything that a session does to a graph; constants by their number of elements."""
    metadata = tf.compat.v1.RunMetadata()
    session.run("y:0", {"x:0": feed}, tf.compat.v1.RunOptions(output_partition_graphs=True), metadata)
    return Counter(
        f"Const {[dimension.size for dimension in node.attr['value'].tensor.tensor_shape.dim]}"
        if node.op == "Const"
        else node.op
        for graph_def in metadata.partition_graphs
        for node in graph_def.node
    )


def check(graph_def: graph_pb2.GraphDef, feed: Any, held: int) -> None:
    """Compares a session over held weights with a default one: how many are held, what runs, what comes out."""
    light, weights = detach_weights(graph_def)
    holder = HeldWeights()
    runnable = holder.session_graph(light, weights, ["y:0"])
    assert sum(ID_ATTRIBUTE in node.attr for node in runnable.graph_def.node) == held
    results = []
    for content, config in ((graph_def, None), (runnable.graph_def, runnable.config)):
        with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
            tf.import_graph_def(content, name="")
            results.append((session.run("y:0", {"x:0": feed}), ops_that_run(session, feed)))
    (expected, expected_ops), (actual, actual_ops) = results
    np.testing.assert_array_equal(actual, expected)
    assert actual_ops == expected_ops


def test_matmul_weights_are_held():
    first, second, bias = weight(128, 256), weight(256, 128), weight(256)
    check(
        graph_of(lambda x: tf.matmul(tf.nn.relu(tf.nn.bias_add(tf.matmul(x, first), bias)), second), None, 128),
        weight(3, 128),
        held=2,
    )


def test_embedding_table_and_einsum_weight_are_held():
    table, kernel = weight(1000, 64), weight(64, 8, 64)
    check(
        graph_of(
            lambda x: tf.einsum("btd,dhk->bthk", tf.gather(table, tf.cast(x, tf.int32)), kernel),
            None,
            None,
        ),
        np.arange(12, dtype=np.float32).reshape(2, 6),
        held=2,
    )


def test_copies_that_freezing_leaves_are_held_like_the_weight_itself():
    kernel = weight(128, 256)
    graph_def = graph_of(lambda x: tf.matmul(x, tf.identity(tf.identity(kernel))), None, 128)
    light, weights = detach_weights(graph_def)
    (name,) = weights
    held = held_weights._ConstantView(light).unevaluated(weights)
    assert set(held.values()) == {name}
    assert len(held) == 3
    check(graph_def, weight(3, 128), held=3)


@pytest.mark.parametrize(
    ("build", "columns"),
    [
        (lambda x, w: tf.matmul(x, tf.transpose(w) * 2.0), 256),
        (lambda x, w: tf.matmul(x, tf.reshape(tf.identity(w), [256, 128])), 256),
        (lambda x, w: tf.nn.softmax(x + w[:1] + w[1:2]), 256),
        (lambda x, w: tf.concat([x, w, w * 2.0], 0), 256),
        (lambda x, w: tf.matmul(x, tf.matmul(w, w, transpose_b=True)), 128),
    ],
    ids=["transposed", "reshaped", "added", "concatenated", "multiplied"],
)
def test_weights_of_which_something_is_computed_stay_ordinary(build, columns):
    kernel = weight(128, 256)
    check(graph_of(lambda x: build(x, tf.constant(kernel)), None, columns), weight(3, columns), held=0)


@pytest.mark.parametrize(
    ("build", "held"),
    [
        (lambda x, w: tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, w, 1, "SAME"), np.arange(64, dtype=np.float32))), 1),
        (lambda x, w: tf.nn.relu(tf.nn.conv2d(x, w, 1, "SAME") * np.arange(64, dtype=np.float32)), 0),
        (lambda x, w: tf.nn.conv2d(tf.transpose(x / 255.0, [0, 2, 1, 3]), w, 1, "SAME"), 0),
    ],
    ids=["no factor", "factor behind", "factor before"],
)
def test_convolution_that_a_factor_is_multiplied_into_keeps_its_weights_ordinary(build, held):
    kernel = weight(3, 3, 64, 64)
    check(graph_of(lambda x: build(x, tf.constant(kernel)), None, 8, 8, 64), weight(2, 8, 8, 64), held=held)


def test_equal_constants_are_one_tensor_so_that_their_readers_merge():
    kernel = weight(128, 256)
    other = kernel.copy()
    other[-1, -1] += 1.0

    def build(x: Any) -> Any:
        return tf.matmul(x, tf.constant(kernel)) + tf.matmul(x, tf.constant(kernel)) * tf.matmul(x, tf.constant(other))

    graph_def = graph_of(build, None, 128)
    light, weights = detach_weights(graph_def)
    nodes = HeldWeights().session_graph(light, weights, ["y:0"]).graph_def.node
    assert len({node.attr[ID_ATTRIBUTE].i for node in nodes if ID_ATTRIBUTE in node.attr}) == 2
    check(graph_def, weight(3, 128), held=3)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constants_of_equal_elements_stay_readable(value):
    """TensorFlow leaves out a product with zeros."""
    kernel = np.full((128, 256), value, np.float32)
    check(graph_of(lambda x: tf.matmul(x, kernel + np.zeros_like(kernel)), None, 128), weight(3, 128), held=0)


def test_what_is_folded_of_a_held_weight_all_the_same_has_the_right_values(monkeypatch):
    """The rules are about speed: a weight that they hold by mistake is never read wrongly."""
    kernel = weight(128, 256)
    graph_def = graph_of(lambda x: tf.matmul(x, tf.transpose(tf.constant(kernel)) * 2.0), None, 256)
    monkeypatch.setattr(held_weights._ConstantView, "_is_unevaluated", lambda *_: True)
    light, weights = detach_weights(graph_def)
    holder = HeldWeights()
    runnable = holder.session_graph(light, weights, ["y:0"])
    assert any(ID_ATTRIBUTE in node.attr for node in runnable.graph_def.node)
    feed = weight(3, 256)
    with tf.Graph().as_default(), tf.compat.v1.Session(config=runnable.config) as session:
        tf.import_graph_def(runnable.graph_def, name="")
        np.testing.assert_allclose(session.run("y:0", {"x:0": feed}), feed @ kernel.T * 2.0, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, tf.bfloat16.as_numpy_dtype])
def test_other_types_keep_their_values(dtype):
    table = weight(1000, 64, dtype=dtype)
    check(graph_of(lambda x: tf.gather(table, tf.cast(x, tf.int32)), None), np.float32([3, 999, 0]), held=1)


def test_control_inputs_stay():
    """In the frame of a loop they are what makes a constant run there."""
    kernel = weight(128, 256)
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 128], name="x")
        with tf.control_dependencies([tf.identity(x, name="anchor")]):
            constant = tf.constant(kernel, name="kernel")
        tf.identity(tf.matmul(x, constant), name="y")
    light, weights = detach_weights(graph.as_graph_def())
    runnable = HeldWeights().session_graph(light, weights, ["y:0"])
    (node,) = [node for node in runnable.graph_def.node if ID_ATTRIBUTE in node.attr]
    assert list(node.input) == ["^anchor"]
    check(graph.as_graph_def(), weight(3, 128), held=1)


def test_weights_in_a_loop():
    kernel = weight(128, 128)

    def build(x: Any) -> Any:
        return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.matmul(y, kernel)), [0, x])[1]

    with tf.Graph().as_default():
        tf.compat.v1.disable_control_flow_v2()
        try:
            graph_def = graph_of(build, None, 128)
        finally:
            tf.compat.v1.enable_control_flow_v2()
    assert any(node.op == "NextIteration" for node in graph_def.node)
    check(graph_def, weight(3, 128), held=1)


def functional_graph() -> graph_pb2.GraphDef:
    kernel = weight(128, 256)
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 128], name="x")
        product = tf.matmul(x, kernel)
        branch = tf.function(lambda value: value * 2.0).get_concrete_function(product)
        choose = tf.raw_ops.If(
            cond=tf.reduce_sum(x) > 0, input=[product], Tout=[tf.float32], then_branch=branch, else_branch=branch
        )
        tf.identity(choose[0], name="y")
    return graph.as_graph_def()


def test_graph_with_functional_control_flow_has_ordinary_weights():
    assert not can_hold(functional_graph())
    check(functional_graph(), weight(3, 128), held=0)


def test_functional_control_flow_in_a_function_counts():
    outer, inner = functional_graph(), graph_pb2.GraphDef()
    function = inner.library.function.add()
    function.node_def.extend(node for node in outer.node if node.op in ("If", "StatelessIf"))
    assert function.node_def
    assert not can_hold(inner)


def test_nothing_is_held_where_xla_compiles_sessions(monkeypatch):
    light, _ = detach_weights(graph_of(lambda x: tf.matmul(x, weight(128, 256)), None, 128))
    assert can_hold(light)
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=2")
    assert not can_hold(light)


def test_weight_that_nothing_reads_is_left_out_unless_it_is_fetched():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        tf.identity(x, name="y")
        tf.constant(weight(128, 256), name="unread")
        tf.constant(weight(128, 256), name="fetched")
    light, weights = detach_weights(graph.as_graph_def())
    runnable = HeldWeights().session_graph(light, weights, ["y:0", "fetched:0"])
    assert {node.name for node in runnable.graph_def.node} == {"x", "y", "fetched"}


def test_weight_without_a_constant_is_an_error():
    light, _ = detach_weights(graph_of(lambda x: tf.matmul(x, weight(128, 256)), None, 128))
    with pytest.raises(InvalidGraphError, match="no constant to put back"):
        HeldWeights().session_graph(light, WeightStore({}), ["y:0"])


def test_graphs_after_one_another_share_tensors_and_drop_the_others():
    both = graph_of(lambda x: tf.matmul(tf.matmul(x, weight(128, 128)), weight(128, 256)), None, 128)
    light, weights = detach_weights(both)
    holder = HeldWeights()

    def ids(graph: graph_pb2.GraphDef) -> set[int]:
        nodes = holder.session_graph(graph, weights, ["y:0"]).graph_def.node
        return {node.attr[ID_ATTRIBUTE].i for node in nodes if ID_ATTRIBUTE in node.attr}

    first = ids(light)
    assert len(first) == 2
    assert ids(light) == first
    less = graph_pb2.GraphDef()
    less.CopyFrom(light)
    product = next(node for node in less.node if node.op == "MatMul" and node.name.endswith("_1"))
    product.op = "Identity"
    del product.input[1:]
    for attribute in [name for name in product.attr if name != "T"]:
        del product.attr[attribute]
    kept = ids(less)
    assert len(kept) == 1
    assert kept < first
    assert len(ids(light) - first) == 1  # The other was let go, and is held anew.


def test_session_keeps_its_weights_after_they_are_let_go():
    kernel = weight(128, 256)
    light, weights = detach_weights(graph_of(lambda x: tf.matmul(x, kernel), None, 128))
    holder, feed = HeldWeights(), weight(3, 128)
    runnable = holder.session_graph(light, weights, ["y:0"])
    with tf.Graph().as_default(), tf.compat.v1.Session(config=runnable.config) as session:
        tf.import_graph_def(runnable.graph_def, name="")
        before = session.run("y:0", {"x:0": feed})
        holder.close()
        np.testing.assert_array_equal(session.run("y:0", {"x:0": feed}), before)
    with tf.Graph().as_default(), tf.compat.v1.Session(config=runnable.config) as session:
        tf.import_graph_def(runnable.graph_def, name="")
        with pytest.raises(tf.errors.NotFoundError, match="a trial that is over"):
            session.run("y:0", {"x:0": feed})


def test_node_that_refers_to_a_tensor_of_another_type_is_refused():
    light, weights = detach_weights(graph_of(lambda x: tf.matmul(x, weight(128, 256)), None, 128))
    holder = HeldWeights()
    runnable = holder.session_graph(light, weights, ["y:0"])
    other = HeldTensor(tf.float64.as_datatype_enum, [128, 256])
    next(node for node in runnable.graph_def.node if ID_ATTRIBUTE in node.attr).attr[ID_ATTRIBUTE].i = other.id
    with tf.Graph().as_default(), tf.compat.v1.Session(config=runnable.config) as session:
        tf.import_graph_def(runnable.graph_def, name="")
        with pytest.raises(tf.errors.InvalidArgumentError, match="of type float, its value in memory of type double"):
            session.run("y:0", {"x:0": weight(3, 128)})


def test_strings_cannot_be_held():
    with pytest.raises(MemoryError, match="no memory for 6 elements"):
        HeldTensor(tf.string.as_datatype_enum, [2, 3])
