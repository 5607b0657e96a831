"""Which part of a model a command is about; and what has to be done before TensorFlow is imported for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tf_opt.cli.environment import prepare_environment
from tf_opt.cli.model_paths import ModelKind, kind_of
from tf_opt.cli.output import Output

_PANEL = "Model"


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """Which part of a model is meant, where it has several."""

    signature: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Of a SavedModel: the signature, by its key. Repeatable.",
            show_default="all",
            rich_help_panel=_PANEL,
        ),
    ] = None
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", help="Of a SavedModel: the tags of its graph. Repeatable.", rich_help_panel=_PANEL),
    ] = None
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            metavar="NAME",
            help="Of all other models: an output or, in a frozen graph, any tensor to fetch. Repeatable.",
            show_default="all",
            rich_help_panel=_PANEL,
        ),
    ] = None

    def check(self, kinds: Sequence[ModelKind]) -> None:
        """Refuses options that none of the models has a use for.

        Raises:
            typer.BadParameter: There is one.
        """
        described = " and ".join(dict.fromkeys(f"a {kind.value}" for kind in kinds))
        for name, values in (("--signature", self.signature), ("--tag", self.tag)):
            if values and not any(kind.has_signatures for kind in kinds):
                raise typer.BadParameter(f"only a SavedModel has one; this is {described}.", param_hint=name)
        if self.outputs and all(kind.has_signatures for kind in kinds):
            raise typer.BadParameter(
                "a signature keeps all of its outputs; choose one with --signature.", param_hint="--output"
            )


def prepare(paths: Sequence[Path], output: Output) -> list[ModelKind]:
    """Returns what the paths hold, and imports TensorFlow as these models need it.

    Raises:
        ModelPathError: One of them holds no model.
    """
    kinds = [kind_of(path) for path in paths]
    prepare_environment(output, legacy_keras=ModelKind.HUGGING_FACE in kinds)
    return kinds
