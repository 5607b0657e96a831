"""Recognizes GELU, exact and with tanh, however its products and sums are arranged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import ml_dtypes
import numpy as np
import onnx_ir as ir

from tf_opt.onnx_target import GELU_OPSET
from tf_opt.passes.onnx.nodes import REAL_TYPES, argument, constant, is_closed, producer, rewrite, scalar
from tf_opt.passes.onnx.pass_base import OnnxPass

_EXACT_SCALE = math.sqrt(0.5)
_TANH_SCALE = math.sqrt(2 / math.pi)
_TANH_CUBE = 0.044715
"""The coefficient of Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415."""

_MAXIMUM_STEPS = 8
"""How many nodes deep a GELU is, at most, on each side of its Erf or Tanh."""

_MAXIMUM_DEGREE = 4
"""Powers above this are no GELU."""

_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Pow"})

Polynomial: TypeAlias = Mapping[tuple[int, int], float]
"""Coefficients by the powers of x and of Erf(...) or Tanh(...)."""


class FuseGelu(OnnxPass):
    """Replaces the arithmetic of GELU by Gelu, which needs opset 20.

    What lies before and behind the Erf or Tanh is read as a polynomial, so that the order of factors and summands does
    not matter, nor whether a power is a Pow or a product. The coefficients have to be GELU's up to rounding. Left
    alone: other coefficients, an intermediate that something else reads, float64, models below opset 20.

    Before:
        y = Mul(Mul(0.5, x), Add(1, Erf(Mul(x, 0.70710678))))
    After:
        y = Gelu(x)

    Before:
        y = Mul(Mul(0.5, x), Add(1, Tanh(Mul(0.79788456, Add(x, Mul(0.044715, Pow(x, 3)))))))
    After:
        y = Gelu<approximate="tanh">(x)
    """

    name: ClassVar[str] = "fuse_gelu"

    def run(self, model: ir.Model) -> int:
        """See `OnnxPass.run`."""
        if model.opset_imports.get("", 0) < GELU_OPSET:
            return 0
        count = 0
        for node in list(model.graph):
            if node.graph is None or node.domain != "" or node.op_type not in ("Erf", "Tanh"):
                continue
            found = find_gelu(node)
            if found is not None:
                end, source, is_tanh = found
                rewrite(end, "Gelu", [source], {"approximate": "tanh" if is_tanh else "none"})
                count += 1
        return count


def find_gelu(center: ir.Node) -> tuple[ir.Node, ir.Value, bool] | None:
    """Returns the last node of the GELU around an Erf or Tanh, its x, and whether it is the one with tanh.

    None where there is no GELU, or where something outside of it reads an intermediate.
    """
    is_tanh = center.op_type == "Tanh"
    for source in _sources(center):
        inner = _Reading(source, None)
        polynomial = inner.polynomial(argument(center, 0), _MAXIMUM_STEPS)
        if inner.dtype not in REAL_TYPES or polynomial is None:
            continue
        wanted = {(1, 0): _EXACT_SCALE}
        if is_tanh:
            wanted = {(1, 0): _TANH_SCALE, (3, 0): _TANH_SCALE * _TANH_CUBE}
        if not _is_close(polynomial, wanted, inner.dtype):
            continue
        for end in _ends(center):
            outer = _Reading(source, center.outputs[0])
            polynomial = outer.polynomial(end.outputs[0], _MAXIMUM_STEPS)
            if polynomial is not None and _is_close(polynomial, {(1, 0): 0.5, (1, 1): 0.5}, inner.dtype):
                closed = is_closed({*inner.nodes, *outer.nodes, center}, end)
                return (end, source, is_tanh) if closed else None
    return None


def _sources(center: ir.Node) -> list[ir.Value]:
    """Returns what may be the x of a GELU, nearest first: what is found behind the argument of the Erf or Tanh."""
    found: dict[ir.Value, None] = {}
    frontier = [argument(center, 0)]
    for _ in range(_MAXIMUM_STEPS):
        nodes = [node for value in frontier if (node := producer(value, *_ARITHMETIC)) is not None]
        frontier = [
            value for node in nodes for value in node.inputs if value is not None and constant(value, 1) is None
        ]
        frontier = [value for value in dict.fromkeys(frontier) if value not in found]
        found.update(dict.fromkeys(frontier))
    return list(found)


def _ends(center: ir.Node) -> list[ir.Node]:
    """Returns the products behind an Erf or Tanh that may be the end of a GELU."""
    found: dict[ir.Node, None] = {}
    frontier = [center]
    for _ in range(_MAXIMUM_STEPS // 2):
        read = [usage.node for node in frontier for usage in node.outputs[0].uses()]
        frontier = [node for node in dict.fromkeys(read) if node.domain == "" and node.op_type in _ARITHMETIC]
        found.update(dict.fromkeys(frontier))
    return [node for node in found if node.op_type != "Pow"]


class _Reading:
    """Reads a value as a polynomial in x and in the Erf or Tanh.

    Attributes:
        nodes: The nodes that were looked through.
        dtype: Element type of the constants; None while there was none.
    """

    def __init__(self, source: ir.Value, center: ir.Value | None) -> None:
        self.nodes: set[ir.Node] = set()
        self.dtype: ir.DataType | None = None
        self._source = source
        self._center = center

    def polynomial(self, value: ir.Value, steps: int) -> Polynomial | None:
        """Returns the coefficients; None where `value` is no polynomial of low degree."""
        if value is self._source:
            return {(1, 0): 1.0}
        if value is self._center:
            return {(0, 1): 1.0}
        array = constant(value, 1)
        if array is not None:
            # A constant of more dimensions might give the result more than x has.
            if array.ndim > 0 or array.dtype.kind not in "fV":
                return None
            self.dtype = ir.DataType.from_numpy(array.dtype)
            return {(0, 0): float(array)}
        node = producer(value, *_ARITHMETIC)
        if node is None or steps == 0:
            return None
        left = self.polynomial(argument(node, 0), steps - 1)
        if left is None:
            return None
        self.nodes.add(node)
        if node.op_type == "Neg":
            return _product(left, {(0, 0): -1.0})
        if node.op_type == "Pow":
            exponent = scalar(node.inputs[1])
            if exponent not in (2.0, 3.0):
                return None
            square = _product(left, left)
            return square if exponent == 2.0 or square is None else _product(square, left)
        right = self.polynomial(argument(node, 1), steps - 1)
        if right is None:
            return None
        if node.op_type == "Mul":
            return _product(left, right)
        if node.op_type == "Div":
            divisor = right.get((0, 0), 0.0)
            return _product(left, {(0, 0): 1 / divisor}) if len(right) == 1 and divisor else None
        sign = -1.0 if node.op_type == "Sub" else 1.0
        return {key: left.get(key, 0.0) + sign * right.get(key, 0.0) for key in {**left, **right}}


def _product(left: Polynomial, right: Polynomial) -> Polynomial | None:
    result: dict[tuple[int, int], float] = {}
    for (lx, lt), a in left.items():
        for (rx, rt), b in right.items():
            key = (lx + rx, lt + rt)
            result[key] = result.get(key, 0.0) + a * b
    return result if all(sum(key) <= _MAXIMUM_DEGREE for key in result) else None


def _is_close(found: Polynomial, wanted: Polynomial, dtype: ir.DataType) -> bool:
    """Whether the coefficients are the wanted ones, up to the rounding of two constants of the element type."""
    limits: Any = ml_dtypes.finfo  # Without annotations.
    tolerance = 2 * float(limits(dtype.numpy()).eps)
    if any(abs(value) > tolerance for key, value in found.items() if key not in wanted):
        return False
    return all(np.isclose(found.get(key, 0.0), value, rtol=tolerance, atol=0) for key, value in wanted.items())
