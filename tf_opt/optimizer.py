"""`Tf2TrtOpt`: from a frozen graph to one whose segments run as engines. It reads like the way of the data."""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from tensorflow.core.framework import graph_pb2
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.adoption import Adoption, AdoptionTrials, Candidate
from tf_opt.border_values import border_values
from tf_opt.cache_key import cache_key
from tf_opt.engine_building import EngineBuilder, describe_segment
from tf_opt.engine_selection import EngineSelection, select_engines
from tf_opt.engines.base import ShapeProfile
from tf_opt.engines.tensorrt.settings import TensorRTSettings
from tf_opt.environment import describe_environment
from tf_opt.errors import InvalidGraphError, TfOptError, UnsupportedPrecisionError
from tf_opt.export import DEFAULT_OPSET, check_opset
from tf_opt.feeds import Feed, NormalizedFeed, check_feeds
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.ops.build import load as load_op
from tf_opt.ops.host_weights import keep_weights_on_host
from tf_opt.optimization_cache import CacheEntry, OptimizationCache, is_worth_keeping
from tf_opt.optimizer_inputs import (
    check_graph_def,
    fix_input_shapes,
    needed_feeds,
    resolve_mask,
    resolve_precision,
    writable_folder,
)
from tf_opt.options import Options
from tf_opt.passes.tf.graph_editor import keep_reachable
from tf_opt.passes.tf.last_axis_of_means import LastAxisOfMeans
from tf_opt.passes.tf.pass_base import Border, PassPipeline
from tf_opt.passes.tf.pipeline import GRAPH_PASSES
from tf_opt.passes.tf.segment import Segment, Segmentation
from tf_opt.precision_search import PrecisionSearch
from tf_opt.report import EngineAttempt, OptimizationReport, RefusedNode, SegmentReport
from tf_opt.shape_profiles import ShapeProfiles
from tf_opt.tensor_info import node_name
from tf_opt.tolerance import Outputs, Tolerance
from tf_opt.weights import WeightStore, attach_weights, detach_weights

