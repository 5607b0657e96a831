"""What the op's kernel for GPUs does on a simulated GPU. Run by test_gpu_kernel.py in a process of its own.

TensorFlow asks for its devices once in a process, and every test after that would find this GPU.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from tests.ops.engine_graphs import blob, counters, engine_op, tf1, tf1_function
from tf_opt.ops import held_tensors, python_runtime
from tf_opt.ops.python_runtime import (
    Array,
    DeviceArray,
    DeviceOutputs,
    EngineDefinition,
    Outputs,
    UnsupportedShapeError,
)

LIBRARY = os.environ["TF_OPT_SIMULATED_GPU"]
OPS = tf.load_op_library(LIBRARY)
GPU = ctypes.CDLL(LIBRARY)
POINTER, NUMBER = ctypes.c_void_p, ctypes.c_int64
GPU.SimulatedGpuAdd.argtypes = (POINTER, POINTER, POINTER, POINTER, NUMBER, NUMBER)
GPU.SimulatedGpuRead.argtypes = GPU.SimulatedGpuWrite.argtypes = (POINTER, POINTER, POINTER, NUMBER)
COLUMNS = 8
BIAS = np.arange(COLUMNS, dtype=np.float32)


pytestmark = pytest.mark.usefixtures("fresh_statistics")


def copies() -> tuple[int, int]:
    """Returns how many tensors were copied to the GPU and back so far."""
    return GPU.SimulatedGpuCopiesToDevice(), GPU.SimulatedGpuCopiesToHost()


def rows(count: int) -> Array:
    return np.random.default_rng(count).standard_normal((count, COLUMNS)).astype(np.float32)


def host_constant(value: Array) -> tf.Tensor:
    """Returns a constant as splicing leaves the weights of an engine node."""
    tensor = tf.constant(value)
    attribute = attr_value_pb2.AttrValue(s=held_tensors.HOST_KERNEL_LABEL)
    tensor.op._set_attr("_kernel", attribute)
    return tensor


class DeviceAdd:
    """output_0 = input_0 + weight_0 on the GPU, with the weight copied there when the engine is loaded."""

    definitions: ClassVar[list[EngineDefinition]] = []

    def __init__(self, definition: EngineDefinition) -> None:
        DeviceAdd.definitions.append(definition)
        np.testing.assert_array_equal(definition.weights[0], BIAS)  # In host memory.
        self.bias = definition.weights[0]

    def run(self, inputs: Sequence[Array], outputs: Outputs) -> None:
        raise AssertionError("the node is on the GPU")

    def run_on_device(self, inputs: Sequence[DeviceArray], outputs: DeviceOutputs, stream: int) -> None:
        (x,) = inputs
        assert x.dtype == np.float32
        if x.shape[0] > 100:
            raise UnsupportedShapeError(f"{x.shape[0]} rows, at most 100")
        bias = outputs.allocate(1, self.bias.shape, np.float32)
        GPU.SimulatedGpuWrite(stream, bias, self.bias.ctypes.data, self.bias.nbytes)
        address = outputs.allocate(0, x.shape, np.float32)
        GPU.SimulatedGpuAdd(stream, x.address, bias, address, int(np.prod(x.shape)), COLUMNS)


def add_fallback() -> Any:
    @tf1_function([tf.float32, tf.float32])
    def add_segment_fallback(x, bias):
        return OPS.simulated_add(a=x, b=bias), tf.identity(bias)

    return add_segment_fallback


def add_session(runtime: str, **attributes: Any) -> Any:
    """Returns a function of a session that runs the engine node on the GPU."""
    with tf1.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, COLUMNS])
        with tf.device("/device:GPU:0"):
            bias = host_constant(BIAS)
            outputs = engine_op([x], [bias], [tf.float32] * 2, engine=blob(b"add"), runtime=runtime, **attributes)
    return tf1.Session(graph=graph).make_callable(outputs, feed_list=[x])


def test_the_engine_gets_the_gpus_memory_and_stream() -> None:
    python_runtime.register("device_add", DeviceAdd)
    run = add_session("device_add")
    for count in (1, 5, 2):
        before = copies()
        total, bias = run(rows(count))
        assert copies() == (before[0] + 1, before[1] + 2)  # The feed and the fetches; no weight.
        np.testing.assert_array_equal(total, rows(count) + BIAS)
        np.testing.assert_array_equal(bias, BIAS)

    assert DeviceAdd.definitions[-1].device == 3
    assert counters()["runs"] == counters()["device_runs"] == 3
    assert counters()["copied_bytes"] == 0


def test_calls_from_several_threads() -> None:
    python_runtime.register("device_add", DeviceAdd)
    run = add_session("device_add")

    def work(thread: int) -> None:
        for step in range(10):
            x = rows(1 + (thread + step) % 5)
            np.testing.assert_array_equal(run(x)[0], x + BIAS)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert counters()["loads"] == 1
    assert counters()["device_runs"] == 40


def test_unsupported_shape_runs_the_fallback_on_the_gpu() -> None:
    python_runtime.register("device_add", DeviceAdd)
    run = add_session("device_add", fallback=add_fallback())
    for step in range(3):
        before = copies()
        total, bias = run(rows(101))
        # The feed and, once, the weight go there; the two results come back.
        assert copies() == (before[0] + 1 + (step == 0), before[1] + 2)
        np.testing.assert_array_equal(total, rows(101) + BIAS)
        np.testing.assert_array_equal(bias, BIAS)

    assert counters()["fallback_runs"] == 3
    assert counters()["copied_bytes"] == BIAS.nbytes  # The weight, once.


def test_fallback_nodes_without_a_kernel_there_run_on_the_cpu() -> None:
    @tf1_function([tf.float32, tf.float32])
    def unique_segment_fallback(x, bias):
        return tf.numpy_function(lambda a: a * 2, [x], tf.float32), tf.identity(bias)

    python_runtime.register("device_add", DeviceAdd)
    run = add_session("device_add", fallback=unique_segment_fallback)
    np.testing.assert_array_equal(run(rows(101))[0], rows(101) * 2)


class HostEcho:
    """Gives its inputs back, through host memory only."""

    def __init__(self, definition: EngineDefinition) -> None:
        assert definition.device == 3

    def run(self, inputs: Sequence[Array], outputs: Outputs) -> None:
        if inputs[0].ndim > 3:
            raise UnsupportedShapeError("rank 4")
        for index, value in enumerate(inputs):
            if index % 2:
                outputs.adopt(index, np.array(value), owner=None)
            else:
                outputs.allocate(index, value.shape, value.dtype)[...] = value


class DeviceEcho(HostEcho):
    """The same on the GPU."""

    def run_on_device(self, inputs: Sequence[DeviceArray], outputs: DeviceOutputs, stream: int) -> None:
        for index, value in enumerate(inputs):
            if len(value.shape) > 3:
                raise UnsupportedShapeError("rank 4")
            content = np.empty(value.shape, value.dtype)
            GPU.SimulatedGpuRead(stream, value.address, content.ctypes.data, content.nbytes)
            address = outputs.allocate(index, value.shape, value.dtype)
            GPU.SimulatedGpuWrite(stream, address, content.ctypes.data, content.nbytes)


DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.int32, np.int64, np.uint8, np.bool_]


@pytest.mark.parametrize("engine", [HostEcho, DeviceEcho])
@pytest.mark.parametrize("dims", [(), (2, 1, 4), (2, 2, 2, 2)], ids=["scalar", "rank3", "fallback"])
def test_every_type_crosses(engine: Any, dims: tuple[int, ...]) -> None:
    """The last shape runs the fallback, whose 32-bit integers functions expect in host memory otherwise."""
    python_runtime.register("echo", engine)
    values = [np.random.default_rng(0).integers(0, 2, dims).astype(dtype) for dtype in DTYPES]
    types = [tf.as_dtype(dtype) for dtype in DTYPES]

    @tf1_function(types)
    def echo_segment_fallback(*arguments):
        return tuple(tf.identity(argument) for argument in arguments)

    with tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        inputs = [tf1.placeholder(dtype) for dtype in types]
        with tf.device("/device:GPU:0"):
            outputs = engine_op(inputs, [], types, engine=blob(b""), runtime="echo", fallback=echo_segment_fallback)
        results = session.run(outputs, dict(zip(inputs, values, strict=True)))

    for value, result in zip(values, results, strict=True):
        assert result.dtype == value.dtype
        np.testing.assert_array_equal(result, value)
    assert counters()["fallback_runs"] == (len(dims) == 4)
    if engine is HostEcho and len(dims) < 4:
        assert counters()["copied_bytes"] >= 2 * sum(value.nbytes for value in values)


def test_results_go_on_on_the_gpu() -> None:
    python_runtime.register("device_add", DeviceAdd)
    with tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        x = tf1.placeholder(tf.float32, [None, COLUMNS])
        with tf.device("/device:GPU:0"):
            bias = host_constant(BIAS)
            doubled = OPS.simulated_add(a=x, b=x)
            total, same = engine_op([doubled], [bias], [tf.float32] * 2, engine=blob(b"add"), runtime="device_add")
            more = OPS.simulated_add(a=total, b=same)
        result = session.run(more, {x: rows(3)})

    np.testing.assert_array_equal(result, rows(3) + rows(3) + BIAS + BIAS)


class Wrong:
    def run(self, inputs: Sequence[Array], outputs: Outputs) -> None: ...

    def run_on_device(self, inputs: Sequence[DeviceArray], outputs: DeviceOutputs, stream: int) -> None:
        if inputs[0].shape[0] == 1:
            outputs.allocate(0, inputs[0].shape, np.float64)
        if inputs[0].shape[0] == 2:
            raise LookupError("nothing on the GPU")


@pytest.mark.parametrize(
    ("count", "message"), [(1, "dtype double"), (2, "LookupError: nothing on the GPU"), (3, "left out output 0")]
)
def test_errors(count: int, message: str) -> None:
    python_runtime.register("wrong", lambda definition: Wrong())
    with pytest.raises(tf.errors.InternalError, match=message):
        add_session("wrong")(rows(count))


def held_constant(value: Array, *, on_host: bool = False) -> tuple[tf.Tensor, held_tensors.HeldTensor]:
    tensor = held_tensors.HeldTensor(tf.as_dtype(value.dtype).as_datatype_enum, value.shape)
    tensor.bytes[:] = value.reshape(-1).view(np.uint8)
    node = tf1.NodeDef(name="held", op="Const")
    node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
    node.attr["value"].tensor.tensor_shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
    if on_host:
        node.attr["_kernel"].s = held_tensors.HOST_KERNEL_LABEL
    held_tensors.refer(node, tensor)
    (output,) = tf.import_graph_def(tf1.GraphDef(node=[node]), return_elements=["held:0"], name="")
    return output, tensor


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_held_constants_lie_where_the_gpu_reads_them(dtype: Any) -> None:
    with tf1.Graph().as_default() as graph, tf.device("/device:GPU:0"):
        x = tf1.placeholder(dtype, [None, COLUMNS])
        bias, _keep = held_constant(BIAS.astype(dtype))
        total = OPS.simulated_add(a=x, b=bias)
    with tf1.Session(graph=graph) as session:
        run = session.make_callable(total, feed_list=[x])
        values = rows(3).astype(dtype)
        np.testing.assert_array_equal(run(values), values + BIAS.astype(dtype))
        before = copies()
        run(values)
    # Floating-point values were copied once. 32-bit integers lie on the host, which this op does not read them from.
    assert copies() == (before[0] + 1 + (dtype == np.int32), before[1] + 1)


def test_held_weights_of_an_engine_stay_on_the_host() -> None:
    python_runtime.register("device_add", DeviceAdd)
    with tf1.Graph().as_default() as graph, tf.device("/device:GPU:0"):
        x = tf1.placeholder(tf.float32, [None, COLUMNS])
        bias, _keep = held_constant(BIAS, on_host=True)
        outputs = engine_op([x], [bias], [tf.float32] * 2, engine=blob(b"add"), runtime="device_add")
    with tf1.Session(graph=graph) as session:
        before = copies()
        np.testing.assert_array_equal(session.run(outputs, {x: rows(3)})[0], rows(3) + BIAS)
    assert copies() == (before[0] + 1, before[1] + 2)


@pytest.mark.parametrize("count", [3, 101], ids=["engine", "fallback"])
def test_stored_engine_stays_on_the_host(count: int) -> None:
    python_runtime.register("device_add", DeviceAdd)
    with tf1.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, COLUMNS])
        with tf.device("/device:CPU:0"):
            stored = tf1.placeholder_with_default(blob(b"add"), [])
        with tf.device("/device:GPU:0"):
            outputs = engine_op(
                [x],
                [host_constant(BIAS)],
                [tf.float32] * 2,
                stored_engine=[stored],
                runtime="device_add",
                fallback=add_fallback(),
            )
    run = tf1.Session(graph=graph).make_callable(outputs, feed_list=[x])
    np.testing.assert_array_equal(run(rows(count))[0], rows(count) + BIAS)
    assert counters()["device_runs"] == (count == 3)
    before = copies()
    run(rows(count))
    assert copies() == (before[0] + 1, before[1] + 2)  # The feed and the fetches.
