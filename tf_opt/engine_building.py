"""Cuts a graph into segments that become engines, cutting again around nodes that do not convert.

Where several engines are given, each node is for the first of them that takes it, and a segment holds nodes of one
engine. What an engine refuses when it is built is for the next one.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from tensorflow.core.framework import graph_pb2

from tf_opt.adoption import Candidate
from tf_opt.dump.writer import Dump
from tf_opt.empty_reductions import EmptyReductions
from tf_opt.engines.base import EngineBackend
from tf_opt.errors import EngineBuildError, ExportError, PassError
from tf_opt.exactness import inexact_reason
from tf_opt.export import convertible_ops
from tf_opt.options import Options
from tf_opt.passes.tf.node_defs import constant_value
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.segment import Segment, Segmentation, segment_graph
from tf_opt.passes.tf.separate_indices import SeparateIndices
from tf_opt.passes.tf.tensor_types import tensor_infos
from tf_opt.report.optimization import DeclinedNode, SegmentReport
from tf_opt.report.segment_graph import SegmentGraph
from tf_opt.segment_graph_builder import build_segment_graph
from tf_opt.segment_models import PreparedSegment, Profiles, SegmentModels, Stage
from tf_opt.tensor_info import TensorInfo, node_name
from tf_opt.weights import WeightStore

MAXIMUM_CUTS = 100
"""How often the graph is cut again around nodes that were refused.

