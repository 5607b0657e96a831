"""Models that are one segment each, on their way to an engine: what tests of a single step in between start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from tf_opt.border_values import border_values
from tf_opt.engine_building import EngineBuilder
from tf_opt.engines.base import EngineBackend
from tf_opt.export import DEFAULT_OPSET
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.options import Options
from tf_opt.passes.tf.pass_base import Border, PassPipeline
from tf_opt.passes.tf.pipeline import GRAPH_PASSES
from tf_opt.tensor_info import node_name
from tf_opt.weights import detach_weights


class WholeSegment:
    """A frozen graph that a backend takes as one segment, segmented and prepared.

    Attributes:
        light: The graph after the passes, without its weights.
        weights: Its weights.
        builder: What segments and builds.
        segment: The segment.
        prepared: Its canonical ONNX model.
    """

    def __init__(self, frozen: FrozenGraph, backend: EngineBackend, options: Options | None = None) -> None:
        """Goes as far as the canonical model."""
        border = Border(inputs=tuple(map(node_name, frozen.input_names)), outputs=frozen.output_names)
        light, self.weights = detach_weights(frozen.graph_def)
        self.builder = EngineBuilder(
            options or Options(), (backend,), border, DEFAULT_OPSET, None, lambda _: nullcontext(), lambda *_: ()
        )
        self.light = self.builder.separate(PassPipeline(GRAPH_PASSES).run(light, border))
        (self.segment,) = self.builder.segment(self.light).segments
        self.models = self.builder.models[backend.name]
        self.prepared = self.models.prepare(self.light, self.weights, self.segment)

    def inputs(self, feeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What flows into the segment, by `input_<i>`, for feeds by tensor name."""
        return border_values(self.light, self.weights, self.segment, [dict(feed) for feed in feeds])
