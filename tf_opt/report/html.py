"""Reports as one HTML page that needs nothing but a browser.

Everything is in the page: styles, the script, the picture. Names from the model are escaped by Jinja wherever they
stand, and the page's own policy lets no other script run and no address be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tf_opt.report.optimization import Measurement, OptimizationReport, PrecisionAttempt, RefusedNode, SegmentReport
from tf_opt.report.output import ReportOutput
from tf_opt.report.picture import Picture, draw
from tf_opt.report.saved_model import SavedModelReport
from tf_opt.report.text import runs_as
from tf_opt.report.verdict import Verdict, cache_sentence, is_analysis, saved_model_verdict, verdict
from tf_opt.sizes import size_text


def report_page(report: ReportOutput) -> str:
    """Returns the page.

    Raises:
        TypeError: It is no report that this module knows.
    """
    environment = _environment()
    templates = files("tf_opt.report") / "templates"
    style, script = ((templates / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    frame = {"style": style, "script": script, "script_digest": f"sha256-{digest}"}
    if isinstance(report, OptimizationReport):
        view = _View.of(report, "graph", ())
        page = environment.get_template("optimization_page.html.jinja")
        return page.render(frame, title=f"tf_opt: {view.verdict.headline}", view=view)
    if isinstance(report, SavedModelReport):
        views = [_View.of(each, f"signature-{number}", names) for number, (names, each) in enumerate(report.distinct())]
        result = saved_model_verdict(report)
        page = environment.get_template("saved_model_page.html.jinja")
        return page.render(frame, title=f"tf_opt: {result.headline}", report=report, verdict=result, views=views)
    raise TypeError(f"expected a report of tf_opt, got {type(report).__name__}")


@dataclass(frozen=True, kw_only=True)
class _Stage:
    name: str
    seconds: float
    share: float


@dataclass(frozen=True, kw_only=True)
class _View:
    """What the template of one optimization shows besides the report itself; `id` starts every id in the page."""

    id: str
    names: tuple[str, ...]
    report: OptimizationReport
    verdict: Verdict
    cached: str
    is_analysis: bool
    picture: Picture
    precision: str
    covered: int
    choice: tuple[str, ...]
    groups: list[dict[str, Any]]
    declined: list[dict[str, Any]]
    attempts: tuple[PrecisionAttempt, ...]
    has_metric: bool
    stages: list[_Stage]
    legend: list[tuple[str, str]]
    environment: list[tuple[str, str]]

    @classmethod
    def of(cls, report: OptimizationReport, identifier: str, names: tuple[str, ...]) -> _View:
        analysis = is_analysis(report)
        picture = draw(report.graph, report.segments, analysis=analysis)
        tried = len(report.attempts) > 1 or any(attempt.reason for attempt in report.attempts)
        return cls(
            id=identifier,
            names=names,
            report=report,
            verdict=verdict(report),
            cached=cache_sentence(report),
            is_analysis=analysis,
            picture=picture,
            precision=_precision(report),
            covered=report.nodes_in_segments if analysis else report.nodes_in_engines,
            choice=tuple(part.removeprefix(f"{report.engine}: ") for part in report.engine_choice.split("; ") if part),
            groups=_refusal_groups(report.refused),
            declined=_refusal_groups(report.declined_as_refused()),
            attempts=report.attempts if tried else (),
            has_metric=any(attempt.metric is not None for attempt in report.attempts),
            stages=_stages(report),
            legend=_legend(picture),
            environment=list(_environment_facts(report)),
        )

    @property
    def share(self) -> float:
        return self.covered / self.report.compute_nodes if self.report.compute_nodes else 0.0

    @property
    def engine(self) -> str:
        """What runs the engines; the one that was chosen where there are none, or only its own."""
        counts = self.report.engine_counts
        if set(counts) <= {self.report.engine}:
            return self.report.engine
        return ", ".join(f"{number} {name}" for name, number in counts.items())

    @property
    def total_seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)


def _precision(report: OptimizationReport) -> str:
    """Returns what the engines compute in, or what was asked for where there are none."""
    used = dict.fromkeys(segment.precision for segment in report.segments if segment.adopted)
    return ", ".join(used) or report.precision


def _refusal_groups(nodes: Iterable[RefusedNode]) -> list[dict[str, Any]]:
    """Returns refused nodes by op and category, most first; reasons are numbered, as many nodes share one."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for node in nodes:
        group = groups.setdefault(
            (node.op, node.category), {"op": node.op, "category": node.category, "reasons": {}, "nodes": []}
        )
        group["nodes"].append((node.name, group["reasons"].setdefault(node.reason, len(group["reasons"]))))
    for group in groups.values():
        group["reasons"] = list(group["reasons"])
    return sorted(groups.values(), key=lambda group: -len(group["nodes"]))