Each cut removes every node that was blamed, and only segments that it changed are built again. A parser that names one
node at a time needs as many cuts as it refuses nodes; a graph of more is better served by `denied_ops`.
"""

SUSPECTS_PER_OP = 3
"""How many nodes of an op are built alone where a segment fails and nothing says which of its nodes is at fault."""


Refused: TypeAlias = Mapping[tuple[str, str], str]
"""Why an engine does not take a node, by (engine, node)."""


@dataclass(frozen=True, kw_only=True)
class BuiltSegment:
    """A segment in canonical form, and its engine in fp32.

    Attributes:
        prepared: The segment.
        candidate: Its engine.
        models: Builds other engines of it, with the same backend.
    """

    prepared: PreparedSegment
    candidate: Candidate
    models: SegmentModels


class EngineBuilder:
    """Segments, exports and builds with one set of options."""

    def __init__(
        self,
        options: Options,
        backends: Sequence[EngineBackend],
        border: Border,
        opset: int,
        dump: Dump | None,
        stage: Stage,
        profiles: Profiles,
    ) -> None:
        """Keeps what all segments share.

        Args:
            options: What may enter an engine, and what becomes of failures.
            backends: Build the engines; of each node the first that takes it.
            border: What the user feeds and fetches.
            opset: ONNX opset of the exported segments.
            dump: Where segments are written; None writes nothing.
            stage: Shows and times a stage.
            profiles: Returns the shapes that a segment has to serve; asked for backends that want to know.
        """
        self.options = options
        self.backends = {backend.name: backend for backend in backends}
        self.border = border
        self.opset = opset
        self.stage = stage
        self.dump = dump
        self.models, self._undumped_models = (
            {
                backend.name: SegmentModels(options, backend, opset, target, stage, describe_segment, profiles)
                for backend in backends
            }
            for target in (dump, None)
        )
        self._engine_of: dict[str, str] = {}
        self._declined: dict[str, dict[str, str]] = {}  # Why engines before the one in `_engine_of` refuse a node.
        self._segmented = graph_pb2.GraphDef()
        self._tensor_types: Mapping[str, TensorInfo] = {}

    def engine_of(self, segment: Segment) -> str:
        """Returns the name of the engine that a segment of the latest segmentation is for."""
        return self._engine_of[segment.nodes[0]]

    def declined(self, segmentation: Segmentation) -> tuple[DeclinedNode, ...]:
        """Returns what engines refused that a later one takes, in the latest segmentation."""
        ops = {node.name: node.op for node in self._segmented.node}
        segment_of = {name: segment.name for segment in segmentation.segments for name in segment.nodes}
        return tuple(
            DeclinedNode(name=name, op=ops[name], engine=engine, reason=reason, segment=segment_of.get(name, ""))
            for name, reasons in self._declined.items()
            for engine, reason in reasons.items()
        )

    def segment_graph(
        self, segmentation: Segmentation, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]
    ) -> SegmentGraph:
        """Returns the boxes of the latest segmentation: inputs, segments, what stays TensorFlow, outputs."""
        return build_segment_graph(self._segmented, segmentation, inputs, outputs, self._tensor_types)

    def segment(self, light: graph_pb2.GraphDef, refused: Refused | None = None) -> Segmentation:
        """Cuts the graph; what an engine refuses is for the next one, and for TensorFlow after the last.

        Segments that compute no floating point number stay TensorFlow too: shapes and indices are a few scalars, and
        entering an engine costs more than they do.
        """
        types = tensor_infos(light)
        self._segmented, self._tensor_types = light, types
        refused = refused or {}
        segmentation = self._segment(light, refused, types)
        floating = {node_name(name) for name, info in types.items() if "float" in info.dtype}
        trivial = {
            (engine, name): f"{segment.name} would compute only shapes, indices or masks, which is not worth an engine"
            for segment in segmentation.segments
            if not floating.intersection(segment.nodes)
            for name in segment.nodes
            for engine in self.backends
        }
        return self._segment(light, {**trivial, **refused}, types) if trivial else segmentation

    def separate(self, light: graph_pb2.GraphDef) -> graph_pb2.GraphDef:
        """Returns the graph in which nodes that stay TensorFlow share no index arithmetic with those that do not."""
        outside = [refusal.node for refusal in self._segment(light, {}, tensor_infos(light)).refusals]
        return SeparateIndices(outside).run(light, self.border).graph_def

    def _segment(self, light: graph_pb2.GraphDef, refused: Refused, types: Mapping[str, TensorInfo]) -> Segmentation:
        options, convertible = self.options, convertible_ops(self.opset)
        self._engine_of, self._declined = {}, {}
        nodes = {node.name: node for node in light.node}
        empty_reductions = EmptyReductions(light, self.border)

        def constant(reference: str) -> np.ndarray[Any, Any] | None:
            return constant_value(nodes.get(node_name(reference)))

        def is_supported(node: Any, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]) -> str | None:
            if node.op not in convertible:
                return f"tf2onnx has no conversion for {node.op} at opset {self.opset}"
            for tensor in (*inputs, *outputs):
                if tensor.dtype == "bfloat16":
                    return f"{tensor.name} has dtype bfloat16, which tf2onnx writes as float16"
            reasons: dict[str, str] = {}
            for engine, backend in self.backends.items():
                reason = refused.get((engine, node.name)) or backend.refusal(node.op, inputs, outputs)
                if reason is None:
                    self._engine_of[node.name] = engine
                    reason = inexact_reason(node, inputs, outputs, constant)
                    reason = reason or empty_reductions.reason(node, inputs[0].shape if inputs else ())
                    if reasons and reason is None:
                        self._declined[node.name] = reasons
                    return reason
                reasons[engine] = reason
            if len(set(reasons.values())) == 1:
                return next(iter(reasons.values()))
            return _by_engine(reasons)

        segmentation = segment_graph(
            light,
            self.border,
            is_supported=is_supported,
            minimum_segment_size=options.minimum_segment_size,
            supported_list=options.supported_list,
            denied_ops=options.denied_ops,
            supported_nodes=options.supported_nodes,
            denied_nodes=options.denied_nodes,
            node_filter=options.node_filter,
            tensor_types=types,
            group_of=self._engine_of.get,
        )
        # What the last engine has no use for stays TensorFlow because of all engines.
        refusals = tuple(
            replace(refusal, reason=f"{refusal.reason}; {_by_engine(self._declined[refusal.node])}")
            if refusal.node in self._declined
            else refusal
            for refusal in segmentation.refusals
        )
        return replace(segmentation, refusals=refusals)

    def build_all(
        self, light: graph_pb2.GraphDef, weights: WeightStore
    ) -> tuple[Segmentation, list[BuiltSegment], list[SegmentReport]]:
        """Segments, exports and builds in fp32; cuts again where the converter or the backend blames nodes.

        It ends because every round but the last one takes a node from an engine.
        """
        refused: dict[tuple[str, str], str] = {}
        before: dict[tuple[str, Segment], BuiltSegment | SegmentReport] = {}
        for cut in itertools.count():
            with self.stage("segment"):
                segmentation = self.segment(light, refused)
            results: dict[tuple[str, Segment], BuiltSegment | SegmentReport] = {}
            blamed: dict[tuple[str, str], str] = {}
            for segment in segmentation.segments:
                engine = self.engine_of(segment)
                if (engine, segment) in before:
                    results[engine, segment] = before[engine, segment]
                    continue
                try:
                    results[engine, segment] = self.build(light, weights, segment)
                except (ExportError, EngineBuildError, PassError) as error:
                    if self.dump is not None:
                        self.dump.failed(segment, engine, error)
                    if self.options.strict:
                        raise
                    reason, at_fault = str(error), {}
                    if cut < MAXIMUM_CUTS:
                        at_fault = self.at_fault(light, weights, segment, error)
                    else:
                        reason += f" (The graph was cut {MAXIMUM_CUTS} times around refused nodes, and no further.)"
                    if not at_fault and engine != list(self.backends)[-1]:
                        at_fault = dict.fromkeys(segment.nodes, reason)
                    blamed.update({(engine, name): why for name, why in at_fault.items()})
                    if not at_fault:
                        report = describe_segment(segment, light, weights)
                        results[engine, segment] = replace(report, reason=reason)
            if not blamed:
                break
            refused.update(blamed)
            before = results
        built = [result for result in results.values() if isinstance(result, BuiltSegment)]
        rejected = [result for result in results.values() if isinstance(result, SegmentReport)]
        return segmentation, built, rejected

    def build(self, light: graph_pb2.GraphDef, weights: WeightStore, segment: Segment) -> BuiltSegment:
        """Exports one segment and builds its engine in fp32."""
        return self._build_with(self.models[self.engine_of(segment)], light, weights, segment)

    def _build_with(
        self, models: SegmentModels, light: graph_pb2.GraphDef, weights: WeightStore, segment: Segment
    ) -> BuiltSegment:
        prepared = models.prepare(light, weights, segment)
        candidate = models.candidate(prepared, prepared.model, precision="fp32")
        return BuiltSegment(prepared=prepared, candidate=candidate, models=models)

    def at_fault(
        self, light: graph_pb2.GraphDef, weights: WeightStore, segment: Segment, error: Exception
    ) -> dict[str, str]:
        """Returns the nodes that keep a segment from becoming an engine, and why; empty where none can be named.

        Where the error blames none, nodes of each op are built alone: one that fails there is at fault, and with it all
        nodes of its op in the segment.
        """
        blamed = set(getattr(error, "nodes", ())) & set(segment.nodes)
        if blamed:
            reason = "it does not convert to ONNX" if isinstance(error, ExportError) else "the engine refuses it"
            own = getattr(error, "reasons", {})
            return {name: f"{reason}: {own.get(name, error)}" for name in blamed}
        ops = {node.name: node.op for node in light.node}
        by_op: dict[str, list[str]] = {}
        for name in segment.nodes:
            by_op.setdefault(ops[name], []).append(name)
        types = tensor_infos(light)
        found: dict[str, str] = {}
        models = self._undumped_models[self.engine_of(segment)]
        for names in by_op.values():
            for name in names[:SUSPECTS_PER_OP]:
                reason = self._failure_alone(models, light, weights, name, types)
                if reason:
                    found.update(dict.fromkeys(names, f"it does not become an engine on its own: {reason}"))
                    break
        # Where nothing works even alone, no node is at fault.
        return found if len(found) < len(segment.nodes) else {}

    def _failure_alone(
        self,
        models: SegmentModels,
        light: graph_pb2.GraphDef,
        weights: WeightStore,
        name: str,
        types: Mapping[str, TensorInfo],
    ) -> str:
        segmentation = segment_graph(
            light,
            self.border,
            is_supported=lambda *_: None,
            minimum_segment_size=1,
            node_filter=lambda node: bool(node.name == name),
            tensor_types=types,
        )
        try:
            for segment in segmentation.segments:
                self._build_with(models, light, weights, segment)
        except (ExportError, EngineBuildError, PassError) as error:
            return str(error)
        return ""


def _by_engine(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{engine}: {reason}" for engine, reason in reasons.items())


def describe_segment(segment: Segment, light: graph_pb2.GraphDef, weights: WeightStore) -> SegmentReport:
    """Returns the report of a segment before anything is built."""
    ops = {node.name: node.op for node in light.node}
    return SegmentReport(
        name=segment.name,
        node_count=len(segment.nodes),
        op_counts=dict(Counter(ops[name] for name in segment.nodes).most_common()),
        inputs=tuple(map(str, segment.inputs)),
        outputs=tuple(map(str, segment.outputs)),
        weight_bytes=sum(weights.size_of(node_name(info.name)) for info in segment.weights),
    )
