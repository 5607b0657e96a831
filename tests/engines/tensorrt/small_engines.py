"""Small models, and TensorRT engines of them that run without TensorFlow."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from tf_opt.engines.base import SegmentModel, ShapeProfile
from tf_opt.engines.blob import EngineBlob
from tf_opt.engines.tensorrt import TensorRTBackend
from tf_opt.engines.tensorrt.runtime import load_engine
from tf_opt.ops.python_runtime import DeviceArray, EngineDefinition
from tf_opt.tensor_info import TensorInfo

FLOAT, HALF, BFLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
INT32, INT64, BOOL = TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL
_NAMES = {
    FLOAT: "float32",
    HALF: "float16",
    BFLOAT16: "bfloat16",
    INT32: "int32",
    INT64: "int64",
    BOOL: "bool",
}

WEIGHT = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)


def segment(nodes, inputs, outputs, weights=(), name="s"):
    """A segment of ONNX nodes; inputs and outputs are (element type, shape), weights arrays."""
    graph_inputs = [
        helper.make_tensor_value_info(
            f"input_{i}", dtype, [f"input_{i}_axis_{axis}" if d is None else d for axis, d in enumerate(shape)]
        )
        for i, (dtype, shape) in enumerate(inputs)
    ]
    graph_inputs += [
        helper.make_tensor_value_info(f"weight_{i}", helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for i, array in enumerate(weights)
    ]
    graph_outputs = [
        helper.make_tensor_value_info(f"output_{i}", dtype, shape) for i, (dtype, shape) in enumerate(outputs)
    ]
    graph = helper.make_graph(nodes, "segment", graph_inputs, graph_outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return SegmentModel(
        name=name,
        model=model.SerializeToString(),
        inputs=tuple(
            TensorInfo(name=f"in{i}:0", dtype=_NAMES[dtype], shape=tuple(shape))
            for i, (dtype, shape) in enumerate(inputs)
        ),
        outputs=tuple(
            TensorInfo(name=f"out{i}:0", dtype=_NAMES[dtype], shape=tuple(shape))
            for i, (dtype, shape) in enumerate(outputs)
        ),
        weights=tuple(
            TensorInfo(name=f"w{i}:0", dtype=str(array.dtype), shape=array.shape) for i, array in enumerate(weights)
        ),
        weight_array=lambda index: weights[index].copy(),
    )


def dense(weight=WEIGHT, name="s"):
    """relu(x @ w), x of any number of rows."""
    nodes = [
        helper.make_node("MatMul", ["input_0", "weight_0"], ["product"], name="layer/product"),
        helper.make_node("Relu", ["product"], ["output_0"], name="layer/relu"),
    ]
    return segment(nodes, [(FLOAT, [None, 8])], [(FLOAT, [None, 4])], [weight], name)


def nonzero():
    """The places of values that are not 0: as many as there are."""
    node = helper.make_node("NonZero", ["input_0"], ["output_0"], name="places")
    return segment([node], [(FLOAT, [None, 8])], [(INT64, [2, None])])


def reshape():
    """x in a shape that is an input."""
    node = helper.make_node("Reshape", ["input_0", "input_1"], ["output_0"], name="reshape")
    return segment([node], [(FLOAT, [None, 8]), (INT64, [2])], [(FLOAT, [None, None])])


def profile(low=1, tuned=4, high=16, columns=8, values=None):
    """A range of rows for `input_0`."""
    return ShapeProfile(
        minimum={"input_0": (low, columns)},
        optimum={"input_0": (tuned, columns)},
        maximum={"input_0": (high, columns)},
        values=values or {},
    )


def build(model, profiles, settings=None):
    """Builds with the backend and returns the stored engine."""
    return TensorRTBackend(settings).build(model, profiles)


def load(model, engine, weights=None, device=None):
    """Loads what was built, as the op does."""
    blob = EngineBlob.unpack(engine.blob)
    arrays = [model.weight_array(i) for i in range(len(model.weights))] if weights is None else weights
    return load_engine(
        EngineDefinition(
            segment_name=model.name, header=blob.header, payload=blob.payload, weights=arrays, threads=1, device=device
        )
    )


def ready(model, profiles, settings=None, device=None):
    """Builds and loads."""
    return load(model, build(model, profiles, settings), device=device)


class HostOutputs:
    """What the op gives an engine on the CPU."""

    def __init__(self):
        self.arrays = {}

    def allocate(self, index, shape, dtype):
        assert index not in self.arrays, "an output is allocated once"
        self.arrays[index] = np.empty(tuple(shape), dtype)
        return self.arrays[index]


def run(engine, *inputs):
    """Runs once on host arrays; returns the outputs in their order."""
    outputs = HostOutputs()
    engine.run([np.asarray(array) for array in inputs], outputs)
    return [outputs.arrays[index] for index in sorted(outputs.arrays)]


def rows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)


def expected(array, weight=WEIGHT):
    return np.maximum(array @ weight, 0)


class DeviceMemory:
    """What TensorFlow on a GPU has: memory, a stream, and tensors in it."""

    def __init__(self, driver):
        self.driver = driver
        driver.activate(0)
        self.stream = driver.create_stream()
        self._addresses = []
        self.allocated = {}

    def allocate(self, index, shape, dtype):
        """DeviceOutputs.allocate"""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        address = self._new(size) if size else 0
        self.allocated[index] = (address, tuple(shape), np.dtype(dtype))
        return address

    def tensor(self, array, shift=0):
        """A tensor in GPU memory, `shift` bytes behind an aligned address."""
        if array.nbytes == 0:
            return DeviceArray(address=0, shape=array.shape, dtype=array.dtype)
        address = self._new(array.nbytes + shift) + shift
        self.driver.copy_to_device(address, array.ctypes.data, array.nbytes, self.stream)
        return DeviceArray(address=address, shape=array.shape, dtype=array.dtype)

    def output(self, index):
        """The values of an output, once the stream has come so far."""
        address, shape, dtype = self.allocated[index]
        array = np.empty(shape, dtype)
        if array.nbytes:
            self.driver.copy_to_host(array.ctypes.data, address, array.nbytes, self.stream)
        self.driver.synchronize_stream(self.stream)
        return array

    def close(self):
        self.driver.activate(0)
        self.driver.synchronize_stream(self.stream)
        for address in self._addresses:
            self.driver.free(address)
        self.driver.destroy_stream(self.stream)

    def _new(self, size):
        self._addresses.append(self.driver.allocate(size))
        return self._addresses[-1]
