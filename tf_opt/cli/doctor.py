"""`tf-opt doctor`: what works on this machine."""

from __future__ import annotations

import typer

from tf_opt.cli import exit_codes
from tf_opt.cli.environment import prepare_environment
from tf_opt.cli.output import Output
from tf_opt.cli.running import command


@command
def doctor(output: Output) -> None:
    """Tell what works on this machine, what is missing, and the command that gets it.

    Exit code 1 where nothing can be optimized here.

    Example: tf-opt doctor
    """
    prepare_environment(output, legacy_keras=False)
    from tf_opt.doctor import doctor as diagnose

    with output.doing("looking around"):
        diagnosis = diagnose()
    if not output.as_json:
        diagnosis.print(output.console())
    output.result(diagnosis.to_dict())
    if not diagnosis.works:
        raise typer.Exit(exit_codes.ERROR)
