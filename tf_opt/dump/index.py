"""Writes `index.md` of a dump: what became of each segment, and what each file is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tf_opt.dump.records import SegmentRecord
from tf_opt.report.optimization import OptimizationReport

_FILES = """\
## Files

| file | what it is |
|---|---|
| `report.json` | the report: every segment, every node that stays TensorFlow and why, what was tried |
| `graph_passes/NN_<pass>.pb` | the graph after each pass, in order; `00_input.pb` is what came in |
| `final_graph.pb`, `.txt` | the graph that was returned, and a listing of it |
| `segments/weights.data`, `.json` | every constant once, and where it lies; the other files refer to it |
| `segments/<segment>.pb`, `.txt` | the segment's TensorFlow nodes, and a listing of them |
| `segments/<segment>.onnx` | the segment as it was exported; ONNX Runtime and OpenVINO read it as it lies |
| `segments/<segment>_<engine>_<precision>.onnx` | the model that an engine was built of, after all passes |
| `segments/<segment>_<engine>_<precision>.engine` | what the engine node stores |
| `segments/<segment>_<engine>_<precision>.log` | what was said while it was built, or why it was not |
| `segments/<segment>.log` | why nothing was built of the segment |
| `segments/<segment>_feeds.npz` | what flows into the segment when the feeds run: `feed_<n>.input_<i>` |
| `segments/<segment>.json` | inputs, outputs and weights of the segment, and what was built of it |
| `segments/<segment>_passes/` | the segment after each pass, its constants as inputs |
| `segments/replay_<segment>.py` | runs the segment's nodes and its engine on the feeds, compares and times them |

The GraphDefs have placeholders where the big constants belong.
`tf_opt.dump.weights.load_dumped_graph("final_graph.pb")` returns one with its constants.
"""


def index_text(folder: Path, records: Sequence[SegmentRecord], report: OptimizationReport | None, problem: str) -> str:
    """Returns the page.

    Args:
        folder: The dump.
        records: The segments that were dumped, those of earlier cuts of the graph too.
        report: The report; None where the optimization did not come to its end.
        problem: Why it did not; empty otherwise.
    """
    lines = [f"# {folder.name}", ""]
    if problem:
        lines += [problem, ""]
    if report is not None:
        lines += ["```", report.text().rstrip(), "```", ""]
    if records:
        lines += [
            "## Segments",
            "",
            "| segment | engine | nodes | built | result | replay |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_row(record, report, records) for record in records]
        lines += [""]
    return "\n".join([*lines, _FILES])


def _row(record: SegmentRecord, report: OptimizationReport | None, records: Sequence[SegmentRecord]) -> str:
    built = ", ".join(each.name for each in record.engines if not each.error) or "nothing"
    cells = [record.stem, record.engine, str(record.node_count), built, _result(record, report, records)]
    replay = f"`python segments/replay_{record.stem}.py`" + ("" if record.feeds else f" ({record.feeds_reason})")
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in [*cells, replay])} |"


def _result(record: SegmentRecord, report: OptimizationReport | None, records: Sequence[SegmentRecord]) -> str:
    if record.error:
        return f"not built: {record.error}"
    last = [each for each in records if each.name == record.name][-1]
    found = {} if report is None else {each.name: each for each in report.segments}
    if last is not record or record.name not in found:
        return "the graph was cut again" if report is not None else "unknown"
    final = found[record.name]
    return f"adopted, {final.precision}" if final.adopted else f"stays TensorFlow: {final.reason or 'not built'}"
