from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

from tests.small_graphs import feed, mlp, run_graph_def
from tf_opt import errors
from tf_opt.export import (
    DEFAULT_OPSET,
    SUPPORTED_OPSETS,
    attach_initializers,
    check_opset,
    convertible_ops,
    export_segment,
)
from tf_opt.passes.tf.extract import extract_segment
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.segment import segment_graph
from tf_opt.tensor_info import node_name
from tf_opt.weights import detach_weights


def extracted(graph_def, inputs, outputs):
    light, store = detach_weights(graph_def)
    border = Border(inputs=inputs, outputs=outputs)
    (segment,) = segment_graph(light, border, is_supported=lambda *_: None, minimum_segment_size=1).segments
    weights = {f"weight_{i}": store.array(node_name(info.name)) for i, info in enumerate(segment.weights)}
    return extract_segment(light, segment), weights


@pytest.mark.parametrize("opset", SUPPORTED_OPSETS)
def test_model_with_weights_attached_equals_the_graph(opset):
    graph, weights = extracted(mlp(), ("x",), ("y:0",))
    exported = export_segment(graph, opset)
    assert [value.name for value in exported.model.graph.input] == ["input_0", "weight_0"]
    assert [value.name for value in exported.model.graph.output] == ["output_0"]
    assert {entry.domain: entry.version for entry in exported.model.opset_import}[""] == opset
    model = attach_initializers(exported.model, weights)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 4):
        (actual,) = session.run(None, {"input_0": feed(batch)["x:0"]})
        np.testing.assert_allclose(actual, run_graph_def(mlp(), ["y:0"], feed(batch))[0], atol=1e-5)


def test_weights_are_not_in_the_exported_model():
    graph, weights = extracted(mlp(hidden=512), ("x",), ("y:0",))
    size = export_segment(graph).model.ByteSize()
    assert size < 8192 < sum(array.nbytes for array in weights.values())


def test_more_than_nine_inputs_keep_their_order():
    graph = tf.Graph()
    with graph.as_default():
        inputs = [tf.compat.v1.placeholder(tf.float32, [None, 4], name=f"p{index}") for index in range(12)]
        tf.add_n([tensor * float(index) for index, tensor in enumerate(inputs)], name="y")
    segment_graph_def, _ = extracted(graph.as_graph_def(), tuple(f"p{i}" for i in range(12)), ("y:0",))
    model = export_segment(segment_graph_def).model
    assert [value.name for value in model.graph.input] == [f"input_{index}" for index in range(12)]


def test_input_whose_values_are_not_used_is_declared():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [3, 4], name="input_0")
        y = tf.compat.v1.placeholder(tf.float32, [None, 4], name="input_1")
        tf.identity(tf.add(tf.cast(tf.size(x), tf.float32), y), name="output_0")
    model = export_segment(graph.as_graph_def()).model
    assert [value.name for value in model.graph.input] == ["input_0", "input_1"]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [3, 4]


def test_refused_node_is_named_and_nothing_is_logged(caplog):
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="input_0")
        tf.identity(tf.math.betainc(2.0, 3.0, x, name="strange"), name="output_0")
    handlers = list(logging.getLogger("tf2onnx").handlers)
    with pytest.raises(errors.ExportError, match="Betainc") as caught:
        export_segment(graph.as_graph_def())
    assert caught.value.nodes == ("strange",)
    assert not caplog.records
    assert logging.getLogger("tf2onnx").handlers == handlers


def test_convertible_ops_grow_with_the_opset():
    assert {"MatMul", "Softmax", "Erf", "Conv2D"} <= convertible_ops(DEFAULT_OPSET)
    assert "Betainc" not in convertible_ops(DEFAULT_OPSET)
    assert convertible_ops(13) <= convertible_ops(18)


@pytest.mark.parametrize("opset", [12, 19, "17", True, None])
def test_impossible_opset(opset):
    with pytest.raises(errors.InvalidOptionError, match="opset is"):
        check_opset(opset)


def test_attaching_an_unknown_weight():
    graph, _ = extracted(mlp(), ("x",), ("y:0",))
    with pytest.raises(errors.ExportError, match="weight_9"):
        attach_initializers(export_segment(graph).model, {"weight_9": np.zeros(3, np.float32)})


@pytest.mark.parametrize("select", [tf.raw_ops.SelectV2, tf.raw_ops.Select], ids=["SelectV2", "Select"])
def test_infinity_in_the_branch_that_is_not_taken(select):
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="input_0")
        y = tf.compat.v1.placeholder(tf.float32, [None, 4], name="input_1")
        condition = tf.greater(x[:, 0] if select is tf.raw_ops.Select else x, 0.0)  # Select takes whole rows.
        branches = {"x": x, "y": y} if select is tf.raw_ops.Select else {"t": x, "e": y}
        tf.identity(select(condition=condition, **branches), name="output_0")
    model = export_segment(graph.as_graph_def()).model
    onnx.checker.check_model(model, full_check=True)
    feeds = {
        "input_0": np.array([[1, -2, 3, -4], [-1, 2, 3, 4]], np.float32),
        "input_1": np.full((2, 4), -np.inf, np.float32),
    }
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = run_graph_def(
        graph.as_graph_def(), ["output_0:0"], {f"{name}:0": value for name, value in feeds.items()}
    )
    np.testing.assert_array_equal(session.run(None, feeds)[0], expected[0])
    assert not np.isnan(expected[0]).any()
