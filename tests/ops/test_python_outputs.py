"""Outputs of engines written in Python: memory that TensorFlow takes over, and who keeps it alive."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tests.ops.engine_graphs import HIDDEN, batch_of, blob, counters, dense_graph, dense_session, engine_op, tf1
from tf_opt.ops import python_native, python_outputs, python_runtime
from tf_opt.ops.python_runtime import Array, EngineDefinition, Outputs

ROOT = Path(__file__).resolve().parents[2]


pytestmark = pytest.mark.usefixtures("fresh_statistics")


class Owner:
    """What an engine would keep a buffer in."""


def aligned(shape: tuple[int, ...], dtype: Any, offset: int = 0) -> Array:
    """Returns an array that begins `offset` bytes behind a multiple of 64."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 128, np.uint8)
    begin = -memory.ctypes.data % 64 + offset
    return memory[begin : begin + size].view(dtype).reshape(shape)


class Adopting:
    """Gives twice its inputs in memory of its own."""

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset
        self.owners: list[weakref.ref[Owner]] = []
        self.addresses: list[int] = []

    def run(self, inputs: Sequence[Array], outputs: Outputs) -> None:
        for index, value in enumerate(inputs):
            result = aligned(value.shape, value.dtype, self.offset)
            result[...] = value + value
            owner = Owner()
            self.owners.append(weakref.ref(owner))
            self.addresses.append(result.ctypes.data)
            outputs.adopt(index, result, owner)

    def alive(self) -> int:
        return sum(owner() is not None for owner in self.owners)


def run_engine(engine: Any, **attributes: Any) -> Callable[[Array], Array]:
    python_runtime.register("python_outputs", lambda definition: engine)
    graph, x, y = dense_graph(runtime="python_outputs", engine=blob(b""), **attributes)
    run: Callable[[Array], Array] = tf1.Session(graph=graph).make_callable(y, feed_list=[x])
    return run


def test_adopted_memory_is_the_result_and_lives_as_long() -> None:
    engine = Adopting()
    run = run_engine(engine)
    result = run(batch_of(3))

    np.testing.assert_array_equal(result, 2 * batch_of(3))
    assert result.ctypes.data == engine.addresses[0]
    assert counters()["copied_bytes"] == 0
    assert engine.alive() == 1
    del result
    assert engine.alive() == 0


def test_adopted_memory_outlives_session_and_engine() -> None:
    class Closing(Adopting):
        closed = False

        def close(self) -> None:
            Closing.closed = True

    engine = Closing()
    run = run_engine(engine)
    result = run(batch_of(3))
    del run
    gc.collect()
    assert Closing.closed

    assert engine.alive() == 1
    np.testing.assert_array_equal(result, 2 * batch_of(3))
    del result
    assert engine.alive() == 0


def test_memory_that_is_not_aligned_is_copied() -> None:
    engine = Adopting(offset=4)
    run = run_engine(engine)
    result = run(batch_of(3))

    np.testing.assert_array_equal(result, 2 * batch_of(3))
    assert counters()["copied_bytes"] == batch_of(3).nbytes
    assert engine.alive() == 0


def test_memory_released_by_tensorflows_threads_goes_with_the_next_call() -> None:
    engine = Adopting()
    python_runtime.register("python_outputs", lambda definition: engine)
    with tf1.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, HIDDEN])
        (y,) = engine_op([x], [], [tf.float32], runtime="python_outputs", engine=blob(b""))
        total = tf.reduce_sum(y)  # Reads the engine's output, which leaves no session.
    run = tf1.Session(graph=graph).make_callable(total, feed_list=[x])
    for _ in range(20):
        np.testing.assert_allclose(run(batch_of(3)), 2 * batch_of(3).sum(), rtol=1e-5)

    assert len(engine.owners) == 20
    assert engine.alive() <= 2
    del run
    gc.collect()
    assert engine.alive() == 0


DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.int32, np.int64, np.uint8, np.bool_]


@pytest.mark.parametrize("dims", [(), (3,), (0, 4), (2, 1, 4)], ids=str)
def test_every_type_can_be_adopted(dims: tuple[int, ...]) -> None:
    class Constant:
        def run(self, inputs: Sequence[Array], outputs: Outputs) -> None:
            for index, dtype in enumerate(DTYPES):
                array = aligned(dims, dtype)
                array[...] = 1
                outputs.adopt(index, array, None)

    python_runtime.register("python_outputs", lambda definition: Constant())
    types = [tf.as_dtype(dtype) for dtype in DTYPES]
    with tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        results = session.run(engine_op([], [], types, engine=blob(b""), runtime="python_outputs"))

    for dtype, result in zip(DTYPES, results, strict=True):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, np.ones(dims, dtype))


def test_many_threads_adopt() -> None:
    engine = Adopting()
    run = run_engine(engine)

    def work(thread: int) -> None:
        for step in range(40):
            x = batch_of(1 + (7 * thread + step) % 11, seed=step)
            np.testing.assert_array_equal(run(x), 2 * x)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert counters()["runs"] == 160
    assert counters()["copied_bytes"] == 0
    assert engine.alive() == 0


def not_contiguous(outputs: Outputs, x: Array) -> None:
    outputs.adopt(0, aligned((HIDDEN, x.shape[0]), np.float32).T, None)


def other_byte_order(outputs: Outputs, x: Array) -> None:
    outputs.adopt(0, np.zeros(x.shape, ">f4"), None)


