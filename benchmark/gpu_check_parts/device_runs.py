"""An engine of an optimized graph, run on GPU memory without TensorFlow around it: what is left without host copies."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from peer_workers.protocol import Array, UnavailableError

from tf_opt.engines.blob import EngineBlob
from tf_opt.engines.tensorrt import cuda
from tf_opt.ops.python_runtime import KNOWN_LOADERS, DeviceArray, EngineDefinition

ENGINE_OP = "TfOptEngine"
DEVICE = 0

Fetch = Callable[[Sequence[str]], list[Array]]
"""Computes tensors of the optimized graph by name, for the feed that is to be timed."""


class DeviceRuns:
    """The one engine of a graph, with its inputs and outputs in GPU memory."""

    def __init__(self, graph_def: Any, threads: int) -> None:
        """Loads the engine as the op's runtime would load it for a node on the GPU.

        Raises:
            UnavailableError: The graph has several engines, or this kind of engine has no way to run on GPU memory.
        """
        reason = cuda.unavailable_reason()
        if reason is not None:
            raise UnavailableError(reason)
        self._node = _single_engine(graph_def)
        self._input_names, weight_names = _inputs_of(self._node)
        constants = {node.name: node for node in graph_def.node if node.op == "Const"}
        blob = EngineBlob.unpack(self._node.attr["engine"].s)
        module, function = KNOWN_LOADERS.get(str(blob.header["runtime"]), ("", ""))
        if not module:
            raise UnavailableError(f"the runtime {blob.header['runtime']!r} runs on the CPU")
        self._driver = cuda.cuda_driver()
        self._driver.activate(DEVICE)
        definition = EngineDefinition(
            segment_name=self._node.name,
            header=blob.header,
            payload=blob.payload,
            weights=[tf.make_ndarray(constants[name].attr["value"].tensor) for name in weight_names],
            threads=threads,
            device=DEVICE,
        )
        self._stream = self._driver.create_stream()
        self._engine = getattr(importlib.import_module(module), function)(definition)
        if not hasattr(self._engine, "run_on_device"):
            self.close()
            raise UnavailableError(f"the runtime {blob.header['runtime']!r} has no run_on_device")

    def close(self) -> None:
        """Frees the engine and its stream."""
        close = getattr(self._engine, "close", None)
        if close is not None:
            close()
        self._driver.destroy_stream(self._stream)

    def times(self, fetch: Fetch, runs: int) -> tuple[list[float], float, float]:
        """Times the engine; see `TimedPeer.device_times`."""
        self._driver.activate(DEVICE)
        outputs = _Outputs(self._driver)
        inputs = [self._on_device(array) for array in fetch(self._input_names)]

        def enqueue() -> None:
            self._engine.run_on_device(inputs, outputs, self._stream)

        def finish() -> None:
            self._driver.synchronize_stream(self._stream)

        try:
            enqueue()
            finish()
            seconds = []
            for _ in range(runs):
                started = time.perf_counter()
                enqueue()
                finish()
                seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
            for _ in range(runs):
                enqueue()
            finish()
            back_to_back = (time.perf_counter() - started) / runs
            found = outputs.arrays(self._stream)
            wanted = fetch([f"{self._node.name}:{index}" for index in sorted(found)])
            difference = max(
                _difference(found[index], array) for index, array in zip(sorted(found), wanted, strict=True)
            )
            return seconds, back_to_back, difference
        finally:
            outputs.free()
            for each in inputs:
                self._driver.free(each.address)

    def _on_device(self, array: Array) -> DeviceArray:
        array = np.ascontiguousarray(array)
        address = self._driver.allocate(max(1, array.nbytes))
        self._driver.copy_to_device(address, array.ctypes.data, array.nbytes, self._stream)
        self._driver.synchronize_stream(self._stream)  # Before the array may go.
        return DeviceArray(address=address, shape=array.shape, dtype=array.dtype)


class _Outputs:
    """DeviceOutputs whose memory is allocated once, as TensorFlow's allocator keeps what it got from the driver."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._buffers: dict[int, tuple[int, int]] = {}
        self._infos: dict[int, tuple[tuple[int, ...], np.dtype[Any]]] = {}

    def allocate(self, index: int, shape: Sequence[int], dtype: npt.DTypeLike) -> int:
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        address, room = self._buffers.get(index, (0, 0))
        if size > room:
            if address:
                self._driver.free(address)
            address = self._driver.allocate(size)
            self._buffers[index] = (address, size)
        self._infos[index] = (tuple(shape), kind)
        return address

    def arrays(self, stream: int) -> dict[int, Array]:
        """Copies the outputs of the latest run to the host."""
        arrays = {index: np.empty(shape, kind) for index, (shape, kind) in self._infos.items()}
        for index, array in arrays.items():
            self._driver.copy_to_host(array.ctypes.data, self._buffers[index][0], array.nbytes, stream)
        self._driver.synchronize_stream(stream)
        return arrays

    def free(self) -> None:
        for address, _ in self._buffers.values():
            self._driver.free(address)


def _single_engine(graph_def: Any) -> Any:
    nodes = [node for node in graph_def.node if node.op == ENGINE_OP]
    if len(nodes) != 1:
        raise UnavailableError(f"the graph has {len(nodes)} engines; one by itself is all that can be timed")
    return nodes[0]


def _inputs_of(node: Any) -> tuple[list[str], list[str]]:
    """Returns the tensors that change from run to run, and the names of the constants."""
    data = [name for name in node.input if not name.startswith("^")]
    count = len(node.attr["InT"].list.type)
    inputs = [name if ":" in name else f"{name}:0" for name in data[:count]]
    return inputs, [name.partition(":")[0] for name in data[count:]]


def _difference(left: Array, right: Array) -> float:
    if left.shape != right.shape:
        return math.inf
    difference = np.abs(left.astype(np.float64) - right.astype(np.float64))
    return float(difference.max(initial=0.0)) if np.isfinite(difference).all() else math.inf
