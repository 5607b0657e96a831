"""A graph beside its weights instead of with them in it: what a model is optimized and stored as.

A FrozenGraph holds its weights as constants, which is what a Session wants. Where variables are going to hold them, as
in a SavedModel, they never need to be in one message with the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tensorflow.core.framework import graph_pb2

from tf_opt.frozen_graph import FrozenGraph, GraphBorder
from tf_opt.weights import WeightStore, attach_weights, detach_weights


@dataclass(frozen=True, kw_only=True, eq=False)
class LightGraph(GraphBorder):
    """A light graph, its weights, and the tensors by which a user feeds and fetches it.

    Attributes:
        graph_def: The graph, with a placeholder for each weight. Treat it as read-only.
        weights: The constants behind these placeholders.
    """

    graph_def: graph_pb2.GraphDef = field(repr=False)
    weights: WeightStore = field(repr=False)

    def attached(self) -> FrozenGraph:
        """Returns the graph with its weights as constants in it."""
        return FrozenGraph(
            graph_def=attach_weights(self.graph_def, self.weights),
            inputs=self.inputs,
            outputs=self.outputs,
            assertions=self.assertions,
        )


def light_graph(frozen: FrozenGraph) -> LightGraph:
    """Returns the graph beside its weights, which still belong to `frozen`: it must not change meanwhile."""
    light, weights = detach_weights(frozen.graph_def)
    return LightGraph(
        graph_def=light, weights=weights, inputs=frozen.inputs, outputs=frozen.outputs, assertions=frozen.assertions
    )
