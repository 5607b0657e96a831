"""Values that flow into a segment when the user's feeds run: what quantization is calibrated with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tf_opt.errors import CalibrationError
from tf_opt.feeds import Array, NormalizedFeed
from tf_opt.passes.tf.graph_editor import keep_reachable
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.segment import Segment
from tf_opt.tensor_info import node_name
from tf_opt.weights import WeightStore, attach_weights


def border_values(
    light: graph_pb2.GraphDef, weights: WeightStore, segment: Segment, feeds: Sequence[NormalizedFeed]
) -> list[dict[str, Array]]:
    """Runs the part of the graph in front of a segment.

    Args:
        light: The graph that the segment was found in.
        weights: Its constants.
        segment: The segment.
        feeds: The user's feeds by tensor name.

    Returns:
        For each feed, arrays by `input_<i>`, the names of the segment's inputs in its ONNX model.

    Raises:
        CalibrationError: The inputs cannot be fetched, as is the case inside of a loop or a branch.
    """
    fetches = [info.name for info in segment.inputs]
    keys = [f"input_{number}" for number in range(len(fetches))]
    computed = [name for name in fetches if name not in feeds[0]]
    if not computed:
        return [{key: feed[name] for key, name in zip(keys, fetches, strict=True)} for feed in feeds]
    part = keep_reachable(light, light.node, Border(inputs=(), outputs=tuple(computed)))
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(attach_weights(part, weights), name="")
    present = {node.name for node in part.node}
    values = []
    with tf.compat.v1.Session(graph=graph) as session:
        for number, feed in enumerate(feeds):
            needed = {name: array for name, array in feed.items() if node_name(name) in present}
            try:
                results = dict(zip(computed, session.run(computed, needed), strict=True))
            except (tf.errors.OpError, ValueError) as error:
                raise CalibrationError(
                    f"The inputs of {segment.name} cannot be computed for feed {number} (counted from 0): {error}. "
                    "Segments inside of loops and branches cannot be calibrated; leave them in fp32."
                ) from error
            values.append(
                {key: np.asarray(results.get(name, feed.get(name))) for key, name in zip(keys, fetches, strict=True)}
            )
    return values
