"""One optimization of one light graph with one choice of engines, stage by stage. It reads like the way of the data."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from tensorflow.core.framework import graph_pb2
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.adoption import Adoption, AdoptionTrials, Candidate
from tf_opt.border_values import border_values
from tf_opt.cache_key import cache_key
from tf_opt.dump.writer import Dump
from tf_opt.engine_building import EngineBuilder, describe_segment
from tf_opt.engine_selection import EngineSelection
from tf_opt.engines.base import ShapeProfile
from tf_opt.engines.tensorrt.settings import TensorRTSettings
from tf_opt.environment import describe_environment
from tf_opt.feeds import NormalizedFeed
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.light_graph import LightGraph
from tf_opt.ops.build import load as load_op
from tf_opt.optimization_cache import CacheEntry, OptimizationCache, is_worth_keeping
from tf_opt.optimizer_inputs import fix_input_shapes, writable_folder
from tf_opt.options import Options
from tf_opt.passes.tf.graph_editor import keep_reachable
from tf_opt.passes.tf.last_axis_of_means import LastAxisOfMeans
from tf_opt.passes.tf.pass_base import Border, PassPipeline
from tf_opt.passes.tf.pipeline import GRAPH_PASSES
from tf_opt.passes.tf.segment import Segment, Segmentation
from tf_opt.precision_search import PrecisionSearch
from tf_opt.report.optimization import OptimizationReport, RefusedNode, SegmentReport
from tf_opt.shape_profiles import ShapeProfiles
from tf_opt.tensor_info import node_name
from tf_opt.terminal import stage_progress
from tf_opt.tolerance import Outputs, Tolerance
from tf_opt.weights import WeightStore


class OptimizationRun:
    """One optimization: the state that the stages hand on."""

    def __init__(self, options: Options, model: LightGraph, opset: int, selection: EngineSelection) -> None:
        self.options = options
        self.model = model
        self.opset = opset
        self.choice = selection
        self.backend = self.choice.backends[0]
        self.profiles: ShapeProfiles | None = None
        # A placeholder with a default is no input that has to be fed, but one that still can be.
        defaults = [node.name for node in model.graph_def.node if node.op == "PlaceholderWithDefault"]
        fed = dict.fromkeys([*map(node_name, model.input_names), *defaults])
        self.border = Border(inputs=tuple(fed), outputs=model.output_names)
        self.stage_seconds: dict[str, float] = {}
        engines = "_".join(backend.name for backend in self.choice.backends)
        self.dump = None if options.dump_dir is None else Dump(writable_folder(options.dump_dir), engines)
        self.progress = stage_progress(options.progress)
        self.builder = EngineBuilder(
            options, self.choice.backends, self.border, opset, self.dump, self.stage, self.profiles_of
        )

    def analyze(self) -> OptimizationReport:
        """Goes as far as segmentation."""
        weights = self.model.weights
        with nullcontext() if self.dump is None else self.dump.writing(weights):
            pipeline = PassPipeline(GRAPH_PASSES, None if self.dump is None else self.dump.graph_passes)
            light = self.builder.separate(pipeline.run(self.model.graph_def, self.border))
            segmentation = self.builder.segment(light)
            segments = tuple(describe_segment(segment, light, weights) for segment in segmentation.segments)
            report = replace(self.report(segmentation, segments, pipeline), notes=self.notes())
            if self.dump is not None:
                self.dump.finish(light, weights, report, self.model.output_names)
        return report

    def optimize(
        self, feeds: list[NormalizedFeed], calibration: list[NormalizedFeed]
    ) -> tuple[LightGraph, OptimizationReport]:
        """Takes the result of an earlier run on the same model, feeds and options, or goes the whole way.

        Returns:
            The optimized graph, which is the given object where no engine was adopted, and the report.
        """
        load_op()  # An OpBuildError says more than TensorFlow does of an op that it does not know.
        started = time.perf_counter()
        light, weights = self.model.graph_def, self.model.weights
        with self.progress, nullcontext() if self.dump is None else self.dump.writing(weights, feeds):
            results = OptimizationCache(self.options.cache_dir) if self.options.cache else None
            key = None if results is None else self.cache_key(light, weights, feeds, calibration)
            # What is to be dumped has to be made.
            entry = None if results is None or key is None or self.dump else results.load(key)
            if entry is None:
                entry = self.decide(light, weights, feeds, calibration, results)
                if results is not None and key is not None and is_worth_keeping(entry.report):
                    with self.stage("cache"):
                        results.store(key, entry)
            else:
                entry = replace(entry, report=replace(entry.report, from_cache=True))
            optimized = self.model
            if entry.graph_def is not None:
                optimized = self.described(entry.graph_def, weights.extended(entry.derived_weights))
            stages = {"cache": time.perf_counter() - started} if entry.report.from_cache else dict(self.stage_seconds)
            # Of this model: another one may differ in its assertions only, and have made what the cache has.
            notes = (*self.notes(), *entry.report.notes)
            report = replace(entry.report, stage_seconds=stages, peak_memory_bytes=peak_memory_bytes(), notes=notes)
            if self.dump is not None:
                self.dump.finish(optimized.graph_def, optimized.weights, report, self.model.output_names)
        return optimized, report

    def cache_key(
        self,
        light: graph_pb2.GraphDef,
        weights: WeightStore,
        feeds: list[NormalizedFeed],
        calibration: list[NormalizedFeed],
    ) -> str | None:
        """Returns what tells this optimization from others; None where that cannot be told."""
        with self.stage("cache"):
            return cache_key(
                light,
                weights,
                outputs=self.model.output_names,
                feeds=feeds,
                calibration=calibration,
                options=self.options,
                opset=self.opset,
                engine=", ".join(backend.identity for backend in self.choice.backends),
            )

    def decide(
        self,
        light: graph_pb2.GraphDef,
        weights: WeightStore,
        feeds: list[NormalizedFeed],
        calibration: list[NormalizedFeed],
        results: OptimizationCache | None,
    ) -> CacheEntry:
        """Builds engines, and decides which of them stay."""
        # Measured against what the graph means, which a Session with oneDNN does not compute without this.
        original = LastAxisOfMeans().run(light, self.border).graph_def
        if not self.options.dynamic_opt:
            light = fix_input_shapes(light, feeds)
        with self.stage("passes"):
            pipeline = PassPipeline(GRAPH_PASSES, None if self.dump is None else self.dump.graph_passes)
            light = self.builder.separate(pipeline.run(light, self.border))
        if any(backend.wants_profiles for backend in self.choice.backends):
            settings = self.options.tensorrt or TensorRTSettings()
            self.profiles = ShapeProfiles(settings, self.model.inputs, feeds)
        segmentation, built, rejected = self.builder.build_all(light, weights)

        def adopt(candidates: Sequence[Candidate], tolerance: Tolerance | None) -> Adoption:
            store = weights.extended(_derived_weights(candidates))
            judged_by = self.by_key(tolerance)
            trials = AdoptionTrials(original, light, store, self.model.output_names, feeds, self.options, judged_by)
            return trials.adopt(candidates)

        search = PrecisionSearch(
            self.options,
            self.backend,
            built,
            adopt,
            lambda segment: border_values(light, weights, segment, calibration),
            self.stage,
            None if results is None else results.folder / "calibrations",
            self.progress,
        )
        result = search.run()
        adoption = result.adoption
        reports = {report.name: report for report in (*rejected, *adoption.segments)}
        ordered = tuple(reports[segment.name] for segment in segmentation.segments)
        report = replace(
            self.report(segmentation, ordered, pipeline),
            measurement=adoption.measurement,
            measurements=adoption.measurements,
            maximum_error=adoption.maximum_error,
            attempts=result.attempts,
        )
        if adoption.graph_def is None:
            return CacheEntry(graph_def=None, report=report)
        # Weights that only replaced nodes read are no part of the result.
        kept = keep_reachable(adoption.graph_def, adoption.graph_def.node, self.border)
        names = {node.name for node in kept.node}
        derived = {name: node for name, node in _derived_weights(result.candidates).items() if name in names}
        return CacheEntry(graph_def=kept, derived_weights=derived, report=report)

    def by_key(self, tolerance: Tolerance | None) -> Tolerance | None:
        """Returns the tolerance with a metric that takes outputs by tensor name and hands them on by key."""
        if tolerance is None or tolerance.metric is None:
            return tolerance
        keys = {info.name: info.key for info in self.model.outputs}
        metric = tolerance.metric

        def metric_by_key(original: Outputs, optimized: Outputs) -> float:
            return metric(*({keys[name]: array for name, array in side.items()} for side in (original, optimized)))

        return replace(tolerance, metric=metric_by_key)

    def profiles_of(
        self, light: graph_pb2.GraphDef, weights: WeightStore, segment: Segment
    ) -> tuple[ShapeProfile, ...]:
        """Returns the shapes that an engine has to serve; an analysis, which has no feeds, builds none."""
        return () if self.profiles is None else self.profiles(light, weights, segment)

    def described(self, graph_def: graph_pb2.GraphDef, weights: WeightStore) -> LightGraph:
        """Returns the optimized graph with the keys of the original, and with its shapes where these were left open."""
        described: LightGraph | FrozenGraph = self.model
        if not self.options.dynamic_opt:
            keys = {info.name: info.key for info in (*self.model.inputs, *self.model.outputs)}
            described = frozen_from_graph_def(graph_def, self.model.output_names, keys=keys)
        return LightGraph(graph_def=graph_def, weights=weights, inputs=described.inputs, outputs=described.outputs)

    def notes(self) -> tuple[str, ...]:
        """Returns what a user should know of the model itself."""
        # The first pass takes those out that are in the graph still, as in one that was frozen by other means.
        count = self.model.assertions + sum(node.op == "Assert" for node in self.model.graph_def.node)
        if not count:
            return ()
        one = count == 1
        return (
            f"{count} assertion{'' if one else 's'} of the model {'is' if one else 'are'} not in the optimized graph "
            f"(tf.debugging.assert_equal and the like): inputs that {'it refuses' if one else 'they refuse'} are "
            "computed there.",
        )

    def report(
        self, segmentation: Segmentation, segments: tuple[SegmentReport, ...], pipeline: PassPipeline
    ) -> OptimizationReport:
        """Puts together what every run reports."""
        return OptimizationReport(
            engine=self.backend.name,
            engine_choice=self.choice.reason,
            precision=self.options.precision,
            compute_nodes=segmentation.compute_node_count,
            original_nodes=len(self.model.graph_def.node),
            segments=segments,
            refused=tuple(
                RefusedNode(name=each.node, op=each.op, category=each.category.value, reason=each.reason)
                for each in segmentation.refusals
            ),
            declined=self.builder.declined(segmentation),
            pass_changes=pipeline.counts,
            stage_seconds=dict(self.stage_seconds),
            environment=describe_environment(),
            graph=self.builder.segment_graph(segmentation, self.model.inputs, self.model.outputs),
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


def _derived_weights(candidates: Sequence[Candidate]) -> dict[str, NodeDef]:
    return {name: node for each in candidates for name, node in each.derived_weights.items()}


def peak_memory_bytes() -> int:
    """Returns the highest resident memory of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
