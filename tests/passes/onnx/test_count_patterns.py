from __future__ import annotations

import pytest

from tests.passes.onnx.attention_graphs import BOTH_SCALED, DISTILBERT, HUGGING_FACE, KERAS, attention
from tests.passes.onnx.pass_checks import canonical_text, model_of
from tests.passes.onnx.test_fuse_gelu import EXACT, TANH, gelu_model
from tests.passes.onnx.test_fuse_layer_normalization import MOMENTS, TENSORFLOW, layer_norm
from tf_opt.onnx_target import OnnxTarget
from tf_opt.passes.onnx.count_patterns import count_patterns
from tf_opt.passes.onnx.pass_base import OnnxPipeline
from tf_opt.passes.onnx.pipeline import canonical_passes


def expected(**counts):
    return {"layer_normalization": 0, "gelu": 0, "attention": 0, **counts}


@pytest.mark.parametrize("body", [EXACT["tensorflow"], TANH["horner"]], ids=["exact", "tanh"])
@pytest.mark.parametrize("opset", [17, 20])
def test_gelu_written_out(body, opset):
    model = gelu_model(body, opset=opset)
    text = canonical_text(model)
    assert count_patterns(model) == expected(gelu=1)
    assert canonical_text(model) == text


def test_layer_normalization_written_out():
    assert count_patterns(layer_norm(MOMENTS + TENSORFLOW)) == expected(layer_normalization=1)


@pytest.mark.parametrize("body", [HUGGING_FACE, DISTILBERT, KERAS, BOTH_SCALED])
@pytest.mark.parametrize("form", ["matmul", "onnx", "microsoft"])
def test_attention_in_each_form(body, form):
    model = attention(body, opset=17)
    assert count_patterns(model) == expected(attention=1)
    OnnxPipeline(canonical_passes(OnnxTarget(name="any", opset=23, gelu=True, attention=form))).run(model)
    assert count_patterns(model) == expected(attention=1)
    operators = {"matmul": "Softmax", "onnx": "Attention", "microsoft": "MultiHeadAttention"}
    assert operators[form] in {node.op_type for node in model.graph}


def test_attention_whose_weights_are_fetched_too():
    model = attention(HUGGING_FACE, outputs="float[B, S, 8] y, float[B, 2, S, S] p")
    assert count_patterns(model) == expected(attention=1)
    assert len(model.graph.outputs) == 2


def test_none():
    assert count_patterns(model_of("g (float[B, 8] x) => (float[B, 8] y) { y = Softmax(x) }")) == expected()
