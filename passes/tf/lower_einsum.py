"""Writes two-operand Einsum as matrix multiplication."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import dtypes

from tf_opt.passes.tf.fold_shape_arithmetic import reshape_target, with_exact_minus_one
from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.node_defs import attribute_dtype, make_node
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult
from tf_opt.passes.tf.shape_nodes import ShapeNodes
from tf_opt.passes.tf.symbolic_dims import Dim, product
from tf_opt.passes.tf.symbolic_shapes import SymbolicShapes


class LowerEinsum(GraphPass):
    """Replaces Einsum by MatMul or BatchMatMulV2 with the Transposes and Reshapes that it needs.

    This is what TensorFlow's kernel does inside, so it costs nothing there; engines see a matrix multiplication, which
    they fuse with what surrounds it. Left as they are: more or fewer than two operands, "...", a label twice in one
    operand, a label that only one operand has and the result has not, operands of unknown rank, and dimensions that
    cannot be computed.

    Before, for x of shape [b, s, 8] and w of shape [8, 2, 4]:
        Einsum("abc,cde->abde", x, w)
    After:
        Reshape(MatMul(Reshape(x, [-1, 8]), Reshape(w, [8, 8])), [b, s, 2, 4])
    """

    name: ClassVar[str] = "lower_einsum"

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`."""
        editor = GraphEditor(graph_def, border)
        if not any(node.op == "Einsum" for node in graph_def.node):
            return editor.finish()
        shapes = SymbolicShapes(graph_def, border)
        nodes = ShapeNodes(editor, shapes)
        for node in graph_def.node:
            if node.op == "Einsum" and editor.is_free(node.name):
                equation = parse_equation(node.attr["equation"].s.decode())
                operands = [shapes.shape(reference) for reference in node.input]
                if equation is not None and len(operands) == 2 and None not in operands:
                    _Lowering(editor, shapes, nodes, node, equation).run()
        return editor.finish()


@dataclass(frozen=True)
class Equation:
    """A two-operand equation, its labels sorted by what happens to them.

    Attributes:
        left: Labels of the first operand.
        right: Labels of the second operand.
        result: Labels of the result.
        batch: Labels that all three have.
        contracted: Labels that both operands have and the result has not.
        left_only: Labels of the first operand and the result.
        right_only: Labels of the second operand and the result.
    """

    left: str
    right: str
    result: str
    batch: str
    contracted: str
    left_only: str
    right_only: str


def parse_equation(text: str) -> Equation | None:
    """Parses "ab,bc->ac"; returns None where the pass cannot treat the equation."""
    operands, arrow, result = text.replace(" ", "").partition("->")
    left, comma, right = operands.partition(",")
    if not arrow or not comma or "," in right or "." in operands:
        return None
    if any(len(set(labels)) != len(labels) for labels in (left, right, result)):
        return None
    if set(left) ^ set(right) != (set(left) ^ set(right)) & set(result) or not set(result) <= set(left) | set(right):
        return None
    shared = [label for label in left if label in right]
    return Equation(
        left,
        right,
        result,
        batch="".join(label for label in shared if label in result),
        contracted="".join(label for label in shared if label not in result),
        left_only="".join(label for label in left if label not in right),
        right_only="".join(label for label in right if label not in left),
    )


