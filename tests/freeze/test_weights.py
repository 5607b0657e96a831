from __future__ import annotations

import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tf_opt.errors import FreezeError
from tf_opt.freeze.weights import WeightType, convert_captures
from tf_opt.weights import is_weight

FLOAT, RESOURCE, INT32 = (dtype.as_datatype_enum for dtype in (tf.float32, tf.resource, tf.int32))
WEIGHT = WeightType(FLOAT, (5, 3))


def captured() -> graph_pb2.GraphDef:
    graph_def = graph_pb2.GraphDef()
    graph_def.node.add(name="w", op="Placeholder").attr["dtype"].type = RESOURCE
    return graph_def


def test_read_becomes_identity_of_the_weight() -> None:
    graph_def = captured()
    # Consumers may stand before what they consume, with copies of the handle between.
    read = graph_def.node.add(name="read", op="ReadVariableOp", input=["copy:0", "^w"])
    read.attr["dtype"].type = FLOAT
    graph_def.node.add(name="copy", op="Identity", input=["w"]).attr["T"].type = RESOURCE
    convert_captures(graph_def, {"w": WEIGHT})
    weight, read, copy = graph_def.node
    assert is_weight(weight)
    assert weight.attr["dtype"].type == FLOAT
    assert [dimension.size for dimension in weight.attr["shape"].shape.dim] == [5, 3]
    assert (read.op, read.attr["T"].type, list(read.input)) == ("Identity", FLOAT, ["copy:0", "^w"])
    assert "dtype" not in read.attr
    assert copy.attr["T"].type == FLOAT


def test_gather_gets_its_axis() -> None:
    graph_def = captured()
    ids = graph_def.node.add(name="ids", op="Placeholder")
    ids.attr["dtype"].type = INT32
    gather = graph_def.node.add(name="gather", op="ResourceGather", input=["w", "ids", "^ids"])
    gather.attr["dtype"].type = FLOAT
    gather.attr["Tindices"].type = INT32
    convert_captures(graph_def, {"w": WEIGHT})
    assert list(gather.input) == ["w", "ids", "gather/axis", "^ids"]
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        assert graph.get_tensor_by_name("gather:0").dtype == tf.float32


def test_initialized_variables_are_initialized() -> None:
    graph_def = captured()
    graph_def.node.add(name="is_initialized", op="VarIsInitializedOp", input=["w"])
    convert_captures(graph_def, {"w": WEIGHT})
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        tf.import_graph_def(graph_def, name="")
        assert session.run(graph.get_tensor_by_name("is_initialized:0"))


@pytest.mark.parametrize(("op", "what"), [("AssignVariableOp", "writes to"), ("ResourceScatterAdd", "writes to")])
def test_writing_is_an_error(op: str, what: str) -> None:
    graph_def = captured()
    graph_def.node.add(name="node", op=op, input=["w"])
    with pytest.raises(FreezeError, match=rf"'node' \({op}\) {what} a variable"):
        convert_captures(graph_def, {"w": WEIGHT})


def test_function_that_returns_a_handle_is_an_error() -> None:
    graph_def = captured()
    function = graph_def.library.function.add()
    function.signature.name = "f"
    function.signature.input_arg.add(name="handle", type=RESOURCE)
    function.signature.output_arg.add(name="same", type=RESOURCE)
    function.ret["same"] = "handle"
    call = graph_def.node.add(name="call", op="PartitionedCall", input=["w"])
    call.attr["Tin"].list.type.append(RESOURCE)
    call.attr["f"].func.name = "f"
    with pytest.raises(FreezeError, match=r"'f' returns one of its variables as a reference"):
        convert_captures(graph_def, {"w": WEIGHT})
