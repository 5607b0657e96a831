"""Segmentation accounts for every node: in one segment, or one refusal with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tests.passes.tf.spliced_graphs import check_accounts, everything, unless, v1, v1_graph
from tf_opt.errors import InvalidOptionError, UnknownOpError, UnknownOutputError
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.segment import NodeRefusal, RefusalCategory, Segmentation, canonical_device, segment_graph
from tf_opt.passes.tf.tensor_types import tensor_infos
from tf_opt.tensor_info import TensorInfo


def segment(
    build: Callable[[tf.Tensor], Any] | GraphDef, outputs: tuple[str, ...] = ("y:0",), **options: Any
) -> Segmentation:
    """Segments the graph that `build` makes of a placeholder "x"."""
    if not isinstance(build, GraphDef):
        with v1_graph() as graph:
            build(v1.placeholder(tf.float32, [4, 4], name="x"))
        build = graph.as_graph_def()
    options = {"is_supported": everything, "minimum_segment_size": 1} | options
    segmentation = segment_graph(build, Border(("x",), outputs), **options)
    check_accounts(build, segmentation)
    return segmentation


def refusal(segmentation: Segmentation, node: str) -> NodeRefusal:
    (found,) = [refusal for refusal in segmentation.refusals if refusal.node == node]
    return found


def chain(x: tf.Tensor) -> None:
    tf.tanh(tf.nn.relu(tf.negative(x, name="a"), name="b"), name="y")


def test_one_segment() -> None:
    segmentation = segment(chain)
    (only,) = segmentation.segments
    assert only.name == "tf_opt_segment_0"
    assert only.nodes == ("a", "b", "y")
    assert only.inputs == (TensorInfo(name="x:0", dtype="float32", shape=(4, 4)),)
    assert only.outputs == (TensorInfo(name="y:0", dtype="float32", shape=(4, 4)),)
    assert only.constants == only.weights == only.control_inputs == ()
    assert only.fetchable == ("y:0",)
    assert segmentation.coverage == 1.0
    assert segmentation.refusals == ()


def test_support_check_sees_tensors_and_gives_the_reason() -> None:
    seen: dict[str, tuple[Any, Any]] = {}

    def is_supported(node: NodeDef, inputs: Any, outputs: Any) -> str | None:
        seen[node.name] = inputs, outputs
        return "no kernel for halves" if node.name == "parts" else None

    def build(x: tf.Tensor) -> None:
        first, second = tf.split(x, 2, name="parts")
        tf.add(first, second, name="y")

    segmentation = segment(build, is_supported=is_supported)
    assert [(info.dtype, info.shape) for info in seen["parts"][0]] == [("int32", ()), ("float32", (4, 4))]
    assert [(info.name, info.shape) for info in seen["parts"][1]] == [("parts:0", (2, 4)), ("parts:1", (2, 4))]
    assert refusal(segmentation, "parts") == NodeRefusal(
        "parts", "Split", "no kernel for halves", RefusalCategory.OP_NOT_SUPPORTED
    )


def test_too_small_segment_names_the_sizes() -> None:
    segmentation = segment(chain, is_supported=unless("Relu"), minimum_segment_size=3)
    assert segmentation.segments == ()
    assert refusal(segmentation, "a").category is RefusalCategory.SEGMENT_TOO_SMALL
    assert "1 compute node" in refusal(segmentation, "a").reason
    assert "minimum_segment_size is 3" in refusal(segmentation, "a").reason


def test_minimum_size_does_not_count_constants() -> None:
    def build(x: tf.Tensor) -> None:
        tf.add(x * 2.0, 1.0, name="y")

    assert segment(build, minimum_segment_size=3).segments == ()
    assert len(segment(build, minimum_segment_size=2).segments) == 1


@pytest.mark.parametrize(
    ("options", "node", "category"),
    [
        ({"denied_ops": ["Relu"]}, "b", RefusalCategory.DENIED),
        ({"denied_ops": ["Re*"]}, "b", RefusalCategory.DENIED),
        ({"denied_nodes": ["[ab]"]}, "a", RefusalCategory.DENIED),
        ({"supported_list": ["Neg", "Tanh"]}, "b", RefusalCategory.NOT_ALLOWED),
        ({"supported_nodes": ["y"]}, "b", RefusalCategory.NOT_ALLOWED),
        ({"supported_nodes": []}, "y", RefusalCategory.NOT_ALLOWED),
        ({"supported_list": ["*"], "denied_ops": ["Tanh"]}, "y", RefusalCategory.DENIED),
        ({"node_filter": lambda node: node.op != "Neg"}, "a", RefusalCategory.REJECTED_BY_USER),
    ],
)
def test_lists_and_filter(options: dict[str, Any], node: str, category: RefusalCategory) -> None:
    segmentation = segment(chain, **options)
    assert refusal(segmentation, node).category is category
    inside = {name for one in segmentation.segments for name in one.nodes}
    assert inside == {"a", "b", "y"} - {refusal.node for refusal in segmentation.refusals}


def test_patterns_match_whole_names() -> None:
    assert len(segment(chain, denied_ops=["Rel"], denied_nodes=["elu"]).segments[0].nodes) == 3


def test_failing_filter_names_the_node() -> None:
    def broken(node: NodeDef) -> bool:
        raise KeyError("color")

    with pytest.raises(InvalidOptionError, match=r"KeyError for node 'a' \(Neg\)"):
        segment(chain, node_filter=broken)


def test_string_for_a_list_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match=r"denied_ops='Relu' is a string.*\['Relu'\]"):
        segment(chain, denied_ops="Relu")


def test_minimum_size_is_checked() -> None:
    with pytest.raises(InvalidOptionError, match="at least 1"):
        segment(chain, minimum_segment_size=0)


def test_unknown_output_suggests_a_name() -> None:
    with pytest.raises(UnknownOutputError, match=r"'y:1'.*Did you mean 'y:0'"):
        segment(chain, outputs=("y:1",))


def test_unknown_op_is_named() -> None:
    graph_def = GraphDef()
    graph_def.node.add(name="bad", op="NobodyRegisteredThis")
    with pytest.raises(UnknownOpError, match=r"NobodyRegisteredThis.*load_op_library"):
        segment(graph_def, outputs=("bad:0",))


def test_stateful_and_non_numeric_nodes_are_refused() -> None:
    def build(x: tf.Tensor) -> None:
        noise = tf.random.uniform([4, 4], name="noise")
        text = tf.strings.as_string(x, name="text")
        number = tf.strings.to_number(text, name="number")
        with tf.control_dependencies([tf.raw_ops.Assert(condition=True, data=[x], name="check")]):
            tf.add(noise + number, x, name="y")

    segmentation = segment(build)
    assert refusal(segmentation, "noise/RandomUniform").category is RefusalCategory.STATEFUL
    assert refusal(segmentation, "check").category is RefusalCategory.STATEFUL
    assert refusal(segmentation, "text").category is RefusalCategory.DTYPE
    assert "output text:0 is a string" in refusal(segmentation, "text").reason
    assert refusal(segmentation, "number").category is RefusalCategory.DTYPE
    assert segmentation.segments[-1].control_inputs == ("check",)


def test_functional_control_flow_is_refused() -> None:
    @tf.function
    def body(x: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(lambda a: tf.reduce_sum(a) < 3.0, lambda a: a + 1.0, [x])[0]

    concrete = body.get_concrete_function(tf.TensorSpec([4], tf.float32, name="x"))
    graph_def = concrete.graph.as_graph_def()
    segmentation = segment(graph_def, outputs=(concrete.outputs[0].name,))
    loop = next(node for node in graph_def.node if node.op in {"While", "StatelessWhile"})
    assert refusal(segmentation, loop.name).category is RefusalCategory.CONTROL_FLOW


def test_v1_control_flow_nodes_are_refused_with_the_op() -> None:
    def build(x: tf.Tensor) -> None:
        tf.identity(v1.cond(tf.reduce_sum(x) > 0.0, lambda: x + 1.0, lambda: x - 1.0), name="y")

    segmentation = segment(build)
    switches = [one for one in segmentation.refusals if one.op == "Switch"]
    assert switches
    assert {one.category for one in switches} == {RefusalCategory.CONTROL_FLOW}


def test_fed_node_is_an_input_whatever_its_op() -> None:
    def build(x: tf.Tensor) -> None:
        default = v1.placeholder_with_default(tf.nn.relu(x), [4, 4], name="default")
        tf.tanh(tf.negative(default, name="a"), name="y")

    segmentation = segment(build)
    assert refusal(segmentation, "default").category is RefusalCategory.INPUT_OR_OUTPUT
    with v1_graph() as graph:
        build(v1.placeholder(tf.float32, [4, 4], name="x"))
    border = Border(("x", "a"), ("y:0",))
    fed = segment_graph(graph.as_graph_def(), border, is_supported=everything, minimum_segment_size=1)
    assert refusal(fed, "a").category is RefusalCategory.INPUT_OR_OUTPUT
    assert [info.name for info in fed.segments[-1].inputs] == ["a:0"]


def test_fed_constant_is_not_copied() -> None:
    with v1_graph() as graph:
        x = v1.placeholder(tf.float32, [4, 4], name="x")
        tf.multiply(x, tf.constant(2.0, name="scale"), name="y")
    border = Border(("x", "scale"), ("y:0",))
    (only,) = segment_graph(graph.as_graph_def(), border, is_supported=everything, minimum_segment_size=1).segments
    assert [info.name for info in only.inputs] == ["x:0", "scale:0"]
    assert only.constants == ()


def test_constants_alone_are_left_to_folding() -> None:
    def build(x: tf.Tensor) -> None:
        tf.add(tf.sin(x), tf.sin(tf.exp(tf.range(4.0), name="exp")), name="y")

    segmentation = segment(build, is_supported=unless("Sin"))
    assert refusal(segmentation, "exp").category is RefusalCategory.NO_INPUTS


def test_unneeded_nodes_are_refused() -> None:
    def build(x: tf.Tensor) -> None:
        chain(x)
        tf.exp(x, name="unused")

    assert refusal(segment(build), "unused").category is RefusalCategory.NOT_NEEDED


def test_devices_are_not_mixed() -> None:
    def build(x: tf.Tensor) -> None:
        with tf.device("/device:CPU:0"):
            a = tf.nn.relu(x)
        with tf.device("/cpu:0"):
            b = tf.nn.relu(a)
        c = tf.nn.relu(b)
        with tf.device("/device:GPU:0"):
            tf.nn.relu(c, name="y")

    assert [len(one.nodes) for one in segment(build).segments] == [3, 1]
    assert canonical_device("/cpu:0") == canonical_device("/device:CPU:0")
    assert canonical_device("") == ""
    assert canonical_device("no device") == "no device"


def test_segment_names_avoid_the_graphs() -> None:
    def build(x: tf.Tensor) -> None:
        tf.tanh(tf.sin(tf.nn.relu(x, name="tf_opt_segment_0")), name="y")

    segmentation = segment(build, is_supported=unless("Sin"))
    assert [one.name for one in segmentation.segments] == ["tf_opt_segment_1", "tf_opt_segment_2"]


def test_given_types_are_used_instead_of_an_import() -> None:
    with v1_graph() as graph:
        chain(v1.placeholder(tf.float32, [None, 4], name="x"))
    types = tensor_infos(graph.as_graph_def())
    types["y:0"] = TensorInfo(name="y:0", dtype="float32", shape=(7, 4))
    (only,) = segment(graph.as_graph_def(), tensor_types=types).segments
    assert only.outputs[0].shape == (7, 4)


def test_counts_and_description() -> None:
    def build(x: tf.Tensor) -> None:
        chain(tf.sin(tf.sin(x)))

    segmentation = segment(build, is_supported=unless("Sin"))
    assert segmentation.coverage == pytest.approx(3 / 5)
    assert segmentation.refusals_by_op() == {"Sin": 2}
    assert segmentation.refusals_by_category() == {RefusalCategory.OP_NOT_SUPPORTED: 2}
    text = segmentation.describe()
    assert "1 segment with 3 of 5 compute nodes (60.0%)" in text
    assert "tf_opt_segment_0: 3 nodes, 1 inputs, 0 weights, 1 outputs" in text
    assert "2 x Sin (op not supported), such as 'Sin': Sin is forbidden here" in text


def test_empty_segmentation_describes_itself() -> None:
    with v1_graph() as graph:
        v1.placeholder(tf.float32, [4, 4], name="x")
    segmentation = segment(graph.as_graph_def(), outputs=("x:0",))
    assert segmentation.coverage == 0.0
    assert segmentation.describe() == "0 segments with 0 of 0 compute nodes (0.0%)"
