"""Dtypes and shapes come from TensorFlow's own inference."""

from __future__ import annotations

import pytest
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from tests.passes.tf.spliced_graphs import v1, v1_graph
from tf_opt.errors import InvalidGraphError, UnknownOpError
from tf_opt.passes.tf.tensor_types import tensor_infos
from tf_opt.tensor_info import TensorInfo


def test_every_output_of_every_node() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float16, [None, 6], name="x")
        unknown = v1.placeholder(tf.int64, None, name="unknown")
        tf.raw_ops.Split(axis=tf.constant(1, name="axis"), value=x, num_split=2, name="parts")
        tf.no_op(name="nothing")
        tf.strings.as_string(unknown, name="text")
    infos = tensor_infos(graph.as_graph_def())
    assert infos == {
        info.name: info
        for info in (
            TensorInfo(name="x:0", dtype="float16", shape=(None, 6)),
            TensorInfo(name="unknown:0", dtype="int64", shape=None),
            TensorInfo(name="axis:0", dtype="int32", shape=()),
            TensorInfo(name="parts:0", dtype="float16", shape=(None, 3)),
            TensorInfo(name="parts:1", dtype="float16", shape=(None, 3)),
            TensorInfo(name="text:0", dtype="string", shape=None),
        )
    }


def test_unknown_op_in_a_function_is_named() -> None:
    graph_def = GraphDef()
    function = graph_def.library.function.add()
    function.signature.name = "f"
    function.node_def.add(name="inner", op="NobodyRegisteredThis")
    with pytest.raises(UnknownOpError, match=r"NobodyRegisteredThis \(node 'inner'\)"):
        tensor_infos(graph_def)


def test_contradicting_shapes_are_refused() -> None:
    with v1_graph() as graph:
        a = v1.placeholder(tf.float32, [2, 3], name="a")
        b = v1.placeholder(tf.float32, [3, 2], name="b")
        tf.matmul(a, b, name="product")
    graph_def = graph.as_graph_def()
    graph_def.node[1].attr["shape"].shape.dim[0].size = 7
    with pytest.raises(InvalidGraphError, match="product"):
        tensor_infos(graph_def)
