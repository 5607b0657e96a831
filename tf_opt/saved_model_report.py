"""What became of a SavedModel: a report for each signature, a reason for each that stays as it was, and the sizes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tf_opt.files import write_text
from tf_opt.plain_data import to_plain
from tf_opt.report import OptimizationReport
from tf_opt.terminal import default_console


@dataclass(frozen=True, kw_only=True)
class SavedModelReport:
    """The whole story of one SavedModel.

    Attributes:
        signatures: What the optimization of each signature did. Signatures of one graph share one optimization. One for
            which no engine was adopted is also in `unconverted`.
        unconverted: Signatures that stay as they were, each with the reason.
        original_bytes: Size of the given folder.
        optimized_bytes: Size of the written folder, before this report was added to it.
        variable_bytes: Size of the weights in it.
        engine_bytes: Size of what its engine nodes store, without weights.
        endpoints: The same as `signatures` for callable attributes of the model that are no signature's graph.
        notes: What else a user should know, such as what was left out.
    """

    signatures: Mapping[str, OptimizationReport]
    unconverted: Mapping[str, str]
    original_bytes: int
    optimized_bytes: int
    variable_bytes: int
    engine_bytes: int
    endpoints: Mapping[str, OptimizationReport] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain dicts, lists, numbers and strings."""
        content: dict[str, Any] = to_plain(self)
        for name in ("signatures", "endpoints"):
            content[name] = {key: report.to_dict() for key, report in getattr(self, name).items()}
        return content

    def to_json(self, path: str | Path | None = None) -> str:
        """Returns the report as JSON, and writes it to `path` where one is given."""
        text = json.dumps(self.to_dict(), indent=2)
        if path is not None:
            write_text(path, text + "\n")
        return text

    def print(self, console: Console | None = None) -> None:
        """Prints the report to the terminal."""
        (console or default_console()).print(self._renderable())

    def text(self) -> str:
        """Returns what `print` shows, as plain text."""
        console = Console(width=120, record=True, file=io.StringIO(), color_system=None)
        console.print(self._renderable())
        return console.export_text()

    def __str__(self) -> str:
        return self.text()

    def _renderable(self) -> Group:
        parts: list[Any] = [
            Text(
                f"{_megabytes(self.original_bytes)} before, {_megabytes(self.optimized_bytes)} after: weights "
                f"{_megabytes(self.variable_bytes)}, engines {_megabytes(self.engine_bytes)}"
            )
        ]
        shown: dict[int, list[str]] = {}
        for name, report in (*self.signatures.items(), *self.endpoints.items()):
            shown.setdefault(id(report), []).append(name)
        reports = {id(report): report for report in (*self.signatures.values(), *self.endpoints.values())}
        for identity, names in shown.items():
            parts.append(Text(f"\n{', '.join(names)}", style="bold"))
            parts.append(Text(reports[identity].text().rstrip()))
        if self.unconverted:
            table = Table("signature", "why it stays as it was", title="Signatures that stay TensorFlow")
            for name, reason in self.unconverted.items():
                table.add_row(name, reason)
            parts.append(table)
        parts.extend(Text(note) for note in self.notes)
        return Group(*parts)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
