"""Writes the last axis of a Mean as -1."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.node_defs import constant_value
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult
from tf_opt.passes.tf.tensor_types import tensor_infos


class LastAxisOfMeans(GraphPass):
    """Names the last axis of a Mean from behind, which keeps TensorFlow from a fusion that is wrong.

    Where oneDNN is on, Grappler's remapper turns Mean, SquaredDifference, Mean, Rsqrt, … into one _MklLayerNorm whose
    epsilon is always 0.001, whatever the graph says: the outputs of a BERT with epsilon 1e-12 are off by tenths
    (remapper.cc, FindMklLayerNorm, its third pattern, which reads no epsilon). That pattern asks for the axis rank - 1,
    so that -1, the same axis, is left alone.

    Before, for x of rank 3:
        Mean(x, [2])
    After:
        Mean(x, [-1])
    """

    name: ClassVar[str] = "last_axis_of_means"

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`."""
        editor = GraphEditor(graph_def, border)
        candidates = {}
        for node in graph_def.node:
            if node.op == "Mean":
                axis = constant_value(editor.view.get(node.input[1].split(":")[0]))
                if axis is not None and axis.size == 1 and int(axis.flat[0]) >= 0:
                    candidates[node.name] = axis
        if not candidates:
            return editor.finish()
        infos = tensor_infos(graph_def)
        for name, axis in candidates.items():
            node = editor.node(name)
            reference = node.input[0] if ":" in node.input[0] else f"{node.input[0]}:0"
            shape = infos[reference].shape
            if shape is None or int(axis.flat[0]) != len(shape) - 1:
                continue
            # A copy, control inputs and all: in the frame of a loop they are what makes the constant run there.
            constant = NodeDef()
            constant.CopyFrom(editor.view.node(node.input[1].split(":")[0]))
            constant.name = f"{name}/last_axis"
            constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.full_like(axis, -1)))
            editor.set_input(name, 1, editor.add(constant, before=name))
            editor.count()
        return editor.finish()
