"""What a report comes to, in a sentence or two: the head of its text and of its page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tf_opt.report.optimization import OptimizationReport
from tf_opt.report.saved_model import SavedModelReport

Status = Literal["faster", "undecided", "unmeasured", "unchanged", "analysis"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of the graph.

    Attributes:
        status: Engines that are faster, that may be, that were not measured; none; or nothing was built.
        headline: The result in a few words.
        explanation: What it is based on, or why nothing changed.
    """

    status: Status
    headline: str
    explanation: str


def verdict(report: OptimizationReport) -> Verdict:
    """Returns what a report comes to."""
    found = count(len(report.segments), "segment")
    nodes = f"{report.nodes_in_segments} of {count(report.compute_nodes, 'compute node')} ({report.coverage:.1%})"
    if is_analysis(report):
        return Verdict(
            status="analysis",
            headline=f"{report.coverage:.0%} of the nodes could run in {count(len(report.segments), 'engine')}"
            if report.segments
            else "No part of the graph could run in an engine",
            explanation=f"An analysis, which builds and measures nothing: {found} with {nodes}.",
        )
    if not report.engine_count:
        reasons = [segment.reason for segment in report.segments if segment.reason]
        if not reasons:
            why = "No node is in a segment." if not report.segments else "No segment became an engine."
        elif len(reasons) == 1:
            why = f"The engine was {reasons[0]}." if reasons[0].startswith("slower") else f"{reasons[0]}."
        else:
            why = f"Of {found} none became an engine; the table of segments says why."
        return Verdict(status="unchanged", headline="The original graph stays as it is", explanation=_sentence(why))
    if not report.measurements:
        return Verdict(
            status="unmeasured",
            headline=f"{count(report.engine_count, 'engine')} in place, not measured",
            explanation=f"{found.capitalize()} with {nodes}.",
        )
    shapes = count(len(report.measurements), "combination of shapes", "combinations of shapes")
    worst = report.measurement
    doubt = all(measurement.verdict != "faster" for measurement in report.measurements)
    basis = f"Geometric mean over {shapes}" if len(report.measurements) > 1 else "Measured on one combination of shapes"
    if worst is not None and len(report.measurements) > 1:
        basis += f", the worst of them {worst.ratio:.2f}"
    if doubt:
        basis += ". The measurements do not rule out that it is only as fast as the original"
    return Verdict(
        status="undecided" if doubt else "faster",
        headline=_speed(report.speed),
        explanation=f"{basis}. {found} with {nodes}.",
    )


def saved_model_verdict(report: SavedModelReport) -> Verdict:
    """Returns what the report of a SavedModel comes to."""
    total = len({*report.signatures, *report.unconverted})
    signatures = {
        name: each for name, each in report.signatures.items() if each.engine_count and name not in report.unconverted
    }
    attributes = {name: each for name, each in report.endpoints.items() if each.engine_count}
    if not signatures and not attributes:
        return Verdict(
            status="unchanged",
            headline="The SavedModel stays as it is",
            explanation=f"No engine was adopted in any of {count(total, 'signature')}.",
        )
    subjects = [f"{len(signatures)} of {count(total, 'signature')}"] if total else []
    subjects += [count(len(attributes), "attribute")] if attributes else []
    optimized = [*signatures.items(), *((f"attribute {name}", each) for name, each in attributes.items())]
    speeds = [f"{name} {each.speed:.2f}" for name, each in optimized if each.measurements]
    verb = "runs" if len(optimized) == len(subjects) == 1 else "run"
    return Verdict(
        status="faster" if speeds else "unmeasured",
        headline=f"{' and '.join(subjects)} {verb} engines",
        explanation=f"Original / optimized: {', '.join(speeds)}." if speeds else "The engines were not measured.",
    )


def is_analysis(report: OptimizationReport) -> bool:
    """Whether nothing was built or measured: every optimization tries one precision at least."""
    return not report.attempts and not report.engine_count and not any(segment.reason for segment in report.segments)


def cache_sentence(report: OptimizationReport) -> str:
    """Returns what a report says where an earlier run decided; an empty string where this one did."""
    if not report.from_cache:
        return ""
    measured = report.measurements or any(segment.measurement is not None for segment in report.segments)
    return f"From the cache: {'measured' if measured else 'decided'} by an earlier run on this machine"


def count(number: int, noun: str, plural: str = "") -> str:
    """Returns the number with its noun, such as "1 segment" or "3 segments"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _speed(speed: float) -> str:
    return "As fast as the original" if 0.995 <= speed < 1.005 else f"{speed:.2f} times as fast as the original"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].replace("..", ".")
