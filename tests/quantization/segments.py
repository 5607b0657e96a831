"""Small segments to quantize, with channels of very different size as in a BERT, and their feeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

HIDDEN = 64
Feed = dict[str, np.ndarray[Any, Any]]


def matrix(seed: int, rows: int = HIDDEN, columns: int = HIDDEN) -> np.ndarray[Any, Any]:
    """A random weight."""
    values = np.random.default_rng(seed).normal(size=(rows, columns)) / np.sqrt(rows)
    return values.astype(np.float32)


def vector(seed: int, size: int = HIDDEN) -> np.ndarray[Any, Any]:
    """A random bias."""
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def model_of(text: str, opset: int = 17, **initializers: Any) -> ir.Model:
    """Parses a model from ONNX's textual form; see tests/passes/onnx/pass_checks.py."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> {text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in initializers.items())
    for index, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{index}"
    return ir.serde.deserialize_model(proto)


def block(opset: int = 17) -> ir.Model:
    """Two products that read one tensor, and a third behind an activation: Q, K and the output of a tiny attention."""
    return model_of(
        """g (float[B, S, 64] input_0) => (float[B, S, 64] output_0, float[B, S, 64] output_1) {
            normal = LayerNormalization <axis = -1> (input_0, gamma, beta)
            q = MatMul (normal, w_q)
            query = Add (q, b_q)
            output_1 = MatMul (normal, w_k)
            mixed = Mul (query, output_1)
            active = Tanh (mixed)
            o = MatMul (active, w_o)
            output_0 = Add (b_o, o)
        }""",
        opset,
        gamma=np.where(np.arange(HIDDEN) == 7, 20, 1).astype(np.float32),
        beta=vector(1),
        w_q=matrix(2),
        b_q=vector(3),
        w_k=matrix(4),
        w_o=matrix(5),
        b_o=vector(6),
    )


def feeds_of(model: ir.Model, count: int = 8, rows: int = 40, seed: int = 0) -> list[Feed]:
    """Random feeds; the free dimensions are (1, rows)."""
    random = np.random.default_rng(seed)
    feeds = []
    for _ in range(count):
        feed = {}
        for value in model.graph.inputs:
            free = iter((1, rows))
            shape = [dim if isinstance(dim, int) else next(free) for dim in value.shape or ()]
            feed[str(value.name)] = random.normal(size=shape).astype(value.dtype.numpy() if value.dtype else np.float32)
        feeds.append(feed)
    return feeds


def run(model: ir.Model, feed: Feed, optimize: bool = False) -> list[np.ndarray[Any, Any]]:
    """Runs a valid model in ONNX Runtime, by default node by node as it stands."""
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def relative_error(expected: np.ndarray[Any, Any], actual: np.ndarray[Any, Any]) -> float:
    """||actual - expected|| / ||expected||."""
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def nodes(model: ir.Model, op: str) -> list[ir.Node]:
    """All nodes of an operator."""
    return [node for node in model.graph if node.op_type == op]
