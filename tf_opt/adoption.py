"""Decides by measurement which engines stay: within tolerance of the original and not slower, or back to TensorFlow."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tf_opt.comparison import compare
from tf_opt.errors import EngineBuildError, InvalidFeedError, UnknownOpError
from tf_opt.feeds import NormalizedFeed
from tf_opt.options import Options
from tf_opt.paired_comparison import paired_comparison
from tf_opt.passes.tf.splice import EngineNode, splice_segments
from tf_opt.report import Measurement, SegmentReport
from tf_opt.trial import Trial, representative_feeds
from tf_opt.weights import WeightStore

_MARGIN = 0.01
"""Differences below one percent count as none: they are not worth the time it takes to tell them from noise."""

_MARGIN_WITHOUT_INTERVAL = 0.05
"""Where the budget ends before there are enough rounds for an interval, the median decides beyond this share."""

_ROUNDS_WANTED = 8
"""The fewest rounds that give a 95% interval with room for a second look; see `paired_comparison`."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An engine that was built and may be adopted: its node, and what is reported of its segment so far."""

    node: EngineNode
    report: SegmentReport


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What was decided.

    Attributes:
        graph_def: Light graph with the adopted engines; None where none was adopted.
        segments: Report of each candidate's segment.
        measurement: The adopted graph against the original; None where nothing was measured.
        maximum_error: Largest absolute difference of any output of the adopted graph.
    """

    graph_def: graph_pb2.GraphDef | None
    segments: tuple[SegmentReport, ...]
    measurement: Measurement | None = None
    maximum_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Judgement:
    """What a trial showed: `objection` says why the engines in it should not be adopted; empty where they should."""

    objection: str = ""
    maximum_error: float | None = None
    measurement: Measurement | None = None


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
    ) -> None:
        """Keeps what all trials share.

        Args:
            original: The user's graph, light.
            light: The graph after the passes, in which the segments were found.
            weights: The constants of both.
            outputs: Tensor names.
            feeds: The user's feeds, by tensor name.
            options: Tolerance, policy and time budget.
        """
        self._original = original
        self._light = light
        self._weights = weights
        self._outputs = outputs
        self._feeds = feeds
        self._options = options

    def adopt(self, candidates: Sequence[Candidate]) -> Adoption:
        """Tries all engines together, and each alone where they do not pass together.

        Raises:
            EngineBuildError: An engine cannot be loaded, and `strict` is set.
            UnknownOpError: The original graph has an op without a kernel.
            InvalidFeedError: The original graph fails on a feed.
        """
        rejected: dict[str, SegmentReport] = {}
        remaining, graph_def, judgement = self._loadable(list(candidates), rejected)
        if remaining and judgement.objection:
            if len(remaining) == 1:
                rejected[remaining[0].report.name] = _reject(remaining[0], judgement)
                remaining = []
            else:
                remaining, graph_def, judgement = self._each_alone(remaining, rejected)
        adopted = {each.report.name: self._adopted(each, judgement, len(remaining)) for each in remaining}
        reports = tuple({**rejected, **adopted}[each.report.name] for each in candidates)
        if not remaining:
            return Adoption(graph_def=None, segments=reports)
        return Adoption(
            graph_def=graph_def,
            segments=reports,
            measurement=judgement.measurement,
            maximum_error=judgement.maximum_error,
        )

    def _loadable(
        self, remaining: list[Candidate], rejected: dict[str, SegmentReport]
    ) -> tuple[list[Candidate], graph_pb2.GraphDef | None, _Judgement]:
        """Judges all engines together, after those whose runtime refuses to load them are taken out."""
        while remaining:
            graph_def = splice_segments(self._light, [each.node for each in remaining])
            with self._trial(graph_def) as trial:
                failed = self._first_failure(trial, remaining)
                if failed is None:
                    return remaining, graph_def, self._judge(trial)
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
                judgement = self._judge(trial)
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
            judgement = self._judge(trial)
        if judgement.objection:
            for candidate in passed:
                reason = f"together with the other engines: {judgement.objection}"
                rejected[candidate.report.name] = replace(candidate.report, reason=reason)
            return [], None, judgement
        return passed, graph_def, judgement

    def _trial(self, graph_def: graph_pb2.GraphDef) -> Trial:
        return Trial(self._original, graph_def, self._weights, self._outputs, self._feeds)

    def _first_failure(self, trial: Trial, candidates: Sequence[Candidate]) -> tuple[Candidate, str] | None:
        """Runs both graphs once; returns the first engine that does not load, and why."""
        try:
            trial.run_original(self._feeds[0])
        except tf.errors.OpError as error:
            if "No OpKernel was registered" in str(error):
                raise UnknownOpError(
                    f"The graph has an op that no kernel of this TensorFlow runs: {error.message}. Load the library "
                    "that brings the kernel, or place the node on a device that has one."
                ) from error
            raise InvalidFeedError(
                f"The original graph fails on the first feed: {error.message}. Correct the feed, or the graph."
            ) from error
        try:
            trial.run_optimized(self._feeds[0])
        except tf.errors.OpError as error:
            # The op names its segment in every error of its own.
            for candidate in candidates:
                if f"{candidate.report.name!r}" in str(error) or f"{candidate.report.name}:" in str(error):
                    return candidate, str(error.message)
            raise
        return None

    def _judge(self, trial: Trial) -> _Judgement:
        if self._options.adopt == "always":
            return _Judgement()
        options = self._options
        comparison = compare(
            trial.run_original, trial.run_optimized, self._feeds, rtol=options.rtol, atol=options.atol, show=False
        )
        maximum_error = max(output.maximum_absolute for output in comparison.outputs)
        for output in comparison.outputs:
            if not output.passed:
                found = output.problem or (
                    f"{output.mismatched} of {output.elements} elements differ, by up to {output.maximum_absolute:.3g} "
                    f"at {list(output.worst_index or ())} of feed {output.worst_feed}"
                )
                return _Judgement(
                    objection=(
                        f"outside tolerance at output {output.key}: {found}; allowed are rtol {options.rtol:g} and "
                        f"atol {options.atol:g}"
                    ),
                    maximum_error=maximum_error,
                )
        measurement = self._measure(trial)
        objection = f"slower than TensorFlow: {measurement}" if measurement.verdict == "slower" else ""
        return _Judgement(objection=objection, maximum_error=maximum_error, measurement=measurement)

    def _measure(self, trial: Trial) -> Measurement:
        """Times both graphs in pairs; a round runs one feed of each shape, as far as the budget allows."""
        budget = self._options.measurement_seconds
        feeds = _affordable_feeds(trial, representative_feeds(self._feeds), budget / (2 * _ROUNDS_WANTED))

        def run_original() -> None:
            for feed in feeds:
                trial.run_original(feed)

        def run_optimized() -> None:
            for feed in feeds:
                trial.run_optimized(feed)

        # Comparing the outputs has run every feed once, so that nothing is left to warm up.
        paired = paired_comparison(run_original, run_optimized, margin=_MARGIN, maximum_seconds=budget, warmup=0)
        verdict = paired.verdict
        if math.isinf(paired.upper) and abs(math.log(paired.ratio)) > math.log1p(_MARGIN_WITHOUT_INTERVAL):
            verdict = "slower" if paired.ratio > 1 else "faster"
        return Measurement(
            original_milliseconds=1e3 * paired.median_a / len(feeds),
            optimized_milliseconds=1e3 * paired.median_b / len(feeds),
            ratio=1.0 / paired.ratio,
            interval=(1.0 / paired.upper, 1.0 / paired.lower if paired.lower > 0 else math.inf),
            rounds=paired.rounds,
            verdict=verdict,
        )

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


def _affordable_feeds(trial: Trial, feeds: Sequence[NormalizedFeed], seconds: float) -> list[NormalizedFeed]:
    """Returns the quickest feeds whose runs take at most `seconds` together; the quickest one in any case.

    A few large shapes would otherwise use up the time that the answer needs, and leave it to chance.
    """
    times = []
    for number, feed in enumerate(feeds):
        started = time.perf_counter()
        trial.run_original(feed)
        times.append((time.perf_counter() - started, number))
    times.sort()
    chosen, total = [times[0][1]], times[0][0]
    for each, number in times[1:]:
        total += each
        if total > seconds:
            break
        chosen.append(number)
    return [feeds[number] for number in sorted(chosen)]
