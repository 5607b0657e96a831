"""ONNX Runtime's engines in Sessions: the same whether the op runs them by itself or through Python."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from onnx import TensorProto, helper

from tests.engines.native_engine import installed_library
from tests.ops.engine_graphs import (
    HIDDEN,
    batch_of,
    blob,
    counters,
    dense,
    dense_fallback,
    dense_onnx,
    dense_session,
    dense_weights,
    engine_op,
    onnx_model,
    tf1,
    tf1_function,
)
from tf_opt.ops import build, onnxruntime_library
from tf_opt.ops.held_tensors import HeldTensor, refer

pytestmark = pytest.mark.usefixtures("fresh_statistics")

ROOT = Path(__file__).resolve().parents[2]
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
RUNTIME = "onnxruntime"


def run_through(library: Path | None) -> None:
    """Has engines that are loaded from now on run by a library, or by Python."""
    onnxruntime_library.register(build.native_functions(), library)


@pytest.fixture(params=["native", "python"])
def host(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test with each of both, as it finds the same graphs."""
    library = installed_library()
    run_through(library if request.param == "native" else None)
    yield request.param
    run_through(library)


def stored(model: bytes, **header: Any) -> bytes:
    return blob(model, runtime=RUNTIME, provider="cpu", **header)


def dense_run(**attributes: Any) -> Any:
    """Runs the dense engine; see `dense_session`."""
    return dense_session(**({"runtime": RUNTIME, "engine": stored(dense_onnx())} | attributes))


class EngineSession:
    """A Session with one engine node of float inputs of any shape."""

    def __init__(
        self, model: bytes, outputs: Sequence[Any], inputs: int = 1, weights: Sequence[Any] = (), **options: Any
    ) -> None:
        with tf1.Graph().as_default() as graph:
            fed = [tf1.placeholder(options.get("input_type", tf.float32), None) for _ in range(inputs)]
            constants = [tf.constant(weight) for weight in weights]
            fallback = options.get("fallback", "")
            fetched = engine_op(fed, constants, outputs, engine=stored(model), runtime=RUNTIME, fallback=fallback)
        self.run = tf1.Session(graph=graph).make_callable(fetched, fed)


# What both do.


def test_values_and_counters_of_every_run(host: str) -> None:
    with dense_run() as run:
        for rows in (3, 3, 1, 3, 1):
            np.testing.assert_allclose(run(batch_of(rows)), dense(batch_of(rows)), rtol=1e-5, atol=1e-5)
    found = {name: count for name, count in counters().items() if count}
    assert found == {"loads": 1, "runs": 5, "concurrent_peak": 1}


def test_outputs_of_every_kind(host: str) -> None:
    """An input, a weight, a shape that depends on values, one that does not, and no elements now and then."""
    nodes = [
        helper.make_node("NonZero", ["input_0"], ["output_2"]),
        helper.make_node("Add", ["input_0", "weight_0"], ["output_3"]),
    ]
    model = onnx_model(
        nodes,
        [("input_0", FLOAT, ["n"]), ("weight_0", FLOAT, [1])],
        [
            ("input_0", FLOAT, ["n"]),
            ("weight_0", FLOAT, [1]),
            ("output_2", INT64, [1, "m"]),
            ("output_3", FLOAT, ["n"]),
        ],
    )
    weight = np.array([7], np.float32)
    session = EngineSession(model, [tf.float32, tf.float32, tf.int64, tf.float32], weights=[weight])
    random = np.random.default_rng(0)
    kept = []
    for step in range(12):
        x = (random.random(1 + step % 3) < 0.5).astype(np.float32)
        kept.append((x, session.run(x)))
    for x, results in kept:
        for actual, expected in zip(results, (x, weight, np.stack(np.nonzero(x)), x + 7), strict=True):
            np.testing.assert_array_equal(actual, expected)
    assert counters()["copied_bytes"] == 0
    assert counters()["runs"] == 12


def test_weights_are_read_where_tensorflow_has_them(host: str) -> None:
    model = onnx_model(
        [helper.make_node("Add", ["input_0", "weight_0"], ["output_0"])],
        [("input_0", FLOAT, [1000]), ("weight_0", FLOAT, [1000])],
        [("output_0", FLOAT, [1000])],
    )
    held = HeldTensor(tf.float32.as_datatype_enum, [1000])
    values = held.bytes.view(np.float32)
    values[...] = 1
    with tf1.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, None, name="x")
        weight = tf.constant(np.zeros(1000, np.float32), name="weight")
        engine_op([x], [weight], [tf.float32], engine=stored(model), runtime=RUNTIME, name="y")
    graph_def = graph.as_graph_def()
    refer(next(node for node in graph_def.node if node.name == "weight"), held)
    with tf1.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        run = tf1.Session(graph=graph).make_callable("y:0", ["x:0"])
    ones = np.ones(1000, np.float32)
    assert run(ones).max() == 2
    values += 100
    assert run(ones).min() == 102