class _Lowering:
    def __init__(
        self, editor: GraphEditor, shapes: SymbolicShapes, nodes: ShapeNodes, node: NodeDef, equation: Equation
    ) -> None:
        self.editor = editor
        self.shapes = shapes
        self.nodes = nodes
        self.node = node
        self.equation = equation
        self.kind: Any = attribute_dtype(node, "T")
        self.sizes: dict[str, Dim] = {}
        for labels, reference in zip((equation.left, equation.right), node.input, strict=False):
            for label, dim in zip(labels, shapes.shape(reference) or (), strict=False):
                if label not in self.sizes or isinstance(dim, int):
                    self.sizes[label] = dim
        self.count = 0

    def run(self) -> None:
        """Adds the nodes and puts the last one in the place of the Einsum, if everything can be computed."""
        equation, (left, right) = self.equation, self.node.input
        if not equation.contracted or self._has_size_one_mismatch():
            return
        batch = bool(equation.batch)
        # Without batch labels all rows are one matrix, so MatMul does; its leading dimensions come back at the end.
        rows, inner, columns = equation.left_only, equation.contracted, equation.right_only
        steps = [
            (left, equation.left, equation.batch + rows + inner, [*equation.batch, rows, inner]),
            (right, equation.right, equation.batch + inner + columns, [*equation.batch, inner, columns]),
        ]
        product_labels = equation.batch + rows + columns
        last_order = [product_labels.index(label) for label in equation.result]
        if not self._can_compute([groups for *_, groups in steps], product_labels):
            return
        operands = [self._arranged(*step) for step in steps]
        op = "BatchMatMulV2" if batch else "MatMul"
        flags = {"adj_x": False, "adj_y": False} if batch else {"transpose_a": False, "transpose_b": False}
        result = self._add("matmul", op, operands, T=self.kind, **flags)
        if not (len(rows) == 1 and len(columns) == 1):
            result = self._reshaped(result, [self.sizes[label] for label in product_labels])
        if last_order != sorted(last_order):
            result = self._transposed(result, last_order)
        self._take_place(result)
        self.editor.count()

    def _has_size_one_mismatch(self) -> bool:
        """Whether operands give a label different constants; such an Einsum is invalid, or broadcasts."""
        for labels, reference in zip((self.equation.left, self.equation.right), self.node.input, strict=False):
            shape = self.shapes.shape(reference) or ()
            if len(shape) != len(labels):
                return True
            if any(
                isinstance(dim, int) and dim != self.sizes[label] for label, dim in zip(labels, shape, strict=False)
            ):
                return True
        return False

    def _can_compute(self, groups: Sequence[Sequence[str]], result: str) -> bool:
        """Whether every entry of every Reshape can be computed, or is a -1 that is exact."""
        targets = [[product(self.sizes[label] for label in group) for group in part] for part in groups]
        targets.append([self.sizes[label] for label in result])
        return all(
            self.nodes.can_provide(dim, user=self.node.name)
            for target in targets
            for dim in with_exact_minus_one(target)
        )

    def _arranged(self, reference: str, labels: str, order: str, groups: Sequence[str]) -> str:
        """Returns an operand with its labels in `order` and each of `groups` merged into one dimension."""
        tensor = reference
        if labels != order:
            tensor = self._transposed(tensor, [labels.index(label) for label in order])
        if all(len(group) == 1 for group in groups):
            return tensor
        return self._reshaped(tensor, [product(self.sizes[label] for label in group) for group in groups])

    def _transposed(self, tensor: str, order: Sequence[int]) -> str:
        axes = self.nodes.constant(list(order), "int32", user=self.node.name)
        return self._add("transpose", "Transpose", [tensor, axes], T=self.kind, Tperm=dtypes.int32)

    def _reshaped(self, tensor: str, dims: Sequence[Dim]) -> str:
        target = reshape_target(self.nodes, dims, None, "int32", user=self.node.name)
        return self._add("reshape", "Reshape", [tensor, str(target)], T=self.kind, Tshape=dtypes.int32)

    def _add(self, suffix: str, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        node = make_node(f"{self.node.name}/{suffix}", op, inputs, device=self.node.device, **attributes)
        return self.editor.add(node, before=self.node.name)

    def _take_place(self, result: str) -> None:
        """Gives the last node the name of the Einsum, which may be fetched."""
        last = NodeDef()
        last.CopyFrom(self.editor.node(result))
        last.name = self.node.name
        self.editor.discard(result)
        self.editor.replace(last)
