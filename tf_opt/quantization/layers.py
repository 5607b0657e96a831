"""Finds what can be quantized: matrix products of something that changes with a constant matrix, and convolutions.

A layer is known by its position among the graph's nodes as well as by its name, because names differ between two
exports of the same graph, and results are kept from one to the next.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from tf_opt.passes.onnx.collapse_tensordot import PRODUCT_SUFFIX
from tf_opt.passes.onnx.convert_precision_types import ElementTypes
from tf_opt.quantization.constants import constant_array, constant_shape, is_constant
from tf_opt.quantization.convolutions import Convolution, convolution_of
from tf_opt.quantization.settings import QUANTIZABLE_OPS, QuantizationSettings

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A matrix product that can be quantized.

    Attributes:
        position: Index of the node in the graph.
        name: The node's name, or its output's where it has none; unique in the graph.
        node: The node.
        activation: What changes from run to run, [..., K].
        weight: The constant matrix, [K, N], or [N, K] where `transposed`.
        transposed: Whether the weight's rows are the output channels.
        shape: (K, N).
        bias: The constant [N] that is added to the product; None where nothing is.
        bias_node: The node that adds it.
    """

    position: int
    name: str
    node: ir.Node
    activation: ir.Value
    weight: ir.Value
    transposed: bool
    shape: tuple[int, int]
    bias: ir.Value | None = None
    bias_node: ir.Node | None = None

    @property
    def channel_axis(self) -> int:
        """The weight's axis of output channels."""
        return 0 if self.transposed else 1

    def matrix(self) -> Array:
        """Returns the weight's values as [K, N]."""
        values = constant_array(self.weight)
        return values.T if self.transposed else values


AnyLayer: TypeAlias = Layer | Convolution


@dataclass(frozen=True, kw_only=True)
class SkippedLayer:
    """A node that stays in floating point, and why."""

    name: str
    op: str
    reason: str


def find_layers(model: ir.Model, settings: QuantizationSettings) -> tuple[list[AnyLayer], list[SkippedLayer]]:
    """Returns what to quantize, in the graph's order, and what could have been but stays in floating point.

    Args:
        model: A segment in canonical form or as it was exported.
        settings: Denied operators and nodes; the smallest weight; the engine.
    """
    layers: list[AnyLayer] = []
    skipped: list[SkippedLayer] = []
    names = Counter(node.name for node in model.graph)
    types = ElementTypes(model)
    for position, node in enumerate(model.graph):
        if node.domain or node.op_type not in QUANTIZABLE_OPS:
            continue
        name = node.name if node.name and names[node.name] == 1 else str(node.outputs[0].name)
        found: AnyLayer | str = _refused_type(node, types)
        if not found:
            found = convolution_of(position, name, node) if node.op_type == "Conv" else _layer(position, name, node)
        reason = found if isinstance(found, str) else _denial(found, settings)
        if isinstance(found, str) or reason:
            skipped.append(SkippedLayer(name=name, op=node.op_type, reason=reason))
        else:
            layers.append(found)
    return layers, skipped


def products_of(layers: Sequence[AnyLayer]) -> list[Layer]:
    """Returns the matrix products among layers."""
    return [layer for layer in layers if isinstance(layer, Layer)]


def convolutions_of(layers: Sequence[AnyLayer]) -> list[Convolution]:
    """Returns the convolutions among layers."""
    return [layer for layer in layers if isinstance(layer, Convolution)]


def possible_layer_names(node: str) -> tuple[str, ...]:
    """Returns the names that `find_layers` may give to what a node of the TensorFlow graph computes.

    Passes that run before it may write a product anew; those that merge products run behind it.

    Args:
        node: Its name in the graph that is exported.
    """
    return tuple(f"{name}{output}" for name in (node, f"{node}{PRODUCT_SUFFIX}") for output in ("", ":0"))


def denial(name: str, op: str, settings: QuantizationSettings) -> str:
    """Returns why the settings keep a node in floating point; empty where they do not."""
    if op in settings.denied_ops:
        return f"{op} is in denied_ops"
    pattern = next((each for each in settings.denied_nodes if fnmatch.fnmatchcase(name, each)), None)
    return "" if pattern is None else f"{pattern!r} is in denied_nodes"


def groups_of(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Returns the layers that read the same tensor together: its quantized form is computed once for all of them."""
    groups: dict[ir.Value, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.activation, []).append(layer)
    return list(groups.values())


def _refused_type(node: ir.Node, types: ElementTypes) -> str:
    """Returns why the element type of a node's operands is not quantized; empty where it is, or is not known."""
    known = (types.of(value) for value in node.inputs[:2])
    other = next((dtype for dtype in known if dtype not in (None, ir.DataType.FLOAT)), None)
    what = "convolutions" if node.op_type == "Conv" else "products"
    return "" if other is None else f"it computes in {other}, and only {what} in FLOAT are quantized"


def _layer(position: int, name: str, node: ir.Node) -> Layer | str:
    """Returns what is to be known of a product, or why it cannot be quantized."""
    activation, weight = node.inputs[0], node.inputs[1]
    if activation is None or weight is None:
        return "an input is missing"
    if not is_constant(weight):
        changing = "only its first input is constant" if is_constant(activation) else "both inputs change"
        return f"{changing}, and only products with a constant second matrix are quantized"
    if is_constant(activation):
        return "both inputs are constant"
    shape = constant_shape(weight)
    if shape is None or len(shape) != 2:
        return "its weight is no matrix"
    transposed = False
    if node.op_type == "Gemm":
        numbers = {key: attribute.value for key, attribute in node.attributes.items()}
        if numbers.get("transA", 0) or numbers.get("alpha", 1.0) != 1.0 or numbers.get("beta", 1.0) != 1.0:
            return "it is a Gemm with transA, alpha or beta"
        transposed = bool(numbers.get("transB", 0))
    columns = shape[0] if transposed else shape[1]
    bias, bias_node = _bias(node, columns)
    return Layer(
        position=position,
        name=name,
        node=node,
        activation=activation,
        weight=weight,
        transposed=transposed,
        shape=(shape[1], shape[0]) if transposed else (shape[0], shape[1]),
        bias=bias,
        bias_node=bias_node,
    )


def _bias(node: ir.Node, columns: int) -> tuple[ir.Value | None, ir.Node | None]:
    """Returns the constant that is added to a product right behind it, and the node that adds it."""
    candidates: list[tuple[ir.Value | None, ir.Node]] = []
    if node.op_type == "Gemm":
        candidates.append((node.inputs[2] if len(node.inputs) > 2 else None, node))
    else:
        product = node.outputs[0]
        uses = list(product.uses())
        if len(uses) == 1 and not product.is_graph_output() and uses[0].node.op_type == "Add":
            add = uses[0].node
            candidates.append((add.inputs[1 - uses[0].idx], add))
    for value, adder in candidates:
        if value is not None and is_constant(value) and constant_shape(value) == (columns,):
            return value, adder
    return None, None


def _denial(layer: AnyLayer, settings: QuantizationSettings) -> str:
    if isinstance(layer, Convolution):
        if settings.quantizes_results and layer.activated.is_graph_output():
            return "its result leaves the segment, and ONNX Runtime needs int8 results of int8 convolutions"
        return denial(layer.name, layer.node.op_type, settings)
    elements = layer.shape[0] * layer.shape[1]
    if elements < settings.minimum_weight_elements:
        return f"its weight has {elements} elements, fewer than {settings.minimum_weight_elements}"
    return denial(layer.name, layer.node.op_type, settings)
