"""Runs a command: errors become a message and an exit code, and libraries keep away from stdout."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any

import typer

from tf_opt.cli import exit_codes
from tf_opt.cli.argument_groups import expand_groups
from tf_opt.cli.environment import quiet_libraries
from tf_opt.cli.output import Output
from tf_opt.cli.signals import EndingSignal, ending_signals
from tf_opt.errors import TfOptError

Command = Callable[..., None]


def command(function: Command) -> Command:
    """Makes a function into what typer registers.

    Args:
        function: Takes `output: Output` beside its own parameters. It raises a TfOptError for what is wrong,
            `typer.BadParameter` for a command line that is wrong, and `typer.Exit` for another exit code.
    """

    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        output: Output = arguments["output"]
        try:
            with ending_signals(), quiet_libraries(verbose=output.verbose):
                function(**arguments)
        except (typer.Exit, typer.BadParameter, typer.Abort):
            raise
        except EndingSignal as error:
            output.note(f"Ended by {error.signal.name}.")
            raise typer.Exit(exit_codes.SIGNALLED + error.signal) from error
        except KeyboardInterrupt as error:
            output.note("Interrupted.")
            raise typer.Exit(exit_codes.INTERRUPTED) from error
        except BrokenPipeError as error:
            raise typer.Exit from error  # Whoever reads stdout has seen enough, as `head` does.
        except Exception as error:
            if output.traceback:
                output.note(traceback.format_exc().rstrip())
            output.error(_message(error))
            raise typer.Exit(exit_codes.ERROR) from error

    return expand_groups(run)


def _message(error: Exception) -> str:
    if isinstance(error, TfOptError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or ''}: {error.strerror}".removeprefix(": ")
    return f"{type(error).__name__}: {str(error).strip() or 'no message'} (--verbose shows where it came from)"
