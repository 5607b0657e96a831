"""Where a command writes: its result to stdout, as text or JSON, all else to stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tf_opt.errors import OutputWriteError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

TRACEBACK_VARIABLE = "TF_OPT_TRACEBACK"
"""Set to anything but 0, it shows Python's traceback beside the message of an error."""

_PANEL = "Output on the terminal"
_WIDTH_WITHOUT_TERMINAL = 120


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a command shows its result; the same options at every command.

    It writes to stdout and stderr as they are when it is made: while a command works, sys.stdout is stderr, for what
    libraries print.
    """

    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the result as JSON, and nothing else on stdout.", rich_help_panel=_PANEL),
    ] = False
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            help=f"Show what libraries log, and the traceback of an error (as {TRACEBACK_VARIABLE}=1 does).",
            rich_help_panel=_PANEL,
        ),
    ] = False
    stdout: Any = field(default_factory=lambda: sys.stdout, init=False, repr=False)
    stderr: Any = field(default_factory=lambda: sys.stderr, init=False, repr=False)

    @property
    def traceback(self) -> bool:
        """Whether an error shows where it came from."""
        return self.verbose or os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0")

    @property
    def shows_progress(self) -> bool:
        """Whether there is a terminal to show progress on."""
        return bool(self.stderr.isatty())

    def console(self) -> Console:
        """Returns a console for the result, as wide as the terminal or, without one, as a page."""
        return _console(self.stdout)

    def show(self, *parts: RenderableType) -> None:
        """Prints parts of the result for people, strings as they are; nothing with --json."""
        from rich.text import Text

        if not self.as_json:
            with _writing_result():
                for part in parts:
                    self.console().print(Text(part) if isinstance(part, str) else part)

    def write(self, text: str) -> None:
        """Prints text as it is, however long its lines are; nothing with --json."""
        if not self.as_json:
            with _writing_result():
                self.stdout.write(text)
                self.stdout.flush()

    def result(self, content: Mapping[str, Any]) -> None:
        """Prints the result for programs; nothing without --json."""
        if self.as_json:
            from tf_opt.plain_data import to_plain

            text = json.dumps(to_plain(content, finite=True), indent=2, ensure_ascii=False, allow_nan=False)
            with _writing_result():
                self.stdout.write(text + "\n")
                self.stdout.flush()

    def note(self, text: str) -> None:
        """Tells the user something on stderr."""
        from rich.text import Text

        _console(self.stderr).print(Text(text), soft_wrap=True)

    def error(self, text: str) -> None:
        """Says on stderr what went wrong."""
        from rich.text import Text

        _console(self.stderr).print(Text.assemble(("Error: ", "bold red"), text), soft_wrap=True)

    @contextlib.contextmanager
    def doing(self, text: str, file: Any = None) -> Iterator[None]:
        """Shows on stderr, or on another file, what is being done, until it is; nothing without a terminal."""
        console = _console(file or self.stderr)
        if not console.is_terminal:
            yield
            return
        with console.status(f"{text} …"):
            yield


@contextlib.contextmanager
def _writing_result() -> Iterator[None]:
    """Names a write that failed, such as into a file on a full disk; a reader that has seen enough is no error."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputWriteError(
            f"The result cannot be written to where stdout goes: {error.strerror or error}. Make room there, or send "
            "it elsewhere."
        ) from error


def _console(file: Any) -> Console:
    from rich.console import Console

    class OurConsole(Console):
        def on_broken_pipe(self) -> None:
            """Leaves it to `tf_opt.cli.running`: a reader that has seen enough is no error, which rich makes of it."""
            raise BrokenPipeError

    console = OurConsole(file=file)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return OurConsole(file=file, width=_WIDTH_WITHOUT_TERMINAL)