MAXIMUM_CALIBRATION_FEEDS = 512
"""How many feeds are taken of `calibration_data`, which may be endless. Quantization looks at a few hundred at most."""


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
        calibration_data: Iterable[Feed] | None = None,
    ) -> graph_pb2.GraphDef:
        """Returns a GraphDef in which engine nodes stand for segments. It runs in a plain `tf.compat.v1.Session`.

        A process that only loads the result has to `import tf_opt`, so that TensorFlow knows the engine op.

        Args:
            graph_def: A frozen graph; it is not changed. It is returned as it is where no engine is adopted.
            model_outputs: Node or tensor names to fetch ("Identity" or "Identity:0"); they stay fetchable.
            test_data: Feeds by input name, with or without ":0". They decide which engines are adopted, so they should
                look like what the model will be served.
            disable_fp16: False is short for `precision` being the fastest 16-bit type of the device; it says nothing
                where `precision` is another than "fp32".
            opset: ONNX opset of the exported segments.
            calibration_data: Feeds that "int8" is calibrated with; None takes `test_data`. Each is run once, so that a
                generator will do.

        Raises:
            UnknownOutputError: An output is no tensor of the graph.
            InvalidFeedError: A feed is missing, unknown, or of the wrong dtype, rank or shape, or there is none.
            GraphNotFrozenError: Variables are left in the graph.
            UnknownOpError: An op is not registered in this process.
            InvalidGraphError: The graph is inconsistent.
            InvalidOptionError: opset is not possible, or `skip_padding` names no input.
            UnsupportedPrecisionError: The device has no hardware for the precision.
            CalibrationError: A segment cannot be calibrated for "int8", and `strict` is set.
            EnginePackageMissingError: The engine's package is not installed.
            EngineUnavailableError: The engine cannot run on this machine.
            EngineBuildError, ExportError: A segment cannot become an engine, and `strict` is set.
            OpBuildError: The native op cannot be compiled.
        """
        frozen = frozen_from_graph_def(check_graph_def(graph_def), model_outputs)
        return self.optimize(frozen, test_data, disable_fp16, opset, calibration_data).graph_def

    def optimize(
        self,
        frozen: FrozenGraph,
        test_data: Sequence[Feed],
        disable_fp16: bool = True,
        opset: int | None = None,
        calibration_data: Iterable[Feed] | None = None,
    ) -> FrozenGraph:
        """Does what `optimize_graph_def` does for a FrozenGraph, whose inputs and outputs keep their keys."""
        if not isinstance(frozen, FrozenGraph):
            raise InvalidGraphError(
                f"optimize takes a FrozenGraph, got {type(frozen).__name__}. tf_opt.freeze_keras and its siblings make "
                "one; for a bare GraphDef call optimize_graph_def."
            )
        options = resolve_mask(self.options, frozen)
        opset = check_opset(DEFAULT_OPSET if opset is None else opset)
        runs, refusals = [], []
        for selection in select_engines(options):
            try:
                resolved = resolve_precision(options, selection.backends[0], disable_fp16)
            except UnsupportedPrecisionError as error:
                refusals.append(error)
                continue
            runs.append(_Run(resolved, frozen, opset, selection))
        if not runs:
            raise refusals[0]
        feeds = check_feeds(*needed_feeds(frozen, test_data))
        calibration = feeds
        if calibration_data is not None and options.precision in ("int8", "auto"):
            listed = list(itertools.islice(calibration_data, MAXIMUM_CALIBRATION_FEEDS))
            calibration = check_feeds(*needed_feeds(frozen, listed))
        optimized, self._report = runs[0].optimize(feeds, calibration)
        tried = [_engine_attempt(runs[0], self._report)]
        for run in runs[1:]:
            other, report = run.optimize(feeds, calibration)
            tried.append(_engine_attempt(run, report))
            if report.speed > self._report.speed:
                optimized, self._report = other, report
        if len(runs) > 1:
            self._report = replace(self._report, engines_tried=tuple(tried))
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
        frozen = frozen_from_graph_def(check_graph_def(graph_def), outputs)
        self._report = _Run(self.options, frozen, DEFAULT_OPSET, select_engines(self.options)[0]).analyze()
        return self._report


