"""Recognizes layer normalization that is written out in means, squares and square roots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import onnx_ir as ir

from tf_opt.passes.onnx.nodes import (
    REAL_TYPES,
    add_constant,
    argument,
    attribute,
    axes_of,
    constant,
    insert,
    is_closed,
    owner,
    producer,
    rewrite,
    scalar,
)
from tf_opt.passes.onnx.pass_base import OnnxPass
from tf_opt.passes.onnx.symbolic_shapes import SymbolicShapes

_MAXIMUM_STEPS = 6
"""How many nodes lie between the deviation and the end of the pattern, at most."""

_MAXIMUM_TERMS = 8
"""Sums of more products are something else."""

_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Reciprocal"})

Term: TypeAlias = tuple[int, tuple[ir.Value, ...]]
"""A sign and the factors of a product."""


@dataclass(frozen=True, kw_only=True)
class _Moments:
    """Mean and deviation of a tensor over its last axis.

    Attributes:
        source: The tensor.
        rank: How many dimensions it has.
        size: Length of its last axis.
        mean: Its mean.
        key: 1 / sqrt(variance + epsilon), or sqrt(variance + epsilon) where the pattern divides by that.
        is_inverse: Whether `key` is the former.
        epsilon: The number added to the variance.
        dtype: Element type of all of it.
        nodes: The nodes that compute mean and deviation; the last one computes `key`.
    """

    source: ir.Value
    rank: int
    size: int
    mean: ir.Value
    key: ir.Value
    is_inverse: bool
    epsilon: float
    dtype: ir.DataType
    nodes: tuple[ir.Node, ...]


class FuseLayerNormalization(OnnxPass):
    """Replaces the arithmetic of layer normalization over the last axis by LayerNormalization.

    The end of the pattern is expanded into a sum of products, so that it does not matter whether the scale is
    multiplied with the deviation first (TensorFlow's batch_normalization), the mean is negated (Keras), or the
    difference is normalized and then scaled. Left alone: patterns of which another node or an output reads an
    intermediate, sizes that are not known, float64.

    Before, for x of shape [b, s, 8]:
        m = ReduceMean<axes=[-1]>(x)    d = Sub(x, m)    v = ReduceMean<axes=[-1]>(Mul(d, d))
        r = Mul(Reciprocal(Sqrt(Add(v, epsilon))), gamma)
        y = Add(Mul(x, r), Sub(beta, Mul(m, r)))
    After:
        y = LayerNormalization<axis=-1, epsilon=...>(x, gamma, beta)
    """

    name: ClassVar[str] = "fuse_layer_normalization"

    def run(self, model: ir.Model) -> int:
        """See `OnnxPass.run`."""
        if not any(node.op_type in ("Sqrt", "Pow") for node in model.graph):
            return 0
        shapes = SymbolicShapes(model)
        count = 0
        for node in list(model.graph):
            if node.graph is not None and node.op_type in ("Sqrt", "Pow") and node.domain == "":
                moments = _moments(node, shapes)
                count += moments is not None and _fuse(moments, shapes)
        return count


def _moments(node: ir.Node, shapes: SymbolicShapes) -> _Moments | None:
    """Returns the moments that end in a Sqrt, or in a Pow with exponent -0.5."""
    is_inverse = node.op_type == "Pow"
    if is_inverse and scalar(node.inputs[1], 1) != -0.5:
        return None
    added = producer(node.inputs[0], "Add")
    if added is None:
        return None
    for index in (0, 1):
        variance, epsilon_value = argument(added, index), argument(added, 1 - index)
        square = _mean_source(variance, shapes)
        difference = _squared(square)
        subtraction = producer(difference, "Sub")
        if square is None or difference is None or subtraction is None:
            continue
        for source_index in (0, 1):  # The square of mean - x is the same.
            source, mean = argument(subtraction, source_index), argument(subtraction, 1 - source_index)
            if _mean_source(mean, shapes) is not source:
                continue
            size, rank, epsilon = shapes.last(source), shapes.rank(source), constant(epsilon_value, 1)
            if size is None or rank is None or epsilon is None or epsilon.ndim > rank or not epsilon >= 0:
                return None
            dtype = ir.DataType.from_numpy(epsilon.dtype)
            if dtype not in REAL_TYPES:
                return None
            producers = [value.producer() for value in (mean, difference, square, variance)]
            return _Moments(
                source=source,
                rank=rank,
                size=size,
                mean=mean,
                key=node.outputs[0],
                is_inverse=is_inverse,
                epsilon=float(epsilon.reshape(())),
                dtype=dtype,
                nodes=(*(found for found in producers if found is not None), added, node),
            )
    return None


def _mean_source(value: ir.Value | None, shapes: SymbolicShapes) -> ir.Value | None:
    """Returns what `value` is the mean of over the last axis, that axis being kept with size 1."""
    node = producer(value, "ReduceMean", "GlobalAveragePool")
    if node is None:
        return None
    source = argument(node, 0)
    rank = shapes.rank(source)
    if node.op_type == "GlobalAveragePool":
        return source if rank == 3 else None  # It averages over all axes but two.
    if attribute(node, "keepdims", 1) != 1:
        return None
    axes = axes_of(node)
    return source if axes == (-1,) or (rank is not None and axes == (rank - 1,)) else None


def _squared(value: ir.Value | None) -> ir.Value | None:
    """Returns what `value` is the square of."""
    if (node := producer(value, "Mul")) is not None and node.inputs[0] is node.inputs[1]:
        return node.inputs[0]
    if (node := producer(value, "Pow")) is not None and scalar(node.inputs[1], 1) == 2:
        return node.inputs[0]
    return None


def _fuse(moments: _Moments, shapes: SymbolicShapes) -> bool:
    """Finds the end of the pattern behind the deviation, the farthest first, and rewrites it."""
    frontier, reached = [moments.nodes[-1]], dict[ir.Node, None]()
    for _ in range(_MAXIMUM_STEPS):
        read = [usage.node for node in frontier for usage in node.outputs[0].uses()]
        frontier = [node for node in dict.fromkeys(read) if node.domain == "" and node.op_type in _ARITHMETIC]
        reached.update(dict.fromkeys(frontier))
    return any(_fuse_at(end, moments, shapes) for end in reversed(reached))


def _fuse_at(end: ir.Node, moments: _Moments, shapes: SymbolicShapes) -> bool:
    nodes = set(moments.nodes)
    terms = _expand(end.outputs[0], moments, nodes, _MAXIMUM_STEPS)
    match = None if terms is None else _scale_and_bias(terms, moments)
    if match is None or not is_closed(nodes, end):
        return False
    scale, bias = match
    if not all(value is None or _is_vector(value, moments, shapes) for value in match):
        return False
    if scale is None:
        ones = np.ones(moments.size, moments.dtype.numpy())
        scale = add_constant(owner(end), ones, f"{end.name}/ones", moments.dtype)
    inputs = [moments.source, _flat(scale, moments, end, shapes)]
    if bias is not None:
        inputs.append(_flat(bias, moments, end, shapes))
    rewrite(end, "LayerNormalization", inputs, {"axis": -1, "epsilon": moments.epsilon})
    return True


def _expand(value: ir.Value, moments: _Moments, nodes: set[ir.Node], steps: int) -> list[Term] | None:
    """Returns a value as a sum of products of the source, its mean, 1 / deviation and whatever else.

    Args:
        value: The value.
        moments: What the pattern is about.
        nodes: Gets the nodes that were looked through.
        steps: How many nodes deep to look.

    Returns:
        The terms, in which `moments.key` stands for 1 / deviation; None where the value is no such sum.
    """
    if value in (moments.source, moments.mean) or (moments.is_inverse and value is moments.key):
        return [(1, (value,))]
    if value is moments.key:
        return None  # Multiplied with the deviation instead of divided by it.
    if scalar(value, moments.rank) == 1:
        return [(1, ())]
    node = producer(value, "Add", "Sub", "Mul", "Div", "Neg", "Reciprocal")
    if node is None or steps == 0:
        return [(1, (value,))]
    if node.op_type in ("Div", "Reciprocal"):
        if moments.is_inverse or node.inputs[-1] is not moments.key:
            return [(1, (value,))]
        nodes.add(node)
        dividend = [(1, ())] if len(node.inputs) == 1 else _expand(argument(node, 0), moments, nodes, steps - 1)
        return None if dividend is None else [(sign, (*factors, moments.key)) for sign, factors in dividend]
    nodes.add(node)
    operands: list[list[Term]] = []
    for index in range(len(node.inputs)):
        terms = _expand(argument(node, index), moments, nodes, steps - 1)
        if terms is None or len(terms) > _MAXIMUM_TERMS:
            return None
        operands.append(terms)
    if node.op_type == "Neg":
        return [(-sign, factors) for sign, factors in operands[0]]
    left, right = operands
    if node.op_type == "Mul":
        return [(ls * rs, (*lf, *rf)) for ls, lf in left for rs, rf in right]
    flip = -1 if node.op_type == "Sub" else 1
    return [*left, *((flip * sign, factors) for sign, factors in right)]


def _scale_and_bias(terms: list[Term], moments: _Moments) -> tuple[ir.Value | None, ir.Value | None] | None:
    """Returns scale and bias where the terms are source/deviation*scale - mean/deviation*scale + bias; None if not."""
    scales: dict[ir.Value, ir.Value | None] = {}
    bias: ir.Value | None = None
    for sign, factors in terms:
        rest = list(factors)
        if moments.key not in rest:
            if bias is not None or sign != 1 or len(rest) != 1 or rest[0] in (moments.source, moments.mean):
                return None
            bias = rest[0]
            continue
        rest.remove(moments.key)
        moment, expected = (moments.source, 1) if moments.source in rest else (moments.mean, -1)
        if sign != expected or moment not in rest or moment in scales:
            return None
        rest.remove(moment)
        if len(rest) > 1 or any(value in (moments.source, moments.mean, moments.key) for value in rest):
            return None
        scales[moment] = rest[0] if rest else None
    if set(scales) != {moments.source, moments.mean} or scales[moments.source] is not scales[moments.mean]:
        return None
    return scales[moments.source], bias


def _is_vector(value: ir.Value, moments: _Moments, shapes: SymbolicShapes) -> bool:
    """Whether a value has one entry for each position of the last axis, and no more dimensions than the source."""
    shape = shapes.shape(value)
    if not shape or len(shape) > moments.rank:
        return False
    return shape[-1] == moments.size and all(dim == 1 for dim in shape[:-1])


def _flat(value: ir.Value, moments: _Moments, end: ir.Node, shapes: SymbolicShapes) -> ir.Value:
    """Returns scale or bias with one dimension, which is what every engine takes."""
    if shapes.rank(value) == 1:
        return value
    array = constant(value)
    if array is not None:
        return add_constant(owner(end), array.reshape(-1), f"{value.name}/flat")
    target = add_constant(owner(end), np.array([moments.size], np.int64), f"{end.name}/flat")
    flat = insert(end, "Reshape", [value, target], name=f"{value.name}/flat")
    shapes.set_shape(flat, (moments.size,))
    return flat
