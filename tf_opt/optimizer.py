"""`Tf2TrtOpt`: from a frozen graph to one whose segments run as engines. It reads like the way of the data."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from tensorflow.core.framework import graph_pb2, tensor_shape_pb2

from tf_opt.adoption import AdoptionTrials, Candidate
from tf_opt.engines import create_backend
from tf_opt.engines.base import EngineBackend, SegmentModel
from tf_opt.environment import describe_environment
from tf_opt.errors import EngineBuildError, ExportError, InvalidOptionError, TfOptError
from tf_opt.export import DEFAULT_OPSET, check_opset, convertible_ops, export_segment
from tf_opt.feeds import Feed, NormalizedFeed, check_feeds
from tf_opt.files import write_bytes
from tf_opt.frozen_graph import FrozenGraph, find_tensor
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.options import Options
from tf_opt.passes.tf.extract import extract_segment
from tf_opt.passes.tf.pass_base import Border, PassPipeline
from tf_opt.passes.tf.pipeline import EXPORT_PASSES, GRAPH_PASSES
from tf_opt.passes.tf.segment import Segment, Segmentation, segment_graph
from tf_opt.passes.tf.splice import EngineNode
from tf_opt.report import OptimizationReport, RefusedNode, SegmentReport
from tf_opt.tensor_info import TensorInfo, node_name
from tf_opt.weights import WeightStore, attach_weights, detach_weights

MAXIMUM_CUTS = 8
"""How often a segment is cut again around nodes that the converter refused. Each cut removes every node it blamed."""


class Tf2TrtOpt:
    """Optimizes frozen graphs: the segments that an engine can run become engine nodes.

    Example:
        >>> optimizer = Tf2TrtOpt()
        >>> optimized = optimizer.optimize_graph_def(graph_def, ["Identity"], [{"input_ids:0": ids}])
        >>> optimizer.report.print()

    Attributes:
        options: The options, checked.
    """

    def __init__(self, **options: Any) -> None:
        """Takes the fields of `tf_opt.Options` as keywords.

        Raises:
            InvalidOptionError: A keyword is no option, or its value is not allowed.
            UnknownEngineError: There is no engine of that name.
        """
        self.options = Options.from_keywords(options)
        self._report: OptimizationReport | None = None

    @property
    def report(self) -> OptimizationReport:
        """The report of the latest run or analysis.

        Raises:
            TfOptError: Nothing has been optimized or analyzed yet.
        """
        if self._report is None:
            raise TfOptError("There is no report yet. Call optimize_graph_def, optimize or analyze first.")
        return self._report

    def optimize_graph_def(
        self,
        graph_def: graph_pb2.GraphDef,
        model_outputs: Sequence[str] | str,
        test_data: Sequence[Feed],
        disable_fp16: bool = True,
        opset: int | None = None,
    ) -> graph_pb2.GraphDef:
        """Returns a GraphDef in which engine nodes stand for segments. It runs in a plain `tf.compat.v1.Session`.

        A process that only loads the result has to `import tf_opt`, so that TensorFlow knows the engine op.

        Args:
            graph_def: A frozen graph; it is not changed. It is returned as it is where no engine is adopted.
            model_outputs: Node or tensor names to fetch ("Identity" or "Identity:0"); they stay fetchable.
            test_data: Feeds by input name, with or without ":0". They decide which engines are adopted, so they should
                look like what the model will be served.
            disable_fp16: Engines compute in fp32. This version has no other precision.
            opset: ONNX opset of the exported segments.

        Raises:
            UnknownOutputError: An output is no tensor of the graph.
            InvalidFeedError: A feed is missing, unknown, or of the wrong dtype, rank or shape, or there is none.
            GraphNotFrozenError: Variables are left in the graph.
            UnknownOpError: An op is not registered in this process.
            InvalidGraphError: The graph is inconsistent.
            InvalidOptionError: disable_fp16 or opset is not possible.
            EnginePackageMissingError: The engine's package is not installed.
            EngineUnavailableError: The engine cannot run on this machine.
            EngineBuildError, ExportError: A segment cannot become an engine, and `strict` is set.
            OpBuildError: The native op cannot be compiled.
        """
        frozen = frozen_from_graph_def(graph_def, model_outputs)
        return self.optimize(frozen, test_data, disable_fp16, opset).graph_def

    def optimize(
        self,
        frozen: FrozenGraph,
        test_data: Sequence[Feed],
        disable_fp16: bool = True,
        opset: int | None = None,
    ) -> FrozenGraph:
        """Does what `optimize_graph_def` does for a FrozenGraph, whose inputs and outputs keep their keys."""
        run = _Run(self.options, frozen, check_opset(DEFAULT_OPSET if opset is None else opset))
        if not disable_fp16:
            raise InvalidOptionError("disable_fp16 is False, but this version builds fp32 engines only. Pass True.")
        feeds = check_feeds(*_needed(frozen, test_data))
        optimized, self._report = run.optimize(feeds)
        return optimized

    def analyze(self, graph_def: graph_pb2.GraphDef, outputs: Sequence[str] | str) -> OptimizationReport:
        """Reports what would become an engine, and why each other node would not, without building anything.

        Args:
            graph_def: A frozen graph; it is not changed.
            outputs: Node or tensor names to fetch.

        Raises:
            UnknownOutputError, GraphNotFrozenError, UnknownOpError, InvalidGraphError, EnginePackageMissingError,
            EngineUnavailableError: As `optimize_graph_def`.
        """
        frozen = frozen_from_graph_def(graph_def, outputs)
        self._report = _Run(self.options, frozen, DEFAULT_OPSET).analyze()
        return self._report


class _Run:
    """One optimization: the state that the stages hand on."""

    def __init__(self, options: Options, frozen: FrozenGraph, opset: int) -> None:
        self.options = options
        self.frozen = frozen
        self.opset = opset
        self.backend: EngineBackend = create_backend(options.engine)
        self.border = Border(inputs=tuple(map(node_name, frozen.input_names)), outputs=frozen.output_names)
        self.stage_seconds: dict[str, float] = {}
        self.failures: dict[str, str] = {}
        self.dump_dir = None if options.dump_dir is None else Path(options.dump_dir)
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            transient=True,
            disable=not options.progress,
        )

    def analyze(self) -> OptimizationReport:
        """Goes as far as segmentation."""
        light, weights = detach_weights(self.frozen.graph_def)
        pipeline = PassPipeline(GRAPH_PASSES, dump_dir=self.dump_dir)
        light = pipeline.run(light, self.border)
        segmentation = self.segment(light)
        segments = tuple(_describe(segment, light, weights) for segment in segmentation.segments)
        return self.report(segmentation, segments, pipeline)

    def optimize(self, feeds: list[NormalizedFeed]) -> tuple[FrozenGraph, OptimizationReport]:
        """Goes the whole way."""
        with self.progress:
            light, weights = detach_weights(self.frozen.graph_def)
            original = light
            if not self.options.dynamic_opt:
                light = fix_input_shapes(light, feeds)
            with self.stage("passes"):
                pipeline = PassPipeline(GRAPH_PASSES, dump_dir=self.dump_dir)
                light = pipeline.run(light, self.border)
            segmentation, candidates, rejected = self.build_engines(light, weights)
            with self.stage("adopt"):
                trials = AdoptionTrials(original, light, weights, self.frozen.output_names, feeds, self.options)
                adoption = trials.adopt(candidates)
            optimized = self.frozen
            if adoption.graph_def is not None:
                optimized = self.described(attach_weights(adoption.graph_def, weights))
        reports = {report.name: report for report in (*rejected, *adoption.segments)}
        ordered = tuple(reports[segment.name] for segment in segmentation.segments)
        report = replace(
            self.report(segmentation, ordered, pipeline),
            measurement=adoption.measurement,
            maximum_error=adoption.maximum_error,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
        return optimized, report

    def described(self, graph_def: graph_pb2.GraphDef) -> FrozenGraph:
        """Returns the optimized graph with the keys of the original, and with its shapes where these were left open."""
        if self.options.dynamic_opt:
            return replace(self.frozen, graph_def=graph_def)
        keys = {info.name: info.key for info in (*self.frozen.inputs, *self.frozen.outputs)}
        return frozen_from_graph_def(graph_def, self.frozen.output_names, keys=keys)

    def segment(self, light: graph_pb2.GraphDef, refused: dict[str, str] | None = None) -> Segmentation:
        """Cuts the graph; nodes in `refused` stay TensorFlow for the reason given there."""
        options, convertible, known = self.options, convertible_ops(self.opset), refused or {}

        def is_supported(node: Any, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]) -> str | None:
            if node.name in known:
                return known[node.name]
            if node.op not in convertible:
                return f"tf2onnx has no conversion for {node.op} at opset {self.opset}"
            return self.backend.refusal(node.op, inputs, outputs)

        return segment_graph(
            light,
            self.border,
            is_supported=is_supported,
            minimum_segment_size=options.minimum_segment_size,
            allow_ops=options.supported_list,
            deny_ops=options.denied_ops,
            allow_nodes=options.supported_nodes,
            deny_nodes=options.denied_nodes,
            user_filter=options.node_filter,
        )

    def build_engines(
        self, light: graph_pb2.GraphDef, weights: WeightStore
    ) -> tuple[Segmentation, list[Candidate], list[SegmentReport]]:
        """Segments, exports and builds; cuts again where the converter blames nodes."""
        refused: dict[str, str] = {}
        for cut in range(MAXIMUM_CUTS + 1):
            with self.stage("segment"):
                segmentation = self.segment(light, refused)
            candidates: list[Candidate] = []
            rejected: list[SegmentReport] = []
            blamed: dict[str, str] = {}
            for segment in segmentation.segments:
                try:
                    candidates.append(self.build(light, weights, segment))
                except (ExportError, EngineBuildError) as error:
                    if self.options.strict:
                        raise
                    nodes = set(getattr(error, "nodes", ())) & set(segment.nodes)
                    if nodes and cut < MAXIMUM_CUTS:
                        blamed.update(dict.fromkeys(nodes, f"it does not convert to ONNX: {error}"))
                    else:
                        rejected.append(replace(_describe(segment, light, weights), reason=str(error)))
            if not blamed:
                break
            refused.update(blamed)
        return segmentation, candidates, rejected

    def build(self, light: graph_pb2.GraphDef, weights: WeightStore, segment: Segment) -> Candidate:
        """Exports one segment and builds its engine."""
        with self.stage("export"):
            started = time.perf_counter()
            extracted = extract_segment(light, segment)
            border = Border(
                inputs=tuple(f"input_{i}" for i in range(len(segment.inputs))),
                outputs=tuple(f"output_{i}:0" for i in range(len(segment.outputs))),
            )
            prepared = PassPipeline(EXPORT_PASSES).run(extracted, border)
            exported = export_segment(prepared, self.opset)
            content = exported.model.SerializeToString()
            export_seconds = time.perf_counter() - started
        if self.dump_dir is not None:
            write_bytes(self.dump_dir / f"{segment.name}.pb", extracted.SerializeToString())
            write_bytes(self.dump_dir / f"{segment.name}.onnx", content)
        with self.stage("build"):
            model = SegmentModel(
                name=segment.name,
                model=content,
                inputs=segment.inputs,
                outputs=segment.outputs,
                weights=segment.weights,
                weight_array=lambda index: weights.array(node_name(segment.weights[index].name)),
            )
            engine = self.backend.build(model)
        node = EngineNode(
            segment=segment,
            runtime=engine.runtime,
            engine=engine.blob,
            maximum_cached_engines=self.options.maximum_cached_engines,
            specialize_after=self.options.specialize_after,
            keep_fallback=self.options.keep_fallback,
        )
        report = replace(
            _describe(segment, light, weights),
            library=engine.library,
            engine_bytes=len(engine.blob),
            export_seconds=export_seconds,
            build_seconds=engine.build_seconds,
        )
        return Candidate(node=node, report=report)

    def report(
        self, segmentation: Segmentation, segments: tuple[SegmentReport, ...], pipeline: PassPipeline
    ) -> OptimizationReport:
        """Puts together what every run reports."""
        return OptimizationReport(
            engine=self.backend.name,
            compute_nodes=segmentation.compute_node_count,
            original_nodes=len(self.frozen.graph_def.node),
            segments=segments,
            refused=tuple(
                RefusedNode(name=each.node, op=each.op, category=each.category.value, reason=each.reason)
                for each in segmentation.refusals
            ),
            pass_changes=pipeline.counts,
            stage_seconds=dict(self.stage_seconds),
            environment=describe_environment(),
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Shows and times a stage; a stage that comes again adds up."""
        task = self.progress.add_task(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stage_seconds[name] = self.stage_seconds.get(name, 0.0) + time.perf_counter() - started
            self.progress.remove_task(task)


def _describe(segment: Segment, light: graph_pb2.GraphDef, weights: WeightStore) -> SegmentReport:
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


def _needed(frozen: FrozenGraph, feeds: Sequence[Feed]) -> tuple[Sequence[Feed], list[TensorInfo]]:
    """Returns the feeds and inputs without the inputs that no output depends on, which feeds may leave out."""
    nodes = {node.name: node for node in frozen.graph_def.node}
    pending = [node_name(name) for name in frozen.output_names]
    reached: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending.extend(node_name(reference) for reference in nodes[name].input)
    needed = [info for info in frozen.inputs if node_name(info.name) in reached]
    unneeded = [info for info in frozen.inputs if node_name(info.name) not in reached]
    if isinstance(feeds, Mapping) or not all(isinstance(feed, Mapping) for feed in feeds):
        return feeds, needed  # check_feeds says what is wrong.
    return [{name: feed[name] for name in feed if find_tensor(unneeded, str(name)) is None} for feed in feeds], needed


def fix_input_shapes(light: graph_pb2.GraphDef, feeds: Sequence[NormalizedFeed]) -> graph_pb2.GraphDef:
    """Returns a copy of `light` whose placeholders have the dimensions that are the same in all feeds.

    Args:
        light: Light graph; it is not changed.
        feeds: Arrays by tensor name.
    """
    fixed = graph_pb2.GraphDef()
    fixed.CopyFrom(light)
    for node in fixed.node:
        shapes = {feed[f"{node.name}:0"].shape for feed in feeds if f"{node.name}:0" in feed}
        if node.op != "Placeholder" or len({len(shape) for shape in shapes}) != 1:
            continue
        sizes = [set(dimension) for dimension in zip(*shapes, strict=True)]
        shape = tensor_shape_pb2.TensorShapeProto(
            dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=size.pop() if len(size) == 1 else -1) for size in sizes]
        )
        node.attr["shape"].shape.CopyFrom(shape)
    return fixed
