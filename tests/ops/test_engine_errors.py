"""What is said, and what runs, where an engine cannot be loaded or cannot run."""

from __future__ import annotations

import ctypes
from typing import Any

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
    dense_onnx,
    dense_session,
    engine_op,
    onnx_model,
    tf1,
    tf1_function,
)
from tf_opt.ops import build

pytestmark = pytest.mark.usefixtures("fresh_statistics")


@pytest.fixture(autouse=True)
def failures_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_OPT_ON_ENGINE_FAILURE", raising=False)


GOOD = blob(dense_onnx())
DAMAGED = {
    "empty": b"",
    "short": GOOD[:12],
    "magic": b"X" + GOOD[1:],
    "header_length": GOOD[:12] + b"\xff\xff\xff\xff" + GOOD[16:],
    "payload_length": GOOD[: 16 + int.from_bytes(GOOD[12:16], "little")] + b"\xff" * 8 + b"\0" * 4,
    "truncated": GOOD[:-1],
    "one_bit": GOOD[:-5] + bytes([GOOD[-5] ^ 1]) + GOOD[-4:],
}


@pytest.mark.parametrize("engine", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_engine(engine: bytes) -> None:
    # An engine attribute of no bytes would be the helper's default otherwise.
    with dense_session(engine=engine or b"\0") as run, pytest.raises(tf.errors.DataLossError) as caught:
        run(batch_of(1))

    assert "Segment 'segment'" in str(caught.value)
    assert "the stored engine is damaged" in str(caught.value)


def test_engine_of_another_version() -> None:
    engine = GOOD[:8] + (7).to_bytes(4, "little") + GOOD[12:]
    with dense_session(engine=engine) as run, pytest.raises(tf.errors.FailedPreconditionError) as caught:
        run(batch_of(1))

    assert "format version 7, this tf_opt reads version 1" in str(caught.value)


def test_failed_load_is_remembered_and_never_tried_again() -> None:
    with dense_session(engine=GOOD[:-1]) as run:
        messages = []
        for _ in range(3):
            with pytest.raises(tf.errors.DataLossError) as caught:
                run(batch_of(1))
            messages.append(caught.value.message)

    assert len(set(messages)) == 1
    assert counters()["load_failures"] == 1


def test_unknown_runtime_lists_the_known_ones() -> None:
    with dense_session(runtime="warp_drive") as run, pytest.raises(tf.errors.NotFoundError) as caught:
        run(batch_of(1))

    assert "no runtime named 'warp_drive'" in str(caught.value)
    assert "'openvino'" in str(caught.value)


@pytest.fixture
def absent_runtime() -> str:
    reason = b"the runtime 'absent' needs the package absent. Install it: pip install absent."
    build.native_functions().TfOptRegisterUnavailableRuntime(b"absent", ctypes.c_char_p(reason))
    return "absent"


def test_absent_runtime_says_what_to_install(absent_runtime: str) -> None:
    session = dense_session(runtime=absent_runtime, fallback=True)
    with session as run, pytest.raises(tf.errors.FailedPreconditionError) as caught:
        run(batch_of(1))

    assert "pip install absent" in str(caught.value)
    assert "TF_OPT_ON_ENGINE_FAILURE=fallback" in str(caught.value)
    assert counters()["fallback_runs"] == 0


def test_absent_runtime_runs_the_fallback_on_request(absent_runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_OPT_ON_ENGINE_FAILURE", "fallback")
    with dense_session(runtime=absent_runtime, fallback=True) as run:
        for rows in (1, 2):
            np.testing.assert_allclose(run(batch_of(rows)), dense(batch_of(rows)), rtol=1e-5, atol=1e-5)

    assert counters()["fallback_runs"] == 2
    assert counters()["runs"] == 0


def test_the_request_needs_a_fallback(absent_runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_OPT_ON_ENGINE_FAILURE", "fallback")
    with dense_session(runtime=absent_runtime) as run, pytest.raises(tf.errors.FailedPreconditionError):
        run(batch_of(1))


def test_runtime_library_that_does_not_load() -> None:
    functions = build.native_functions()
    functions.TfOptRegisterRuntimeLibrary(b"broken", b"/nonexistent/runtime.so", b"/nonexistent/engine.so")
    with dense_session(runtime="broken") as run, pytest.raises(tf.errors.FailedPreconditionError) as caught:
        run(batch_of(1))

    assert "/nonexistent/engine.so" in str(caught.value)
    assert "python -m tf_opt.ops.build" in str(caught.value)


def test_empty_input_without_a_fallback_names_input_and_shape() -> None:
    with dense_session() as run, pytest.raises(tf.errors.InvalidArgumentError) as caught:
        run(batch_of(0))

    assert "input_0" in str(caught.value)
    assert f"has shape [0,{HIDDEN}]" in str(caught.value)
    assert "no fallback function" in str(caught.value)


@pytest.mark.parametrize("name", ["tokens:0", "a/b\\c:1", 'odd"]:0'])
def test_empty_input_is_named_as_the_engine_s_header_names_it(name: str) -> None:
    """In a function, the node's input is called "_arg_x_0_0"."""
    engine = blob(dense_onnx(), inputs=[f"{name} float32 [?, {HIDDEN}]", "other:0 int32 []"])
    with dense_session(engine=engine) as run, pytest.raises(tf.errors.InvalidArgumentError) as caught:
        run(batch_of(0))

    assert f"input_0 ('{name}') has shape [0,{HIDDEN}]" in str(caught.value)


def test_unsupported_shape_without_a_fallback_names_input_and_shape() -> None:
    with (
        dense_session(engine=blob(dense_onnx(batch=4))) as run,
        pytest.raises(tf.errors.InvalidArgumentError) as caught,
    ):
        run(batch_of(3))

    assert f"input_0 has shape [3,{HIDDEN}], the engine was built for [4,{HIDDEN}]" in str(caught.value)


def test_payload_that_is_no_onnx() -> None:
    with dense_session(engine=blob(b"no onnx at all")) as run, pytest.raises(tf.errors.InternalError) as caught:
        run(batch_of(1))

    assert "cannot load the engine" in str(caught.value)


def test_unknown_precision() -> None:
    engine = blob(dense_onnx(), inference_precision="f4")
    with dense_session(engine=engine) as run, pytest.raises(tf.errors.InternalError, match="expected f32, bf16 or f16"):
        run(batch_of(1))


def test_output_shape_that_contradicts_the_graph() -> None:
    with dense_session(output_shapes=[[None, HIDDEN + 1]]) as run, pytest.raises(tf.errors.InternalError) as caught:
        run(batch_of(1))

    assert "output_shapes says [?,9]" in str(caught.value)


def test_engine_with_another_number_of_outputs() -> None:
    names = ("output_0", "output_1")
    payload = onnx_model(
        [helper.make_node("Neg", ["input_0"], [name]) for name in names],
        [("input_0", TensorProto.FLOAT, ["n", HIDDEN])],
        [(name, TensorProto.FLOAT, ["n", HIDDEN]) for name in names],
    )
    with dense_session(engine=blob(payload)) as run, pytest.raises(tf.errors.InternalError, match="has 2 outputs"):
        run(batch_of(1))


def test_weights_of_another_shape() -> None:
    payload = onnx_model(
        [helper.make_node("MatMul", ["input_0", "weight_0"], ["output_0"])],
        [("input_0", TensorProto.FLOAT, ["n", HIDDEN]), ("weight_0", TensorProto.FLOAT, [HIDDEN, 3])],
        [("output_0", TensorProto.FLOAT, ["n", 3])],
    )
    with dense_session(engine=blob(payload)) as run, pytest.raises(tf.errors.InternalError) as caught:
        run(batch_of(1))

    assert f"weight_0 is f32[{HIDDEN},3], the node's is f32[{HIDDEN},{HIDDEN}]" in str(caught.value)


def test_strings_are_refused_when_the_graph_starts() -> None:
    graph = tf1.Graph()
    with graph.as_default(), tf1.Session(graph=graph) as session:
        (y,) = engine_op([tf.constant("text")], [], [tf.float32], engine=GOOD)
        with pytest.raises(tf.errors.InvalidArgumentError, match="engines take numbers and booleans, InT has string"):
            session.run(y)


def test_precision_that_is_null_is_the_default() -> None:
    with dense_session(engine=blob(dense_onnx(), inference_precision=None)) as run:
        np.testing.assert_allclose(run(batch_of(2)), dense(batch_of(2)), rtol=1e-5, atol=1e-5)


def doubling(onnx_type: int, dtype: tf.DType, **attributes: Any) -> tuple[tf1.Session, tf.Tensor, tf.Tensor]:
    payload = onnx_model(
        [helper.make_node("Add", ["input_0", "input_0"], ["output_0"])],
        [("input_0", onnx_type, ["n"])],
        [("output_0", onnx_type, ["n"])],
    )
    with tf1.Graph().as_default() as graph:
        x = tf1.placeholder(dtype, [None])
        (y,) = engine_op([x], [], [dtype], engine=blob(payload), **attributes)
    return tf1.Session(graph=graph), x, y


def test_integers_beyond_32_bits_run_the_fallback() -> None:
    """OpenVINO computes int64 as int32: 2**40 + 2**40 would be 0."""

    @tf1_function([tf.int64])
    def double_segment(x: tf.Tensor) -> tf.Tensor:
        return x + x

    session, x, y = doubling(TensorProto.INT64, tf.int64, fallback=double_segment)
    with session:
        for values in ([1, 2**40], [-(2**31) - 1, 0]):
            np.testing.assert_array_equal(session.run(y, {x: values}), 2 * np.array(values))
        assert counters()["fallback_runs"] == 2
        np.testing.assert_array_equal(session.run(y, {x: [2**30 - 1, -(2**30)]}), [2**31 - 2, -(2**31)])
        assert counters()["runs"] == 1


def test_float64_is_refused() -> None:
    """OpenVINO computes float64 as float32."""
    session, x, y = doubling(TensorProto.DOUBLE, tf.float64)
    with session, pytest.raises(tf.errors.InternalError, match="input of type f64"):
        session.run(y, {x: [1.0]})
