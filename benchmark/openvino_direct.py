"""Runs the ONNX model of an engine node with OpenVINO's own Python API: what the op's overhead is measured against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import openvino
import tensorflow as tf
from openvino import opset13

from tf_opt.engines.blob import EngineBlob
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.tensor_info import node_name


def direct_function(optimized: FrozenGraph) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Returns a function from a feed to outputs by key that calls OpenVINO on the same ONNX with the same weights.

    Args:
        optimized: A graph whose only engine takes the graph's inputs and gives its outputs.

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
    names = [f"{node_name(reference)}:0" for reference in engine.input[:input_count]]
    keys = {info.name: info.key for info in optimized.inputs}
    # Output order of the engine node, as the nodes that serve the graph's outputs read it.
    served = {nodes[node_name(info.name)].input[0]: info.key for info in optimized.outputs}
    order = [
        served.get(f"{engine.name}:{index}" if index else engine.name) or served.get(f"{engine.name}:{index}")
        for index in range(len(engine.attr["OutT"].list.type))
    ]

    def run(feed: Mapping[str, Any]) -> dict[str, Any]:
        arrays = [feed[name] if name in feed else feed[keys[name]] for name in names]
        results = request.infer(arrays, share_inputs=True, share_outputs=True)
        return {key: results[index] for index, key in enumerate(order) if key is not None}

    return run
