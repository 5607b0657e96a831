"""The op with the runtime "openvino": values, shapes, dtypes, and where it may stand."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from onnx import TensorProto, helper

from tests.ops.engine_graphs import (
    HIDDEN,
    batch_of,
    blob,
    counters,
    dense,
    dense_fallback,
    dense_graph,
    dense_onnx,
    dense_session,
    dense_weights,
    engine_op,
    no_fallback_function,
    onnx_model,
    tf1,
    tf1_function,
)

pytestmark = pytest.mark.usefixtures("fresh_statistics")


def test_changing_batches_give_the_right_values_without_copies() -> None:
    with dense_session() as run:
        for rows in (1, 7, 64, 2, 7):
            np.testing.assert_allclose(run(batch_of(rows)), dense(batch_of(rows)), rtol=1e-5, atol=1e-5)

    assert counters()["runs"] == 5
    assert counters()["loads"] == 1
    assert counters()["copied_bytes"] == 0


def test_outputs_outlive_later_runs_and_the_session() -> None:
    """Outputs are the engine's own memory: a later run must not write into it, nor the end of the engine free it."""
    with dense_session() as run:
        kept = [run(batch_of(5, seed)) for seed in range(20)]
    gc.collect()

    for seed, value in enumerate(kept):
        np.testing.assert_allclose(value, dense(batch_of(5, seed)), rtol=1e-5, atol=1e-5)
    addresses = {value.__array_interface__["data"][0] for value in kept}
    assert len(addresses) == len(kept)


