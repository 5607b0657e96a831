"""Functions are frozen: variables become constants wherever they are read, and results stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.freeze.freeze_checks import all_ops, array, assert_same, ops
from tf_opt.freeze.models import freeze_concrete_function
from tf_opt.session import GraphRunner


def test_keys_and_names_of_structured_outputs() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def function(x: Any) -> Any:
        return {"b": x + 1.0, "a": [x * 2.0, x * 3.0]}

    frozen = freeze_concrete_function(function)
    assert [(info.key, info.name) for info in frozen.outputs] == [
        ("a_0", "Identity:0"),
        ("a_1", "Identity_1:0"),
        ("b", "Identity_2:0"),
    ]
    assert str(frozen.inputs[0]) == "x:0 float32 [?, 3]"
    assert_same(frozen, function, {"x": array(2, 3)}, {"x": array(5, 3)})


def test_unnamed_outputs_are_numbered() -> None:
    single = tf.function(lambda x: x + 1.0, input_signature=[tf.TensorSpec([], tf.float32)])
    assert [info.key for info in freeze_concrete_function(single).outputs] == ["output_0"]
    double = tf.function(lambda x: (x, x * 2.0), input_signature=[tf.TensorSpec([], tf.float32)])
    assert [info.key for info in freeze_concrete_function(double).outputs] == ["output_0", "output_1"]


def test_variables_become_constants() -> None:
    kernel = tf.Variable(array(3, 300))
    table = tf.Variable(array(50, 3))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="ids")])
    def function(ids: Any) -> Any:
        x = tf.gather(table, ids)
        return tf.matmul(x, kernel), tf.gather_nd(table, ids[:, None]), tf.shape(kernel)

    frozen = freeze_concrete_function(function)
    assert "Placeholder" in ops(frozen)
    assert not {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape"} & all_ops(frozen)
    assert_same(frozen, function, {"ids": np.array([1, 49], "int32")}, {"ids": np.array([0, 3, 3], "int32")})
    # The values are those of the moment of freezing.
    before = function(tf.constant([1]))[0].numpy()
    kernel.assign(tf.zeros_like(kernel))
    with GraphRunner(frozen) as runner:
        np.testing.assert_allclose(runner.run({"ids": [1]})["output_0"], before, rtol=1e-6)


def test_gather_with_batch_dimensions() -> None:
    table = tf.Variable(array(2, 5, 4))

    @tf.function(input_signature=[tf.TensorSpec([2, None], tf.int32, name="ids")])
    def function(ids: Any) -> Any:
        return tf.gather(table, ids, batch_dims=1)

    assert_same(freeze_concrete_function(function), function, {"ids": np.array([[0, 4], [1, 2]], "int32")})


def test_nested_loops_and_conditions_with_variables_inside() -> None:
    table = tf.Variable(array(600, 4))
    scale = tf.Variable(0.5)

    @tf.function(
        input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x"), tf.TensorSpec([], tf.int32, name="count")]
    )
    def function(x: Any, count: Any) -> Any:
        def outer(i: Any, y: Any) -> Any:
            def inner(j: Any, z: Any) -> Any:
                row = tf.gather(table, i * 10 + j)
                return j + 1, tf.cond(j % 2 == 0, lambda: z + row * scale, lambda: z - row)

            _, y = tf.while_loop(lambda j, _: j < i + 1, inner, [0, y])
            return i + 1, y * scale

        _, y = tf.while_loop(lambda i, _: i < count, outer, [0, x])
        return tf.cond(tf.reduce_sum(y) > 0, lambda: y * tf.reduce_sum(table), lambda: y)

    frozen = freeze_concrete_function(function)
    # Loops stay one node each, and what has no side effect says so.
    assert "StatelessWhile" in ops(frozen)
    assert not {"Switch", "Merge", "Enter", "While", "If", "ReadVariableOp", "ResourceGather"} & all_ops(frozen)
    feeds = [{"x": sign * np.abs(array(rows, 4)), "count": np.int32(n)} for sign, rows, n in ((1, 2, 4), (-1, 3, 1))]
    assert_same(frozen, function, *feeds)


def test_calls_that_are_not_inlined_get_their_variables() -> None:
    kernel = tf.Variable(array(4, 4))

    @tf.function(experimental_attributes={"_noinline": True})
    def called(x: Any) -> Any:
        return tf.matmul(x, kernel)

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def function(x: Any) -> Any:
        return called(called(x))

    frozen = freeze_concrete_function(function)
    assert not {"ReadVariableOp", "VarHandleOp"} & all_ops(frozen)
    assert_same(frozen, function, {"x": array(2, 4)})


def test_switch_case_with_variables() -> None:
    kernels = [tf.Variable(array(4, 4) * k) for k in range(1, 4)]

    @tf.function(
        input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x"), tf.TensorSpec([], tf.int32, name="which")]
    )
    def function(x: Any, which: Any) -> Any:
        return tf.switch_case(which, [lambda kernel=kernel: tf.matmul(x, kernel) for kernel in kernels])

    frozen = freeze_concrete_function(function)
    assert_same(frozen, function, *({"x": array(2, 4), "which": np.int32(k)} for k in range(3)))


def test_assertions_of_every_kind_are_pruned() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def function(x: Any) -> Any:
        tf.debugging.assert_less(x, 1000.0)  # An If around Assert.
        tf.debugging.assert_less(tf.cast(x, tf.int32), 1000)  # A plain Assert.
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x < 1000.0), [x])]):
            y = tf.identity(x) * 2.0

        def body(i: Any, z: Any) -> Any:
            tf.debugging.assert_less(z, 1000.0)
            return i + 1, z + 1.0

        return tf.while_loop(lambda i, _: i < 3, body, [0, y])[1]

    frozen = freeze_concrete_function(function)
    assert not {"Assert", "If", "StatelessIf", "Less", "All"} & set(ops(frozen))
    assert "Assert" not in all_ops(frozen)
    assert not any(reference.startswith("^") for node in frozen.graph_def.node for reference in node.input)
    assert_same(frozen, function, {"x": array(4)})


def test_gradient_stops_and_identity_chains_are_bypassed() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def function(x: Any) -> Any:
        return tf.identity(tf.stop_gradient(tf.identity(tf.identity(x)))) + 1.0, tf.identity(x)

    frozen = freeze_concrete_function(function)
    assert sorted(ops(frozen)) == ["AddV2", "Const", "Identity", "Identity", "Placeholder"]
    assert_same(frozen, function, {"x": array(4)})


def test_random_numbers_keep_their_order() -> None:
    @tf.function(input_signature=[tf.TensorSpec([3], tf.float32, name="x")])
    def function(x: Any) -> Any:
        return x + tf.random.normal([3])

    frozen = freeze_concrete_function(function)
    with GraphRunner(frozen) as runner:
        first, second = (runner.run({"x": np.zeros(3, "float32")})["output_0"] for _ in range(2))
    assert (first != second).all()


def test_unused_inputs_stay() -> None:
    signature = [tf.TensorSpec([None], tf.float32, name=name) for name in ("used", "unused")]

    @tf.function(input_signature=signature)
    def function(used: Any, unused: Any) -> Any:
        return used + 1.0

    frozen = freeze_concrete_function(function)
    assert frozen.input_names == ("used:0", "unused:0")
    assert_same(frozen, function, {"used": array(2), "unused": array(3)})


def test_captured_tensors_and_strings() -> None:
    big = tf.constant(array(40, 40))
    words = tf.Variable(["a", "b"])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def function(text: Any) -> Any:
        return tf.strings.join([text, words[0]]), tf.reduce_sum(big)

    frozen = freeze_concrete_function(function)
    assert frozen.inputs[0].dtype == "string"
    with GraphRunner(frozen) as runner:
        result = runner.run({"text": np.array(["x", "yz"], object)})
    assert result["output_0"].tolist() == [b"xa", b"yza"]
    np.testing.assert_allclose(result["output_1"], big.numpy().sum(), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int8", "int64", "bool", "complex64"])
def test_dtypes_of_variables(dtype: str) -> None:
    value = tf.cast(tf.constant(np.arange(600).reshape(2, 300) % 2), dtype)
    variable = tf.Variable(value)

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, name="row")])
    def function(row: Any) -> Any:
        return variable[row]

    frozen = freeze_concrete_function(function)
    assert frozen.outputs[0].dtype == dtype
    with GraphRunner(frozen) as runner:
        np.testing.assert_array_equal(runner.run({"row": 1})["output_0"], value.numpy()[1])


def test_empty_and_scalar_variables() -> None:
    empty, scalar = tf.Variable(tf.zeros([0, 3])), tf.Variable(3.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def function(x: Any) -> Any:
        return tf.concat([x, empty], 0) * scalar

    assert_same(freeze_concrete_function(function), function, {"x": array(2, 3)})