def _stages(report: OptimizationReport) -> list[_Stage]:
    total = sum(report.stage_seconds.values())
    return [
        _Stage(name=name, seconds=seconds, share=round(100 * seconds / total, 2) if total else 0.0)
        for name, seconds in report.stage_seconds.items()
    ]


def _legend(picture: Picture) -> list[tuple[str, str]]:
    texts = {
        "adopted": "segment that an engine runs",
        "rejected": "segment that stays TensorFlow",
        "possible": "segment that could be an engine",
        "tensorflow": "other nodes that stay TensorFlow",
    }
    there = {drawn.status for drawn in picture.boxes}
    return [(status, text) for status, text in texts.items() if status in there]


def _environment_facts(report: OptimizationReport) -> Iterator[tuple[str, str]]:
    for name, value in report.environment.items():
        if isinstance(value, Mapping):
            yield from ((str(key), str(item)) for key, item in value.items())
        else:
            yield name, str(value)
    if report.peak_memory_bytes is not None:
        yield "peak memory of the process", size_text(report.peak_memory_bytes)


def _facts(segment: SegmentReport) -> Iterator[tuple[str, str]]:
    """Yields the figures of a segment, with what they are."""
    yield "runs as", runs_as(segment) if segment.adopted else "TensorFlow"
    if segment.measurement is not None:
        each = segment.measurement
        yield "original / optimized", f"{each.ratio:.2f} ({_bounds(each)}), {each.verdict}"
        yield "time", f"{each.original_milliseconds:.3g} ms → {each.optimized_milliseconds:.3g} ms"
        if each.feed:
            yield "measured on", each.feed
    if segment.maximum_error is not None:
        yield "largest difference", _error(segment.maximum_error)
    yield "weights", size_text(segment.weight_bytes)
    if segment.engine_bytes:
        yield "stored engine", size_text(segment.engine_bytes)
    if segment.export_seconds:
        yield "export to ONNX", _seconds(segment.export_seconds)
    if segment.build_seconds:
        yield "build", _seconds(segment.build_seconds)
    for title, counts in (("found", segment.patterns), ("ONNX passes", segment.onnx_pass_changes)):
        if text := _counts({name: number for name, number in counts.items() if number}):
            yield title, text


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} × {number:,}" for name, number in counts.items())


def _seconds(seconds: float) -> str:
    if seconds >= 60:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.0f} ms"


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.2g}"


def _bounds(measurement: Measurement) -> str:
    lower, upper = measurement.interval
    return "too few pairs" if math.isinf(upper) else f"{lower:.2f} to {upper:.2f}"


def _interval(measurement: Measurement) -> str:
    return "" if math.isinf(measurement.interval[1]) else f" ({_bounds(measurement)})"


@cache
def _environment() -> Environment:
    """Returns the templates and what they call. Escaping is on in all of them, whatever their names end in."""
    environment = Environment(
        loader=PackageLoader("tf_opt.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bounds=_bounds,
        counts=_counts,
        error=_error,
        facts=_facts,
        interval=_interval,
        runs_as=runs_as,
        seconds=_seconds,
        size=size_text,
    )
    return environment