def test_static_outputs_are_written_into_tensorflows_memory() -> None:
    with dense_session(engine=blob(dense_onnx(batch=4))) as run:
        first, second = run(batch_of(4, 1)), run(batch_of(4, 2))

    np.testing.assert_allclose(first, dense(batch_of(4, 1)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(second, dense(batch_of(4, 2)), rtol=1e-5, atol=1e-5)
    assert counters()["copied_bytes"] == 0


IDENTITY_DTYPES = [
    (np.float32, TensorProto.FLOAT),
    (np.float16, TensorProto.FLOAT16),
    (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
    (np.int32, TensorProto.INT32),
    (np.int64, TensorProto.INT64),
    (np.uint8, TensorProto.UINT8),
    (np.int8, TensorProto.INT8),
    (np.bool_, TensorProto.BOOL),
]


@pytest.mark.parametrize("dims", [[], [3], [2, 3]], ids=["scalar", "vector", "matrix"])
@pytest.mark.parametrize(("dtype", "onnx_type"), IDENTITY_DTYPES, ids=lambda value: getattr(value, "__name__", ""))
def test_dtypes_and_ranks(dtype: Any, onnx_type: int, dims: list[int]) -> None:
    value = np.random.default_rng(0).integers(0, 2, dims).astype(dtype)
    other = np.ones(dims, dtype)
    if dtype is np.bool_:
        nodes, expected = [helper.make_node("Xor", ["input_0", "input_1"], ["output_0"])], value ^ other
    else:
        nodes, expected = [helper.make_node("Add", ["input_0", "input_1"], ["output_0"])], value + other
    dynamic: list[Any] = [f"d{i}" for i in range(len(dims))]
    payload = onnx_model(
        nodes, [("input_0", onnx_type, dynamic), ("input_1", onnx_type, dynamic)], [("output_0", onnx_type, dynamic)]
    )
    with tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        x, y = (tf1.placeholder(tf.as_dtype(dtype), [None] * len(dims)) for _ in range(2))
        (out,) = engine_op([x, y], [], [tf.as_dtype(dtype)], engine=blob(payload))
        result = session.run(out, {x: value, y: other})

    assert result.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(result, expected)


def test_input_that_is_a_slice_of_another_tensor() -> None:
    """A slice shares its tensor's memory, at an address that TensorFlow's alignment does not hold for."""
    payload = onnx_model(
        [helper.make_node("Neg", ["input_0"], ["output_0"])],
        [("input_0", TensorProto.FLOAT, ["n", 3])],
        [("output_0", TensorProto.FLOAT, ["n", 3])],
    )
    value = np.arange(30, dtype=np.float32).reshape(10, 3)
    with tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        x = tf1.placeholder(tf.float32, [10, 3])
        (out,) = engine_op([x[1:8]], [], [tf.float32], engine=blob(payload))
        np.testing.assert_array_equal(session.run(out, {x: value}), -value[1:8])


def test_several_outputs_and_an_unused_input() -> None:
    payload = onnx_model(
        [helper.make_node("Neg", ["input_1"], ["output_0"]), helper.make_node("Identity", ["input_1"], ["output_1"])],
        [("input_1", TensorProto.FLOAT, ["n"])],
        [("output_0", TensorProto.FLOAT, ["n"]), ("output_1", TensorProto.FLOAT, ["n"])],
    )
    value = np.arange(5, dtype=np.float32)
    with tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        unused, x = tf.constant([1, 2]), tf1.placeholder(tf.float32, [None])
        negative, same = engine_op([unused, x], [], [tf.float32, tf.float32], engine=blob(payload))
        results = session.run([negative, same, negative + same], {x: value})

    np.testing.assert_array_equal(results[0], -value)
    np.testing.assert_array_equal(results[1], value)
    np.testing.assert_array_equal(results[2], np.zeros(5))


def test_static_shapes_come_from_the_attribute() -> None:
    with tf1.Graph().as_default():
        x = tf1.placeholder(tf.float32, [None, HIDDEN])
        weights = [tf.constant(weight) for weight in dense_weights()]
        engine = blob(dense_onnx())
        (known,) = engine_op([x], weights, [tf.float32], engine=engine, output_shapes=[[None, HIDDEN]])
        (unknown,) = engine_op([x], weights, [tf.float32], engine=engine, output_shapes=[None])
        assert known.shape.as_list() == [None, HIDDEN]
        assert unknown.shape.rank is None
        with pytest.raises(ValueError, match="output_shapes has 2 shapes, the node has 1 outputs"):
            engine_op([x], weights, [tf.float32], engine=engine, output_shapes=[None, None])


def test_while_loop_calls_the_engine_each_time() -> None:
    with tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        tf1.disable_control_flow_v2()
        try:
            x = tf1.placeholder(tf.float32, [None, HIDDEN])
            weights = [tf.constant(weight) for weight in dense_weights()]

            def body(step: tf.Tensor, state: tf.Tensor) -> list[tf.Tensor]:
                (state,) = engine_op([state], weights, [tf.float32], engine=blob(dense_onnx()))
                state.set_shape([None, HIDDEN])
                return [step + 1, state * 0.1]

            _, final = tf1.while_loop(lambda step, _: step < 30, body, [tf.constant(0), x])
        finally:
            tf1.enable_control_flow_v2()
        assert any(node.op == "Enter" for node in graph.as_graph_def().node)
        result = session.run(final, {x: batch_of(3)})

    expected = batch_of(3)
    for _ in range(30):
        expected = dense(expected) * 0.1
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    assert counters()["runs"] == 30
    assert counters()["loads"] == 1


def test_function_eager_and_saved_model(tmp_path: Path) -> None:
    weights = dense_weights()

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, HIDDEN], tf.float32)])
        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            constants = [tf.constant(weight) for weight in weights]
            (y,) = engine_op([x], constants, [tf.float32], engine=blob(dense_onnx()), fallback=dense_fallback())
            return y

    module = Module()
    np.testing.assert_allclose(module(batch_of(3)), dense(batch_of(3)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(module(batch_of(9)), dense(batch_of(9)), rtol=1e-5, atol=1e-5)
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(loaded(batch_of(4)), dense(batch_of(4)), rtol=1e-5, atol=1e-5)
    assert loaded(batch_of(0)).shape == (0, HIDDEN)


def test_saved_model_without_a_fallback(tmp_path: Path) -> None:
    """TensorFlow cannot load a SavedModel with an empty function name; a function of this name stands for none."""

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, HIDDEN], tf.float32)])
        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            constants = [tf.constant(weight) for weight in dense_weights()]
            (y,) = engine_op([x], constants, [tf.float32], engine=blob(dense_onnx()), fallback=no_fallback_function())
            return y

    tf.saved_model.save(Module(), str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))

    np.testing.assert_allclose(loaded(batch_of(4)), dense(batch_of(4)), rtol=1e-5, atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="no fallback function"):
        loaded(batch_of(0))


