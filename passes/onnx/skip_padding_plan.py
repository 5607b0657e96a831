"""Decides which nodes compute real tokens only, and proves that no real token can see the difference.

Work is worth packing where a matrix product with a constant reads one vector for each token. From there on the packed
form is kept as long as each node treats every token by itself; a node that does not gets all positions back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypeAlias

import onnx_ir as ir

from tf_opt.errors import SkipPaddingError
from tf_opt.passes.onnx.nodes import attributes_of, is_constant
from tf_opt.passes.onnx.taken_parts import taken_axes, takes_one
from tf_opt.passes.onnx.token_facts import ORIGINAL, PaddingFacts, Rows
from tf_opt.passes.onnx.token_functions import MaskFunctions
from tf_opt.passes.onnx.token_layout import Leading, TokenLayout
from tf_opt.passes.onnx.token_rules import (
    ELEMENTWISE,
    MASKED_BY,
    MICROSOFT_ELEMENTWISE,
    Scene,
    facts_of,
    refuse,
)

_PRODUCTS = frozenset(("MatMul", "Gemm"))
_VECTORWISE = frozenset(
    "Gather GlobalAveragePool LayerNormalization LogSoftmax RMSNormalization ReduceL1 ReduceL2 ReduceMax ReduceMean "
    "ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape Slice Softmax Split Squeeze Transpose Unsqueeze".split()
)
"""Operators that may work on each token's vector by itself; whether they do is a matter of their axes."""


class Mode(Enum):
    """How a node is computed."""

    ALL = "all positions"
    PACKED = "real tokens only"
    CHOSEN = "picks a position"
    SHAPE = "asks for the shape of a packed tensor"


Operand: TypeAlias = Literal["as it is", "pair", "merged", "positions", "rows"]
"""How an operand of a packed node is packed: by token, by the tokens' positions in their rows, by their rows."""


@dataclass
class Plan:
    """How each node is computed.

    Attributes:
        modes: By node; those that are not listed have nothing to do with padding.
        facts: What is known of each tensor's padded positions; those that are not listed are the original ones.
        packed: Tensors that hold real tokens only, and how they begin.
        products: The number of packed matrix products: what it is all for.
        derived: Tensors that were computed from packed ones, if only from their shapes.
    """

    modes: dict[ir.Node, Mode] = field(default_factory=dict)
    facts: dict[ir.Value, PaddingFacts] = field(default_factory=dict)
    packed: dict[ir.Value, Leading] = field(default_factory=dict)
    products: int = 0
    derived: set[ir.Value] = field(default_factory=set)

    def seen(self, value: ir.Value | None) -> PaddingFacts:
        """Returns what is known of a tensor with all positions, as a node reads it."""
        facts = ORIGINAL if value is None else self.facts.get(value, ORIGINAL)
        return facts.filled() if value in self.packed else facts


