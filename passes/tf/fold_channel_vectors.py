"""Gives the exporter the values that are added to and multiplied with the channels behind convolutions.

    y = Conv2D(x, kernel);  z = BiasAdd(y, bias);  r = AddV2(Mul(z, Mul(Rsqrt(AddV2(variance, epsilon)), gamma)), ...)

TensorFlow's convolutions have their channels last and ONNX's have them second, so that each one is exported between two
transpositions. Those of neighbours cancel only where what stands between is moved to the other order, and tf2onnx moves
a vector only where it sees its values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.passes.tf.fold_constants import FoldConstants
from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.graph_view import Consumer, GraphView
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult
from tf_opt.weights import constant_node, is_weight

Values: TypeAlias = Callable[[str], np.ndarray[Any, Any]]
"""Returns the values of a weight by the name of its placeholder."""

_CONVOLUTIONS = frozenset("Conv2D Conv2DBackpropInput Conv3D Conv3DBackpropInputV2 DepthwiseConv2dNative".split())

_ARITHMETIC = frozenset("Add AddV2 BiasAdd Maximum Minimum Mul Neg RealDiv Rsqrt Sqrt Square Sub".split())
"""What a batch normalization, a bias or a scale is made of."""

_EVALUATED = _ARITHMETIC | frozenset("ExpandDims Reshape Squeeze".split())
"""What is computed of vectors alone; Keras 3 reshapes a variance before it is used."""

_KEEPS_CHANNELS = _ARITHMETIC | frozenset(
    """
    Abs AddN AvgPool AvgPool3D BatchToSpaceND ConcatV2 Elu Erf Exp ExpandDims FusedBatchNorm FusedBatchNormV2
    FusedBatchNormV3 Identity LeakyRelu Log MaxPool MaxPool3D MirrorPad Pad PadV2 Relu Relu6 Selu Sigmoid Softplus
    Softsign SpaceToBatchND SquaredDifference Squeeze Tanh
    """.split()
)
"""Ops behind which the channels of a convolution are still the last axis."""


class FoldChannelVectors(GraphPass):
    """Writes vectors behind convolutions as constants, and evaluates what is computed of them alone.

    Only a copy that goes to an exporter may be treated so: there are two of such a vector then, the weight and what was
    made of it. They are a few kilobytes each. Weights of more than one axis, and vectors behind anything but a
    convolution, stay what they are.

    Before, for weights gamma and beta of shape [512]:
        AddV2(Mul(Conv2D(x, kernel), Mul(gamma, 2.0)), beta)
    After:
        AddV2(Mul(Conv2D(x, kernel), Const), Const)
    """

    name: ClassVar[str] = "fold_channel_vectors"

    def __init__(self, values: Values) -> None:
        """Takes what returns the values of a weight."""
        self._values = values

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`."""
        if not any(node.op in _CONVOLUTIONS for node in graph_def.node):
            return PassResult(graph_def, changed=False)
        editor = GraphEditor(graph_def, border)
        for name, readers in _vectors_behind_convolutions(editor.view).items():
            weight = editor.view.node(name)
            constant = constant_node(f"{name}/values", self._values(name), weight.attr["dtype"].type)
            added = editor.add(constant, before=name)
            for reader in readers:
                editor.set_input(reader.node, reader.position, added)
            editor.count()
        filled = editor.finish()
        if not filled.changed:
            return filled
        folded = FoldConstants().run(filled.graph_def, border)
        return PassResult(folded.graph_def, changed=True, changes=filled.changes)


def _vectors_behind_convolutions(view: GraphView) -> dict[str, list[Consumer]]:
    """Returns the weights to write as constants, each with the readers that are to read one."""
    order = view.topological_order()
    behind: set[str] = set()
    fixed: set[str] = set()
    for name in order:
        node = view.node(name)
        sources = [reference.node for reference in view.data_inputs(name)]
        if node.op in _CONVOLUTIONS:
            behind.add(name)
        elif node.op == "Const" or _is_vector(node) or (node.op in _EVALUATED and fixed.issuperset(sources)):
            fixed.add(name)
        elif node.op in _KEEPS_CHANNELS and not behind.isdisjoint(sources):
            behind.add(name)
    wanted = {name for name in behind if view.op(name) in _ARITHMETIC}
    found: dict[str, list[Consumer]] = {}
    for name in reversed(order):
        if name not in fixed:
            continue
        readers = [use for use in view.data_consumers(name) if use.node in wanted]
        if readers:
            wanted.add(name)
        if readers and is_weight(view.node(name)):
            found[name] = readers
    return found


def _is_vector(node: NodeDef) -> bool:
    """Whether a node is a weight with a number for each channel, whatever axes of size 1 it has besides."""
    if not is_weight(node) or not tf.as_dtype(node.attr["dtype"].type).is_floating:
        return False
    axes = [dim.size for dim in node.attr["shape"].shape.dim if dim.size != 1]
    return len(axes) <= 1
