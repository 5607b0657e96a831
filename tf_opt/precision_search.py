"""Builds engines in the precision that was asked for, or in the fastest that stays within tolerance.

auto:  int8 ──► 16 bit ──► fp32      each judged against the original on the user's feeds; the fastest is kept
         │
         └─ outside tolerance: the layers with the largest error go back, as few as are enough
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
from rich.progress import Progress

from tf_opt.adoption import Adoption, Candidate
from tf_opt.engine_building import BuiltSegment
from tf_opt.engines.base import EngineBackend
from tf_opt.errors import CalibrationError, EngineBuildError, PassError, UnsupportedPrecisionError
from tf_opt.feeds import Array
from tf_opt.options import Options
from tf_opt.passes.onnx.convert_precision import ConvertPrecision
from tf_opt.passes.onnx.pass_base import OnnxPipeline
from tf_opt.passes.tf.segment import Segment
from tf_opt.precision import SixteenBit, available_precisions, fastest_16_bit, require_precision
from tf_opt.quantization import QuantizationResult, QuantizationSettings, quantize_segment, rank_layers, revert_layers
from tf_opt.report.optimization import PrecisionAttempt
from tf_opt.segment_models import Stage
from tf_opt.tolerance import DEFAULT_COSINE, Tolerance, objection

Adopt = Callable[[Sequence[Candidate], Tolerance | None], Adoption]
"""Tries engines against the original."""

CalibrationValues = Callable[[Segment], list[dict[str, Array]]]
"""Returns what flows into a segment, by `input_<i>`, one dict a sample."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What was kept.

    Attributes:
        adoption: The decision on the kept precision.
        candidates: The engines of the kept precision, adopted or not.
        attempts: What was tried, in order.
    """

    adoption: Adoption
    candidates: Sequence[Candidate]
    attempts: tuple[PrecisionAttempt, ...]


def tolerance_of(options: Options) -> Tolerance | None:
    """Returns the tolerance that outputs are judged by; None for the elementwise rtol and atol of fp32."""
    if options.tolerance is not None or options.precision == "fp32":
        return options.tolerance
    return Tolerance(cosine=DEFAULT_COSINE[options.precision])


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """The engines of one precision.

    Attributes:
        candidates: One for each segment.
        quantized: What quantization made of each segment, by its name.
        failures: Why a segment stays in fp32, one for each that does.
    """

    candidates: list[Candidate]
    quantized: Mapping[str, QuantizationResult]
    failures: Sequence[str]


class PrecisionSearch:
    """Builds and tries engines in the precisions that the options ask for."""

    def __init__(
        self,
        options: Options,
        backend: EngineBackend,
        built: Sequence[BuiltSegment],
        adopt: Adopt,
        calibration: CalibrationValues,
        stage: Stage,
        cache_dir: Path | None,
        progress: Progress,
    ) -> None:
        """Keeps what all attempts share.

        Args:
            options: Precision, tolerance and budget.
            backend: Decides which precisions are tried: the first that builds engines.
            built: The segments, with their engines in fp32.
            adopt: Tries engines against the original.
            calibration: Returns what flows into a segment.
            stage: Shows and times a stage.
            cache_dir: Where calibration results are kept; None keeps none.
            progress: Where calibration is shown.
        """
        self._options = options
        self._backend = backend
        self._built = built
        self._adopt_candidates = adopt
        self._calibration = calibration
        self._stage = stage
        self._cache_dir = cache_dir
        self._progress = progress
        self._tolerance = tolerance_of(options)

    def run(self) -> SearchResult:
        """Returns the engines in the precision asked for, or with "auto" in the fastest one within tolerance.

        Raises:
            EngineBuildError, CalibrationError, PassError: A segment cannot be built, and `strict` is set.
        """
        if self._options.precision != "auto":
            return self._attempt(self._options.precision)
        reasons = available_precisions(self._backend)
        order = list(reasons)
        skipped = tuple(
            PrecisionAttempt(precision=name, reason=f"not tried: {reasons[name]}") for name in order if reasons[name]
        )
        results = [self._attempt(name) for name in order if not reasons[name]]
        # Of equal ones the most exact, so that where none was adopted its reason stands with the segments.
        best = max(reversed(results), key=lambda result: _speed(result.adoption))
        kept = best.attempts[-1]
        attempts = [
            replace(attempt, reason=attempt.reason or f"{kept.precision} is faster") if attempt is not kept else attempt
            for result in results
            for attempt in result.attempts
        ]
        best = _with_notes_of_others(best, [result for result in results if result is not best])
        return replace(best, attempts=(*attempts, *skipped))

    def _attempt(self, precision: str) -> SearchResult:
        """Tries one precision; int8 that is outside of the tolerance is tried again with layers moved back."""
        started = time.perf_counter()
        variant = self._variant(precision)
        if self._options.precision == "auto" and 0 < len(variant.candidates) == len(variant.failures):
            # Engines in fp32 have an attempt of their own; by chance these might measure faster.
            pairs = zip(variant.candidates, variant.failures, strict=True)
            reports = tuple(replace(candidate.report, reason=failure) for candidate, failure in pairs)
            failed = Adoption(graph_def=None, segments=reports)
            return self._result(precision, variant.candidates, failed, 0, started)
        adoption = self._adopt(variant.candidates)
        result = self._result(precision, variant.candidates, adoption, 0, started)
        if self._options.precision == "auto" and variant.quantized and self._is_inaccurate(adoption):
            return self._with_layers_reverted(variant, result)
        return result

    def _adopt(self, candidates: Sequence[Candidate]) -> Adoption:
        with self._stage("adopt"):
            return self._adopt_candidates(candidates, self._tolerance)

    def _is_inaccurate(self, adoption: Adoption) -> bool:
        """Whether engines went back because of their outputs, rather than of their speed or a failure."""
        return (
            adoption.accuracy is not None
            and self._tolerance is not None
            and bool(objection(self._tolerance, adoption.accuracy))
        )

    def _result(
        self, precision: str, candidates: Sequence[Candidate], adoption: Adoption, reverted: int, started: float
    ) -> SearchResult:
        accuracy, adopted = adoption.accuracy, sum(report.adopted for report in adoption.segments)
        reason = "" if adopted else next((report.reason for report in adoption.segments if report.reason), "no segment")
        attempt = PrecisionAttempt(
            precision=precision,
            reverted_layers=reverted,
            engines=adopted,
            maximum_error=None if accuracy is None else accuracy.maximum_absolute,
            cosine=None if accuracy is None else accuracy.cosine,
            metric=None if accuracy is None else accuracy.metric,
            ratio=None if adoption.measurement is None else adoption.measurement.ratio,
            reason=reason,
            seconds=time.perf_counter() - started,
        )
        return SearchResult(adoption=adoption, candidates=candidates, attempts=(attempt,))

    def _variant(self, precision: str) -> _Variant:
        """Builds an engine of each segment; one that cannot be built in this precision stays in fp32."""
        candidates: list[Candidate] = []
        quantized: dict[str, QuantizationResult] = {}
        failures: list[str] = []
        for each in self._built:
            if precision == "fp32":
                candidates.append(each.candidate)
                continue
            try:
                if precision == "int8":
                    result = self._quantize(each)
                    quantized[each.prepared.segment.name] = result
                    candidates.append(self._int8_candidate(each, result.model, result.notes))
                else:
                    candidates.append(self._sixteen_bit_candidate(each, "bf16" if precision == "bf16" else "fp16"))
            except (CalibrationError, EngineBuildError, PassError, UnsupportedPrecisionError) as error:
                if self._options.strict:
                    raise
                failures.append(f"{each.prepared.segment.name} stays in fp32: {error}")
                candidates.append(_with_notes(each.candidate, failures[-1:]))
        return _Variant(candidates=candidates, quantized=quantized, failures=failures)

    def _sixteen_bit_candidate(self, each: BuiltSegment, precision: SixteenBit) -> Candidate:
        _require(each, precision)
        model = each.prepared.model.clone()
        with self._stage("ONNX passes"):
            OnnxPipeline([ConvertPrecision(precision)]).run(model)
        return each.models.candidate(each.prepared, model, precision=precision, sixteen_bit=precision)

    def _quantize(self, each: BuiltSegment) -> QuantizationResult:
        _require(each, "int8")
        with self._stage("quantize"):
            return quantize_segment(
                each.prepared.model,
                self._calibration(each.prepared.segment),
                # What the backend reads decides about the forms, whatever the settings were made for.
                replace(
                    self._options.quantization or QuantizationSettings(), target=each.models.backend.onnx_target.int8
                ),
                cache_dir=self._cache_dir,
                progress=self._progress,
            )

    def _int8_candidate(self, each: BuiltSegment, model: ir.Model, notes: Sequence[str]) -> Candidate:
        rest = fastest_16_bit(each.models.backend) or "fp32"
        candidate = each.models.candidate(each.prepared, model, precision="int8", sixteen_bit=rest)
        return _with_notes(candidate, notes)

    def _with_layers_reverted(self, variant: _Variant, failed: SearchResult) -> SearchResult:
        """Moves the layers with the largest error back, as few as are enough, within `tuning_seconds`.

        The number is doubled until the outputs are within tolerance, then halved between the last two: with n layers
        that takes about 2 log n trials, where one by one would take up to n.
        """
        started = time.perf_counter()
        ranking = self._ranking(variant)
        best: SearchResult | None = None
        attempts = list(failed.attempts)
        # With all layers back it would be fp32, which has an attempt of its own.
        lowest, count, highest = 0, 1, len(ranking)
        while lowest + 1 < highest and time.perf_counter() - started < self._options.tuning_seconds:
            count = min(count, highest - 1)
            result = self._reverted(variant, ranking[:count])
            attempts.extend(result.attempts)
            if self._is_inaccurate(result.adoption):
                lowest = count
                count = 2 * count if best is None else (lowest + highest) // 2
            else:
                best, highest = result, count
                count = (lowest + highest) // 2
        if best is None:
            if lowest + 1 < highest:
                ended = f"tuning_seconds={self._options.tuning_seconds:g} ended before enough layers were moved back"
                attempts[-1] = replace(attempts[-1], reason=f"{attempts[-1].reason}; {ended}")
            return replace(failed, attempts=tuple(attempts))
        others = [attempt for attempt in attempts if attempt is not best.attempts[0]]
        return replace(best, attempts=(*others, *best.attempts))

    def _ranking(self, variant: _Variant) -> list[tuple[str, str]]:
        """Returns (segment, layer), the one with the largest local error first, over all segments."""
        errors: list[tuple[float, str, str]] = []
        with self._stage("rank layers"):
            for each in self._built:
                name = each.prepared.segment.name
                if name in variant.quantized:
                    ranked = rank_layers(each.prepared.model, variant.quantized[name])
                    errors.extend((error, name, layer) for layer, error in ranked)
        return [(name, layer) for _, name, layer in sorted(errors, key=lambda entry: -entry[0])]

    def _reverted(self, variant: _Variant, back: Sequence[tuple[str, str]]) -> SearchResult:
        """Tries int8 without the given (segment, layer)s."""
        started = time.perf_counter()
        candidates = []
        for each, candidate in zip(self._built, variant.candidates, strict=True):
            name = each.prepared.segment.name
            layers = [layer for segment, layer in back if segment == name]
            if layers:
                result = variant.quantized[name]
                candidate = self._int8_candidate(each, revert_layers(result, layers), result.notes)
            candidates.append(candidate)
        return self._result("int8", candidates, self._adopt(candidates), len(back), started)


def _require(each: BuiltSegment, precision: str) -> None:
    """Raises UnsupportedPrecisionError where the segment's own engine lacks what the first one has."""
    require_precision(precision, each.models.backend)


def _with_notes(candidate: Candidate, notes: Sequence[str]) -> Candidate:
    return replace(candidate, report=replace(candidate.report, notes=(*candidate.report.notes, *notes)))


def _with_notes_of_others(best: SearchResult, others: Sequence[SearchResult]) -> SearchResult:
    """Returns the result with what else was noticed: too few calibration feeds may be why int8 was not kept."""
    noticed: dict[str, list[str]] = {}
    for other in others:
        for report in other.adoption.segments:
            told = [note for note in report.notes if note != report.reason]
            noticed.setdefault(report.name, []).extend(
                f"{other.attempts[-1].precision}, not kept: {each}" for each in told
            )
    segments = []
    for report in best.adoption.segments:
        more = [note for note in noticed.get(report.name, ()) if note.partition(": ")[2] not in report.notes]
        segments.append(replace(report, notes=(*report.notes, *more)))
    return replace(best, adoption=replace(best.adoption, segments=tuple(segments)))


def _speed(adoption: Adoption) -> float:
    """Geometric mean of the time ratios to the original over all feeds; 0 where no engine was adopted."""
    if adoption.graph_def is None:
        return 0.0
    ratios = [measurement.ratio for measurement in adoption.measurements]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else 1.0
