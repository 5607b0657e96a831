"""Checks where a result is to be written, before any time is spent."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from tf_opt.errors import OutputExistsError, OutputPathError

GRAPH_SUFFIXES = (".pb", ".pbtxt")
REPORT_SUFFIXES = (".html", ".json", ".txt")

_OTHER_FORMATS = (".keras", ".h5", ".hdf5", ".onnx", ".tflite", ".safetensors")


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
        OutputPathError: It is of no form that a result has, or its folder is not there or cannot be written.
    """
    if path.suffix.lower() in _OTHER_FORMATS:
        raise OutputPathError(
            f"{path} cannot be written: a result is a SavedModel folder, or a graph in a file that ends in .pb (.pbtxt "
            "as text)."
        )
    target, origin = path.resolve(), source.resolve()
    if target == origin:
        raise OutputExistsError(f"{path} is the model itself. Name another path; the model is never changed.")
    if origin in target.parents and origin.is_dir():
        raise OutputExistsError(f"{path} lies inside of the model {source}. Name a path outside of it.")
    if target in origin.parents:
        raise OutputExistsError(f"{path} contains the model {source}, which would go. Name another path.")
    _check_existing(path, overwrite=overwrite)
    check_folder_of(path)


def _check_existing(path: Path, *, overwrite: bool) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise OutputExistsError(f"{path} is there already. Name another path, or replace it with --overwrite.")
    if is_graph_file(path):
        if path.is_dir():
            raise OutputExistsError(f"{path} is a folder, which a graph in a file does not replace. Name another path.")
    elif not path.is_dir():
        raise OutputExistsError(f"{path} is a file, which a SavedModel folder does not replace. Name another path.")
    elif any(path.iterdir()) and not (path / "saved_model.pb").exists():
        # --overwrite with a wrong path must not cost a folder of something else.
        raise OutputExistsError(f"{path} is a folder, but no SavedModel; it is not replaced. Name another path.")


def check_report(path: Path | None, *, overwrite: bool) -> None:
    """Refuses a path that a report cannot be written to.

    Raises:
        typer.BadParameter: Its ending says no form that a report has.
        OutputExistsError: It is there already.
        OutputPathError: It is a folder, or its folder is not there or cannot be written.
    """
    if path is None:
        return
    if path.suffix.lower() not in REPORT_SUFFIXES:
        raise typer.BadParameter(
            f"{str(path)!r} says no form; expected a name that ends in {', '.join(REPORT_SUFFIXES)}.",
            param_hint="--report",
        )
    if path.is_dir():
        raise OutputPathError(f"{path} is a folder. Name a file.")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} is there already. Name another path, or replace it with --overwrite.")
    check_folder_of(path)


def check_folder_of(path: Path) -> None:
    """Refuses a path in a folder that is not there or cannot be written; raises OutputPathError."""
    folder = path.resolve().parent
    if not folder.exists():
        raise OutputPathError(f"The folder {folder} for {path.name} is not there. Make it, or name another path.")
    if not folder.is_dir():
        raise OutputPathError(f"{folder} is no folder, so {path.name} cannot be written into it. Name another path.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputPathError(f"The folder {folder} cannot be written to. Name another path, or allow it.")
