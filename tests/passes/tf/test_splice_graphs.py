"""Whole graphs, random ones and a BERT, give the same results after splicing."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tests.passes.tf.spliced_graphs import SHAPE, check_splice, unless, v1, v1_graph, value
from tf_opt.passes.tf.graph_view import GraphView

BERT_LAYERS = 2


@st.composite
def random_graphs(draw: st.DrawFn) -> tuple[GraphDef, list[str]]:
    """Random graphs over [4, 4] and [2, 4] tensors, with a forbidden op, control edges, weights and small constants."""
    number = st.integers(0, 10_000)
    with v1_graph() as graph:
        squares = [v1.placeholder(tf.float32, SHAPE, name=f"x{i}") for i in range(2)]
        squares.append(tf.constant(value(9), name="weight"))
        halves: list[tf.Tensor] = []

        def square() -> tf.Tensor:
            return squares[draw(number) % len(squares)]

        for _ in range(draw(st.integers(3, 14))):
            waits = [square().op] if draw(st.integers(0, 5)) == 0 else []
            with tf.control_dependencies(waits):
                kind = draw(st.integers(0, 10))
                if kind == 0:
                    squares.append(tf.raw_ops.AddV2(x=square(), y=square()))
                elif kind == 1:
                    squares.append(tf.raw_ops.Mul(x=square(), y=tf.constant(draw(st.integers(1, 3)) / 2)))
                elif kind == 2:
                    squares.append(tf.tanh(tf.matmul(square(), square())))  # Bounded, so that nothing overflows.
                elif kind == 3:
                    squares.append(tf.nn.relu(square()))
                elif kind == 4:
                    halves += tf.split(square(), 2)
                elif kind == 5 and halves:
                    pair = [halves[draw(number) % len(halves)] for _ in range(2)]
                    squares.append(tf.concat(pair, 0))
                elif kind == 6:
                    squares.append(tf.identity(square()))
                elif kind == 7:
                    squares.append(tf.negative(square()))
                else:
                    squares.append(tf.sin(square()))
        candidates = squares + halves
        outputs = [candidates[-1].name]
        outputs += [candidates[draw(number) % len(candidates)].name for _ in range(draw(st.integers(0, 3)))]
    return graph.as_graph_def(), outputs


@settings(max_examples=120, deadline=None)
@given(random_graphs(), st.integers(1, 4))
def test_random_graphs_give_equal_results(graph_and_outputs: tuple[GraphDef, list[str]], minimum_size: int) -> None:
    graph_def, outputs = graph_and_outputs
    feeds = {"x0": value(1), "x1": value(2)}
    segmentation, spliced = check_splice(
        graph_def, outputs, feeds, is_supported=unless("Sin"), minimum_segment_size=minimum_size
    )
    assert all(len(segment.nodes) >= minimum_size for segment in segmentation.segments)
    assert len(GraphView(spliced)) <= len(graph_def.node) + len(segmentation.segments)


@pytest.fixture(scope="module")
def bert() -> tuple[GraphDef, str]:
    """A tiny frozen TFBertModel and the name of its output."""
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=BERT_LAYERS, num_attention_heads=2, intermediate_size=64
    )
    model = transformers.TFBertModel(config)
    spec = tf.TensorSpec([None, None], tf.int32)
    function = tf.function(
        lambda ids, mask: model(input_ids=ids, attention_mask=mask).last_hidden_state, input_signature=[spec, spec]
    )
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    return frozen.graph.as_graph_def(), frozen.outputs[0].name


@pytest.mark.slow
@pytest.mark.parametrize(("forbidden", "segments"), [((), 1), (("Erfc",), BERT_LAYERS + 1)])
def test_bert(bert: tuple[GraphDef, str], forbidden: tuple[str, ...], segments: int) -> None:
    graph_def, output = bert
    names = [node.name for node in graph_def.node if node.op == "Placeholder"]
    feeds = [{name: np.ones((batch, length), np.int32) for name in names} for batch, length in ((1, 7), (3, 16))]
    segmentation, _ = check_splice(
        graph_def,
        [output],
        feeds,
        is_supported=unless(*forbidden),
        minimum_segment_size=3,
        minimum_weight_elements=512,
    )
    assert len(segmentation.segments) == segments
    assert segmentation.coverage > 0.95
