"""Gives nodes that stay TensorFlow their own copy of the index arithmetic that engines read too."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.graph_view import format_input
from tf_opt.passes.tf.node_defs import attribute_dtype
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult
from tf_opt.passes.tf.tensor_types import tensor_infos
from tf_opt.tensor_info import tensor_name

_INDEX_OPS = frozenset(
    "Shape Size Rank StridedSlice Slice Pack ConcatV2 Range ExpandDims Squeeze Reshape Cast Prod AddV2 Sub Mul Maximum "
    "Minimum Neg Less LessEqual Greater GreaterEqual Identity Fill".split()
)
"""What shapes, lengths, positions, the distances between them and the types of tokens are computed with. On integers
each costs next to nothing."""

_MAXIMUM_COPIES = 64
"""More nodes than this in front of one node are no index arithmetic, but a computation on integers."""


class SeparateIndices(GraphPass):
    """Copies index arithmetic that both a node outside of all engines and nodes inside of one read.

    Otherwise that arithmetic lies in front of the outside node, whose result the engine reads, and so cannot be in the
    engine: all shapes that are derived from it come in as numbers that nothing is known of, and whatever is connected
    with it (the arithmetic on an attention mask) is cut off into a segment of its own.

    Before (Gather stays TensorFlow):
        ids -> Shape -> Range -> Gather -> Reshape -> y      Shape -> Pack -> Reshape
    After:
        ids -> Shape(copy) -> Range(copy) -> Gather -> Reshape -> y      ids -> Shape -> Pack -> Reshape
    """

    name: ClassVar[str] = "separate_indices"

    def __init__(self, outside: Collection[str]) -> None:
        """Takes the names of the nodes that no engine may have."""
        self._outside = frozenset(outside)

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`."""
        editor = GraphEditor(graph_def, border)
        types = tensor_infos(graph_def)
        integers = {
            node.name
            for node in graph_def.node
            if node.op in _INDEX_OPS
            and node.name not in self._outside
            and editor.is_free(node.name)
            and (info := types.get(tensor_name(node.name))) is not None
            and (info.dtype.startswith(("int", "uint")) or _compares_integers(node, info.dtype))
        }
        copies: dict[str, str] = {}
        for name in editor.view.topological_order():
            if name not in self._outside or name in editor.governed:
                continue
            for position, reference in enumerate(editor.view.data_inputs(name)):
                cone = _cone(editor, reference.node, integers)
                if not cone or len(cone) > _MAXIMUM_COPIES or not self._is_shared(editor, cone):
                    continue
                for member in cone:
                    if member not in copies:
                        copies[member] = _copy(editor, member, copies, before=name)
                editor.set_input(name, position, format_input(reference._replace(node=copies[reference.node])))
                editor.count()
        return editor.finish()

    def _is_shared(self, editor: GraphEditor, cone: Collection[str]) -> bool:
        """Whether a node that may be in an engine reads from the cone."""
        return any(
            use.node not in self._outside and use.node not in cone
            for member in cone
            for use in editor.view.data_consumers(member)
        )


def _compares_integers(node: NodeDef, dtype: str) -> bool:
    # A comparison of numbers that an engine computes is smaller than they are, and should leave it in their place.
    return dtype == "bool" and "T" in node.attr and attribute_dtype(node, "T").is_integer


def _cone(editor: GraphEditor, name: str, integers: Collection[str]) -> list[str]:
    """Returns the index arithmetic in front of a node's input, producers first; empty where there is none."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(node: str) -> None:
        if node in seen or node not in integers:
            return
        seen.add(node)
        for reference in editor.view.data_inputs(node):
            visit(reference.node)
        order.append(node)

    visit(name)
    return order


def _copy(editor: GraphEditor, name: str, copies: dict[str, str], *, before: str) -> str:
    node = NodeDef()
    node.CopyFrom(editor.view.node(name))
    node.name = editor.unique_name(f"{name}_outside")
    node.input[:] = [
        format_input(reference._replace(node=copies.get(reference.node, reference.node)))
        for reference in editor.view.data_inputs(name)
    ]
    return editor.add(node, before=before)