def test_threads_at_once(host: str) -> None:
    config = tf1.ConfigProto(inter_op_parallelism_threads=8, intra_op_parallelism_threads=2)

    def calls(index: int) -> None:
        for step in range(40):
            x = batch_of(1 + (index * 7 + step) % 5, seed=index * 100 + step)
            np.testing.assert_allclose(run(x), dense(x), rtol=1e-5, atol=1e-5)

    with dense_run(config=config) as run, ThreadPoolExecutor(8) as pool:
        list(pool.map(calls, range(8)))
    assert (counters()["loads"], counters()["runs"], counters()["copied_bytes"]) == (1, 320, 0)


def test_an_output_outlives_its_session(host: str) -> None:
    with dense_run() as run:
        kept = [run(batch_of(3, seed)) for seed in range(4)]
    for seed, value in enumerate(kept):
        np.testing.assert_allclose(value, dense(batch_of(3, seed)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("payload", "weights"),
    [
        (b"no model", dense_weights()),
        (dense_onnx()[:-7], dense_weights()),
        (dense_onnx(), dense_weights()[:1]),
        (dense_onnx(), [dense_weights()[0], np.zeros(HIDDEN + 1, np.float32)]),
        (dense_onnx(), [dense_weights()[0], np.zeros(HIDDEN, np.int32)]),
    ],
    ids=["no model", "cut short", "missing weight", "other shape", "other type"],
)
def test_an_engine_that_does_not_fit_its_node_is_not_loaded(host: str, payload: bytes, weights: Any) -> None:
    session = EngineSession(payload, [tf.float32], weights=weights)
    for _ in range(2):
        with pytest.raises(tf.errors.InternalError, match="Segment 'segment'"):
            session.run(batch_of(2))
    assert (counters()["loads"], counters()["load_failures"]) == (0, 1)


def test_an_output_of_strings_is_refused(host: str) -> None:
    nodes = [helper.make_node("Cast", ["input_0"], ["output_0"], to=TensorProto.STRING)]
    model = onnx_model(nodes, [("input_0", FLOAT, ["n"])], [("output_0", TensorProto.STRING, ["n"])])
    session = EngineSession(model, [tf.float32])
    with pytest.raises(tf.errors.InternalError, match=r"output|string"):
        session.run(np.ones(2, np.float32))
    assert counters()["load_failures"] == 1


def test_an_input_of_another_type_and_what_onnx_runtime_says_of_it(host: str) -> None:
    session = EngineSession(dense_onnx(), [tf.float32], weights=dense_weights(), input_type=tf.float64)
    with pytest.raises(tf.errors.InternalError, match=r"(?s)tensor\(double\).*tensor\(float\)"):
        session.run(batch_of(2).astype(np.float64))
    assert (counters()["loads"], counters()["runs"]) == (1, 0)


def test_an_output_of_another_type_than_the_node_s(host: str) -> None:
    session = EngineSession(dense_onnx(), [tf.float64], weights=dense_weights())
    for _ in range(2):
        with pytest.raises(tf.errors.InternalError, match="output 0 dtype float, the node's is double"):
            session.run(batch_of(2))


def test_a_run_that_fails_is_an_error_and_the_next_one_works(host: str) -> None:
    nodes = [helper.make_node("MatMul", ["input_0", "input_1"], ["output_0"], name="product")]
    open_shape = [("input_0", FLOAT, ["a", "b"]), ("input_1", FLOAT, ["c", "d"])]
    session = EngineSession(onnx_model(nodes, open_shape, [("output_0", FLOAT, ["e", "f"])]), [tf.float32], inputs=2)
    for _ in range(2):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"product.*dimension mismatch") as caught:
            session.run(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
        (found,) = session.run(np.ones((2, 3), np.float32), np.ones((3, 1), np.float32))
        np.testing.assert_array_equal(found, [[3], [3]])
        for part in ("Segment 'segment' (runtime 'onnxruntime')", "input_1[2,3]", "has no fallback function"):
            assert part in caught.value.message
    assert counters()["runs"] == 2


def test_an_invalid_request_is_tensorflow_s_own_error(host: str) -> None:
    """An id beyond the table: in runs into ONNX Runtime's memory, and in those into TensorFlow's."""

    @tf1_function([tf.int64, tf.float32])
    def look_up(ids: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        return tf.gather(table, ids)

    table = np.arange(8, dtype=np.float32).reshape(4, 2)
    model = onnx_model(
        [helper.make_node("Gather", ["weight_0", "input_0"], ["output_0"])],
        [("input_0", INT64, ["n"]), ("weight_0", FLOAT, [4, 2])],
        [("output_0", FLOAT, ["n", 2])],
    )
    session = EngineSession(model, [tf.float32], weights=[table], input_type=tf.int64, fallback=look_up)
    for _ in range(3):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"= 9 is not in \[0, 4\)"):
            session.run([1, 9])
        np.testing.assert_array_equal(session.run([1, 3])[0], table[[1, 3]])
    assert (counters()["runs"], counters()["fallback_runs"]) == (3, 3)


def test_what_the_engine_does_not_run_and_the_fallback_does(host: str) -> None:
    with dense_run(engine=stored(dense_onnx(batch=4)), fallback=True) as run:
        for rows in (4, 3, 4, 3):
            np.testing.assert_allclose(run(batch_of(rows)), dense(batch_of(rows)), rtol=1e-5, atol=1e-5)
    assert (counters()["runs"], counters()["fallback_runs"]) == (2, 2)


def test_an_engine_of_other_types_than_its_node_s_runs_no_fallback(host: str) -> None:
    @tf1_function([tf.float64, tf.float32, tf.float32])
    def never(x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        return tf.matmul(tf.cast(x, tf.float32), weight) + bias

    session = EngineSession(dense_onnx(), [tf.float32], weights=dense_weights(), input_type=tf.float64, fallback=never)
    with pytest.raises(tf.errors.InternalError, match=r"(?s)tensor\(double\).*tensor\(float\)"):
        session.run(batch_of(2).astype(np.float64))
    assert counters()["fallback_runs"] == 0


def test_no_rows_run_the_fallback(host: str) -> None:
    with dense_run(fallback=dense_fallback()) as run:
        assert run(batch_of(0)).shape == (0, HIDDEN)
    assert (counters()["runs"], counters()["fallback_runs"]) == (0, 1)


# Which of them runs.


def test_a_library_that_cannot_be_used_leaves_the_engine_to_python(tmp_path: Path) -> None:
    try:
        for content in (None, b"no library"):
            library = tmp_path / "libonnxruntime.so"
            if content is not None:
                library.write_bytes(content)
            run_through(library)
            with dense_run() as run:
                for _ in range(2):
                    np.testing.assert_allclose(run(batch_of(2)), dense(batch_of(2)), rtol=1e-5, atol=1e-5)
    finally:
        run_through(onnxruntime_library.find_library())
    assert (counters()["runs"], counters()["copied_bytes"]) == (4, 0)


def test_engines_for_a_gpu_are_left_to_python(host: str) -> None:
    engine = blob(dense_onnx(), runtime=RUNTIME, provider="tensorrt")
    with dense_run(engine=engine) as run, pytest.raises(tf.errors.OpError) as caught:
        run(batch_of(2))
    assert "EngineUnavailableError" in str(caught.value)


def test_the_log_says_which(caplog: pytest.LogCaptureFixture) -> None:
    library = onnxruntime_library.find_library()
    with caplog.at_level(logging.DEBUG, logger="tf_opt"):
        run_through(None)
        run_through(library)
    first, second = caplog.messages
    assert "through Python" in first
    assert str(library) in second or second == first


def test_packages_with_and_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "onnxruntime"
    (package / "capi").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not to be imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    assert onnxruntime_library.find_library() is None
    library = package / "capi" / "libonnxruntime.so.1.99.0"
    library.write_bytes(b"")
    assert onnxruntime_library.find_library() == library


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from tests.ops.test_onnxruntime_runtime import *
session = EngineSession(dense_onnx(), [tf.float32], weights=dense_weights())
kept = [session.run(batch_of(2, seed)) for seed in range(3)]
print("onnxruntime" in sys.modules, open("/proc/self/maps").read().count("libonnxruntime.so") > 0, flush=True)
"""


def test_a_process_may_end_with_a_session_open() -> None:
    """And such an engine runs without ONNX Runtime's Python module."""
    installed_library()
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(root=str(ROOT))],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=300,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "False True\n"), result.stderr
