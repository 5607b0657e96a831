"""What an attention block is, and where one is in a graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from tf_opt.passes.onnx.nodes import argument, attribute, attributes_of, constant, is_closed, is_inner, producer
from tf_opt.passes.onnx.symbolic_shapes import SymbolicShapes

HEADS_TO_FRONT = (0, 2, 1, 3)
"""Transposes [batch, sequence, heads, size] to [batch, heads, sequence, size], and back."""

KEYS_TO_BACK = (0, 2, 3, 1)
"""Transposes [batch, sequence, heads, size] to [batch, heads, size, sequence]."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """A multiplication by a number somewhere in front of the softmax.

    Attributes:
        node: The Mul or Div.
        operand: Which of its inputs is scaled.
        factor: What it multiplies with.
        dtype: Element type of the number.
    """

    node: ir.Node
    operand: int
    factor: float
    dtype: ir.DataType

    @property
    def source(self) -> ir.Value:
        """What is scaled."""
        return argument(self.node, self.operand)


@dataclass(frozen=True, kw_only=True)
class Masking:
    """What is done to the scores between the scaling and the softmax.

    Attributes:
        node: An Add of a mask, or a Where that replaces scores.
        operand: Which of its inputs the scores are.
        mask: What is added, or the condition under which a score stays.
        fill: What a Where puts in place of other scores; None for an Add.
    """

    node: ir.Node
    operand: int
    mask: ir.Value
    fill: float | None = None


@dataclass(frozen=True, kw_only=True)
class AttentionBlock:
    """Softmax(maskings(scale * query @ key)) @ value, of four dimensions.

    Nothing outside of it reads an intermediate.

    Attributes:
        query: Left operand of the first product: [batch, heads, queries, size].
        key: Right operand of the first product: [batch, heads, size, keys].
        value: Right operand of the second product: [batch, heads, keys, size].
        scores: The first product.
        softmax: The Softmax over the keys.
        probabilities: What the second product reads: the Softmax's output, or a Where around it.
        output: The second product.
        scalings: Multiplications by a number: of the scores, of the query or of the key.
        maskings: Masks, in the order in which they are applied.
        zeroing: A Where that sets probabilities to 0, and its condition under which they stay; None without one.
    """

    query: ir.Value
    key: ir.Value
    value: ir.Value
    scores: ir.Node
    softmax: ir.Node
    probabilities: ir.Value
    output: ir.Node
    scalings: tuple[Scaling, ...]
    maskings: tuple[Masking, ...]
    zeroing: Masking | None

    @property
    def scale(self) -> float:
        """What the scores are multiplied with, all in all."""
        factor = 1.0
        for scaling in self.scalings:
            factor *= scaling.factor
        return factor


def find_attention(model: ir.Model, shapes: SymbolicShapes) -> Iterator[AttentionBlock]:
    """Yields the attention blocks of the main graph, in order; the graph may be changed in between."""
    for node in list(model.graph):
        if node.op_type == "Softmax" and node.domain == "" and node.graph is not None:
            block = attention_at(node, shapes)
            if block is not None:
                yield block


def attention_at(softmax: ir.Node, shapes: SymbolicShapes) -> AttentionBlock | None:
    """Returns the block around a Softmax, None where there is none or where an intermediate is read elsewhere."""
    if shapes.rank(softmax.inputs[0]) != 4 or attribute(softmax, "axis", -1) not in (-1, 3):
        return None
    probabilities = softmax.outputs[0]
    reader = _only_reader(probabilities)
    zeroing = None
    if reader is not None and reader.op_type == "Where":
        zeroing = _selection(reader, shapes)
        if zeroing is None or zeroing.fill != 0 or argument(reader, zeroing.operand) is not probabilities:
            return None
        probabilities = reader.outputs[0]
        reader = _only_reader(probabilities)
    if reader is None or reader.op_type != "MatMul" or reader.inputs[0] is not probabilities:
        return None
    found = _behind(argument(softmax, 0), shapes)
    if found is None:
        return None
    scores, scalings, maskings = found
    query, key, value = argument(scores, 0), argument(scores, 1), argument(reader, 1)
    if any(shapes.rank(operand) != 4 for operand in (query, key, value)):
        return None
    inner = {softmax, scores, reader, *(scaling.node for scaling in scalings), *(masking.node for masking in maskings)}
    if zeroing is not None:
        inner.add(zeroing.node)
    if not is_closed(inner, reader):
        return None
    return AttentionBlock(
        query=query,
        key=key,
        value=value,
        scores=scores,
        softmax=softmax,
        probabilities=probabilities,
        output=reader,
        scalings=(*scalings, *_operand_scalings(query), *_operand_scalings(key)),
        maskings=tuple(maskings),
        zeroing=zeroing,
    )


def _only_reader(value: ir.Value) -> ir.Node | None:
    """Returns the one node that reads a value; None where there are others, or where it is an output."""
    if not is_inner(value):
        return None
    (usage,) = value.uses()
    return usage.node if usage.node.domain == "" else None


def _behind(value: ir.Value, shapes: SymbolicShapes) -> tuple[ir.Node, list[Scaling], list[Masking]] | None:
    """Looks for the first product behind the input of a softmax: first masks, then scalings, then the product."""
    node = producer(value, "MatMul", "Mul", "Div", "Add", "Where")
    if node is None:
        return None
    if node.op_type == "MatMul":
        return node, [], []
    if node.op_type in ("Mul", "Div"):
        scaling = _scaling(node)
        found = None if scaling is None else _behind(scaling.source, shapes)
        if found is None or scaling is None or found[2]:
            return None  # Of a mask that is added before the scaling, the scaling is no factor of the scores alone.
        return found[0], [*found[1], scaling], []
    if node.op_type == "Where":
        selection = _selection(node, shapes)
        found = None if selection is None else _behind(argument(node, selection.operand), shapes)
        return None if found is None or selection is None else (found[0], found[1], [*found[2], selection])
    for operand in (0, 1):
        found = _behind(argument(node, operand), shapes)
        if found is not None:
            masking = Masking(node=node, operand=operand, mask=argument(node, 1 - operand))
            return found[0], found[1], [*found[2], masking]
    return None


def _scaling(node: ir.Node) -> Scaling | None:
    """Returns what a Mul or Div by a number does."""
    for operand in (0, 1) if node.op_type == "Mul" else (0,):
        number = constant(node.inputs[1 - operand], 1)
        if number is None or number.ndim > 1 or number.dtype.kind not in "fV":
            continue
        factor = float(number.reshape(()))
        if node.op_type == "Div":
            factor = 1 / factor if factor else 0.0
        if not 0 < abs(factor) < float("inf"):
            continue
        return Scaling(node=node, operand=operand, factor=factor, dtype=ir.DataType.from_numpy(number.dtype))
    return None


def _selection(node: ir.Node, shapes: SymbolicShapes) -> Masking | None:
    """Returns what a Where does that keeps its second input where the condition holds, and else puts a number."""
    fill = constant(node.inputs[2], 1)
    rank = shapes.rank(node.inputs[1])
    if fill is None or fill.dtype.kind not in "fV" or rank is None or fill.ndim > rank:
        return None
    return Masking(node=node, operand=1, mask=argument(node, 0), fill=float(fill.reshape(())))


def _operand_scalings(value: ir.Value) -> list[Scaling]:
    """Returns the scalings of a query or key, looking through the splitting of heads."""
    found: list[Scaling] = []
    while is_inner(value):
        node = producer(value, "Mul", "Div", "Reshape", "Transpose")
        if node is None:
            break
        if node.op_type in ("Mul", "Div"):
            scaling = _scaling(node)
            if scaling is None:
                break
            found.append(scaling)
            value = scaling.source
        else:
            value = argument(node, 0)
    return found


def unsplit(value: ir.Value, order: tuple[int, ...], shapes: SymbolicShapes) -> ir.Value | None:
    """Returns the [batch, sequence, heads * size] of which Reshape and Transpose made `value`; None without such nodes.

    Args:
        value: An operand of an attention block.
        order: The order of axes that the Transpose has to have.
        shapes: Shapes of the graph.
    """
    transpose = producer(value, "Transpose")
    if transpose is None or attributes_of(transpose, "perm") != order:
        return None
    reshape = producer(transpose.inputs[0], "Reshape")
    if reshape is None:
        return None
    source = argument(reshape, 0)
    before, after = shapes.shape(source), shapes.shape(reshape.outputs[0])
    if before is None or after is None or len(before) != 3 or len(after) != 4 or before[:2] != after[:2]:
        return None
    return source
