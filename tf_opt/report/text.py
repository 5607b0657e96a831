"""Reports as text for a terminal: what they come to first, and nothing that breaks on 80 columns."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tf_opt.report.optimization import OptimizationReport, RefusedNode, SegmentReport
from tf_opt.report.output import ReportOutput
from tf_opt.report.saved_model import SavedModelReport
from tf_opt.report.verdict import cache_sentence, count, is_analysis, saved_model_verdict, verdict
from tf_opt.sizes import size_text

MAXIMUM_ROWS = 40
"""A table of more rows than this ends with how many there are more; the page has them all."""

_MAXIMUM_OPS = 4
_COLOURS = {"faster": "green", "undecided": "cyan", "unmeasured": "cyan", "analysis": "cyan", "unchanged": "yellow"}


def plain_text(report: ReportOutput) -> str:
    """Returns what a terminal shows, without colours."""
    console = Console(width=120, record=True, file=io.StringIO(), color_system=None)
    console.print(renderable(report))
    return "".join(f"{line.rstrip()}\n" for line in console.export_text().splitlines())


def renderable(report: ReportOutput) -> Group:
    """Returns the report as something that rich prints.

    Raises:
        TypeError: It is no report that this module knows.
    """
    if isinstance(report, OptimizationReport):
        return _optimization(report)
    if isinstance(report, SavedModelReport):
        return _saved_model(report)
    raise TypeError(f"expected a report of tf_opt, got {type(report).__name__}")


def runs_as(segment: SegmentReport) -> str:
    """Returns what runs a segment in the returned graph, and where that is TensorFlow, why."""
    if segment.adopted:
        return f"{segment.library}, {segment.precision}"
    return f"TensorFlow: {segment.reason or 'nothing was built'}"


def _saved_model(report: SavedModelReport) -> Group:
    result = saved_model_verdict(report)
    parts: list[Any] = [
        Text(result.headline, style=f"bold {_COLOURS[result.status]}"),
        Text(result.explanation),
        Text(
            f"{size_text(report.original_bytes)} before, {size_text(report.optimized_bytes)} after: weights "
            f"{size_text(report.variable_bytes)}, engines {size_text(report.engine_bytes)}"
        ),
    ]
    if report.unconverted:
        table = _table("Signatures that stay as they were")
        table.add_column("signature", no_wrap=True)
        table.add_column("why", overflow="fold")
        for name, reason in report.unconverted.items():
            table.add_row(name, reason)
        parts.append(table)
    parts.extend(Text(note) for note in report.notes)
    for names, each in report.distinct():
        parts += [Text(f"\n{report.title(names)}", style="bold underline")]
        parts.append(Padding(_optimization(each), (0, 0, 0, 2), expand=False))
    return Group(*parts)


def _optimization(report: OptimizationReport) -> Group:
    result = verdict(report)
    nodes = f"{report.nodes_in_segments} of {report.compute_nodes} compute nodes ({report.coverage:.1%})"
    run_by = (
        ", ".join(f"{number} run by {name}" for name, number in report.engine_counts.items()) or "none run by an engine"
    )
    parts: list[Any] = [
        Text(result.headline, style=f"bold {_COLOURS[result.status]}"),
        Text(f"{nodes} in {count(len(report.segments), 'segment')}, {run_by}"),
    ]
    if report.engines_tried:
        tried = ", ".join(f"{each.engine} {each.precision} {each.speed:.2f}" for each in report.engines_tried)
        parts.append(Text(f"Engines tried, original / optimized: {tried}"))
    elif report.engine_choice:
        reason, *others = report.engine_choice.split("; ")
        parts.append(Text(f"Engine: {reason}"))
        parts.extend(Padding(Text(f"not {other}", style="dim"), (0, 0, 0, 2), expand=False) for other in others)
    if report.measurement is not None:
        parts.append(Text(f"Whole graph: {report.measurement}"))
    if report.maximum_error is not None:
        parts.append(Text(f"Largest difference from the original: {report.maximum_error:.3g}"))
    if report.segments:
        parts.append(_segment_table(report))
        parts.extend(_rejections(report.segments))
    if report.patterns:
        found = ", ".join(f"{number} {name}" for name, number in report.patterns.items())
        parts.append(Text(f"Found in the segments: {found}"))
    if len(report.attempts) > 1:  # The reason of a single one stands with the segments.
        parts.append(_attempt_table(report))
    if report.refused:
        parts.append(_refusal_table("Nodes that stay TensorFlow", report.refused))
    if report.declined:
        parts.append(_refusal_table("Nodes that an engine left to the next", report.declined_as_refused()))
    if report.stage_seconds:
        stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report.stage_seconds.items())
        parts.append(Text(f"Time: {stages}"))
    if report.peak_memory_bytes is not None:
        parts.append(Text(f"Peak memory of the process: {size_text(report.peak_memory_bytes)}"))
    if cached := cache_sentence(report):
        parts.append(Text(cached))
    parts.extend(Text(note) for segment in report.segments for note in segment.notes)
    parts.extend(Text(note) for note in report.notes)
    return Group(*parts)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def _more(number: int) -> Text:
    return Text(f"and {number} more: to_html() shows all", style="dim")


def _segment_table(report: OptimizationReport) -> Table:
    table = _table("Segments")
    table.add_column("segment", no_wrap=True)
    for name in ("nodes", "weights"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("runs as", overflow="fold")
    for name in ("error", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for segment in report.segments[:MAXIMUM_ROWS]:
        table.add_row(
            segment.name,
            str(segment.node_count),
            size_text(segment.weight_bytes),
            runs_as(segment) if segment.adopted else "nothing was built" if is_analysis(report) else "TensorFlow",
            "" if segment.maximum_error is None else f"{segment.maximum_error:.2g}",
            "" if segment.measurement is None else f"{segment.measurement.ratio:.2f}",
        )
    if (rest := len(report.segments) - MAXIMUM_ROWS) > 0:
        table.add_row("", "", "", _more(rest), "", "")
    return table


def _rejections(segments: Sequence[SegmentReport]) -> list[Text]:
    """Why segments stay TensorFlow, below the table: reasons are long, and a column of them would break each word."""
    names: dict[str, list[str]] = {}
    for segment in segments:
        if segment.reason and not segment.adopted:
            names.setdefault(segment.reason, []).append(segment.name)
    return [Text(f"{', '.join(members)}: {reason}") for reason, members in list(names.items())[:MAXIMUM_ROWS]]


def _attempt_table(report: OptimizationReport) -> Table:
    has_metric = any(attempt.metric is not None for attempt in report.attempts)
    table = _table("Precisions tried")
    table.add_column("precision", no_wrap=True)
    for name in ("layers\nback", "error", "cosine", *(["metric"] if has_metric else []), "ratio", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("kept", min_width=20)
    for attempt in report.attempts:
        table.add_row(
            attempt.precision,
            str(attempt.reverted_layers or ""),
            "" if attempt.maximum_error is None else f"{attempt.maximum_error:.2g}",
            "" if attempt.cosine is None else f"{attempt.cosine:.5f}",
            *(["" if attempt.metric is None else f"{attempt.metric:.4g}"] if has_metric else []),
            "" if attempt.ratio is None else f"{attempt.ratio:.2f}",
            f"{attempt.seconds:.1f} s" if attempt.seconds else "",
            attempt.reason
            if attempt.reason.startswith("not tried")
            else f"no: {attempt.reason}"
            if attempt.reason
            else Text("yes", style="bold"),
        )
    return table


def _refusal_table(title: str, refused: Sequence[RefusedNode]) -> Table:
    """Nodes and why they are refused, those of one reason in one row."""
    groups: dict[str, list[RefusedNode]] = {}
    for node in refused:
        groups.setdefault(node.reason, []).append(node)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    table = _table(title)
    table.add_column("nodes", justify="right", no_wrap=True)
    table.add_column("op", max_width=28, overflow="fold")
    table.add_column("reason, and an example", overflow="fold")
    for reason, members in ordered[:MAXIMUM_ROWS]:
        ops = [op for op, _ in Counter(node.op for node in members).most_common()]
        shown = ", ".join(ops[:_MAXIMUM_OPS]) + (", …" if len(ops) > _MAXIMUM_OPS else "")
        table.add_row(str(len(members)), shown, Text.assemble(reason, "\n", (members[0].name, "dim")))
    if rest := sum(len(members) for _, members in ordered[MAXIMUM_ROWS:]):
        table.add_row(str(rest), "", _more(len(ordered) - MAXIMUM_ROWS))
    return table
