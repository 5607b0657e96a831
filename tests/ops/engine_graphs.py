"""Graphs with one engine node, built by hand: what the tests of the op run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from onnx import TensorProto, helper

import tf_opt.ops
from tf_opt.engines.blob import EngineBlob

tf1 = tf.compat.v1

HIDDEN = 8
Dims = Sequence[int | str | None]


def counters(name: str = "segment") -> dict[str, int]:
    """Returns what was counted for a segment."""
    return tf_opt.ops.statistics()[name]


def blob(payload: bytes, runtime: str = "openvino", **header: Any) -> bytes:
    """Packs a payload with a complete header."""
    complete = {"runtime": runtime, "tf_opt_version": "0", "library_version": "0", "inputs": [], "outputs": []}
    return EngineBlob(header={**complete, **header}, payload=payload).pack()


def onnx_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Dims]],
    outputs: Sequence[tuple[str, int, Dims]],
) -> bytes:
    """Serializes a model; inputs and outputs are (name, ONNX element type, dims)."""
    infos = [[helper.make_tensor_value_info(*info) for info in group] for group in (inputs, outputs)]
    graph = helper.make_graph(list(nodes), "segment", infos[0], infos[1])
    opset = [helper.make_opsetid("", 17)]
    serialized: bytes = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    return serialized


def dense_onnx(batch: int | str = "batch") -> bytes:
    """output_0 = input_0 @ weight_0 + weight_1."""
    return onnx_model(
        [
            helper.make_node("MatMul", ["input_0", "weight_0"], ["product"]),
            helper.make_node("Add", ["product", "weight_1"], ["output_0"]),
        ],
        [
            ("input_0", TensorProto.FLOAT, [batch, HIDDEN]),
            ("weight_0", TensorProto.FLOAT, [HIDDEN, HIDDEN]),
            ("weight_1", TensorProto.FLOAT, [HIDDEN]),
        ],
        [("output_0", TensorProto.FLOAT, [batch, HIDDEN])],
    )


def dense_weights(seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [
        generator.standard_normal((HIDDEN, HIDDEN)).astype(np.float32),
        generator.standard_normal(HIDDEN).astype(np.float32),
    ]


def dense(x: np.ndarray, weights: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """What the dense engine must give."""
    weight, bias = weights if weights is not None else dense_weights()
    return x @ weight + bias


def batch_of(rows: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, HIDDEN)).astype(np.float32)


def dense_fallback() -> Any:
    """The dense segment as a TensorFlow function of (input, weights)."""

    @tf1_function([tf.float32] * 3)
    def dense_segment_fallback(x, weight, bias):
        return tf.matmul(x, weight) + bias

    return dense_segment_fallback


def tf1_function(dtypes: Sequence[tf.DType]) -> Callable[[Any], Any]:
    """Makes a graph function of a Python function, as the op's attribute `fallback` takes it."""
    from tensorflow.python.framework import function

    return function.Defun(*dtypes)


def engine_op(
    inputs: Sequence[tf.Tensor],
    weights: Sequence[tf.Tensor],
    output_types: Sequence[tf.DType],
    *,
    engine: bytes = b"",
    stored_engine: Sequence[tf.Tensor] = (),
    runtime: str = "openvino",
    fallback: Any = "",
    output_shapes: Sequence[Any] | None = None,
    name: str = "segment",
    **attributes: Any,
) -> list[tf.Tensor]:
    """Adds an engine node to the current graph."""
    shapes = output_shapes if output_shapes is not None else [None] * len(output_types)
    return list(
        tf_opt.ops.load().tf_opt_engine(
            inputs=list(inputs),
            weights=list(weights),
            stored_engine=list(stored_engine),
            OutT=list(output_types),
            segment_name=name,
            runtime=runtime,
            engine=engine,
            fallback=fallback if fallback != "" else no_function(),
            output_shapes=[tf.TensorShape(shape) for shape in shapes],
            name=name,
            **attributes,
        )
    )


def no_function() -> Any:
    """The empty name that stands for "no fallback"."""
    from tensorflow.core.framework import attr_value_pb2

    return attr_value_pb2.NameAttrList()


def no_fallback_function() -> Any:
    """A function whose name stands for "no fallback"."""
    from tensorflow.python.framework import function

    @function.Defun(func_name="tf_opt_no_fallback")
    def nothing():
        return tf.constant(0)

    return nothing


def dense_graph(*, fallback: bool = False, engine: bytes | None = None, **attributes: Any) -> Any:
    """Returns (graph, placeholder, output) of a graph with one dense engine node."""
    with tf1.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, attributes.pop("input_shape", [None, HIDDEN]), name="x")
        weights = [tf.constant(weight, name=f"weight_{i}") for i, weight in enumerate(dense_weights())]
        attributes.setdefault("output_shapes", [[None, HIDDEN]])
        if fallback:
            attributes["fallback"] = dense_fallback()
        (y,) = engine_op([x], weights, [tf.float32], engine=engine or blob(dense_onnx()), **attributes)
    return graph, x, y


@contextlib.contextmanager
def dense_session(*, config: Any = None, **attributes: Any) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """Yields a function that runs the dense engine node in a v1 Session; see `dense_graph`."""
    graph, x, y = dense_graph(**attributes)
    with tf1.Session(graph=graph, config=config) as session:
        yield session.make_callable(y, feed_list=[x])
