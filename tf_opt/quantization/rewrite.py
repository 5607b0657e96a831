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

Before:
    y = Conv(x, W); z = Mul(y, factor); r = Add(z, b); a = Relu(r)
After:
    q = QuantizeLinear(x, scale, zero_point)                once for all convolutions that read x
    d = DequantizeLinear(q, scale, zero_point)              one for each convolution
    w = DequantizeLinear(W_int8, scales, axis=0)            W_int8 holds W * factor
    r = Conv(d, w, b_corrected); a = Relu(r)
    e = DequantizeLinear(QuantizeLinear(a))                 for ONNX Runtime, one for each reader of a

For OpenVINO a convolution of single elements with strides reads p = MaxPool(d), which has the strides in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from tf_opt.quantization.constants import constant_array
from tf_opt.quantization.convolution_search import quantized_filters
from tf_opt.quantization.convolutions import Convolution, sampling_strides
from tf_opt.quantization.layers import AnyLayer, Layer
from tf_opt.quantization.recipe import LayerRecipe, Recipe
from tf_opt.quantization.search import quantize_weight

Array: TypeAlias = np.ndarray[Any, Any]


def apply_recipe(model: ir.Model, layers: Sequence[AnyLayer], recipe: Recipe) -> ir.Model:
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

    def copied(node: ir.Node | None) -> ir.Node | None:
        return None if node is None else nodes[positions[id(node)]]

    results: list[tuple[ir.Value, LayerRecipe]] = []
    for entry in recipe.layers:
        layer, node = by_position[entry.position], nodes[entry.position]
        if isinstance(layer, Layer):
            writer.quantize(node, layer, entry, copied(layer.bias_node))
            continue
        last, activating = copied(layer.result.producer()), copied(layer.activated.producer())
        if last is None or activating is None:
            raise ValueError(f"The convolution {entry.name!r} has no result.")
        result = writer.quantize_convolution(node, layer, entry, last.outputs[0])
        results.append((result if layer.activated is layer.result else activating.outputs[0], entry))
    # After all that read a result have quantized it, each once for all.
    for value, entry in results:
        writer.quantize_result(value, entry)
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
        node.replace_input_with(0, self._dequantized_activation(node, activation, entry))
        node.replace_input_with(1, self._dequantized_weight(node, weight, layer, entry))
        if entry.bias_shift is not None and bias_node is not None and layer.bias is not None:
            self._shift_bias(bias_node, layer, entry.name, entry.bias_shift)

    def quantize_convolution(self, node: ir.Node, layer: Convolution, entry: LayerRecipe, result: ir.Value) -> ir.Value:
        """Puts a quantized convolution with factor and bias in the place of `node` and those behind it.

        Returns:
            What is now in the place of `result`, with its name.
        """
        activation = node.inputs[0]
        if activation is None:
            raise ValueError(f"The convolution {entry.name!r} lacks an input.")
        inputs = [self._dequantized_activation(node, activation, entry), self._dequantized_filters(node, layer, entry)]
        attributes = list(node.attributes.values())
        if self._recipe.samples_first and (strides := sampling_strides(node, layer.shape)):
            inputs[0] = self._sampled(node, inputs[0], strides, entry.name)
            attributes = [each for each in attributes if each.name != "strides"]
        biases = [bias for bias in (layer.bias, entry.bias_shift) if bias is not None]
        if biases:
            bias = np.asarray(sum(biases[1:], start=biases[0]), np.float32)
            inputs.append(self._constant(bias, f"{entry.name}/bias_corrected"))
        name = node.name
        made = ir.Node("", "Conv", inputs, attributes, name=name).outputs[0]
        self._graph.insert_before(node, _producer(made))
        node.name = None
        made.name, made.type, made.shape = result.name, result.type, result.shape
        result.name = self._unused(f"{entry.name}/before")
        result.replace_all_uses_with(made, replace_graph_outputs=True)
        return made

    def _sampled(self, node: ir.Node, activation: ir.Value, strides: Sequence[int], name: str) -> ir.Value:
        """Returns the places of an activation that filters of one element read."""
        single = [1] * len(strides)
        sampled = self._add(node, "MaxPool", [activation], f"{name}/sampled", kernel_shape=single, strides=strides)
        sampled.type = ir.TensorType(ir.DataType.FLOAT)
        return sampled

    def quantize_result(self, value: ir.Value, entry: LayerRecipe) -> None:
        """Lets all that read the result of a convolution read it quantized, where the engine wants that."""
        if entry.result_scale is None:
            return
        reading = [use.node for use in value.uses()]
        quantize = next((node for node in reading if node.op_type == "QuantizeLinear"), None)
        if quantize is None:
            name = f"{entry.name}/result"
            grid = self._grid(entry.result_scale, entry.result_zero_point, name)
            quantize = _producer(self._quantize(_producer(value), value, grid, name, behind=True))
        else:
            # It stands in front of the first that wanted it; others may come before that.
            self._graph.remove(quantize)
            self._graph.insert_after(_producer(value), quantize)
        for node in dict.fromkeys(reading):
            if node is quantize:
                continue
            dequantized = self._add(
                node, "DequantizeLinear", [quantize.outputs[0], *quantize.inputs[1:]], f"{entry.name}/read"
            )
            dequantized.type, dequantized.shape = ir.TensorType(ir.DataType.FLOAT), value.shape
            for index, each in enumerate(node.inputs):
                if each is value:
                    node.replace_input_with(index, dequantized)

    def _dequantized_activation(self, node: ir.Node, activation: ir.Value, entry: LayerRecipe) -> ir.Value:
        inputs = self._quantized_activation(node, activation, entry)
        dequantized = self._add(node, "DequantizeLinear", inputs, f"{entry.name}/input")
        dequantized.type, dequantized.shape = ir.TensorType(ir.DataType.FLOAT), activation.shape
        return dequantized

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
            scale, zero_point = self._grid(entry.scale, entry.zero_point, name)
            quantized = self._quantize(node, source, (scale, zero_point), name)
            self._quantized[key] = (quantized, scale, zero_point)
        return self._quantized[key]

    def _grid(self, scale: float, zero_point: int, name: str) -> tuple[ir.Value, ir.Value]:
        """Returns a step and the number that means 0 as constants."""
        dtype = np.int8 if self._recipe.symmetric else np.uint8
        return (
            self._constant(np.asarray(scale, np.float32), f"{name}/scale"),
            self._constant(np.asarray(zero_point, dtype), f"{name}/zero_point"),
        )

    def _quantize(
        self, at: ir.Node, source: ir.Value, grid: tuple[ir.Value, ir.Value], name: str, behind: bool = False
    ) -> ir.Value:
        quantized = self._add(at, "QuantizeLinear", [source, *grid], name, behind=behind)
        quantized.type, quantized.shape = ir.TensorType(grid[1].dtype or ir.DataType.UINT8), source.shape
        return quantized

    def _dequantized_weight(self, node: ir.Node, weight: ir.Value, layer: Layer, entry: LayerRecipe) -> ir.Value:
        factors = None if entry.smoothing is None else entry.smoothing.tobytes()
        # A weight that several layers share, smoothed alike, is stored once.
        key = (layer.weight, layer.transposed, factors)
        if key not in self._weights:
            levels, shape = self._recipe.weight_levels, _shape(layer)
            values = _LazyArray(lambda: _quantized_values(layer, entry, levels), np.int8, shape)
            self._weights[key] = self._dequantize_weight(node, values, shape, entry, layer.channel_axis)
        return self._weights[key]

    def _dequantized_filters(self, node: ir.Node, layer: Convolution, entry: LayerRecipe) -> ir.Value:
        factor = None if layer.factor is None else layer.factor.tobytes()
        key = (layer.weight, factor, entry.weight_scales.tobytes())
        if key not in self._weights:
            levels = self._recipe.weight_levels
            values = _LazyArray(lambda: quantized_filters(layer, entry.weight_scales, levels), np.int8, layer.shape)
            self._weights[key] = self._dequantize_weight(node, values, layer.shape, entry, axis=0)
        return self._weights[key]

    def _dequantize_weight(
        self, node: ir.Node, values: _LazyArray, shape: tuple[int, ...], entry: LayerRecipe, axis: int
    ) -> ir.Value:
        name = f"{entry.name}/weight"
        quantized = self._lazy(values, f"{name}_int8")
        scales = self._constant(entry.weight_scales, f"{name}_scales")
        made = self._add(node, "DequantizeLinear", [quantized, scales], name, axis=axis)
        made.type, made.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
        return made

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

    def _add(
        self,
        at: ir.Node,
        op: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        *,
        behind: bool = False,
        **attributes: int | Sequence[int],
    ) -> ir.Value:
        node = ir.node(op, inputs, attributes, name=self._unused(name))
        node.outputs[0].name = node.name
        insert = self._graph.insert_after if behind else self._graph.insert_before
        insert(at, node)
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


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    if node is None:
        raise ValueError(f"Nothing computes {value.name!r}.")
    return node


def _shape(layer: Layer) -> tuple[int, int]:
    return (layer.shape[1], layer.shape[0]) if layer.transposed else layer.shape


def _quantized_values(layer: Layer, entry: LayerRecipe, levels: int) -> Array:
    matrix = layer.matrix()
    if entry.smoothing is not None:
        matrix = matrix / entry.smoothing[:, None]
    quantized = quantize_weight(matrix, entry.weight_scales, levels)
    return np.ascontiguousarray(quantized.T if layer.transposed else quantized)
