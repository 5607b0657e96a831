"""Turns a path into frozen graphs, whatever kind of model lies there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tf_opt.cli.model_arguments import ModelArguments
from tf_opt.cli.model_paths import ModelKind
from tf_opt.cli.output import Output
from tf_opt.errors import (
    FreezeError,
    GraphNotFrozenError,
    InvalidGraphError,
    LookupTableError,
    TfOptError,
    UnknownOpError,
    UnknownSignatureError,
)
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.signature_function import SignatureFunction, signature_function

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that was read.

    Attributes:
        path: Where it lies.
        kind: What it is.
        graphs: Its graphs by signature; the key is empty where the model has one way to be called.
        functions: Signatures that cannot be frozen, as they are, where these were asked for.
        notes: What a user should know of it.
    """

    path: Path
    kind: ModelKind
    graphs: dict[str, FrozenGraph]
    functions: Mapping[str, SignatureFunction] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def callables(self) -> dict[str, FrozenGraph | SignatureFunction]:
        """All that can be run, by signature."""
        return {**self.graphs, **self.functions}


def read_model(
    path: Path, kind: ModelKind, arguments: ModelArguments, output: Output, *, as_it_is: bool = False
) -> Model:
    """Reads and freezes a model.

    Args:
        path: Where it lies.
        kind: What `prepare` said of it.
        arguments: Which part of it is meant.
        output: Where progress and notes go.
        as_it_is: Whether signatures that cannot be frozen, such as those with lookup tables, are returned as functions.

    Raises:
        InvalidSavedModelError, UnknownSignatureError: The SavedModel is damaged, or has no such signature.
        FreezeError, InvalidGraphError, GraphNotFrozenError, UnknownOpError: The model cannot be read or frozen.
        UnknownOutputError: There is no such output.
    """
    with output.doing(f"reading {path}"):
        if kind is ModelKind.SAVED_MODEL:
            model = _signatures(path, arguments, as_it_is=as_it_is)
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


def _signatures(path: Path, arguments: ModelArguments, *, as_it_is: bool) -> Model:
    """Returns the graphs by signature, and why others have none; one that the user names must have one."""
    from tf_opt.cli.saved_model_files import choose_signatures, read_signatures
    from tf_opt.freeze.models import freeze_concrete_function
    from tf_opt.saved_model.source import check_signature, load_saved_model

    chosen = choose_signatures(read_signatures(path, arguments.tag), arguments.signature, path)
    loaded = load_saved_model(path, arguments.tag)  # Once: its weights may be gigabytes.
    graphs: dict[str, FrozenGraph] = {}
    functions: dict[str, SignatureFunction] = {}
    failures: dict[str, TfOptError] = {}
    for key in chosen:
        check_signature(loaded, key)
        signature = loaded.signatures[key]
        try:
            graphs[key] = freeze_concrete_function(signature)
        except (FreezeError, GraphNotFrozenError, InvalidGraphError, UnknownOpError) as error:
            if as_it_is:
                functions[key] = signature_function(signature, loaded)
            elif arguments.signature:
                raise
            else:
                failures[key] = error
    if not graphs and not functions:
        raise next(iter(failures.values()))
    notes = tuple(f"the signature {key!r} is left out: {error}" for key, error in failures.items())
    return Model(path=path, kind=ModelKind.SAVED_MODEL, graphs=graphs, functions=functions, notes=notes)


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
