"""Reports as text for a terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tf_opt.report import OptimizationReport, RefusedNode, SegmentReport
from tf_opt.report_output import ReportOutput


def plain_text(report: ReportOutput) -> str:
    """Returns what a terminal shows, without colours."""
    console = Console(width=120, record=True, file=io.StringIO(), color_system=None)
    console.print(renderable(report))
    return console.export_text()


def renderable(report: ReportOutput) -> Group:
    """Returns the report as something that rich prints.

    Raises:
        TypeError: It is no report that this module knows.
    """
    if isinstance(report, OptimizationReport):
        return _optimization(report)
    raise TypeError(f"expected an OptimizationReport, got {type(report).__name__}")


def runs_as(segment: SegmentReport) -> str:
    """Returns what runs a segment in the returned graph, and where that is TensorFlow, why."""
    if segment.adopted:
        return f"{segment.library}, {segment.precision}"
    return f"TensorFlow: {segment.reason or 'nothing was built'}"


def _optimization(report: OptimizationReport) -> Group:
    nodes = f"{report.nodes_in_segments} of {report.compute_nodes} compute nodes ({report.coverage:.1%})"
    parts: list[Any] = [
        Text(f"{nodes} in {len(report.segments)} segments, {report.engine_count} run by {report.engine}"),
    ]
    if report.engines_tried:
        tried = ", ".join(f"{each.engine} {each.precision} {each.speed:.2f}" for each in report.engines_tried)
        parts.append(Text(f"Engines tried, original / optimized: {tried}"))
    elif report.engine_choice:
        parts.append(Text(f"Engine: {report.engine_choice}"))
    if report.segments:
        parts.append(_segment_table(report))
    if report.refused:
        parts.append(_refusal_table(report))
    if report.patterns:
        found = ", ".join(f"{count} {name}" for name, count in report.patterns.items())
        parts.append(Text(f"Found in the segments: {found}"))
    if len(report.attempts) > 1 or any(attempt.reason for attempt in report.attempts):
        parts.append(_attempt_table(report))
    if report.measurement is not None:
        parts.append(Text(f"Whole graph: {report.measurement}"))
    if report.maximum_error is not None:
        parts.append(Text(f"Largest difference from the original: {report.maximum_error:.3g}"))
    if report.stage_seconds:
        stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report.stage_seconds.items())
        parts.append(Text(f"Time: {stages}"))
    if report.peak_memory_bytes is not None:
        parts.append(Text(f"Peak memory of the process: {report.peak_memory_bytes / 2**20:.0f} MiB"))
    if report.from_cache:
        parts.append(Text("From the cache: measured by an earlier run on this machine"))
    parts.extend(Text(note) for segment in report.segments for note in segment.notes)
    parts.extend(Text(note) for note in report.notes)
    return Group(*parts)


def _segment_table(report: OptimizationReport) -> Table:
    table = Table(title="Segments")
    table.add_column("segment", no_wrap=True)
    for name in ("nodes", "inputs", "outputs", "weights"):
        table.add_column(name, justify="right")
    table.add_column("runs as", overflow="fold")
    for name in ("error", "ratio"):
        table.add_column(name, justify="right")
    for segment in report.segments:
        table.add_row(
            segment.name,
            str(segment.node_count),
            str(len(segment.inputs)),
            str(len(segment.outputs)),
            f"{segment.weight_bytes / 2**20:.1f} MiB",
            runs_as(segment),
            "" if segment.maximum_error is None else f"{segment.maximum_error:.2g}",
            "" if segment.measurement is None else f"{segment.measurement.ratio:.2f}",
        )
    return table


def _attempt_table(report: OptimizationReport) -> Table:
    table = Table(title="Precisions tried")
    table.add_column("precision", no_wrap=True)
    for name in ("layers back", "error", "cosine", "metric", "ratio", "time"):
        table.add_column(name, justify="right")
    table.add_column("kept", overflow="fold")
    for attempt in report.attempts:
        table.add_row(
            attempt.precision,
            str(attempt.reverted_layers or ""),
            "" if attempt.maximum_error is None else f"{attempt.maximum_error:.2g}",
            "" if attempt.cosine is None else f"{attempt.cosine:.5f}",
            "" if attempt.metric is None else f"{attempt.metric:.4g}",
            "" if attempt.ratio is None else f"{attempt.ratio:.2f}",
            f"{attempt.seconds:.1f} s",
            f"no: {attempt.reason}" if attempt.reason else "yes",
        )
    return table


def _refusal_table(report: OptimizationReport) -> Table:
    table = Table("nodes", "op", "reason", "for example", title="Nodes that stay TensorFlow")
    groups: dict[tuple[str, str], list[RefusedNode]] = {}
    for node in report.refused:
        groups.setdefault((node.op, node.category), []).append(node)
    for (op, _), members in sorted(groups.items(), key=lambda item: -len(item[1])):
        table.add_row(str(len(members)), op, members[0].reason, members[0].name)
    return table