def wrong_dtype(outputs: Outputs, x: Array) -> None:
    outputs.adopt(0, aligned(x.shape, np.float64), None)


def wrong_index(outputs: Outputs, x: Array) -> None:
    outputs.adopt(3, aligned(x.shape, np.float32), None)


def no_shape(outputs: Outputs, x: Array) -> None:
    outputs.allocate(0, ("two", 3), np.float32)


def negative_shape(outputs: Outputs, x: Array) -> None:
    outputs.allocate(0, (-2, 3), np.float32)


def hidden_refusal(outputs: Outputs, x: Array) -> None:
    with pytest.raises(python_outputs.EngineOutputError):
        outputs.allocate(0, x.shape, np.float64)
    outputs.allocate(0, x.shape, np.float32)[...] = x


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (not_contiguous, "expected a C-contiguous array"),
        (other_byte_order, "another byte order"),
        (wrong_dtype, "output 0 dtype double, the node's is float"),
        (wrong_index, "wrote output 3, the node has 1"),
        (no_shape, "error: required argument is not an integer"),
        (negative_shape, r"output 0 shape \[-2,3\]"),
        (hidden_refusal, "output 0 dtype double, the node's is float"),
    ],
)
def test_what_is_wrong_is_an_error(give: Callable[[Outputs, Array], None], message: str) -> None:
    class Giving:
        def run(self, inputs: Sequence[Array], outputs: Outputs) -> None:
            give(outputs, inputs[0])

    kept = len(python_runtime._owners)
    with pytest.raises(tf.errors.InternalError, match=message):
        run_engine(Giving())(batch_of(2))
    assert len(python_runtime._owners) == kept


def test_outputs_are_of_no_use_after_the_run() -> None:
    kept: list[Outputs] = []

    class Keeping:
        def run(self, inputs: Sequence[Array], outputs: Outputs) -> None:
            kept.append(outputs)
            outputs.allocate(0, inputs[0].shape, np.float32)[...] = inputs[0]

    run_engine(Keeping())(batch_of(2))

    with pytest.raises(python_outputs.EngineOutputError, match="after the run had returned"):
        kept[0].allocate(0, (2, HIDDEN), np.float32)


def test_definition_tells_the_loader_what_it_needs() -> None:
    definitions: list[EngineDefinition] = []

    def loader(definition: EngineDefinition) -> Adopting:
        definitions.append(definition)
        return Adopting()

    python_runtime.register("python_outputs", loader)
    engine = blob(b"\0payload", "python_outputs", size=3)
    with dense_session(runtime="python_outputs", engine=engine) as run:
        run(batch_of(1))
        (definition,) = definitions
        assert definition.segment_name == "segment"
        assert definition.header["size"] == 3
        assert definition.payload == b"\0payload"
        assert [weight.shape for weight in definition.weights] == [(HIDDEN, HIDDEN), (HIDDEN,)]
        assert not definition.weights[0].flags.writeable
        assert definition.threads >= 1
        assert definition.device is None


@pytest.mark.parametrize("error", [ValueError("a\0b"), ValueError("\udc80"), ValueError("ä" * 9000)])
def test_message_fits_into_a_status(error: ValueError) -> None:
    message = python_native.message_of(error)

    assert message.startswith(b"ValueError: ")
    assert 0 not in message
    assert len(message) <= 8192
    message.decode()


def test_message_of_an_error_that_has_none() -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert python_native.message_of(UnspeakableError()) == b"UnspeakableError"


INTERRUPTED_RUN = """
import os, signal, threading, time
from tests.ops.engine_graphs import batch_of, blob, dense_graph, tf1
from tf_opt.ops import python_runtime

class Slow:
    runs = 0

    def run(self, inputs, outputs):
        self.runs += 1
        print("in", threading.current_thread() is threading.main_thread(), flush=True)
        deadline = time.monotonic() + 250
        while time.monotonic() < deadline and self.runs == 1:
            time.sleep(0.01)
        assert self.runs > 1, "nobody interrupted"
        outputs.allocate(0, inputs[0].shape, inputs[0].dtype)[...] = inputs[0]

python_runtime.register("slow", lambda definition: Slow())
graph, x, y = dense_graph(runtime="slow", engine=blob(b""))
# One thread: TensorFlow runs the node on the caller's, where Python raises what a signal asks for.
config = tf1.ConfigProto(inter_op_parallelism_threads=-1)
session = tf1.Session(graph=graph, config=config)
try:
    session.run(y, {x: batch_of(1)})
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.usefixtures("interruptible")
def test_interrupting_the_engine_interrupts_the_program() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED_RUN],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        killer = threading.Timer(300, process.kill)
        killer.start()
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        assert first == "in True\n", first + process.stderr.read()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
        killer.cancel()

    assert output == "in True\ninterrupted\n", errors
    assert process.returncode == 0, errors


def test_an_interrupted_load_is_tried_again() -> None:
    loads: list[EngineDefinition] = []

    def loader(definition: EngineDefinition) -> Adopting:
        loads.append(definition)
        if len(loads) == 1:
            raise KeyboardInterrupt
        return Adopting()

    python_runtime.register("python_outputs", loader)
    with dense_session(runtime="python_outputs", engine=blob(b"")) as run:
        with pytest.raises(tf.errors.CancelledError, match="KeyboardInterrupt"):
            run(batch_of(1))
        np.testing.assert_array_equal(run(batch_of(1)), 2 * batch_of(1))
        assert len(loads[1].weights) == 2
    assert counters()["loads"] == 1
