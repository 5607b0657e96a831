"""Checks where a command is to write, before any time is spent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import typer

from tf_opt.errors import OutputPathError
from tf_opt.output_paths import check_beside, check_output_file, check_output_folder, check_place

GRAPH_SUFFIXES = (".pb", ".pbtxt")
REPORT_SUFFIXES = (".html", ".json", ".txt")

_OTHER_FORMATS = (".keras", ".h5", ".hdf5", ".onnx", ".tflite", ".safetensors")
_CONSENT = "give --overwrite"


def is_graph_file(path: Path) -> bool:
    """Whether a result at `path` is one graph in a file, rather than a SavedModel folder."""
    return path.suffix.lower() in GRAPH_SUFFIXES


def check_output(path: Path, source: Path, *, overwrite: bool) -> None:
    """Refuses a path that a result cannot be written to.

    Args:
        path: Where the result goes.
        source: The model that it is made from.
        overwrite: Whether what is there may be replaced.

    Raises:
        OutputExistsError: It is there already, or it is the model itself, in it, or around it.
        OutputPathError: It is of no form that a result has, it is a link, or its folder is not there or cannot be
            written to.
    """
    if path.suffix.lower() in _OTHER_FORMATS:
        raise OutputPathError(
            f"{path} cannot be written: a result is a SavedModel folder, or a graph in a file that ends in .pb (.pbtxt "
            "as text)."
        )
    if is_graph_file(path):
        check_output_file(path, overwrite=overwrite, source=source, consent=_CONSENT)
    else:
        check_output_folder(path, overwrite=overwrite, source=source, in_place=False, consent=_CONSENT)
    _check_folder_is_there(path)


def check_report(path: Path | None, *, overwrite: bool) -> None:
    """Refuses a path that a report cannot be written to.

    Raises:
        typer.BadParameter: Its ending says no form that a report has.
        OutputExistsError: It is there already, or is a folder.
        OutputPathError: It is a link, or its folder is not there or cannot be written to.
    """
    if path is None:
        return
    if path.suffix.lower() not in REPORT_SUFFIXES:
        raise typer.BadParameter(
            f"{str(path)!r} says no form; expected a name that ends in {', '.join(REPORT_SUFFIXES)}.",
            param_hint="--report",
        )
    check_output_file(path, overwrite=overwrite, consent=_CONSENT)
    _check_folder_is_there(path)


def check_other_outputs(paths: Mapping[str, Path | None], source: Path, target: Path) -> None:
    """Refuses paths that are written to beside the result.

    Args:
        paths: By option; what is missing around them is made.
        source: The model.
        target: The result.

    Raises:
        OutputExistsError: One is the model, or lies in it.
        OutputPathError: One cannot be written, or lies in the result, which is put in its place as a whole.
    """
    for option, path in paths.items():
        if path is None:
            continue
        around = (path.resolve(), *path.resolve().parents)
        if target.resolve() in around:
            raise OutputPathError(f"{option} {path} lies in the result {target}. Name a path outside of it.")
        if source.resolve() in around:  # It may contain the model, which stays.
            check_beside(path, source)
        check_place(path / "content" if path.is_dir() else path)


def _check_folder_is_there(path: Path) -> None:
    """Refuses a path whose folder is missing: it may be mistyped, and nobody asked to make it."""
    folder = path.absolute().parent
    if not folder.exists():
        raise OutputPathError(f"The folder {folder} for {path.name} is not there. Make it, or name another path.")
