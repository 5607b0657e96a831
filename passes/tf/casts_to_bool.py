"""Writes casts to bool as comparisons, which engines do right."""

from __future__ import annotations

from typing import ClassVar

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from tf_opt.passes.tf.graph_editor import GraphEditor
from tf_opt.passes.tf.node_defs import attribute_dtype, make_constant, make_node
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult

_SOURCES = frozenset({tf.int32, tf.int64, tf.bfloat16, tf.float16, tf.float32, tf.float64})
"""Engines cast narrower integers right, and hold unsigned ones of 32 bits and more in too few bits for either form."""


class CastsToBool(GraphPass):
    """Replaces a Cast of wide integers or of floating point numbers to bool by a comparison with 0.

    OpenVINO casts the smallest int32 to False, and fractions too. A mask that attention reads through such a Cast would
    stay TensorFlow and enter the engine as another tensor than the mask itself, so that nothing there shows that the
    two are the same.

    Before:
        Cast(mask, SrcT=int32, DstT=bool)
    After:
        NotEqual(mask, 0)
    """

    name: ClassVar[str] = "casts_to_bool"

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`."""
        editor = GraphEditor(graph_def, border)
        for node in graph_def.node:
            if node.op != "Cast" or not editor.is_free(node.name) or attribute_dtype(node, "DstT") != tf.bool:
                continue
            source = attribute_dtype(node, "SrcT")
            if source not in _SOURCES:
                continue
            zero = make_constant(f"{node.name}/zero", 0, source, device=node.device)
            operands = [node.input[0], editor.add(zero, before=node.name)]
            editor.replace(make_node(node.name, "NotEqual", operands, device=node.device, T=source))
            editor.count()
        return editor.finish()