class _Run:
    """One optimization: the state that the stages hand on."""

    def __init__(self, options: Options, frozen: FrozenGraph, opset: int, selection: EngineSelection) -> None:
        self.options = options
        self.frozen = frozen
        self.opset = opset
        self.choice = selection
        self.backend = self.choice.backends[0]
        self.profiles: ShapeProfiles | None = None
        # A placeholder with a default is no input that has to be fed, but one that still can be.
        defaults = [node.name for node in frozen.graph_def.node if node.op == "PlaceholderWithDefault"]
        fed = dict.fromkeys([*map(node_name, frozen.input_names), *defaults])
        self.border = Border(inputs=tuple(fed), outputs=frozen.output_names)
        self.stage_seconds: dict[str, float] = {}
        self.dump_dir = None if options.dump_dir is None else writable_folder(options.dump_dir)
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            transient=True,
            disable=not options.progress,
        )
        self.builder = EngineBuilder(
            options, self.choice.backends, self.border, opset, self.dump_dir, self.stage, self.profiles_of
        )

    def analyze(self) -> OptimizationReport:
        """Goes as far as segmentation."""
        light, weights = detach_weights(self.frozen.graph_def)
        pipeline = PassPipeline(GRAPH_PASSES, dump_dir=self.dump_dir)
        light = self.builder.separate(pipeline.run(light, self.border))
        segmentation = self.builder.segment(light)
        segments = tuple(describe_segment(segment, light, weights) for segment in segmentation.segments)
        return self.report(segmentation, segments, pipeline)

    def optimize(
        self, feeds: list[NormalizedFeed], calibration: list[NormalizedFeed]
    ) -> tuple[FrozenGraph, OptimizationReport]:
        """Takes the result of an earlier run on the same model, feeds and options, or goes the whole way."""
        load_op()  # An OpBuildError says more than TensorFlow does of an op that it does not know.
        started = time.perf_counter()
        with self.progress:
            light, weights = detach_weights(self.frozen.graph_def)
            results = OptimizationCache(self.options.cache_dir) if self.options.cache else None
            key = None if results is None else self.cache_key(light, weights, feeds, calibration)
            # What is to be dumped has to be made.
            entry = None if results is None or key is None or self.dump_dir else results.load(key)
            if entry is None:
                entry = self.decide(light, weights, feeds, calibration, results)
                if results is not None and key is not None and is_worth_keeping(entry.report):
                    with self.stage("cache"):
                        results.store(key, entry)
            else:
                entry = replace(entry, report=replace(entry.report, from_cache=True))
            optimized = self.frozen
            if entry.graph_def is not None:
                with self.stage("attach"):
                    attached = attach_weights(entry.graph_def, weights.extended(entry.derived_weights))
                    keep_weights_on_host(attached)
                    optimized = self.described(attached)
        stages = {"cache": time.perf_counter() - started} if entry.report.from_cache else dict(self.stage_seconds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return optimized, replace(entry.report, stage_seconds=stages, peak_memory_bytes=peak)

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
                outputs=self.frozen.output_names,
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
            pipeline = PassPipeline(GRAPH_PASSES, dump_dir=self.dump_dir)
            light = self.builder.separate(pipeline.run(light, self.border))
        if any(backend.wants_profiles for backend in self.choice.backends):
            settings = self.options.tensorrt or TensorRTSettings()
            self.profiles = ShapeProfiles(settings, self.frozen.inputs, feeds)
        segmentation, built, rejected = self.builder.build_all(light, weights)

        def adopt(candidates: Sequence[Candidate], tolerance: Tolerance | None) -> Adoption:
            store = weights.extended(_derived_weights(candidates))
            judged_by = self.by_key(tolerance)
            trials = AdoptionTrials(original, light, store, self.frozen.output_names, feeds, self.options, judged_by)
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
        keys = {info.name: info.key for info in self.frozen.outputs}
        metric = tolerance.metric

        def metric_by_key(original: Outputs, optimized: Outputs) -> float:
            return metric(*({keys[name]: array for name, array in side.items()} for side in (original, optimized)))

        return replace(tolerance, metric=metric_by_key)

    def profiles_of(
        self, light: graph_pb2.GraphDef, weights: WeightStore, segment: Segment
    ) -> tuple[ShapeProfile, ...]:
        """Returns the shapes that an engine has to serve; an analysis, which has no feeds, builds none."""
        return () if self.profiles is None else self.profiles(light, weights, segment)

    def described(self, graph_def: graph_pb2.GraphDef) -> FrozenGraph:
        """Returns the optimized graph with the keys of the original, and with its shapes where these were left open."""
        if self.options.dynamic_opt:
            return replace(self.frozen, graph_def=graph_def)
        keys = {info.name: info.key for info in (*self.frozen.inputs, *self.frozen.outputs)}
        return frozen_from_graph_def(graph_def, self.frozen.output_names, keys=keys)

    def report(
        self, segmentation: Segmentation, segments: tuple[SegmentReport, ...], pipeline: PassPipeline
    ) -> OptimizationReport:
        """Puts together what every run reports."""
        return OptimizationReport(
            engine=self.backend.name,
            engine_choice=self.choice.reason,
            precision=self.options.precision,
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


def _engine_attempt(run: _Run, report: OptimizationReport) -> EngineAttempt:
    kept = next((attempt.precision for attempt in report.attempts if not attempt.reason), report.precision)
    return EngineAttempt(
        engine=run.choice.reason or run.backend.name, precision=kept, engines=report.engine_count, speed=report.speed
    )


def _derived_weights(candidates: Sequence[Candidate]) -> dict[str, NodeDef]:
    return {name: node for each in candidates for name, node in each.derived_weights.items()}
