"""Counts the building blocks of transformers in a model."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from tf_opt.onnx_target import GELU_OPSET
from tf_opt.passes.onnx.attention import find_attention
from tf_opt.passes.onnx.fuse_gelu import FuseGelu
from tf_opt.passes.onnx.fuse_layer_normalization import FuseLayerNormalization
from tf_opt.passes.onnx.nodes import producer
from tf_opt.passes.onnx.symbolic_shapes import SymbolicShapes

_ATTENTION_OPERATORS = ("Attention", "MultiHeadAttention")


def count_patterns(model: ir.Model) -> dict[str, int]:
    """Returns how many "layer_normalization", "gelu" and "attention" there are, as one operator or written out.

    Args:
        model: A model before or after the canonical passes; it is not changed.
    """
    copy = model.clone()
    copy.opset_imports[""] = max(copy.opset_imports.get("", 0), GELU_OPSET)  # Only so that Gelu may be written.
    FuseLayerNormalization().run(copy)
    FuseGelu().run(copy)
    operators = Counter(node.op_type for node in copy.graph)
    for value in [value for value in copy.graph.outputs if value.uses() and producer(value, "Softmax")]:
        copy.graph.outputs.remove(value)  # Attention whose weights are fetched too is attention.
    blocks = sum(1 for _ in find_attention(copy, SymbolicShapes(copy)))
    return {
        "layer_normalization": operators["LayerNormalization"],
        "gelu": operators["Gelu"],
        "attention": blocks + sum(operators[name] for name in _ATTENTION_OPERATORS),
    }
