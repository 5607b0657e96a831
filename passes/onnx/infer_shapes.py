"""Writes the shapes of inner tensors into the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from tf_opt.passes.onnx.pass_base import OnnxPass


class InferShapes(OnnxPass):
    """Writes what ONNX's own inference knows of the shapes of inner tensors beside the nodes.

    Each unknown dimension gets a name there, also where tensors of different names are added: what an engine's reader
    leaves nameless, it cannot know to be equal. ONNX Runtime fuses the sum in front of a LayerNormalization only where
    the names of both operands' dimensions are the same.

    Before, for x of [A, B, 8] and y of [C, D, 8]:
        s = Add(x, y)    r = Relu(s)        where s and r have no shape
    After:
        s = Add(x, y)    r = Relu(s)        where s and r have the shape [E, F, 8]
    """

    name: ClassVar[str] = "infer_shapes"

    def run(self, model: ir.Model) -> int:
        """See `OnnxPass.run`; the number of tensors whose shape or dtype was not known."""
        # Graph outputs keep what they say of themselves: it is the segment's border.
        outputs = [(value, value.shape, value.type) for value in model.graph.outputs]
        before = {value: (value.shape, value.dtype) for value in _computed(model)}
        # Not strict: the inference stops at operators of other domains, which ONNX does not know.
        ShapeInferencePass(check_type=False, strict_mode=False)(model)
        for value, shape, kind in outputs:
            value.shape, value.type = shape, kind
        return sum((value.shape, value.dtype) != known for value, known in before.items())


def _computed(model: ir.Model) -> Iterator[ir.Value]:
    """Yields what nodes compute, in nested graphs too."""
    for graph in model.graphs():
        for node in graph:
            yield from node.outputs
