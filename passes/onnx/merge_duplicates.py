"""Computes equal things once, and keeps equal constants once."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

import onnx_ir as ir

from tf_opt.passes.onnx.nodes import rewrite
from tf_opt.passes.onnx.pass_base import OnnxPass
from tf_opt.passes.onnx.segment_weights import MINIMUM_WEIGHT_ELEMENTS

_NOT_REPEATABLE = frozenset(
    "Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)
"""Operators of which two calls give different results."""


class MergeDuplicates(OnnxPass):
    """Lets the readers of equal nodes read one of them, and likewise for equal small constants.

    The arithmetic of an attention mask, which libraries repeat in each layer, is so done once. A node whose output is
    an output of the graph becomes an Identity of the one that stays. Big constants are not compared.

    Before:
        a = Sub(1.0, mask)    b = Sub(1.0, mask)    y = Add(Add(x, a), b)
    After:
        a = Sub(1.0, mask)    y = Add(Add(x, a), a)
    """

    name: ClassVar[str] = "merge_duplicates"
    ensures: ClassVar[frozenset[str]] = frozenset({"no_duplicates"})

    def run(self, model: ir.Model) -> int:
        """See `OnnxPass.run`."""
        return _merge_constants(model.graph) + _merge_nodes(model.graph)


def _merge_constants(graph: ir.Graph) -> int:
    kept: dict[Hashable, ir.Value] = {}
    count = 0
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if (
            tensor is None
            or tensor.size >= MINIMUM_WEIGHT_ELEMENTS
            or value.is_graph_output()
            or value.is_graph_input()
        ):
            continue
        first = kept.setdefault(_tensor_key(tensor), value)
        if first is not value:
            value.replace_all_uses_with(first)
            del graph.initializers[name]
            count += 1
    return count


def _tensor_key(tensor: ir.TensorProtocol) -> Hashable:
    content = tuple(tensor.numpy().ravel()) if tensor.dtype is ir.DataType.STRING else tensor.tobytes()
    return tensor.dtype, tuple(tensor.shape.numpy()), content


def _merge_nodes(graph: ir.Graph) -> int:
    kept: dict[Hashable, ir.Node] = {}
    count = 0
    for node in list(graph):
        key = _node_key(node)
        if key is None:
            continue
        first = kept.setdefault(key, node)
        if first is node:
            continue
        is_output = any(value.is_graph_output() for value in node.outputs)
        if is_output and (len(node.outputs) != 1 or node.op_type == "Identity"):
            continue
        if is_output:
            for reader, index in list(node.outputs[0].uses()):
                reader.replace_input_with(index, first.outputs[0])
            rewrite(node, "Identity", [first.outputs[0]])
        else:
            for value, replacement in zip(node.outputs, first.outputs, strict=True):
                value.replace_all_uses_with(replacement)
            graph.remove(node, safe=True)
        count += 1
    return count


def _node_key(node: ir.Node) -> Hashable:
    """Returns what two nodes share exactly if they compute the same; None for those that are not to be compared."""
    if node.op_type in _NOT_REPEATABLE:
        return None
    attributes = []
    for name, found in sorted(node.attributes.items()):
        content: Hashable
        if found.is_ref():
            return None
        if found.type in (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING):
            content = found.value
        elif found.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS):
            content = tuple(found.value)
        elif found.type is ir.AttributeType.TENSOR and found.as_tensor().size < MINIMUM_WEIGHT_ELEMENTS:
            content = _tensor_key(found.as_tensor())
        else:
            return None  # Graphs of control flow, big constants, and what has no equality.
        attributes.append((name, found.type, content))
    return node.domain, node.op_type, node.overload, tuple(node.inputs), len(node.outputs), tuple(attributes)
