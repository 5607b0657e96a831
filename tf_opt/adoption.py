"""Decides by measurement which engines stay: within tolerance of the original and not slower, or back to TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt import ops
from tf_opt.comparison import compare
from tf_opt.errors import EngineBuildError
from tf_opt.feeds import Array, NormalizedFeed, feed_shapes
from tf_opt.held_weights import HeldWeights
from tf_opt.options import Options
from tf_opt.output_accuracy import JudgedOutputs, outside_tolerance
from tf_opt.passes.tf.splice import EngineNode, splice_segments
from tf_opt.report.optimization import Measurement, SegmentReport
from tf_opt.run_errors import original_graph_error
from tf_opt.tolerance import Accuracy, Tolerance
from tf_opt.trial import Trial, describe_shapes
from tf_opt.trial_measurement import measure_trial
from tf_opt.weights import WeightStore


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An engine that was built and may be adopted.

    Attributes:
        node: Its node.
        report: What is reported of its segment so far.
        derived_weights: Const nodes by name that the engine reads and the graph has not got yet.
    """

    node: EngineNode
    report: SegmentReport
    derived_weights: Mapping[str, NodeDef] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What was decided.

    Attributes:
        graph_def: Light graph with the adopted engines; None where none was adopted.
        segments: Report of each candidate's segment.
        measurement: The adopted graph against the original on the feed with the worst ratio; None where nothing was
            measured.
        measurements: The same for every feed that was measured.
        maximum_error: Largest absolute difference of any output of the adopted graph.
        accuracy: How near the outputs of the graph with all engines came, adopted or not; None where that was not
            found out.
    """

    graph_def: graph_pb2.GraphDef | None
    segments: tuple[SegmentReport, ...]
    measurement: Measurement | None = None
    measurements: tuple[Measurement, ...] = ()
    maximum_error: float | None = None
    accuracy: Accuracy | None = None


@dataclass(frozen=True, kw_only=True)
class _Judgement:
    """What a trial showed.

    Attributes:
        objection: Why the engines in it should not be adopted; empty where they should.
        accuracy: How near the outputs came; None where they were not compared.
        measurements: One for each feed that was timed.
        idle: Why the engine never ran, by segment name, for those that did not.
    """

    objection: str = ""
    accuracy: Accuracy | None = None
    measurements: tuple[Measurement, ...] = ()
    idle: Mapping[str, str] = field(default_factory=dict)

    @property
    def maximum_error(self) -> float | None:
        """Largest absolute difference of any output."""
        return None if self.accuracy is None else self.accuracy.maximum_absolute

    @property
    def measurement(self) -> Measurement | None:
        """The worst of the measurements: one that is slower where there is any, and the lowest ratio among those."""
        return min(self.measurements, key=lambda each: (each.verdict != "slower", each.ratio), default=None)


class _OptimizedGraphFailsError(Exception):
    """Carries the failure of the optimized graph out of a comparison whose original side runs."""


class AdoptionTrials:
    """The trials of one optimization."""

    def __init__(
        self,
        original: graph_pb2.GraphDef,
        light: graph_pb2.GraphDef,
        weights: WeightStore,
        outputs: Sequence[str],
        feeds: Sequence[NormalizedFeed],
        options: Options,
        tolerance: Tolerance | None = None,
        held: HeldWeights | None = None,
    ) -> None:
        """Keeps what all trials share.

        Args:
            original: The user's graph, light.
            light: The graph after the passes, in which the segments were found.
            weights: The constants of both.
            outputs: Tensor names.
            feeds: The user's feeds, by tensor name.
            options: Policy, time budget, the mask of padding, and the elementwise tolerance.
            tolerance: What outputs have to fulfil in place of the elementwise tolerance.
            held: Memory for the weights, which the caller shares between several of these and closes; None: an own one,
                freed when `adopt` returns.
        """
        self._original = original
        self._light = light
        self._weights = weights
        self._outputs = outputs
        self._feeds = feeds
        self._options = options
        self._tolerance = tolerance
        self._held = held or HeldWeights()
        self._owns_held = held is None

    def adopt(self, candidates: Sequence[Candidate]) -> Adoption:
        """Tries all engines together, and each alone where they do not pass together.

        Raises:
            EngineBuildError: An engine cannot be loaded, and `strict` is set.
            UnknownOpError: The original graph has an op without a kernel.
            OriginalGraphError: The original graph fails on a feed.
        """
        try:
            return self._adopt(candidates)
        finally:
            if self._owns_held:
                self._held.close()

    def _adopt(self, candidates: Sequence[Candidate]) -> Adoption:
        rejected: dict[str, SegmentReport] = {}
        remaining, graph_def, judgement = self._loadable(list(candidates), rejected)
        together = judgement.accuracy
        if remaining and judgement.objection:
            if len(remaining) == 1:
                rejected[remaining[0].report.name] = _reject(remaining[0], judgement)
                remaining = []
            else:
                remaining, graph_def, judgement = self._each_alone(remaining, rejected)
        adopted = {each.report.name: self._adopted(each, judgement, len(remaining)) for each in remaining}
        reports = tuple({**rejected, **adopted}[each.report.name] for each in candidates)
        if not remaining:
            return Adoption(graph_def=None, segments=reports, accuracy=together)
        return Adoption(
            graph_def=graph_def,
            segments=reports,
            measurement=judgement.measurement,
            measurements=judgement.measurements,
            maximum_error=judgement.maximum_error,
            accuracy=together,
        )

    def _loadable(
        self, remaining: list[Candidate], rejected: dict[str, SegmentReport]
    ) -> tuple[list[Candidate], graph_pb2.GraphDef | None, _Judgement]:
        """Judges all engines together, after those that do not load and those that never run are taken out."""
        while remaining:
            graph_def = splice_segments(self._light, [each.node for each in remaining])
            with self._trial(graph_def) as trial:
                failed = self._first_failure(trial, remaining)
                if failed is None:
                    judgement = self._judge(trial, remaining)
            if failed is None:
                if not judgement.idle:
                    return remaining, graph_def, judgement
                for each in remaining:
                    if each.report.name in judgement.idle:
                        rejected[each.report.name] = replace(each.report, reason=judgement.idle[each.report.name])
                remaining = [each for each in remaining if each.report.name not in judgement.idle]
                continue
            candidate, reason = failed
            if self._options.strict:
                raise EngineBuildError(f"The engine of {candidate.report.name} does not load: {reason}")
            rejected[candidate.report.name] = replace(candidate.report, reason=reason)
            remaining = [each for each in remaining if each is not candidate]
        return [], None, _Judgement()

    def _each_alone(
        self, remaining: list[Candidate], rejected: dict[str, SegmentReport]
    ) -> tuple[list[Candidate], graph_pb2.GraphDef | None, _Judgement]:
        """Judges each engine alone, then those that passed together once more."""
        passed = []
        for candidate in remaining:
            with self._trial(splice_segments(self._light, [candidate.node])) as trial:
                judgement = self._judge(trial, [candidate])
            if judgement.objection:
                rejected[candidate.report.name] = _reject(candidate, judgement)
            else:
                passed.append(
                    replace(
                        candidate,
                        report=replace(
                            candidate.report,
                            maximum_error=judgement.maximum_error,
                            measurement=judgement.measurement,
                        ),
                    )
                )
        if not passed:
            return [], None, _Judgement()
        graph_def = splice_segments(self._light, [each.node for each in passed])
        with self._trial(graph_def) as trial:
            judgement = self._judge(trial, passed)
        if judgement.objection:
            for candidate in passed:
                reason = f"together with the other engines: {judgement.objection}"
                rejected[candidate.report.name] = replace(candidate.report, reason=reason)
            return [], None, judgement
        return passed, graph_def, judgement

    def _trial(self, graph_def: graph_pb2.GraphDef) -> Trial:
        return Trial(self._original, graph_def, self._weights, self._outputs, self._feeds, self._held)

    def _first_failure(self, trial: Trial, candidates: Sequence[Candidate]) -> tuple[Candidate, str] | None:
        """Runs both graphs once; returns the first engine that does not load, and why."""
        self._run_original(trial, self._feeds[0])
        try:
            trial.run_optimized(self._feeds[0])
        except tf.errors.OpError as error:
            # The op names its segment in every error of its own.
            for candidate in candidates:
                if f"{candidate.report.name!r}" in str(error) or f"{candidate.report.name}:" in str(error):
                    return candidate, str(error.message)
            if self._options.adopt == "always":
                raise
            # Whose fault it is shows when each engine is tried alone.
        return None

    def _run_original(self, trial: Trial, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the original graph; what fails here is the user's, and no engine's."""
        try:
            return trial.run_original(feed)
        except tf.errors.OpError as error:
            number = next(number for number, each in enumerate(self._feeds) if each is feed)
            raise original_graph_error(error, number) from error

    def _judge(self, trial: Trial, candidates: Sequence[Candidate]) -> _Judgement:
        if self._options.adopt == "always":
            return _Judgement()
        options = self._options

        def run_optimized(feed: Mapping[str, Array]) -> dict[str, Array]:
            try:
                return trial.run_optimized(feed)
            except tf.errors.OpError as error:
                raise _OptimizedGraphFailsError(
                    f"fails where the original works: {error.message} (fed: {describe_shapes(feed_shapes(feed))})"
                ) from error

        comparing = JudgedOutputs(lambda feed: self._run_original(trial, feed), run_optimized, self._tolerance)
        idle: dict[str, str] = {}
        try:
            with _idle_engines(candidates, idle):
                comparison = compare(
                    comparing.run_original,
                    comparing.run_optimized,
                    self._feeds,
                    rtol=options.rtol,
                    atol=options.atol,
                    mask=options.skip_padding,
                    show=False,
                )
        except _OptimizedGraphFailsError as error:
            return _Judgement(objection=str(error))
        accuracy = comparing.accuracy(comparison)
        if idle:
            return _Judgement(objection=next(iter(idle.values())), accuracy=accuracy, idle=idle)
        reason = outside_tolerance(comparison, accuracy, self._tolerance)
        if reason:
            return _Judgement(objection=reason, accuracy=accuracy)
        judgement = _Judgement(
            accuracy=accuracy, measurements=measure_trial(trial, self._feeds, options.measurement_seconds)
        )
        worst = judgement.measurement
        if worst is not None and worst.verdict == "slower":
            return replace(judgement, objection=f"slower than TensorFlow: {worst}")
        return judgement

    @staticmethod
    def _adopted(candidate: Candidate, judgement: _Judgement, count: int) -> SegmentReport:
        """Returns the report of an adopted segment; a lone one has the whole graph's figures."""
        report = replace(candidate.report, adopted=True)
        if count > 1:
            return report
        return replace(report, maximum_error=judgement.maximum_error, measurement=judgement.measurement)


def _reject(candidate: Candidate, judgement: _Judgement) -> SegmentReport:
    return replace(
        candidate.report,
        reason=judgement.objection,
        maximum_error=judgement.maximum_error,
        measurement=judgement.measurement,
    )


@contextmanager
def _idle_engines(candidates: Sequence[Candidate], idle: dict[str, str]) -> Iterator[None]:
    """Writes to `idle` why an engine did not run in the block, by segment name, for those that did not.

    Such an engine agrees with the original and is as fast, because it is the original: a fallback, or nothing at all.
    """
    before = ops.statistics()
    yield
    after = ops.statistics()
    for name in (candidate.report.name for candidate in candidates):
        counters = after.get(name, {})
        # The counters are the process's: only what was added is of this block.
        added = {key: counters[key] - before.get(name, {}).get(key, 0) for key in counters}
        if added.get("runs") == 0:
            went = "all went to the fallback" if added.get("fallback_runs") else "none reached it"
            idle[name] = f"no feed ran on the engine: {went}; give feeds of other shapes"
