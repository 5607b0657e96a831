"""Multiplies by a matrix without flattening the leading dimensions first."""

from __future__ import annotations

from typing import ClassVar

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import dtypes

from tf_opt.passes.tf.fold_shape_arithmetic import reshape_target
from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.node_defs import attribute_dtype, make_node
from tf_opt.passes.tf.node_facts import SymbolicShape
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult
from tf_opt.passes.tf.shape_nodes import ShapeNodes
from tf_opt.passes.tf.symbolic_dims import Dim, product
from tf_opt.passes.tf.symbolic_shapes import SymbolicShapes


class CollapseTensordot(GraphPass):
    """Turns Reshape, MatMul, Reshape back into one BatchMatMulV2 with a matrix on the right.

    Where the symbolic shapes prove that the last Reshape restores the leading dimensions that the first one merged,
    both go. Where the first one merged other dimensions (heads into the hidden size), one Reshape to the leading
    dimensions of the result stays before the multiplication; where the last one splits the columns, one stays after
    it. A BiasAdd between MatMul and Reshape comes along.

    This pass is for graphs that go to an exporter: TensorFlow's own BatchMatMulV2 kernel multiplies once for each
    batch entry, where the flattened MatMul multiplies once.

    Before, for x of shape [b, s, 8] and w of shape [8, 6]:
        Reshape(MatMul(Reshape(x, [-1, 8]), w), [b, s, 6])
    After:
        BatchMatMulV2(x, w)
    """

    name: ClassVar[str] = "collapse_tensordot"

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`."""
        editor = GraphEditor(graph_def, border)
        if not any(node.op == "MatMul" for node in graph_def.node):
            return editor.finish()
        shapes = SymbolicShapes(graph_def, border)
        nodes = ShapeNodes(editor, shapes)
        for name in shapes.position:
            node = editor.view.node(name)
            if node.op == "Reshape" and editor.is_free(name):
                _collapse(editor, shapes, nodes, node)
        return editor.finish()


def _collapse(editor: GraphEditor, shapes: SymbolicShapes, nodes: ShapeNodes, last: NodeDef) -> None:
    view = editor.view
    bias: NodeDef | None = view.input_node(last.name, 0)
    matmul = bias
    if bias is not None and bias.op == "BiasAdd" and bias.attr["data_format"].s in (b"", b"NHWC"):
        if not _is_inner(editor, bias.name):
            return
        matmul = view.input_node(bias.name, 0)
    else:
        bias = None
    if matmul is None or matmul.op != "MatMul" or not _is_inner(editor, matmul.name) or matmul.attr["transpose_a"].b:
        return
    first = view.input_node(matmul.name, 0)
    if first.op != "Reshape" or not editor.is_free(first.name):
        return
    source = view.data_inputs(first.name)[0].tensor_name
    before, after, weight = shapes.shape(source), shapes.shape(last.name), shapes.shape(matmul.input[1])
    if after is None or weight is None or len(weight) != 2:
        return
    inner, columns = reversed(weight) if matmul.attr["transpose_b"].b else weight
    leading = _leading_dimensions(after, columns)
    if leading is None or not (_is_positive(columns) or _has_rows(shapes.shape(first.name), product(leading))):
        return
    kind = attribute_dtype(matmul, "T")
    if before != (*leading, inner):
        written = _written_dimensions(shapes, last, leading, inner)
        target = reshape_target(nodes, (*written, inner), (*leading, inner), "int32", user=last.name)
        if target is None:
            return
        merged = make_node(f"{first.name}/batched", "Reshape", [source, target], T=kind, Tshape=dtypes.int32)
        source = editor.add(merged, before=last.name)
    keeps_rank = len(leading) == len(after) - 1
    flags = {"adj_x": False, "adj_y": bool(matmul.attr["transpose_b"].b)}
    is_last = keeps_rank and bias is None
    product_node = make_node(
        last.name if is_last else f"{matmul.name}/batched",
        "BatchMatMulV2",
        [source, matmul.input[1]],
        device=matmul.device,
        T=kind,
        **flags,
    )
    if is_last:
        editor.replace(product_node)
        editor.count()
        return
    result = editor.add(product_node, before=last.name)
    if bias is not None:
        added = NodeDef()
        added.CopyFrom(bias)
        added.input[0] = result
        added.name = last.name if keeps_rank else f"{bias.name}/batched"
        if keeps_rank:
            editor.replace(added)
        else:
            result = editor.add(added, before=last.name)
    if not keeps_rank:
        editor.set_input(last.name, 0, result)
    editor.count()


def _is_inner(editor: GraphEditor, name: str) -> bool:
    """Whether only one node reads a node, and no fetch, so that it may be replaced together with its reader."""
    return editor.is_free(name) and not editor.is_fetched(name) and len(editor.view.consumers(name)) == 1


def _written_dimensions(shapes: SymbolicShapes, last: NodeDef, leading: SymbolicShape, inner: Dim) -> tuple[Dim, ...]:
    """Returns the leading dimensions as the target of the last Reshape has them, with its -1 if it has one there."""
    target = shapes.value(last.input[1])
    entries: list[Dim] = [] if target is None else target.ravel().tolist()
    written = tuple(entries[: len(leading)])
    # Beside an inner dimension that may be 0, the -1 would infer another size than beside the columns.
    return written if written.count(-1) == 1 and _is_positive(inner) else leading


def _is_positive(dim: Dim) -> bool:
    return isinstance(dim, int) and dim > 0


def _has_rows(flattened: SymbolicShape | None, rows: Dim) -> bool:
    """Whether a flattened operand has so many rows; for a result with no columns, any number of rows would do."""
    return flattened is not None and len(flattened) == 2 and flattened[0] == rows


def _leading_dimensions(after: SymbolicShape, columns: Dim) -> SymbolicShape | None:
    """Returns what the last Reshape makes of the rows, at least two dimensions; None where it mixes in the columns."""
    for count in range(len(after) - 1, 1, -1):
        if product(after[count:]) == columns:
            return after[:count]
    return None
