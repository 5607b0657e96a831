"""Where tables are printed."""

from __future__ import annotations

from rich.console import Console

_WIDTH_WITHOUT_TERMINAL = 120
"""rich takes 80 columns where it writes to a file or a pipe, which breaks every word of the wider tables."""


def default_console() -> Console:
    """Returns a console for standard output, as wide as the terminal or as a page."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_WITHOUT_TERMINAL)
