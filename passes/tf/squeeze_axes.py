"""Gives every Squeeze its axes."""

from __future__ import annotations

from typing import ClassVar

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult
from tf_opt.passes.tf.symbolic_shapes import SymbolicShapes


class SqueezeAxes(GraphPass):
    """Writes the axes of a Squeeze that has none, where the shape tells which they are.

    Without axes the rank of the result depends on the feed, and engines refuse a tensor of unknown rank. Where a
    dimension is unknown it could be 1 for some feed, so such a Squeeze stays as it is.

    Before, for x of shape [1, 1, 1, 64]:
        Squeeze(x, squeeze_dims=[])
    After:
        Squeeze(x, squeeze_dims=[0, 1, 2])
    """

    name: ClassVar[str] = "squeeze_axes"

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`."""
        editor = GraphEditor(graph_def, border)
        candidates = [node for node in graph_def.node if node.op == "Squeeze" and not node.attr["squeeze_dims"].list.i]
        if not candidates:
            return editor.finish()
        shapes = SymbolicShapes(graph_def, border)
        for node in candidates:
            shape = shapes.shape(node.input[0])
            if shape is None or not all(isinstance(dim, int) for dim in shape) or 1 not in shape:
                continue
            copy = NodeDef()
            copy.CopyFrom(node)
            copy.attr["squeeze_dims"].list.i.extend(axis for axis, dim in enumerate(shape) if dim == 1)
            editor.replace(copy)
            editor.count()
        return editor.finish()
