"""Tests of what the whole graph tells of a segment's inputs."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_opt.passes.tf.segment import Segment
from tf_opt.segment_facts import SegmentFacts
from tf_opt.tensor_info import TensorInfo


def looked_up() -> tf.compat.v1.GraphDef:
    with tf.Graph().as_default() as graph:
        ids = tf.compat.v1.placeholder(tf.int32, [None, None], name="ids")
        table = tf.constant(np.ones([9, 4], np.float32), name="table")
        rows = tf.gather(table, ids, name="rows")
        tf.identity(tf.shape(rows), name="sizes")
    return graph.as_graph_def()


def segment(*inputs: tuple[str, str, tuple[int | None, ...]]) -> Segment:
    infos = tuple(TensorInfo(name=name, dtype=dtype, shape=shape) for name, dtype, shape in inputs)
    return Segment(name="segment", nodes=(), inputs=infos, outputs=(), weights=(), constants=(), control_inputs=())


def test_dimensions_of_two_inputs_are_known_to_be_equal() -> None:
    facts = SegmentFacts()
    graph_def = looked_up()
    wanted = segment(
        ("ids:0", "int32", (None, None)), ("rows:0", "float32", (None, None, 4)), ("sizes:0", "int32", (3,))
    )
    ids, rows, sizes = facts.inputs(graph_def, wanted)
    assert ids.shape is not None
    assert rows.shape == sizes.vector == (*ids.shape, 4)
    assert ids.vector is None
    assert sizes.shape == (3,)
    assert facts.inputs(graph_def, wanted) == [ids, rows, sizes]