class Planner:
    """Makes the plan, node by node.

    Args:
        model: The model; it is left as it is.
        layout: Where batch and sequence are.
    """

    def __init__(self, model: ir.Model, layout: TokenLayout) -> None:
        self._model = model
        self._layout = layout
        self._functions = MaskFunctions(layout)
        self._scene = Scene(layout, self._functions)
        self._constants: set[ir.Value] = set()
        self._plan = Plan()

    def plan(self) -> Plan:
        """Returns the plan.

        Raises:
            SkipPaddingError: A real token could depend on a padded position.
        """
        for node in self._model.graph:
            self._visit(node)
        return self._plan

    def operand(self, value: ir.Value, output: ir.Value, leading: Leading) -> Operand | None:
        """Returns how an operand of an elementwise node is packed; None where it cannot be."""
        shape, target = self._layout.shapes.shape(value), self._layout.shapes.shape(output)
        if shape is None or target is None:
            return None
        missing = len(target) - len(shape)
        counting = 2 if leading == "pair" else 1
        dims = ((1,) * missing + shape)[:counting]
        if all(dim == 1 for dim in dims):
            return "as it is"
        if dims == target[:counting] and missing == 0:
            return leading
        if leading == "pair" and dims == (1, self._layout.sequence):
            return "positions"
        if leading == "pair" and dims == (self._layout.batch, 1) and missing == 0:
            return "rows"
        # A constant has as many positions as the model is made for.
        size = self._layout.shapes.size(dims[-1])
        if leading == "pair" and dims[0] == 1 and size is not None and size == self._layout.shapes.size(target[1]):
            return "positions"
        return None

    def is_elementwise(self, node: ir.Node) -> bool:
        """Whether a node computes each element from the elements of its operands at the same place."""
        return node.op_type in {"": ELEMENTWISE, "com.microsoft": MICROSOFT_ELEMENTWISE}.get(node.domain, frozenset())

    def _visit(self, node: ir.Node) -> None:
        plan = self._plan
        if self._is_constant(node):
            self._constants.update(node.outputs)
            return
        self._refuse_captured(node)
        if len(node.outputs) == 1:
            self._functions.visit(node)
        leading = self._packed_leading(node)
        if leading is not None:
            self._pack(node, leading)
            return
        if any(value in plan.derived for value in node.inputs):
            plan.derived.update(node.outputs)
        reads_tokens = any(not plan.seen(value).is_original or value in plan.packed for value in node.inputs)
        if node.op_type == "Shape" and node.domain == "":
            if reads_tokens:
                plan.modes[node] = Mode.SHAPE
        elif self._chooses(node):
            plan.modes[node] = Mode.CHOSEN
            plan.facts[node.outputs[0]] = PaddingFacts(rows=Rows.CHOSEN)
        else:
            facts = facts_of(node, [plan.seen(value) for value in node.inputs], self._scene)
            if reads_tokens:
                plan.modes[node] = Mode.ALL
            if facts != ORIGINAL:
                plan.facts.update(dict.fromkeys(node.outputs, facts))

    def _is_constant(self, node: ir.Node) -> bool:
        return (
            node.domain == ""
            and all(value is None or value in self._constants or is_constant(value) for value in node.inputs)
            and not node.op_type.startswith("Random")
            and not any(True for _ in _captured(node))
        )

    def _reads_constant(self, value: ir.Value | None) -> bool:
        return value is not None and (value in self._constants or is_constant(value))

    def _packed_leading(self, node: ir.Node) -> Leading | None:
        """Returns how the tokens lead the tensors of a node that is to be packed; None for any other node."""
        if not node.outputs:
            return None
        leading = self._layout.leading(node.outputs[0])
        if leading is None or any(self._layout.leading(value) is None for value in node.outputs):
            return None
        first = node.inputs[0] if node.inputs else None
        if node.domain == "" and node.op_type in _PRODUCTS:
            return leading if self._is_product(node, leading) else None
        if not any(value in self._plan.packed for value in node.inputs if value is not None):
            return None
        if self.is_elementwise(node):
            operands = [value for value in node.inputs if value is not None]
            fits = all(self._is_operand(value, node.outputs[0], leading) for value in operands)
        elif node.domain == "" and node.op_type == "Concat":
            fits = all(value is not None and self._layout.leading(value) == leading for value in node.inputs)
            fits = fits and all(self._plan.packed.get(value, leading) == leading for value in node.inputs if value)
        elif node.domain == "" and node.op_type in _VECTORWISE:
            fits = first in self._plan.packed and all(
                value is None or self._reads_constant(value) for value in node.inputs[1:]
            )
            fits = fits and self._keeps_tokens(node, leading)
            if node.op_type == "Reshape":
                fits = first is not None and self._joins_tokens(first, node.outputs[0], leading)
        else:
            fits = False
        return leading if fits and self._is_safe(node) else None

    def _is_operand(self, value: ir.Value, output: ir.Value, leading: Leading) -> bool:
        kind = self.operand(value, output, leading)
        return kind == leading == self._plan.packed[value] if value in self._plan.packed else kind is not None

    def _is_product(self, node: ir.Node, leading: Leading) -> bool:
        left, right = node.inputs[0], node.inputs[1]
        rank = self._layout.shapes.rank(left)
        weight = self._layout.shapes.shape(right)
        if left is None or rank is None or weight is None or not self._reads_constant(right):
            return False
        if rank < (3 if leading == "pair" else 2) or self._layout.leading(left) != leading:
            return False
        if len(weight) > rank or any(dim != 1 for dim in weight[:-2]):
            return False
        if not all(value is None or self._reads_constant(value) for value in node.inputs[2:]):
            return False
        return self._is_safe(node)

    def _keeps_tokens(self, node: ir.Node, leading: Leading) -> bool:
        """Whether the axes that count tokens stay in front."""
        counting = 2 if leading == "pair" else 1
        first = node.inputs[0]
        if first is None or self._plan.packed.get(first) != leading:
            return False
        if node.op_type == "Transpose":
            order = attributes_of(node, "perm")
            return order is not None and order[:counting] == tuple(range(counting))
        if node.op_type in ("Squeeze", "Unsqueeze"):
            moved = self._layout.moved_axes(node)
            return all(moved.get(axis, axis) == axis for axis in range(counting))
        return True

    def _joins_tokens(self, source: ir.Value, result: ir.Value, leading: Leading) -> bool:
        """Whether a Reshape does nothing but join or part the axes that count tokens.

        One that splits heads is given all positions: attention is recognized by it.
        """
        before = self._plan.packed.get(source)
        return before is not None and self._layout.tail(source, before) == self._layout.tail(result, leading)

    def _is_safe(self, node: ir.Node) -> bool:
        """Whether the node mixes no tokens."""
        facts = [ORIGINAL if value is None else self._plan.facts.get(value, ORIGINAL) for value in node.inputs]
        if any(each.rows is Rows.CHOSEN for each in facts):
            return False
        try:
            result = facts_of(node, facts, self._scene)
        except SkipPaddingError:
            return False  # What is refused here is judged again, with the message, as a node of all positions.
        # What lowers padding is meant for a maximum or softmax over positions, which are to see it lowered.
        return all(by > MASKED_BY for by in result.lowered.values())

    def _pack(self, node: ir.Node, leading: Leading) -> None:
        plan = self._plan
        given = [ORIGINAL if value is None else plan.facts.get(value, ORIGINAL) for value in node.inputs]
        facts = facts_of(node, given, self._scene)
        axis = 1 if leading == "pair" else 0
        plan.modes[node] = Mode.PACKED
        plan.products += node.op_type in _PRODUCTS
        for value in node.outputs:
            plan.packed[value] = leading
            plan.derived.add(value)
            plan.facts[value] = PaddingFacts(wrong=frozenset({axis}), zero=facts.zero & {axis})

    def _chooses(self, node: ir.Node) -> bool:
        """Whether a node picks one position of a tensor whose padded positions differ."""
        if node.domain != "" or node.op_type not in ("Gather", "Slice"):
            return False
        first, shapes = node.inputs[0], self._layout.shapes
        shape = shapes.shape(first)
        if first is None or shape is None or len(shape) < 2 or shape[:2] != (self._layout.batch, self._layout.sequence):
            return False
        return (
            self._plan.seen(first).wrong == {1}
            and taken_axes(node, len(shape)) == (1,)
            and takes_one(node, len(shape))
            and all(self._plan.seen(value).is_original for value in node.inputs[1:])
        )

    def _refuse_captured(self, node: ir.Node) -> None:
        """Refuses a node whose inner graphs read what may differ from the original."""
        for value in _captured(node):
            if not self._plan.seen(value).is_original or value in self._plan.packed:
                refuse(node, "has an inner graph that reads tokens.")


def _captured(node: ir.Node) -> Iterator[ir.Value]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs = list(attribute.as_graphs())
        else:
            continue
        for graph in graphs:
            for inner in ir.traversal.RecursiveGraphIterator(graph):
                yield from (value for value in inner.inputs if value is not None)
            yield from graph.outputs
