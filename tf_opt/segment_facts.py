"""What the whole graph tells of a segment's inputs: which of their dimensions are equal, and what they are made of."""

from __future__ import annotations

from tensorflow.core.framework.graph_pb2 import GraphDef

from tf_opt.passes.onnx.segment_weights import InputFacts
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.segment import Segment
from tf_opt.passes.tf.symbolic_shapes import SymbolicShapes
from tf_opt.tensor_info import TensorInfo


class SegmentFacts:
    """Answers for the segments of one graph after the other; each graph is analysed once."""

    def __init__(self) -> None:
        """Knows no graph yet."""
        self._analysed: tuple[GraphDef, SymbolicShapes] | None = None

    def inputs(self, light: GraphDef, segment: Segment) -> list[InputFacts]:
        """Returns what is known of each input of a segment.

        Args:
            light: The graph that was cut into segments; it is not changed in between.
            segment: One of them.
        """
        if self._analysed is None or self._analysed[0] is not light:
            # The analysis looks at the nodes alone; what is fed and fetched does not matter to it.
            self._analysed = light, SymbolicShapes(light, Border(inputs=(), outputs=()))
        return [_facts(self._analysed[1], info) for info in segment.inputs]


def _facts(shapes: SymbolicShapes, info: TensorInfo) -> InputFacts:
    value = shapes.value(info.name)
    return InputFacts(
        shape=shapes.shape(info.name), vector=None if value is None or value.ndim > 1 else tuple(value.ravel().tolist())
    )
