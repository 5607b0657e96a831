"""Writes a recipe into a segment as QuantizeLinear and DequantizeLinear nodes.

Before:
    y = MatMul(x, W); z = Add(y, b)
After:
    s = Mul(x, smoothing)                                   where smoothing pays
    q = QuantizeLinear(s, scale, zero_point)                once for all layers that read x
    d = DequantizeLinear(q, scale, zero_point)              one for each layer
    w = DequantizeLinear(W_int8, scales, axis=<output>)     W_int8 is an initializer of one byte an element
    y = MatMul(d, w); z = Add(y, b_corrected)

Each layer has a DequantizeLinear of its own and activations are uint8 on CPUs: ONNX Runtime fuses only that into int8
kernels where several layers read one tensor. OpenVINO and TensorRT take it as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from tf_opt.quantization.layers import Layer, constant_array
from tf_opt.quantization.recipe import LayerRecipe, Recipe
from tf_opt.quantization.search import quantize_weight

Array: TypeAlias = np.ndarray[Any, Any]


def apply_recipe(model: ir.Model, layers: Sequence[Layer], recipe: Recipe) -> ir.Model:
    """Returns a quantized copy of a segment; `model` and its constants are neither changed nor copied.

    Weights are quantized when their values are asked for, each time anew.

    Args:
        model: The segment.
        layers: What `find_layers` finds in it.
        recipe: How to quantize the layers at these positions; others stay as they are.
    """
    copy = model.clone()
    nodes = list(copy.graph)
    positions = {id(node): position for position, node in enumerate(model.graph)}
    by_position = {layer.position: layer for layer in layers}
    writer = _Writer(copy.graph, recipe)
    for entry in recipe.layers:
        layer = by_position[entry.position]
        bias_node = None if layer.bias_node is None else nodes[positions[id(layer.bias_node)]]
        writer.quantize(nodes[entry.position], layer, entry, bias_node)
    # What made constants of constants, and the constants themselves, may have lost their last reader.
    RemoveUnusedNodesPass()(copy)
    return copy


class _Writer:
    """Adds the nodes of one recipe to a graph."""

    def __init__(self, graph: ir.Graph, recipe: Recipe) -> None:
        self._graph = graph
        self._recipe = recipe
        self._names = {value.name for node in graph for value in node.outputs} | set(graph.initializers)
        self._names |= {value.name for value in graph.inputs}
        self._quantized: dict[tuple[Any, ...], tuple[ir.Value, ir.Value, ir.Value]] = {}
        self._weights: dict[tuple[Any, ...], ir.Value] = {}

    def quantize(self, node: ir.Node, layer: Layer, entry: LayerRecipe, bias_node: ir.Node | None) -> None:
        """Lets `node` read quantized inputs and its bias, where it has one, the corrected one."""
        activation, weight = node.inputs[0], node.inputs[1]
        if activation is None or weight is None:
            raise ValueError(f"The layer {entry.name!r} lacks an input.")
        quantized, scale, zero_point = self._quantized_activation(node, activation, entry)
        dequantized = self._add(node, "DequantizeLinear", [quantized, scale, zero_point], f"{entry.name}/input")
        dequantized.type, dequantized.shape = ir.TensorType(ir.DataType.FLOAT), activation.shape
        node.replace_input_with(0, dequantized)
        node.replace_input_with(1, self._dequantized_weight(node, weight, layer, entry))
        if entry.bias_shift is not None and bias_node is not None and layer.bias is not None:
            self._shift_bias(bias_node, layer, entry.name, entry.bias_shift)

    def _quantized_activation(
        self, node: ir.Node, activation: ir.Value, entry: LayerRecipe
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        factors = None if entry.smoothing is None else entry.smoothing.tobytes()
        key = (activation, entry.scale, entry.zero_point, factors)
        if key not in self._quantized:
            name = f"{entry.name}/quantized"
            source = activation
            if entry.smoothing is not None:
                smoothing = self._constant(entry.smoothing, f"{name}/smoothing")
                source = self._add(node, "Mul", [activation, smoothing], f"{name}/smoothed")
                source.type, source.shape = ir.TensorType(ir.DataType.FLOAT), activation.shape
            dtype = np.int8 if self._recipe.symmetric else np.uint8
            scale = self._constant(np.asarray(entry.scale, np.float32), f"{name}/scale")
            zero_point = self._constant(np.asarray(entry.zero_point, dtype), f"{name}/zero_point")
            quantized = self._add(node, "QuantizeLinear", [source, scale, zero_point], name)
            quantized.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
            quantized.shape = activation.shape
            self._quantized[key] = (quantized, scale, zero_point)
        return self._quantized[key]

    def _dequantized_weight(self, node: ir.Node, weight: ir.Value, layer: Layer, entry: LayerRecipe) -> ir.Value:
        factors = None if entry.smoothing is None else entry.smoothing.tobytes()
        # A weight that several layers share, smoothed alike, is stored once.
        key = (layer.weight, layer.transposed, factors)
        if key not in self._weights:
            name = f"{entry.name}/weight"
            levels, shape = self._recipe.weight_levels, _shape(layer)
            values = _LazyArray(lambda: _quantized_values(layer, entry, levels), np.int8, shape)
            quantized = self._lazy(values, f"{name}_int8")
            scales = self._constant(entry.weight_scales, f"{name}_scales")
            made = self._add(node, "DequantizeLinear", [quantized, scales], name, axis=layer.channel_axis)
            made.type, made.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
            self._weights[key] = made
        return self._weights[key]

    def _shift_bias(self, bias_node: ir.Node, layer: Layer, name: str, shift: Array) -> None:
        bias = layer.bias
        if bias is None:
            return

        def corrected() -> Array:
            return np.asarray(constant_array(bias) + shift, np.float32)

        value = self._lazy(_LazyArray(corrected, np.float32, shift.shape), f"{name}/bias_corrected")
        # The copy's constants have the names of the original's.
        index = next(i for i, each in enumerate(bias_node.inputs) if each is not None and each.name == bias.name)
        bias_node.replace_input_with(index, value)

    def _add(self, before: ir.Node, op: str, inputs: Sequence[ir.Value], name: str, **attributes: int) -> ir.Value:
        node = ir.node(op, inputs, attributes, name=self._unused(name))
        node.outputs[0].name = node.name
        self._graph.insert_before(before, node)
        return node.outputs[0]

    def _constant(self, array: Array, name: str) -> ir.Value:
        return self._register(ir.tensor(array, name=self._unused(name)))

    def _lazy(self, values: _LazyArray, name: str) -> ir.Value:
        return self._register(values.tensor(self._unused(name)))

    def _register(self, tensor: ir.TensorProtocol) -> ir.Value:
        shape = ir.Shape(tensor.shape.numpy())
        value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def _unused(self, name: str) -> str:
        unique, number = name, 0
        while unique in self._names:
            number += 1
            unique = f"{name}_{number}"
        self._names.add(unique)
        return unique


class _LazyArray:
    """Values that are computed when they are asked for and not kept."""

    def __init__(self, compute: Callable[[], Array], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
        self._compute = compute
        self._dtype = ir.DataType.from_numpy(np.dtype(dtype))
        self._shape = ir.Shape(shape)

    def tensor(self, name: str) -> ir.LazyTensor:
        return ir.LazyTensor(
            lambda: ir.Tensor(self._compute(), dtype=self._dtype, name=name),
            dtype=self._dtype,
            shape=self._shape,
            name=name,
        )


def _shape(layer: Layer) -> tuple[int, int]:
    return (layer.shape[1], layer.shape[0]) if layer.transposed else layer.shape


def _quantized_values(layer: Layer, entry: LayerRecipe, levels: int) -> Array:
    matrix = layer.matrix()
    if entry.smoothing is not None:
        matrix = matrix / entry.smoothing[:, None]
    quantized = quantize_weight(matrix, entry.weight_scales, levels)
    return np.ascontiguousarray(quantized.T if layer.transposed else quantized)
