"""Lets a batched matrix multiplication do the transposing that surrounds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.graph_view import parse_input
from tf_opt.passes.tf.merge_transposes import transpose_order
from tf_opt.passes.tf.node_defs import attribute_dtype, make_constant
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult

_MATMUL_OPS = frozenset({"BatchMatMulV2", "BatchMatMulV3"})


class FoldTransposesIntoMatMul(GraphPass):
    """Turns Transposes around BatchMatMulV2 into its adj_x and adj_y.

    * the product with its last two axes exchanged is the product of the exchanged operands
    * an operand that a Transpose moves so that its last axis changes is transposed in the way that keeps its last axis
      (or not at all), and the flag turned, where the two differ by the exchange of the last two axes

    The attention of Keras comes out as the attention of everybody else: q and k transposed alike, and adj_y. A
    Transpose that something else reads too stays, so no work is done twice. Complex operands stay, since adj
    conjugates them.

    Before:
        Transpose(BatchMatMulV2(Transpose(k, [0, 2, 1, 3]), Transpose(q, [0, 2, 3, 1])), [0, 1, 3, 2])
    After:
        BatchMatMulV2(Transpose(q, [0, 2, 1, 3]), Transpose(k, [0, 2, 1, 3]), adj_y=true)
    """

    name: ClassVar[str] = "fold_transposes_into_matmul"
    requires: ClassVar[frozenset[str]] = frozenset({"no_pass_through"})

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`."""
        editor = GraphEditor(graph_def, border)
        for node in graph_def.node:
            kind = attribute_dtype(node, "T") if node.op in _MATMUL_OPS else None
            if kind is not None and not kind.is_complex and editor.is_free(node.name):
                _fold_operands(editor, _fold_result(editor, node))
        return editor.finish()


def _exchanged(order: Sequence[int]) -> list[int]:
    return [*order[:-2], order[-1], order[-2]]


def _fold_result(editor: GraphEditor, node: NodeDef) -> NodeDef:
    """Returns the multiplication that takes the place of the Transpose above `node`, or `node` where there is none."""
    uses = editor.view.consumers(node.name)
    if editor.is_fetched(node.name) or len(uses) != 1 or uses[0].position != 0:
        return node
    above = editor.view.node(uses[0].node)
    order = transpose_order(editor, above)
    if order is None or len(order) < 2 or order != _exchanged(range(len(order))):
        return node
    product = NodeDef()
    product.CopyFrom(node)
    product.name = above.name
    product.input[0], product.input[1] = node.input[1], node.input[0]
    product.attr["adj_x"].b, product.attr["adj_y"].b = not node.attr["adj_y"].b, not node.attr["adj_x"].b
    editor.replace(product)
    editor.count()
    return product


def _fold_operands(editor: GraphEditor, node: NodeDef) -> None:
    product = NodeDef()
    product.CopyFrom(node)
    for position, flag in enumerate(("adj_x", "adj_y")):
        source = editor.view.node(parse_input(product.input[position]).node)
        order = transpose_order(editor, source)
        if order is None or len(order) < 2:
            continue
        wanted, last = _exchanged(order), len(order) - 1
        if order[-1] == last or (wanted[-1] != last) or len(editor.view.consumers(source.name)) != 1:
            continue
        if editor.is_fetched(source.name):
            continue
        if wanted == list(range(len(order))):
            product.input[position] = source.input[0]
        else:
            kind = attribute_dtype(source, "Tperm")
            axes = editor.add(
                make_constant(f"{source.name}/order", wanted, kind, device=source.device), before=source.name
            )
            editor.set_input(source.name, 1, axes)
        product.attr[flag].b = not product.attr[flag].b
        editor.replace(product)
        editor.count()
