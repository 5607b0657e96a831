"""How the values of small integer tensors follow from the shapes and values of a node's inputs, op by op.

Values are object arrays of ints and Expressions, so numpy itself does the slicing, stacking and arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tf_opt.passes.tf.node_defs import attribute_dtype
from tf_opt.passes.tf.node_facts import MAXIMUM_VALUE_ELEMENTS, NodeFacts, SymbolicValue, ValueRule, Values, as_value
from tf_opt.passes.tf.symbolic_dims import Dim, is_nonnegative, operation

VALUE_RULES: dict[str, ValueRule] = {}
"""The rule of each op that has one."""


def _rule(*ops: str) -> Callable[[ValueRule], ValueRule]:
    def register(rule: ValueRule) -> ValueRule:
        VALUE_RULES.update(dict.fromkeys(ops, rule))
        return rule

    return register


def _known(facts: NodeFacts) -> list[SymbolicValue] | None:
    """Returns the values of all inputs, or None where one of them is unknown."""
    values = [value for value in facts.input_values if value is not None]
    return values if len(values) == len(facts.input_values) else None


@_rule("Shape", "ShapeN")
def _shape(facts: NodeFacts) -> Values:
    return [None if shape is None else as_value(shape) for shape in facts.input_shapes]


@_rule("Size")
def _size(facts: NodeFacts) -> Values:
    shape = facts.input_shapes[0]
    return None if shape is None else [_reduce(_ARITHMETIC["Mul"], as_value(shape), 1)]


@_rule("Rank")
def _rank(facts: NodeFacts) -> Values:
    shape = facts.input_shapes[0]
    return None if shape is None else [as_value([len(shape)], ())]


@_rule("Identity", "StopGradient", "PreventGradient", "Snapshot")
def _identity(facts: NodeFacts) -> Values:
    return [facts.input_values[0]]


@_rule("Cast")
def _cast(facts: NodeFacts) -> Values:
    """Between int32 and int64 only: entries are checked against the range of the result by the caller."""
    source, target = attribute_dtype(facts.node, "SrcT").name, attribute_dtype(facts.node, "DstT").name
    return [facts.input_values[0]] if {source, target} <= {"int32", "int64"} else None


@_rule("StridedSlice")
def _strided_slice(facts: NodeFacts) -> Values:
    source, begin, end = facts.input_values[0], facts.constant_input(1), facts.constant_input(2)
    strides = facts.constant_input(3)
    if source is None or begin is None or end is None or strides is None:
        return None
    index: list[Any] = []
    for position, stride in enumerate(strides):
        bit = 1 << position
        if facts.integer("ellipsis_mask") & bit:
            index.append(Ellipsis)
        elif facts.integer("new_axis_mask") & bit:
            index.append(None)
        elif facts.integer("shrink_axis_mask") & bit:
            index.append(begin[position])
        else:
            start = None if facts.integer("begin_mask") & bit else begin[position]
            stop = None if facts.integer("end_mask") & bit else end[position]
            index.append(slice(start, stop, stride))
    return _indexed(source, tuple(index))


@_rule("Slice")
def _slice(facts: NodeFacts) -> Values:
    source, begin, size = facts.input_values[0], facts.constant_input(1), facts.constant_input(2)
    if source is None or begin is None or size is None:
        return None
    return _indexed(
        source,
        tuple(slice(start, None if count == -1 else start + count) for start, count in zip(begin, size, strict=False)),
    )


def _indexed(source: SymbolicValue, index: tuple[Any, ...]) -> Values:
    try:
        result = source[index]
    except IndexError:  # TensorFlow raises it too, when the node runs
        return None
    return [result if isinstance(result, np.ndarray) else as_value([result], ())]


@_rule("GatherV2", "Gather")
def _gather(facts: NodeFacts) -> Values:
    source, indices = facts.input_values[:2]
    axes = facts.constant_input(2) if facts.node.op == "GatherV2" else [0]
    wanted = facts.constant_input(1)
    if source is None or indices is None or axes is None or wanted is None or facts.integer("batch_dims"):
        return None
    if source.ndim == 0 or any(not 0 <= entry < source.shape[axes[0]] for entry in wanted):
        return None
    return [np.take(source, np.asarray(wanted, dtype=np.int64).reshape(indices.shape), axis=axes[0])]


@_rule("Pack")
def _pack(facts: NodeFacts) -> Values:
    values = _known(facts)
    return None if values is None else [np.stack(values, axis=facts.integer("axis"))]


@_rule("Unpack")
def _unpack(facts: NodeFacts) -> Values:
    source = facts.input_values[0]
    if source is None or source.ndim == 0:
        return None
    axis = facts.integer("axis")
    return [as_value(part, part.shape) for part in map(np.asarray, _parts(source, axis))]


def _parts(source: SymbolicValue, axis: int) -> list[SymbolicValue]:
    moved = np.moveaxis(source, axis, 0)
    return [as_value([part], ()) if not isinstance(part, np.ndarray) else part for part in moved]


@_rule("ConcatV2")
def _concat(facts: NodeFacts) -> Values:
    values = _known(facts)
    return None if values is None else [np.concatenate(values[:-1], axis=int(values[-1].item()))]


@_rule("Split")
def _split(facts: NodeFacts) -> Values:
    axes, source = facts.constant_input(0), facts.input_values[1]
    if axes is None or source is None:
        return None
    return list(np.split(source, len(facts.output_shapes), axis=axes[0]))


@_rule("SplitV")
def _split_v(facts: NodeFacts) -> Values:
    source, sizes, axes = facts.input_values[0], facts.constant_input(1), facts.constant_input(2)
    if source is None or sizes is None or axes is None or -1 in sizes:
        return None
    return list(np.split(source, np.cumsum(sizes)[:-1].tolist(), axis=axes[0]))


@_rule("ExpandDims", "Squeeze", "Reshape")
def _same_entries(facts: NodeFacts) -> Values:
    source, shape = facts.input_values[0], facts.output_shapes[0]
    if source is None or shape is None or not all(isinstance(dim, int) for dim in shape):
        return None
    return [source.reshape(tuple(int(str(dim)) for dim in shape))]


@_rule("Transpose")
def _transpose(facts: NodeFacts) -> Values:
    source, order = facts.input_values[0], facts.constant_input(1)
    return None if source is None or order is None else [source.transpose(order)]


@_rule("Fill")
def _fill(facts: NodeFacts) -> Values:
    dims, value = facts.constant_input(0), facts.input_values[1]
    if dims is None or value is None or int(np.prod(dims, dtype=np.int64)) > MAXIMUM_VALUE_ELEMENTS:
        return None
    return [as_value([value.item()] * int(np.prod(dims, dtype=np.int64)), tuple(dims))]


@_rule("BroadcastTo")
def _broadcast_to(facts: NodeFacts) -> Values:
    source, dims = facts.input_values[0], facts.constant_input(1)
    if source is None or dims is None or int(np.prod(dims, dtype=np.int64)) > MAXIMUM_VALUE_ELEMENTS:
        return None
    return [np.broadcast_to(source, tuple(dims)).copy()]


@_rule("Tile")
def _tile(facts: NodeFacts) -> Values:
    source, multiples = facts.input_values[0], facts.constant_input(1)
    if source is None or multiples is None:
        return None
    if source.size * int(np.prod(multiples, dtype=np.int64)) > MAXIMUM_VALUE_ELEMENTS:
        return None
    return [np.tile(source, multiples)]


@_rule("ZerosLike", "OnesLike")
def _constant_like(facts: NodeFacts) -> Values:
    shape = facts.input_shapes[0]
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return None
    sizes = tuple(int(str(dim)) for dim in shape)
    count = int(np.prod(sizes, dtype=np.int64))
    if count > MAXIMUM_VALUE_ELEMENTS:
        return None
    return [as_value([int(facts.node.op == "OnesLike")] * count, sizes)]


@_rule("Range")
def _range(facts: NodeFacts) -> Values:
    bounds = [facts.constant_input(position) for position in range(3)]
    entries = [bound[0] for bound in bounds if bound is not None]
    if len(entries) != 3 or entries[2] == 0 or len(range(*entries)) > MAXIMUM_VALUE_ELEMENTS:
        return None
    return [as_value(range(*entries))]


@_rule("Prod", "Sum", "Max", "Min")
def _reduction(facts: NodeFacts) -> Values:
    source, axes = facts.input_values[0], facts.constant_input(1)
    if source is None or axes is None:
        return None
    if {axis % max(source.ndim, 1) for axis in axes} != set(range(source.ndim)):
        return None  # shape arithmetic reduces vectors; other reductions would need one reduction an axis
    function = {"Prod": _ARITHMETIC["Mul"], "Sum": _ARITHMETIC["AddV2"], "Max": _maximum, "Min": _minimum}[
        facts.node.op
    ]
    if source.size == 0 and facts.node.op in ("Max", "Min"):
        return None
    result = _reduce(function, source, {"Prod": 1, "Sum": 0}.get(facts.node.op))
    return [result.reshape((1,) * source.ndim) if facts.boolean("keep_dims") else result]


def _reduce(function: Callable[[Any, Any], Any], source: SymbolicValue, initial: int | None) -> SymbolicValue:
    entries = source.ravel().tolist()
    total = entries.pop(0) if initial is None else initial
    for entry in entries:
        total = function(as_value([total], ()), as_value([entry], ()))
        total = total.item() if isinstance(total, np.ndarray) else total
    return as_value([total], ())


def _elementwise(function: Callable[[Dim, Dim], Dim]) -> Callable[[Any, Any], Any]:
    """Turns a function of two entries into one of two arrays that broadcasts."""

    def apply(left: SymbolicValue, right: SymbolicValue) -> SymbolicValue:
        first, second = np.broadcast_arrays(left, right)
        return as_value(
            [function(a, b) for a, b in zip(first.ravel().tolist(), second.ravel().tolist(), strict=False)], first.shape
        )

    return apply


def _extreme(name: str, choose: Callable[[int, int], int]) -> Callable[[Any, Any], Any]:
    def entry(left: Dim, right: Dim) -> Dim:
        if isinstance(left, int) and isinstance(right, int):
            return choose(left, right)
        if left == right:
            return left
        for known, other in ((left, right), (right, left)):
            if known == 0 and is_nonnegative(other):
                return other if name == "maximum" else 0
        return operation(name, left, right)

    return _elementwise(entry)


_maximum = _extreme("maximum", max)
_minimum = _extreme("minimum", min)
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": _elementwise(lambda left, right: left + right),
    "AddV2": _elementwise(lambda left, right: left + right),
    "Sub": _elementwise(lambda left, right: left - right),
    "Mul": _elementwise(lambda left, right: left * right),
    "FloorDiv": _elementwise(lambda left, right: left // right),
    "FloorMod": _elementwise(lambda left, right: left % right),
    "Maximum": _maximum,
    "Minimum": _minimum,
}


@_rule(*_ARITHMETIC)
def _binary(facts: NodeFacts) -> Values:
    values = _known(facts)
    if values is None:
        return None
    left, right = values
    if facts.node.op in ("FloorDiv", "FloorMod") and not all(_is_positive(entry) for entry in right.ravel().tolist()):
        return None  # a divisor that may be 0 raises when the node runs
    return [_ARITHMETIC[facts.node.op](left, right)]


def _is_positive(entry: Dim) -> bool:
    return isinstance(entry, int) and entry > 0


@_rule("Neg")
def _negate(facts: NodeFacts) -> Values:
    source = facts.input_values[0]
    return None if source is None else [as_value([-entry for entry in source.ravel().tolist()], source.shape)]


@_rule("SelectV2")
def _select(facts: NodeFacts) -> Values:
    """Only where both sides are equal: conditions are booleans, which the analysis does not follow."""
    left, right = facts.input_values[1:]
    if left is None or right is None or left.shape != right.shape or facts.input_shapes[0] != ():
        return None
    same = all(a == b for a, b in zip(left.ravel().tolist(), right.ravel().tolist(), strict=False))
    return [left] if same else None
