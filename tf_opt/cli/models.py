"""Turns a path into frozen graphs, whatever kind of model lies there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tf_opt.cli.model_arguments import ModelArguments
from tf_opt.cli.model_paths import ModelKind
from tf_opt.cli.output import Output
from tf_opt.errors import (
    FreezeError,
    GraphNotFrozenError,
    InvalidGraphError,
    InvalidSavedModelError,
    LookupTableError,
    TfOptError,
    UnknownOpError,
    UnknownSignatureError,
)
from tf_opt.frozen_graph import FrozenGraph

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that was read.

    Attributes:
        path: Where it lies.
        kind: What it is.
        graphs: Its graphs by signature; the key is empty where the model has one way to be called.
        notes: What a user should know of it.
    """

    path: Path
    kind: ModelKind
    graphs: dict[str, FrozenGraph]
    notes: tuple[str, ...] = ()


def read_model(path: Path, kind: ModelKind, arguments: ModelArguments, output: Output) -> Model:
    """Reads and freezes a model.

    Args:
        path: Where it lies.
        kind: What `prepare` said of it.
        arguments: Which part of it is meant.
        output: Where progress and notes go.

    Raises:
        InvalidSavedModelError, UnknownSignatureError: The SavedModel is damaged, or has no such signature.
        FreezeError, InvalidGraphError, GraphNotFrozenError, UnknownOpError: The model cannot be read or frozen.
        UnknownOutputError: There is no such output.
    """
    with output.doing(f"reading {path}"):
        if kind is ModelKind.SAVED_MODEL:
            graphs, notes = _signatures(path, arguments)
            model = Model(path=path, kind=kind, graphs=graphs, notes=notes)
        elif kind is ModelKind.GRAPH:
            from tf_opt.freeze.models import load_graph_def

            model = Model(path=path, kind=kind, graphs={"": load_graph_def(path, arguments.outputs or None)})
        else:
            frozen, notes = _frozen_object(path, kind)
            model = Model(path=path, kind=kind, graphs={"": _with_outputs(frozen, arguments.outputs)}, notes=notes)
    for note in model.notes:
        output.note(f"Note: {note}")
    return model


def one_graph(model: Model, purpose: str, output: Output) -> FrozenGraph:
    """Returns the graph of a model for a purpose that takes one.

    Args:
        model: The model.
        purpose: What there can be only one of, such as "a file".
        output: Where it is said which signature was taken, where there are several.

    Raises:
        UnknownSignatureError: There are several, and none of them is the default one.
    """
    if len(model.graphs) == 1:
        return next(iter(model.graphs.values()))
    listed = ", ".join(map(repr, model.graphs))
    if DEFAULT_SIGNATURE not in model.graphs:
        raise UnknownSignatureError(
            f"{model.path} has the signatures {listed}; {purpose} takes one. Choose it with --signature."
        )
    output.note(f"Note: of the signatures {listed} of {model.path}, {DEFAULT_SIGNATURE!r} is taken; see --signature.")
    return model.graphs[DEFAULT_SIGNATURE]


def _signatures(path: Path, arguments: ModelArguments) -> tuple[dict[str, FrozenGraph], tuple[str, ...]]:
    """Returns the graphs by signature, and why others have none; one that the user names must have one."""
    from tf_opt.cli.saved_model_files import choose_signatures, read_signatures
    from tf_opt.freeze.models import freeze_saved_model

    known = read_signatures(path, arguments.tag)
    graphs: dict[str, FrozenGraph] = {}
    failures: dict[str, TfOptError] = {}
    for key in choose_signatures(known, arguments.signature, path):
        try:
            graphs[key] = freeze_saved_model(path, key, tags=arguments.tag)
        except InvalidSavedModelError:
            raise
        except (FreezeError, GraphNotFrozenError, InvalidGraphError, UnknownOpError) as error:
            if arguments.signature:
                raise
            failures[key] = error
    if not graphs:
        raise next(iter(failures.values()))
    return graphs, tuple(f"the signature {key!r} is left out: {error}" for key, error in failures.items())


def _frozen_object(path: Path, kind: ModelKind) -> tuple[FrozenGraph, tuple[str, ...]]:
    from tf_opt.freeze.models import freeze_keras

    if kind is ModelKind.KERAS:
        from tf_opt.cli import keras_files

        try:
            return freeze_keras(keras_files.load_model(path)), ()
        except LookupTableError as error:
            raise LookupTableError(
                f"{error} A SavedModel can keep the table: export one with keras.export.ExportArchive that has an "
                "endpoint for the part after the lookup, and optimize that. What looks up stays as it is."
            ) from error
    from tf_opt.cli import hugging_face

    model, notes = hugging_face.load_model(path)
    return freeze_keras(model), notes


def _with_outputs(frozen: FrozenGraph, names: Sequence[str] | None) -> FrozenGraph:
    return replace(frozen, outputs=tuple(frozen.output(name) for name in names)) if names else frozen
