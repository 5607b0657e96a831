"""ONNX Runtime's engines on the CPU, the op's own and the one in Python: right outputs at any shape, without copies."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

import tf_opt
import tf_opt.ops
from tests.engines.conftest import Loader
from tests.engines.native_engine import raw
from tests.engines.onnx_models import Array, TakenOutputs, definition_of, model_of, relu_model, run
from tests.small_graphs import engine_nodes, feed, mlp, run_graph_def
from tf_opt.engines.base import SegmentModel
from tf_opt.engines.onnxruntime import ONNXRuntimeBackend, host_engine, load_engine, session
from tf_opt.engines.onnxruntime.output_shapes import MAXIMUM_LEARNED
from tf_opt.errors import EngineBuildError

FLOAT, INT64, BOOL, BFLOAT16 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.BFLOAT16
WEIGHTS = [
    np.random.default_rng(1).standard_normal((4, 3), np.float32),
    np.random.default_rng(2).standard_normal(3, np.float32),
]


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 4), np.float32)


def expected(x: Array) -> Array:
    return np.maximum(x @ WEIGHTS[0] + WEIGHTS[1], 0)


# Outputs whose shape follows from the input shapes.


def test_values_at_every_run_of_every_shape(load: Loader) -> None:
    engine = load(definition_of(relu_model(), WEIGHTS))
    for seed, count in enumerate((2, 2, 5, 2, 5, 1)):
        outputs = run(engine, rows(count, seed))
        np.testing.assert_allclose(outputs.arrays[0], expected(rows(count, seed)), rtol=1e-5, atol=1e-6)


def test_memory_is_ours_in_the_first_run_of_a_shape_and_tensorflows_afterwards(load: Loader) -> None:
    engine = load(definition_of(relu_model(), WEIGHTS))
    for count, taken_over in ((3, {0}), (3, set()), (4, {0}), (3, set()), (4, set())):
        outputs = run(engine, rows(count))
        assert set(outputs.owners) == taken_over
        np.testing.assert_allclose(outputs.arrays[0], expected(rows(count)), rtol=1e-5, atol=1e-6)


def test_weights_are_tensorflows_memory(load: Loader) -> None:
    weight = np.ones(1000, np.float32)  # ONNX Runtime keeps a few elements itself.
    nodes = [helper.make_node("Add", ["input_0", "weight_0"], ["output_0"])]
    model = model_of(nodes, {"input_0": (FLOAT, [1000]), "weight_0": (FLOAT, [1000])}, {"output_0": FLOAT})
    engine = load(definition_of(model, [weight]))
    weight += 100
    assert run(engine, np.ones(1000, np.float32)).arrays[0].min() == 102


def test_weights_that_only_the_fallback_reads_are_ignored(load: Loader) -> None:
    nodes = [helper.make_node("Mul", ["input_0", "weight_2"], ["output_0"])]
    model = model_of(nodes, {"input_0": (FLOAT, ["n"]), "weight_2": (FLOAT, [1])}, {"output_0": FLOAT})
    other = np.zeros(7, np.float32)
    engine = load(definition_of(model, [other, other, np.array([3], np.float32)]))
    np.testing.assert_array_equal(run(engine, np.ones(2, np.float32)).arrays[0], [3, 3])


def test_learned_shapes_are_bounded(load: Loader) -> None:
    engine = load(definition_of(relu_model(), WEIGHTS))
    run(engine, rows(1))
    run(engine, rows(2))
    assert not run(engine, rows(1)).owners
    for count in range(3, MAXIMUM_LEARNED + 2):
        run(engine, rows(count))
    assert not run(engine, rows(1)).owners
    assert run(engine, rows(2)).owners  # The one that was not asked for since.


# Outputs whose shape follows from values.


def non_zero_engine(load: Loader) -> Any:
    """output_0: where input_0 is not zero; output_1: input_0 + 1."""
    one = {"one": np.ones(1, np.float32)}
    nodes = [
        helper.make_node("NonZero", ["input_0"], ["output_0"]),
        helper.make_node("Add", ["input_0", "one"], ["output_1"]),
    ]
    model = model_of(nodes, {"input_0": (FLOAT, ["n"])}, {"output_0": INT64, "output_1": FLOAT}, one)
    return load(definition_of(model))


def test_shapes_that_depend_on_values(load: Loader) -> None:
    engine = non_zero_engine(load)
    random = np.random.default_rng(0)
    for _ in range(20):
        x = (random.random(6) < random.random()).astype(np.float32)
        outputs = run(engine, x)
        np.testing.assert_array_equal(outputs.arrays[0], np.stack(np.nonzero(x)))
        np.testing.assert_array_equal(outputs.arrays[1], x + 1)


def test_an_output_that_depends_on_values_is_given_away_and_the_other_one_is_written_in_place(load: Loader) -> None:
    engine = non_zero_engine(load)
    run(engine, np.array([1, 0, 1], np.float32))
    run(engine, np.array([1, 0, 0], np.float32))  # Here the expectation turns out wrong.
    outputs = run(engine, np.array([0, 1, 1], np.float32))
    assert set(outputs.owners) == {0}
    np.testing.assert_array_equal(outputs.arrays[0], [[1, 2]])
    assert outputs.arrays[0].__array_interface__["data"][0] % 64 == 0  # Otherwise the op would have to copy.


def test_memory_that_was_given_away_outlives_the_engine(load: Loader) -> None:
    engine = non_zero_engine(load)
    run(engine, np.array([1, 0, 1], np.float32))
    outputs = run(engine, np.ones(3, np.float32))
    engine.close()
    del engine
    gc.collect()
    for _ in range(3):
        # These would get the memory, were it free.
        run(non_zero_engine(load), np.array([0, 0, 1], np.float32))
    np.testing.assert_array_equal(outputs.arrays[0], [[0, 1, 2]])


def test_a_wrong_expectation_is_not_logged(load: Loader, capfd: pytest.CaptureFixture[str]) -> None:
    engine = non_zero_engine(load)
    run(engine, np.array([1, 0, 1], np.float32))
    run(engine, np.array([1, 0, 0], np.float32))
    assert capfd.readouterr().err == ""


def test_branches_of_different_shapes(load: Loader) -> None:
    def branch(name: str, end: int) -> Any:
        nodes = [helper.make_node("Slice", ["input_0", "begin", f"end_{name}"], [name])]
        constants = [
            helper.make_tensor("begin", INT64, [1], [0]),
            helper.make_tensor(f"end_{name}", INT64, [1], [end]),
        ]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, FLOAT, None)], constants)

    node = helper.make_node(
        "If", ["input_1"], ["output_0"], then_branch=branch("then", 1), else_branch=branch("else", 3)
    )
    model = model_of([node], {"input_0": (FLOAT, ["n"]), "input_1": (BOOL, [])}, {"output_0": FLOAT})
    engine = load(definition_of(model))
    x = np.arange(5, dtype=np.float32)
    for condition in (True, True, False, True, False):
        outputs = run(engine, x, np.array(condition))
        np.testing.assert_array_equal(outputs.arrays[0], x[: 1 if condition else 3])


# Outputs that ONNX Runtime does not compute in a run.


def test_an_input_that_is_an_output(load: Loader) -> None:
    nodes = [helper.make_node("Relu", ["input_0"], ["output_0"])]
    model = model_of(nodes, {"input_0": (FLOAT, ["n"])}, {"output_0": FLOAT, "input_0": FLOAT})
    engine = load(definition_of(model))
    for size in (3, 3, 2):
        x = -np.ones(size, np.float32)
        outputs = run(engine, x)
        np.testing.assert_array_equal(outputs.arrays[1], x)
        np.testing.assert_array_equal(outputs.arrays[0], 0 * x)
        assert 1 not in outputs.owners  # It would be TensorFlow's own input.


def test_tensorflow_may_write_to_an_output_that_is_a_constant(load: Loader) -> None:
    constants = {"a": np.array([1, 2], np.float32), "b": np.array([3, 4], np.float32)}
    nodes = [
        helper.make_node("Add", ["a", "b"], ["output_0"]),
        helper.make_node("Relu", ["input_0"], ["output_1"]),
    ]
    model = model_of(nodes, {"input_0": (FLOAT, ["n"])}, {"output_0": FLOAT, "output_1": FLOAT}, constants)
    engine = load(definition_of(model))
    alive = []
    for size in (1, 1, 2, 3):
        outputs = run(engine, np.ones(size, np.float32))
        np.testing.assert_array_equal(outputs.arrays[0], [4, 6])
        outputs.arrays[0][...] = -1
        alive.append(outputs)
    assert any(outputs.owners for outputs in alive)


@pytest.mark.parametrize("op_type", ["Identity", "Dropout", "Cast", "Add", "Reshape"])
def test_an_operator_that_does_nothing_gives_no_memory_of_tensorflow_away(load: Loader, op_type: str) -> None:
    constants = {"zero": np.zeros(1, np.float32), "target": np.array([-1])}
    more = {"Add": ["zero"], "Reshape": ["target"]}.get(op_type, [])
    attributes = {"to": FLOAT} if op_type == "Cast" else {}
    nodes = [helper.make_node(op_type, ["input_0", *more], ["output_0"], **attributes)]
    used = {name: constants[name] for name in more}
    engine = load(definition_of(model_of(nodes, {"input_0": (FLOAT, ["n"])}, {"output_0": FLOAT}, used)))
    for _ in range(2):
        x = np.arange(4, dtype=np.float32)
        outputs = TakenOutputs()
        engine.run_on_addresses(raw([x]), outputs)
        x[...] = -1  # TensorFlow uses the input's memory for something else.
        np.testing.assert_array_equal(outputs.arrays[0], [0, 1, 2, 3])


# Element types and sizes.


def identity_engine(load: Loader, *types: int) -> Any:
    """Each output is an input, through an operator that has a kernel for its type."""
    nodes = [helper.make_node("Identity", [f"input_{i}"], [f"output_{i}"]) for i in range(len(types))]
    inputs: dict[str, tuple[int, Sequence[Any]]] = {f"input_{i}": (each, None) for i, each in enumerate(types)}
    return load(definition_of(model_of(nodes, inputs, {f"output_{i}": each for i, each in enumerate(types)})))


DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.bool_]
DTYPES += [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 4), (2, 1, 4)], ids=["scalar", "vector", "empty", "rank3"])
def test_element_types(load: Loader, shape: tuple[int, ...]) -> None:
    engine = identity_engine(load, *(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for dtype in DTYPES))
    for seed in range(3):
        values = [np.random.default_rng(seed).integers(0, 2, shape).astype(dtype) for dtype in DTYPES]
        outputs = run(engine, *values)
        for index, value in enumerate(values):
            assert outputs.arrays[index].dtype == value.dtype
            np.testing.assert_array_equal(outputs.arrays[index], value)


def test_bfloat16_that_depends_on_values_is_given_away(load: Loader) -> None:
    # Compress has a kernel for 16 bits as bytes; there is none that keeps bfloat16 itself.
    nodes = [
        helper.make_node("NonZero", ["input_0"], ["indices"]),
        helper.make_node("Cast", ["indices"], ["output_0"], to=BFLOAT16),
    ]
    engine = load(definition_of(model_of(nodes, {"input_0": (FLOAT, ["n"])}, {"output_0": BFLOAT16})))
    for x in ([1, 1, 0], [0, 1, 0], [0, 1, 1]):
        outputs = run(engine, np.array(x, np.float32))
        assert outputs.arrays[0].dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(outputs.arrays[0].astype(int), np.stack(np.nonzero(x)))
    assert set(outputs.owners) == {0}


# Threads.


def test_threads_are_the_operations() -> None:
    for threads in (1, 2):
        engine = load_engine(definition_of(relu_model(), WEIGHTS, threads=threads))
        assert engine._bound.session.get_session_options().intra_op_num_threads == threads


def test_threads_do_not_spin_after_a_run(load: Loader) -> None:
    nodes = [helper.make_node("MatMul", ["input_0", "weight_0"], ["output_0"])]
    model = model_of(nodes, {"input_0": (FLOAT, ["n", 512]), "weight_0": (FLOAT, [512, 512])}, {"output_0": FLOAT})
    engine = load(definition_of(model, [np.ones((512, 512), np.float32)], threads=2))
    idle = [1.0]
    # What other tests have left may compute in this process for a while; threads that spin do so after each run.
    while min(idle) >= 0.02 and len(idle) < 50:
        run(engine, np.ones((256, 512), np.float32))
        before = time.process_time()
        time.sleep(0.1)
        idle.append(time.process_time() - before)
    # ONNX Runtime's default is about 0.04 s.
    assert min(idle) < 0.02


def test_several_threads_and_shapes_at_once(load: Loader) -> None:
    engine = load(definition_of(relu_model(), WEIGHTS))
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(200):
                x = rows(1 + (number + step) % 7, number * 1000 + step)
                np.testing.assert_allclose(run(engine, x).arrays[0], expected(x), rtol=1e-5, atol=1e-6)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def test_runs_overlap() -> None:
    class Meeting:
        """A session in which two runs have to be at the same time."""

        def __init__(self, inner: Any) -> None:
            self.inner, self.barrier = inner, threading.Barrier(2, timeout=120)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def run_with_iobinding(self, *arguments: Any) -> None:
            self.barrier.wait()
            self.inner.run_with_iobinding(*arguments)

    engine = host_engine.HostEngine(Meeting(session.create_session(relu_model(), "cpu", threads=1, weights=WEIGHTS)))
    results: list[Array] = []
    workers = [threading.Thread(target=lambda: results.append(run(engine, rows(2)).arrays[0])) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 2


# Errors.


def test_an_error_in_a_run_is_reported_and_leaves_the_engine_usable(load: Loader) -> None:
    nodes = [helper.make_node("MatMul", ["input_0", "input_1"], ["output_0"])]
    model = model_of(nodes, {"input_0": (FLOAT, [None, None]), "input_1": (FLOAT, [None, None])}, {"output_0": FLOAT})
    engine = load(definition_of(model))
    for _ in range(2):
        with pytest.raises(Exception, match="MatMul"):
            run(engine, np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
        np.testing.assert_array_equal(
            run(engine, np.ones((2, 3), np.float32), np.ones((3, 1), np.float32)).arrays[0], [[3], [3]]
        )


def test_an_element_type_without_tensors(load: Loader) -> None:
    engine = identity_engine(load, FLOAT)
    with pytest.raises(Exception, match=r"(?s)tensor.*double.*float"):
        run(engine, np.ones(2, np.float64))


def segment_of(model: bytes) -> SegmentModel:
    return SegmentModel(name="segment_9", model=model, inputs=(), outputs=(), weight_array=lambda index: np.zeros(1))


@pytest.mark.parametrize("op_type", ["NoSuchOp", "ImageDecoder"])
def test_a_refused_node_is_named(op_type: str) -> None:
    nodes = [
        helper.make_node("Relu", ["input_0"], ["a"], name="first"),
        helper.make_node(op_type, ["a"], ["output_0"], name="layer/second"),
    ]
    model = model_of(nodes, {"input_0": (FLOAT, ["n"])}, {"output_0": FLOAT})
    with pytest.raises(EngineBuildError, match="segment_9") as caught:
        ONNXRuntimeBackend("cpu").build(segment_of(model))
    assert caught.value.nodes == ("layer/second",)


def test_a_type_without_kernel_is_named() -> None:
    nodes = [helper.make_node("Add", ["input_0", "input_0"], ["output_0"], name="layer/sum")]
    model = model_of(nodes, {"input_0": (BFLOAT16, ["n"])}, {"output_0": BFLOAT16})
    with pytest.raises(EngineBuildError) as caught:
        ONNXRuntimeBackend("cpu").build(segment_of(model))
    assert caught.value.nodes == ("layer/sum",)


# In a Session.


def test_in_a_session_nothing_is_copied() -> None:
    optimizer = tf_opt.Tf2TrtOpt(engine="onnxruntime", adopt="always", cache=False, progress=False)
    graph_def = mlp()
    optimized = optimizer.optimize_graph_def(graph_def, ["y:0"], [feed()])
    (node,) = engine_nodes(optimized)
    assert optimizer.report.segments[0].library == f"onnxruntime {onnxruntime.__version__}"
    tf_opt.ops.reset_statistics()
    for batch in (3, 3, 8):
        (original,) = run_graph_def(graph_def, ["y:0"], feed(batch, batch))
        (actual,) = run_graph_def(optimized, ["y:0"], feed(batch, batch))
        np.testing.assert_allclose(actual, original, rtol=1e-5, atol=1e-5)
    counters = tf_opt.ops.statistics()[node.name]
    assert counters["runs"] == 3
    assert counters["copied_bytes"] == 0
