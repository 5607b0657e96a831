from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.small_graphs import feed, mlp, run_graph_def, two_towers
from tf_opt.border_values import border_values
from tf_opt.errors import CalibrationError
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.segment import Segmentation, segment_graph
from tf_opt.weights import WeightStore, detach_weights

v1 = tf.compat.v1


def segmented(graph_def, outputs, refused=()) -> tuple[tf.compat.v1.GraphDef, WeightStore, Segmentation]:
    light, weights = detach_weights(graph_def)
    segmentation = segment_graph(
        light,
        Border(("x",), outputs),
        is_supported=lambda node, *_: "refused" if node.op in refused else None,
        minimum_segment_size=1,
    )
    return light, weights, segmentation


def test_inputs_of_the_graph_are_taken_from_the_feeds() -> None:
    light, weights, segmentation = segmented(mlp(), ("y:0",))
    (segment,) = segmentation.segments
    feeds = [feed(3), feed(5, seed=1)]
    for values, given in zip(border_values(light, weights, segment, feeds), feeds, strict=True):
        np.testing.assert_array_equal(values["input_0"], given["x:0"])


def test_values_in_the_middle_are_those_of_the_graph() -> None:
    graph_def = two_towers()
    light, weights, segmentation = segmented(graph_def, ("right:0",), refused=("Betainc",))
    second = segmentation.segments[1]
    assert [info.name for info in second.inputs] == ["between:0"]
    (values,) = border_values(light, weights, second, [feed()])
    (expected,) = run_graph_def(graph_def, ["between:0"], feed())
    np.testing.assert_array_equal(values["input_0"], expected)


def test_values_inside_of_a_loop_cannot_be_had() -> None:
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default() as graph:
            x = v1.placeholder(tf.float32, [None, 16], name="x")
            _, y = v1.while_loop(
                lambda i, value: i < 3, lambda i, value: (i + 1, tf.nn.relu(tf.sin(value)) * 2.0), [0, x]
            )
            tf.identity(y, name="y")
    finally:
        v1.enable_control_flow_v2()
    light, weights, segmentation = segmented(graph.as_graph_def(), ("y:0",), refused=("Sin",))
    inside = next(segment for segment in segmentation.segments if "while/Relu" in segment.nodes)
    with pytest.raises(CalibrationError, match=f"{inside.name} cannot be computed for feed 0"):
        border_values(light, weights, inside, [feed()])
