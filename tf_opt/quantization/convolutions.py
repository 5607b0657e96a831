"""Finds the convolutions that can be quantized, with what is multiplied by and added to each output channel.

    y = Conv(x, W); z = Mul(y, factor); r = Add(z, bias); a = Relu(r)

A batch normalization behind a convolution comes like that. Factor and bias go into the int8 weight and the
convolution's own bias: engines fuse no more than these and an activation into their int8 kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from tf_opt.quantization.constants import constant_array, constant_shape, is_constant

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution:
    """A convolution that can be quantized.

    Attributes:
        position: Index of the node in the graph.
        name: The node's name, or its output's where it has none; unique in the graph.
        node: The node.
        activation: What changes from run to run, [B, C, ...].
        weight: The constant filters, [N, C / groups, ...].
        shape: The weight's shape.
        factor: What each output channel is multiplied by, [N]; None for nothing.
        bias: What is added to each output channel then, [N]; None for nothing.
        result: What the convolution is with both.
        activated: What the Relu or Clip behind it makes of `result`, where it alone reads that and cuts at 0;
            `result` where there is none.
    """

    position: int
    name: str
    node: ir.Node
    activation: ir.Value
    weight: ir.Value
    shape: tuple[int, ...]
    factor: Array | None = field(repr=False)
    bias: Array | None = field(repr=False)
    result: ir.Value
    activated: ir.Value

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return self.shape[0]

    def matrix(self) -> Array:
        """Returns the filters times `factor`, [elements of a filter, N]."""
        filters = constant_array(self.weight).reshape(self.channels, -1)
        scaled = filters if self.factor is None else filters * self.factor[:, None]
        return np.asarray(scaled.T, np.float32)


def convolution_of(position: int, name: str, node: ir.Node) -> Convolution | str:
    """Returns what is to be known of a Conv, or why it cannot be quantized."""
    activation, weight = node.inputs[0], node.inputs[1]
    own_bias = node.inputs[2] if len(node.inputs) > 2 else None
    if activation is None or weight is None:
        return "an input is missing"
    if not is_constant(weight) or not (own_bias is None or is_constant(own_bias)):
        return "its filters or its bias change, and only convolutions with constant ones are quantized"
    if is_constant(activation):
        return "all its inputs are constant"
    shape = constant_shape(weight)
    if len(shape) not in (3, 4):
        return f"it slides along {len(shape) - 2} axes, and only convolutions along one or two are quantized"
    factor: Array | None = None
    bias = None if own_bias is None else np.asarray(constant_array(own_bias), np.float32)
    result = node.outputs[0]
    while (step := _step_behind(result, shape[0], len(shape))) is not None:
        follower, times, plus = step
        if times is not None:
            factor = times if factor is None else factor * times
            bias = None if bias is None else bias * times
        if plus is not None:
            bias = plus if bias is None else bias + plus
        result = follower.outputs[0]
    return Convolution(
        position=position,
        name=name,
        node=node,
        activation=activation,
        weight=weight,
        shape=shape,
        factor=factor,
        bias=bias,
        result=result,
        activated=_activated(result),
    )


def _only_reader(value: ir.Value) -> tuple[ir.Node, int] | None:
    """Returns the only node that reads a value, and where; None where there are others, or the value leaves."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.domain:
        return None
    return uses[0].node, uses[0].idx


def _step_behind(value: ir.Value, channels: int, rank: int) -> tuple[ir.Node, Array | None, Array | None] | None:
    """Returns the node that multiplies or adds a constant for each channel, with what it multiplies by and adds."""
    reader = _only_reader(value)
    if reader is None:
        return None
    node, index = reader
    if node.op_type == "BatchNormalization" and index == 0:
        return _batch_normalization(node)
    if node.op_type not in ("Add", "Div", "Mul", "Sub") or (index == 1 and node.op_type in ("Div", "Sub")):
        return None
    other = node.inputs[1 - index]
    if other is None or not is_constant(other, computed=True):
        return None
    if not _is_one_a_channel(constant_shape(other), channels, rank):
        return None
    numbers = np.broadcast_to(np.asarray(constant_array(other), np.float32).reshape(-1), (channels,))
    if node.op_type in ("Add", "Sub"):
        return node, None, numbers if node.op_type == "Add" else -numbers
    return node, numbers if node.op_type == "Mul" else 1 / numbers, None


def _batch_normalization(node: ir.Node) -> tuple[ir.Node, Array, Array] | None:
    training = node.attributes.get("training_mode")
    if training is not None and training.as_int():
        return None
    arrays = []
    for value in node.inputs[1:5]:
        if value is None or not is_constant(value, computed=True):
            return None
        arrays.append(np.asarray(constant_array(value), np.float32))
    scale, bias, mean, variance = arrays
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    factor = scale / np.sqrt(variance + np.float32(epsilon))
    return node, factor, bias - mean * factor


def _is_one_a_channel(shape: tuple[int, ...], channels: int, rank: int) -> bool:
    """Whether an array holds a number for each channel of [B, channels, ...], or one for all, and adds no axis."""
    if len(shape) > rank:
        return False
    sizes = (1,) * (rank - len(shape)) + shape
    return sizes[1] in (1, channels) and all(size == 1 for axis, size in enumerate(sizes) if axis != 1)


def _activated(result: ir.Value) -> ir.Value:
    reader = _only_reader(result)
    if reader is None:
        return result
    node, index = reader
    if node.op_type == "Relu":
        return node.outputs[0]
    if node.op_type == "Clip" and index == 0 and len(node.inputs) > 1 and is_constant(node.inputs[1]):
        lowest = node.inputs[1]
        if lowest is not None and not np.any(constant_array(lowest)):
            return node.outputs[0]
    return result


def sampling_strides(node: ir.Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the strides of a Conv that reads some places alone and no neighbours; empty where it reads all or more.

    Args:
        node: The Conv.
        shape: Shape of its filters.
    """
    numbers = {name: attribute.value for name, attribute in node.attributes.items()}
    strides = tuple(numbers.get("strides", ()))
    # Automatic padding of filters of one element is none.
    if set(shape[2:]) != {1} or not set(strides) - {1} or any(numbers.get("pads", ())):
        return ()
    return strides
