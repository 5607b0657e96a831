"""Runs the ONNX model of an engine node with OpenVINO's own Python API: what the op's overhead is measured against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import openvino
import tensorflow as tf
from openvino import opset13

from tf_opt.engines.blob import EngineBlob
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.session import GraphRunner
from tf_opt.tensor_info import node_name


def direct_function(optimized: FrozenGraph) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Returns a function from a feed to outputs by key that calls OpenVINO on the same ONNX with the same weights.

    The first call for a feed computes the engine's inputs; keep the feeds alive, as they are known by their identity.

    Args:
        optimized: A graph with one engine that gives the graph's outputs.

    Raises:
        ValueError: The graph has no engine, or several.
    """
    nodes = {node.name: node for node in optimized.graph_def.node}
    engines = [node for node in nodes.values() if node.op == "TfOptEngine"]
    if len(engines) != 1:
        raise ValueError(f"The graph has {len(engines)} engines; expected one.")
    engine = engines[0]
    input_count = len(engine.attr["InT"].list.type)
    core = openvino.Core()
    model = core.read_model(EngineBlob.unpack(engine.attr["engine"].s).payload)
    parameters = {parameter.get_friendly_name(): parameter for parameter in model.get_parameters()}
    for index, reference in enumerate(engine.input[input_count:]):
        parameter = parameters[f"weight_{index}"]
        constant = opset13.constant(tf.make_ndarray(nodes[node_name(reference)].attr["value"].tensor))
        parameter.output(0).replace(constant.output(0))
        model.remove_parameter(parameter)
    model.validate_nodes_and_infer_types()
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    read = [reference if ":" in reference else f"{reference}:0" for reference in engine.input[:input_count]]
    names = {info.name for info in optimized.inputs}
    inner = [name for name in read if name not in names]
    # Output order of the engine node, as the nodes that serve the graph's outputs read it.
    served = {nodes[node_name(info.name)].input[0]: info.key for info in optimized.outputs}
    order = [
        served.get(engine.name) if index == 0 else served.get(f"{engine.name}:{index}")
        for index in range(len(engine.attr["OutT"].list.type))
    ]
    prepared: dict[int, list[Any]] = {}

    def prepare(feed: Mapping[str, Any]) -> list[Any]:
        """Computes what TensorFlow computes before the engine (lookups of embeddings), outside of what is timed."""
        with GraphRunner(optimized) as runner:
            values = {info.name: feed[info.key] for info in optimized.inputs}
            values |= {name: runner.run(feed, [name])[name] for name in inner}
        return [np.ascontiguousarray(values[name]) for name in read]

    def run(feed: Mapping[str, Any]) -> dict[str, Any]:
        if id(feed) not in prepared:
            prepared[id(feed)] = prepare(feed)
        results = request.infer(prepared[id(feed)], share_inputs=True, share_outputs=True)
        return {key: results[index] for index, key in enumerate(order) if key is not None}

    return run
