"""The forms that every report comes in: text, JSON, and a page for the browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tf_opt.files import write_text

if TYPE_CHECKING:
    from rich.console import Console


class ReportOutput:
    """Base of `OptimizationReport` and `SavedModelReport`.

    What renders is imported when it is used: an optimization whose report nobody looks at pays for none of it.
    """

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as dicts, lists, numbers and strings, as `to_json` writes it; see docs/report.md."""
        from tf_opt.report.json import report_to_dict

        return report_to_dict(self)

    def to_json(self, path: str | Path | None = None) -> str:
        """Returns the report as JSON, and writes it to `path` where one is given. `load_report` reads it again.

        Raises:
            OutputWriteError: The file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        if path is not None:
            write_text(path, text + "\n")
        return text

    def to_html(self, path: str | Path | None = None) -> str:
        """Returns the report as one HTML page that needs no network, and writes it to `path` where one is given.

        Raises:
            OutputWriteError: The file cannot be written.
        """
        from tf_opt.report.html import report_page

        page = report_page(self)
        if path is not None:
            write_text(path, page)
        return page

    def print(self, console: Console | None = None) -> None:
        """Prints the report to the terminal."""
        from tf_opt.report.text import renderable
        from tf_opt.terminal import default_console

        (console or default_console()).print(renderable(self))

    def text(self) -> str:
        """Returns what `print` shows, as plain text."""
        from tf_opt.report.text import plain_text

        return plain_text(self)

    def __str__(self) -> str:
        return self.text()
