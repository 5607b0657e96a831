"""What operators make of padded positions: the rules for tensors with all positions.

Each rule takes a node and the facts of its inputs, and returns the facts of its output, or refuses: where a padded
position could reach a real token, and where nothing is known of the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, TypeAlias

import onnx_ir as ir

from tf_opt.errors import SkipPaddingError
from tf_opt.passes.onnx.nodes import argument, attribute, axes_of, optional_argument, scalar
from tf_opt.passes.onnx.taken_parts import taken_axes
from tf_opt.passes.onnx.token_facts import ORIGINAL, MaskFunction, PaddingFacts, Rows
from tf_opt.passes.onnx.token_functions import MaskFunctions
from tf_opt.passes.onnx.token_layout import TokenLayout, reshape_groups

MASKED_BY = -1000.0
"""A score that is lower by this much has no weight after the softmax: exp(-1000) is 0 in every floating point type."""

UNARY = frozenset(
    "Abs BitwiseNot Cast CastLike Ceil Celu Clip DequantizeLinear Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish "
    "Identity IsInf IsNaN LeakyRelu Log Mish Neg Not QuantizeLinear Reciprocal Relu Round Selu Sigmoid Sign Softplus "
    "Softsign Sqrt Tanh ThresholdedRelu".split()
)
BINARY = frozenset(
    "Add And BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or "
    "PRelu Pow Sub Sum Where Xor".split()
)
ELEMENTWISE = UNARY | BINARY
"""Operators that compute each element from the elements at the same place, broadcast if need be."""

MICROSOFT_ELEMENTWISE = frozenset("BiasGelu FastGelu Gelu QuickGelu".split())
"""The same of the domain com.microsoft."""

_REDUCTIONS = frozenset(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare".split()
)
_KEEPS_ZERO = frozenset("Abs Cast CastLike Dropout Identity Neg Relu".split())
_KEEPS_LOWERED = frozenset("Cast CastLike Dropout Identity".split())


@dataclass(frozen=True)
class Scene:
    """What rules may ask.

    Attributes:
        layout: Where batch and sequence are.
        functions: Which tensors are functions of the mask.
    """

    layout: TokenLayout
    functions: MaskFunctions

    def rank(self, value: ir.Value | None) -> int:
        """Returns a rank; rules are asked about nodes alone all of whose ranks are known."""
        return self.layout.shapes.rank(value) or 0

    def mask_at(self, value: ir.Value | None, rank: int, output: ir.Value) -> MaskFunction | None:
        """Returns the function of the mask that an operand is, by the axes of the output that it is broadcast to."""
        function = self.functions.get(value)
        if function is None:
            return None
        offset = rank - self.rank(value)
        moved = function.moved({axis: axis + offset for axis in range(rank - offset)})
        if moved is None or moved.batch_axis not in (None, self.layout.batch_axis_of(output)):
            return None
        return moved

    def is_zero_by_mask(self, value: ir.Value | None, output: ir.Value, axis: int) -> bool:
        """Whether an operand is a function of the mask that is 0 at the padded positions of an axis of the output."""
        mask = self.mask_at(value, self.rank(output), output)
        return mask is not None and mask.padded == 0 and mask.sequence_axis == axis


FactsRule: TypeAlias = Callable[[ir.Node, Sequence[PaddingFacts], Scene], PaddingFacts]


def refuse(node: ir.Node, why: str) -> NoReturn:
    """Raises the error that says why padding cannot be skipped."""
    raise SkipPaddingError(
        f"Padding cannot be skipped: {node.op_type} node {node.name!r} {why} Optimize this model without skip_padding."
    )


def mixing(node: ir.Node, facts: PaddingFacts, axes: Iterable[int], scene: Scene) -> None:
    """Refuses a node that mixes, along some axes of its first input, what may differ from the original."""
    chosen = set(axes)
    if facts.wrong & chosen:
        refuse(node, "mixes the positions of a sequence, and nothing shows that padding has no part in the result.")
    if not facts.is_original and scene.layout.batch_axis_of(argument(node, 0)) in chosen:
        refuse(node, "mixes the rows of a batch.")


def elementwise(node: ir.Node, seen: Sequence[PaddingFacts], scene: Scene) -> PaddingFacts:
    """Each element of the result depends on the operands at its place."""
    output = node.outputs[0]
    rank = scene.rank(output)
    operands = [
        facts.moved({axis: axis + rank - scene.rank(value) for axis in range(scene.rank(value))})
        for value, facts in zip(node.inputs, seen, strict=True)
        if value is not None
    ]
    wrong: frozenset[int] = frozenset().union(*(facts.wrong for facts in operands))
    plain = PaddingFacts(wrong=wrong, rows=max(facts.rows for facts in operands))
    masks = [scene.mask_at(value, rank, output) for value in node.inputs if value is not None]
    if node.op_type in ("Mul", "And"):
        zero = frozenset().union(*(facts.zero for facts in operands))
        zero |= {mask.sequence_axis for mask in masks if mask is not None and mask.padded == 0}
        # 0 times a padded value is 0: padded values are finite, being those of some real token.
        rows = max(plain.rows, Rows.EMPTY) if wrong & zero else plain.rows
        return PaddingFacts(wrong=wrong - zero, zero=zero, lowered=_scaled(node, operands), rows=rows)
    if node.op_type == "Where" and masks[0] is not None and bool(masks[0].padded) != bool(masks[0].real):
        return _where(node, plain, operands, masks[0])
    if node.op_type in ("Add", "Sub"):
        return replace(plain, lowered=_lowered(node.op_type, operands, masks))
    if node.op_type == "Div":
        zero = _zero_when_divided(node, operands[0], masks[0], scene)
        return replace(plain, zero=zero, lowered=_scaled(node, operands))
    return replace(
        plain,
        zero=operands[0].zero if node.op_type in _KEEPS_ZERO else frozenset(),
        lowered=operands[0].lowered if node.op_type in _KEEPS_LOWERED else {},
    )


def _zero_when_divided(
    node: ir.Node, dividend: PaddingFacts, mask: MaskFunction | None, scene: Scene
) -> frozenset[int]:
    """Returns the axes at whose padded positions a quotient is 0.

    One divisor for a whole row, as the number of its tokens, is 0 in rows without tokens at most, unless the original
    divides its real tokens by 0 too.
    """
    rank = scene.rank(node.outputs[0])
    zero = dividend.zero.union([mask.sequence_axis] if mask is not None and mask.padded == 0 else [])
    divisor = scalar(node.inputs[1], maximum_rank=rank)
    if divisor is not None:
        return zero if divisor != 0 else frozenset()
    shape = scene.layout.shapes.shape(node.inputs[1]) or ()
    padded = (1,) * (rank - len(shape)) + shape
    return frozenset(axis for axis in zero if padded[axis] == 1)


def _where(node: ir.Node, plain: PaddingFacts, operands: Sequence[PaddingFacts], mask: MaskFunction) -> PaddingFacts:
    axis, index = mask.sequence_axis, 1 if mask.padded else 2
    chosen, number = operands[index], scalar(node.inputs[index], maximum_rank=8)
    wrong = plain.wrong - {axis} if axis not in chosen.wrong else plain.wrong
    is_zero = number == 0 or axis in chosen.zero
    return replace(
        plain,
        wrong=wrong,
        zero=frozenset({axis}) if is_zero else frozenset(),
        lowered={} if number is None else {axis: number},
    )


def _lowered(op_type: str, operands: Sequence[PaddingFacts], masks: Sequence[MaskFunction | None]) -> dict[int, float]:
    lowered = dict(operands[0].lowered)
    for axis, by in operands[1].lowered.items():
        lowered[axis] = lowered.get(axis, 0.0) + (by if op_type == "Add" else float("inf"))
    for index, mask in enumerate(masks):
        if mask is not None:
            by = mask.padded - mask.real
            lowered[mask.sequence_axis] = lowered.get(mask.sequence_axis, 0.0) + (
                -by if op_type == "Sub" and index == 1 else by
            )
    return {axis: by for axis, by in lowered.items() if by < 0}


def _scaled(node: ir.Node, operands: Sequence[PaddingFacts]) -> dict[int, float]:
    for index in (0, 1) if node.op_type == "Mul" else (0,):
        factor = scalar(node.inputs[1 - index], maximum_rank=8)
        if operands[index].lowered and factor is not None and factor > 0:
            scale = factor if node.op_type == "Mul" else 1 / factor
            return {axis: by * scale for axis, by in operands[index].lowered.items()}
    return {}


def softmax(node: ir.Node, seen: Sequence[PaddingFacts], scene: Scene) -> PaddingFacts:
    """Lowered positions get the weight 0; without that, padding has a part in the sum."""
    facts = seen[0]
    axis = attribute(node, "axis", -1) % scene.rank(node.inputs[0])
    is_masked = node.op_type == "Softmax" and facts.lowered.get(axis, 0.0) <= MASKED_BY
    if not is_masked:
        mixing(node, facts, [axis], scene)
        return PaddingFacts(wrong=facts.wrong, rows=facts.rows)
    mixing(node, replace(facts, wrong=facts.wrong - {axis}), [axis], scene)
    # In a row without tokens every score is lowered, and the weights are spread over padding.
    rows = max(facts.rows, Rows.EMPTY) if axis in facts.wrong else facts.rows
    return PaddingFacts(wrong=facts.wrong - {axis}, zero=frozenset({axis}), rows=rows)


def matmul(node: ir.Node, seen: Sequence[PaddingFacts], scene: Scene) -> PaddingFacts:
    """A sum of products: what is 0 on one side hides what the other side holds there."""
    ranks = [scene.rank(value) for value in node.inputs[:2]]
    rank = scene.rank(node.outputs[0])
    if min(ranks) < 2:
        refuse(node, "multiplies a vector, for which there is no rule.")
    left, right = seen[0], seen[1]
    inner = (ranks[0] - 1, ranks[1] - 2)
    rows = max(left.rows, right.rows)
    if inner[0] in left.wrong or inner[1] in right.wrong:
        is_hidden = any(
            (own in facts.zero and own not in facts.wrong) or scene.is_zero_by_mask(value, node.outputs[0], axis)
            for value, facts, own, axis in zip(node.inputs, (left, right), inner, (rank - 1, rank - 2), strict=True)
        )
        if not is_hidden:
            refuse(node, "sums over the positions of a sequence, and nothing shows that padding has no part in it.")
        rows = max(rows, Rows.EMPTY)
    wrong = {axis + rank - ranks[0] for axis in left.wrong - {inner[0]}}
    wrong |= {axis + rank - ranks[1] for axis in right.wrong - {inner[1]}}
    return PaddingFacts(wrong=frozenset(wrong), rows=rows)


def gemm(node: ir.Node, seen: Sequence[PaddingFacts], scene: Scene) -> PaddingFacts:
    """A matrix product; only rows of the first operand may differ."""
    if attribute(node, "transA", 0) or not all(facts.is_original for facts in seen[1:]):
        refuse(node, "multiplies in a way for which there is no rule.")
    mixing(node, seen[0], [1], scene)
    return PaddingFacts(wrong=seen[0].wrong, rows=seen[0].rows)


def moving(node: ir.Node, seen: Sequence[PaddingFacts], scene: Scene) -> PaddingFacts:
    """Axes are moved, split, merged or added."""
    facts, layout = seen[0], scene.layout
    moved = layout.moved_axes(node)
    source, target = layout.shapes.shape(node.inputs[0]), layout.shapes.shape(node.outputs[0])
    if node.op_type == "Reshape" and source is not None and target is not None:
        for inner, outer in reshape_groups(source, target, layout.shapes.is_equal):
            # [batch, sequence] and [tokens] say the same, in the same order.
            if len(outer) == 1 and [source[axis] for axis in inner] == [layout.batch, layout.sequence]:
                moved[inner[1]] = outer[0]
            if len(inner) == 1 and [target[axis] for axis in outer] == [layout.batch, layout.sequence]:
                moved[inner[0]] = outer[1]
    if not facts.wrong <= moved.keys():
        refuse(node, "merges or splits the positions of a sequence in a way that cannot be followed.")
    return facts.moved(moved)


def reduction(node: ir.Node, seen: Sequence[PaddingFacts], scene: Scene) -> PaddingFacts:
    """Maxima may run over padding that is lowered; anything else only over what is as in the original."""
    facts, rank = seen[0], scene.rank(node.inputs[0])
    if node.op_type == "GlobalAveragePool":
        axes, keeps = set(range(2, rank)), True
    else:
        listed = axes_of(node)
        if listed is None:
            if optional_argument(node, 1) is not None:
                refuse(node, "reduces over axes that are computed.")
            listed = () if attribute(node, "noop_with_empty_axes", 0) else tuple(range(rank))
        axes, keeps = {axis % rank for axis in listed}, bool(attribute(node, "keepdims", 1))
    rows = facts.rows
    hidden: set[int] = set()
    if node.op_type == "ReduceMax":
        hidden = {axis for axis in axes if facts.lowered.get(axis, 0.0) <= MASKED_BY}
    if facts.wrong & hidden:
        rows = max(rows, Rows.EMPTY)
    mixing(node, replace(facts, wrong=facts.wrong - hidden), axes, scene)
    kept = [axis for axis in range(rank) if keeps or axis not in axes]
    places = {axis: position for position, axis in enumerate(kept) if axis not in axes}
    return PaddingFacts(wrong=facts.wrong - hidden, zero=facts.zero - axes, rows=rows).moved(places)


def normalization(node: ir.Node, seen: Sequence[PaddingFacts], scene: Scene) -> PaddingFacts:
    """Each vector is normalized by itself."""
    rank = scene.rank(node.inputs[0])
    first = attribute(node, "axis", -1) % rank
    mixing(node, seen[0], range(first, rank), scene)
    if not all(facts.is_original for facts in seen[1:]):
        refuse(node, "scales by values that differ between tokens.")
    return PaddingFacts(wrong=seen[0].wrong, rows=seen[0].rows)


def taking(node: ir.Node, seen: Sequence[PaddingFacts], scene: Scene) -> PaddingFacts:
    """Parts are taken along axes that count no positions (see `skip_padding_plan` for positions)."""
    facts, rank = seen[0], scene.rank(node.inputs[0])
    axes = taken_axes(node, rank)
    if axes is None or not all(other.is_original for other in seen[1:]):
        refuse(node, "takes parts of a tensor along axes that are computed.")
    mixing(node, facts, axes, scene)
    if node.op_type != "Gather":
        return facts
    (axis,) = axes
    shift = scene.rank(node.inputs[1]) - 1
    return facts.moved({each: each if each < axis else each + shift for each in range(rank) if each != axis})


def concatenation(node: ir.Node, seen: Sequence[PaddingFacts], scene: Scene) -> PaddingFacts:
    """Tensors side by side, along an axis that counts no positions."""
    axis = attribute(node, "axis", 0) % scene.rank(node.inputs[0])
    for facts in seen:
        mixing(node, facts, [axis], scene)
    wrong: frozenset[int] = frozenset().union(*(facts.wrong for facts in seen))
    zero = frozenset.intersection(*(facts.zero for facts in seen))
    return PaddingFacts(wrong=wrong, zero=zero, rows=max(facts.rows for facts in seen))


RULES: dict[str, FactsRule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(_REDUCTIONS | {"GlobalAveragePool"}, reduction),
    **dict.fromkeys(("Expand", "Reshape", "Squeeze", "Transpose", "Unsqueeze"), moving),
    **dict.fromkeys(("Gather", "Slice", "Split"), taking),
    **dict.fromkeys(("LogSoftmax", "Softmax"), softmax),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), normalization),
    "Concat": concatenation,
    "Gemm": gemm,
    "MatMul": matmul,
}
"""The rule of each operator that has one."""

MICROSOFT_RULES: dict[str, FactsRule] = dict.fromkeys(MICROSOFT_ELEMENTWISE, elementwise)
"""The same for the domain com.microsoft."""


def facts_of(node: ir.Node, seen: Sequence[PaddingFacts], scene: Scene) -> PaddingFacts:
    """Returns what is known of the outputs of a node that computes all positions.

    Args:
        node: The node.
        seen: The facts of its inputs; of inputs that are left out, `ORIGINAL`.
        scene: What rules may ask.

    Raises:
        SkipPaddingError: A real token could depend on a padded position.
    """
    is_original = all(facts.is_original for facts in seen)
    if scene.functions.get(node.outputs[0]) is not None:
        return ORIGINAL
    rule = {"": RULES, "com.microsoft": MICROSOFT_RULES}.get(node.domain, {}).get(node.op_type)
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    if rule is None or any(scene.layout.shapes.rank(value) is None for value in values):
        if is_original:
            return ORIGINAL
        refuse(node, "is of a kind for which it is not known how it mixes tokens.")
    try:
        facts = rule(node, seen, scene)
    except SkipPaddingError:
        if is_original:
            return ORIGINAL
        raise
    if not is_original:
        _check(node, facts, scene.layout)
    return facts


def _check(node: ir.Node, facts: PaddingFacts, layout: TokenLayout) -> None:
    """Refuses a result whose rows and positions can no longer be told, so that nobody could put it right."""
    for value in node.outputs:
        shape = layout.shapes.shape(value)
        if shape is None:
            refuse(node, "has a result of unknown shape.")
        tokens = layout.batch * layout.sequence
        positions = {axis for axis in facts.wrong if shape[axis] in (layout.sequence, tokens)}
        has_rows = layout.batch == 1 or layout.batch_axis_of(value) is not None or tokens in shape
        if positions != facts.wrong or not has_rows:
            refuse(node, "has a result in which rows and positions cannot be told from other axes.")
