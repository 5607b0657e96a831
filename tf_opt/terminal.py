"""Where tables are printed and progress is shown."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

_WIDTH_WITHOUT_TERMINAL = 120
"""rich takes 80 columns where it writes to a file or a pipe, which breaks every word of the wider tables."""


def default_console() -> Console:
    """Returns a console for standard output, as wide as the terminal or as a page."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_WITHOUT_TERMINAL)


def stage_progress(enabled: bool) -> Progress:
    """Returns a display of named stages with their times, which vanishes at its end.

    Args:
        enabled: Whether the user wants progress; nothing is written without a terminal in any case.
    """
    console = Console()
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not (enabled and console.is_terminal),
    )
