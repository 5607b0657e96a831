from __future__ import annotations

import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tf_opt.errors import GraphNotFrozenError, InvalidGraphError, UnknownOpError, UnknownOutputError
from tf_opt.graph_checks import check_graph, frozen_from_graph_def, normalize_outputs, output_count, sink_outputs
from tf_opt.weights import detach_weights


def example() -> graph_pb2.GraphDef:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        y = tf.matmul(x, tf.ones([4, 200]), name="y")
        tf.split(y, 2, axis=1, name="halves")
        tf.compat.v1.placeholder(tf.int32, None, name="unused")
    graph_def: graph_pb2.GraphDef = graph.as_graph_def()
    return graph_def


def test_describes_inputs_and_sinks() -> None:
    frozen = frozen_from_graph_def(example())
    assert [(info.name, info.dtype, info.shape, info.key) for info in frozen.inputs] == [
        ("x:0", "float32", (None, 4), "x"),
        ("unused:0", "int32", None, "unused"),
    ]
    assert [(info.name, info.shape, info.key) for info in frozen.outputs] == [
        ("halves:0", (None, 100), "halves"),
        ("halves:1", (None, 100), "halves:1"),
    ]


def test_placeholder_with_default_is_no_input() -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        tf.multiply(x, tf.compat.v1.placeholder_with_default(2.0, [], name="keep"), name="y")
        tf.compat.v1.placeholder_with_default(2.0, [], name="unused")
    frozen = frozen_from_graph_def(graph.as_graph_def())
    assert (frozen.input_names, frozen.output_names) == (("x:0",), ("y:0",))


def test_light_graphs_are_described_without_their_weights() -> None:
    light, weights = detach_weights(example())
    assert len(weights) == 1
    frozen = frozen_from_graph_def(light, ["y"], keys={"y:0": "logits"})
    assert frozen.input_names == ("x:0", "unused:0")
    assert frozen.outputs[0].key == "logits"
    assert frozen.graph_def is light


def test_outputs_are_normalized() -> None:
    graph_def = example()
    assert normalize_outputs(graph_def, ["halves:1", "y", "y:0"]) == ("halves:1", "y:0")
    assert normalize_outputs(graph_def, "y") == ("y:0",)
    assert sink_outputs(graph_def) == ("halves:0", "halves:1")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("halvs", r"no node 'halvs'.*Did you mean 'halves'"),
        ("halves:2", "has 2 outputs"),
        ("y:x", "has 1 output"),
        ("^y", "is no tensor"),
    ],
)
def test_unknown_outputs(output: str, message: str) -> None:
    with pytest.raises(UnknownOutputError, match=message):
        normalize_outputs(example(), [output])


def test_no_outputs() -> None:
    with pytest.raises(UnknownOutputError, match="No outputs"):
        normalize_outputs(example(), [])
    graph_def = graph_pb2.GraphDef()
    graph_def.node.add(name="x", op="Placeholder").attr["dtype"].type = tf.float32.as_datatype_enum
    with pytest.raises(InvalidGraphError, match="outputs cannot be found"):
        frozen_from_graph_def(graph_def)


def test_node_without_outputs_is_no_output() -> None:
    graph_def = example()
    graph_def.node.add(name="done", op="NoOp")
    assert output_count(graph_def.node[-1]) == 0
    with pytest.raises(UnknownOutputError, match="has 0 outputs"):
        normalize_outputs(graph_def, "done")


def test_duplicate_names() -> None:
    graph_def = example()
    graph_def.node.add().CopyFrom(graph_def.node[0])
    with pytest.raises(InvalidGraphError, match="more than once: x"):
        check_graph(graph_def)


def test_missing_input() -> None:
    graph_def = example()
    graph_def.node.add(name="z", op="Identity", input=["halvs"]).attr["T"].type = tf.float32.as_datatype_enum
    with pytest.raises(InvalidGraphError, match=r"'z' \(Identity\) reads 'halvs'.*Did you mean 'halves'"):
        check_graph(graph_def)


def test_unknown_op_names_its_nodes() -> None:
    graph_def = example()
    graph_def.node.add(name="z", op="NoSuchOp", input=["y"])
    function = graph_def.library.function.add()
    function.signature.name = "f"
    function.node_def.add(name="inner", op="NoSuchOp")
    with pytest.raises(UnknownOpError, match=r"NoSuchOp \(nodes: z, inner in function f\).*load_op_library"):
        check_graph(graph_def)


def test_variables_count_only_where_an_output_needs_them() -> None:
    graph_def = example()
    variable = graph_def.node.add(name="v", op="VarHandleOp")
    variable.attr["dtype"].type = tf.float32.as_datatype_enum
    check_graph(graph_def, ["y"])
    with pytest.raises(GraphNotFrozenError, match=r"v \(VarHandleOp\)"):
        check_graph(graph_def)
    with pytest.raises(GraphNotFrozenError, match=r"v \(VarHandleOp\)"):
        check_graph(graph_def, ["y", "v"])


def test_variables_in_functions_are_found() -> None:
    graph_def = example()
    function = graph_def.library.function.add()
    function.signature.name = "f"
    function.node_def.add(name="inner", op="ReadVariableOp")
    check_graph(graph_def)  # Nothing calls it.
    node = graph_def.node.add(name="call", op="PartitionedCall")
    node.attr["f"].func.name = "f"
    with pytest.raises(GraphNotFrozenError, match=r"inner \(ReadVariableOp, in function f\)"):
        check_graph(graph_def)


def test_graph_that_tensorflow_refuses() -> None:
    graph_def = example()
    next(node for node in graph_def.node if node.name == "y").attr["T"].type = tf.int32.as_datatype_enum
    with pytest.raises(InvalidGraphError, match="cannot import"):
        frozen_from_graph_def(graph_def, "y")


def test_the_graph_is_not_changed() -> None:
    graph_def = example()
    before = graph_def.SerializeToString(deterministic=True)
    assert frozen_from_graph_def(graph_def).graph_def is graph_def
    assert graph_def.SerializeToString(deterministic=True) == before
