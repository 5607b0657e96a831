"""The program `tf-opt`: its commands, and what stands around them."""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tf_opt.cli import exit_codes
from tf_opt.cli.analyze import analyze
from tf_opt.cli.benchmark import benchmark
from tf_opt.cli.cache import cache_app
from tf_opt.cli.compare import compare
from tf_opt.cli.doctor import doctor
from tf_opt.cli.inspect import inspect
from tf_opt.cli.optimize import optimize

NAME = "tf-opt"


class Commands(TyperGroup):
    """The commands. None of them has a use for an empty argument, which would be taken for the current folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuses empty arguments and options, before a command sees the others; raises typer.BadParameter."""
        for position, argument in enumerate(args):
            option = re.fullmatch(r"(--[^=]+)=", argument)
            if option is None and argument:
                continue
            before = args[position - 1] if position else ""
            hint = option[1] if option else before if before.startswith("-") else None
            raise typer.BadParameter(
                "it is empty, as a shell variable that is not set makes it; expected a value.", param_hint=hint
            )
        return super().parse_args(ctx, args)


app = typer.Typer(
    name=NAME,
    cls=Commands,
    help="Put inference engines inside TensorFlow graphs: optimize models, look at them, compare and measure them.",
    epilog=exit_codes.HELP,
    no_args_is_help=True,
    # Errors are reported by tf_opt.cli.running; what gets past it is a mistake of ours, with its traceback.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for function in (optimize, analyze, inspect, compare, benchmark, doctor):
    app.command(no_args_is_help=function is not doctor)(function)
app.add_typer(cache_app, name="cache")


def _show_version(wanted: bool) -> None:
    if wanted:
        from tf_opt import __version__

        typer.echo(f"{NAME} {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    del version  # Its callback has done all.


def run() -> None:
    """Runs the program; what libraries write to stdout below Python goes to stderr."""
    sys.stdout.flush()
    # C++ code and child processes write to descriptor 1 whatever sys.stdout is. The result goes to a copy of it.
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    os.dup2(2, 1)
    try:
        app(prog_name=NAME)
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # The reader has gone, or the command has said what is wrong.
            # Python flushes once more at its end, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
