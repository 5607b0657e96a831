"""Finds reductions over what may be nothing, although nothing was fed empty: they stay TensorFlow.

The mean of nothing is NaN and its maximum minus infinity in TensorFlow; engines give zero, or whatever lies in memory.
An engine node whose inputs have no elements runs the segment's original nodes, so only what becomes empty inside of a
segment matters: a slice behind the end (`x[:, 1:]` of one column), `fill`, `tile` or `boolean_mask` by computed sizes.

    x [batch, length]                  mean over length:      may enter an engine
    x[:, 1:] [batch, length - 1]       mean over length - 1:  stays, as a length of 1 leaves nothing
"""

from __future__ import annotations

import numpy as np
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.passes.tf.node_defs import constant_value
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.symbolic_dims import Atom, Dim
from tf_opt.passes.tf.symbolic_shapes import SymbolicShapes
from tf_opt.tensor_info import Shape, node_name

_REDUCTIONS = frozenset("All Any ArgMax ArgMin EuclideanNorm Max Mean Min Prod".split())
"""Ops whose result of nothing engines do not give as TensorFlow does. Sum is zero everywhere."""

_NEVER_EMPTY = frozenset(
    "Placeholder PlaceholderWithDefault Reshape AvgPool AvgPool3D Conv2D Conv2DBackpropInput Conv3D"
    " Conv3DBackpropInputV2 DepthToSpace DepthwiseConv2dNative MaxPool MaxPool3D ResizeBilinear ResizeNearestNeighbor"
    " SpaceToDepth".split()
)
"""Ops whose outputs have elements wherever their inputs do. Of an input it is assumed: the engine node looks at it."""


class EmptyReductions:
    """Judges the reductions of one graph; what that takes is computed when a first one has unknown sizes."""

    def __init__(self, light: GraphDef, border: Border) -> None:
        """Looks at nothing yet.

        Args:
            light: The graph in the form in which it is cut into segments.
            border: Its inputs and outputs.
        """
        self._light = light
        self._border = border
        self._shapes: SymbolicShapes | None = None

    def reason(self, node: NodeDef, shape: Shape) -> str | None:
        """Returns why a node stays TensorFlow, None where it reduces nothing that may be empty.

        Args:
            node: A node of the graph.
            shape: The shape of its first input, as TensorFlow knows it.
        """
        if node.op not in _REDUCTIONS or (shape is not None and all(shape)):
            return None
        if self._shapes is None:
            self._shapes = SymbolicShapes(self._light, self._border)
        dims = self._shapes.shape(node.input[0])
        if dims is None:
            return None  # The backends refuse unknown ranks.
        axes = constant_value(self._shapes.view.node(node_name(node.input[1])))
        reduced = range(len(dims)) if axes is None else [int(axis) for axis in np.ravel(axes)]
        empty = [axis for axis in reduced if -len(dims) <= axis < len(dims) and not self._is_positive(dims[axis])]
        if not empty:
            return None
        return (
            f"dimension {empty[0] % len(dims)} of {node.input[0]} may be zero where no input is empty, and engines give"
            f" another {node.op} of nothing than TensorFlow"
        )

    def _is_positive(self, dim: Dim) -> bool:
        """Tells whether a dimension is certainly at least 1 where no input is empty."""
        if isinstance(dim, int):
            return dim > 0
        if any(coefficient < 0 for _, coefficient in dim.terms):
            return False
        terms = [all(map(self._is_positive_atom, monomial)) for monomial, _ in dim.terms]
        return any(terms) and dim.is_nonnegative

    def _is_positive_atom(self, atom: Atom) -> bool:
        if atom.operation == "symbol":
            tensor, _, _ = atom.label.rpartition("[")
            return self._shapes is not None and self._shapes.view.node(node_name(tensor)).op in _NEVER_EMPTY
        positive = [self._is_positive(operand) for operand in atom.operands]
        if atom.operation in ("broadcast", "minimum"):
            return all(positive)
        # What a window leaves: one larger than what it slides over is an error in TensorFlow.
        return atom.operation == "window" or (atom.operation == "maximum" and any(positive))