def test_wrap_function_with_fallback() -> None:
    graph, _, _ = dense_graph(fallback=True)
    definition = graph.as_graph_def()

    wrapped = tf1.wrap_function(lambda: tf1.import_graph_def(definition, name=""), [])
    pruned = wrapped.prune("x:0", "segment:0")

    np.testing.assert_allclose(pruned(tf.constant(batch_of(3))), dense(batch_of(3)), rtol=1e-5, atol=1e-5)
    assert pruned(tf.constant(batch_of(0))).shape == (0, HIDDEN)
    assert counters()["fallback_runs"] == 1


def test_empty_batch_runs_the_fallback() -> None:
    with dense_session(fallback=True) as run:
        assert run(batch_of(0)).shape == (0, HIDDEN)
        run(batch_of(2))

    assert counters()["fallback_runs"] == 1
    assert counters()["runs"] == 1


def test_shape_that_the_engine_does_not_take_runs_the_fallback() -> None:
    with dense_session(fallback=True, engine=blob(dense_onnx(batch=4))) as run:
        np.testing.assert_allclose(run(batch_of(3)), dense(batch_of(3)), rtol=1e-5, atol=1e-5)

    assert counters()["fallback_runs"] == 1


def test_shapes_that_are_wrong_give_tensorflows_own_message() -> None:
    with dense_session(fallback=True, input_shape=None) as run, pytest.raises(tf.errors.InvalidArgumentError) as caught:
        run(np.zeros((2, HIDDEN + 1), np.float32))

    assert "Matrix size-incompatible" in str(caught.value)


def test_fallback_with_several_outputs_keeps_their_order() -> None:
    @tf1_function([tf.float32])
    def two_outputs(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.shape(x), -x

    payload = onnx_model(
        [helper.make_node("Shape", ["input_0"], ["long"]), helper.make_node("Neg", ["input_0"], ["output_1"])]
        + [helper.make_node("Cast", ["long"], ["output_0"], to=TensorProto.INT32)],
        [("input_0", TensorProto.FLOAT, ["n", 2])],
        [("output_0", TensorProto.INT32, [2]), ("output_1", TensorProto.FLOAT, ["n", 2])],
    )
    with tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        x = tf1.placeholder(tf.float32, [None, 2])
        outputs = engine_op([x], [], [tf.int32, tf.float32], engine=blob(payload), fallback=two_outputs)
        by_fallback = session.run(outputs, {x: np.zeros((0, 2), np.float32)})
        by_engine = session.run(outputs, {x: np.ones((3, 2), np.float32)})

    assert by_fallback[0].tolist() == [0, 2]
    assert by_fallback[1].shape == (0, 2)
    assert by_engine[0].tolist() == [3, 2]
    np.testing.assert_array_equal(by_engine[1], -np.ones((3, 2)))


def test_two_sessions_and_different_fetches() -> None:
    graph, x, y = dense_graph()
    with graph.as_default():
        doubled = y * 2.0
    for _ in range(2):
        with tf1.Session(graph=graph) as session:
            np.testing.assert_allclose(session.run(y, {x: batch_of(2)}), dense(batch_of(2)), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(
                session.run(doubled, {x: batch_of(2)}), 2 * dense(batch_of(2)), rtol=1e-5, atol=1e-5
            )

    # One engine a session, whatever is fetched: the kernel is stateful.
    assert counters()["loads"] == 2
