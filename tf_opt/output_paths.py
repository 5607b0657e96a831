"""Checks where something is to be written, before any time is spent on it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tf_opt.errors import OutputExistsError, OutputPathError
from tf_opt.leftovers import temporary_prefix

_SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")


def check_output_folder(
    target: str | os.PathLike[str],
    *,
    overwrite: bool,
    source: str | os.PathLike[str] | None = None,
    in_place: bool = True,
    consent: str = "pass overwrite=True",
) -> Path:
    """Returns the folder that a SavedModel is to be written to, once it is sure that this destroys nothing unasked.

    Args:
        target: The folder. It may be missing, and so may the folders around it.
        overwrite: Whether a SavedModel in its place may be replaced.
        source: The model that is read meanwhile.
        in_place: Whether the source itself may be replaced.
        consent: What a user does for `overwrite`, for messages.

    Raises:
        OutputExistsError: There is something in its place; or replacing it would take the source away, or something
            that is no SavedModel.
        OutputPathError: It is a link, or nothing can be written there.
    """
    path = Path(target)
    with _named(path):
        _check_link(path)
        if source is not None:
            check_beside(path, source, in_place=in_place)
        if os.path.lexists(path):
            _check_consent(path, overwrite, consent)
            if not path.is_dir():
                raise OutputExistsError(
                    f"{path} is no folder but a file, which a SavedModel folder does not replace. Name another path."
                )
            # A wrong path must not cost a folder of something else.
            if any(path.iterdir()) and not any((path / name).is_file() for name in _SAVED_MODEL_FILES):
                raise OutputExistsError(
                    f"{path} is a folder, but no SavedModel; it is not replaced. Name another path."
                )
        check_place(path)
    return path


def check_output_file(
    target: str | os.PathLike[str],
    *,
    overwrite: bool,
    source: str | os.PathLike[str] | None = None,
    consent: str = "pass overwrite=True",
) -> Path:
    """Returns the file that is to be written; arguments and errors as at `check_output_folder`."""
    path = Path(target)
    with _named(path):
        _check_link(path)
        if source is not None:
            check_beside(path, source, in_place=False)
        if path.is_dir():
            raise OutputExistsError(f"{path} is a folder, which a file does not replace. Name another path.")
        if os.path.lexists(path):
            _check_consent(path, overwrite, consent)
            if not path.is_file():
                raise OutputExistsError(f"{path} is no ordinary file, and is not replaced. Name another path.")
        check_place(path)
    return path


def check_beside(path: Path, source: str | os.PathLike[str], *, in_place: bool = False) -> None:
    """Refuses a path that a model cannot have beside it.

    Args:
        path: What is to be written.
        source: The model.
        in_place: Whether the two may be the same.

    Raises:
        OutputExistsError: It is the model, lies in it, or contains it.
    """
    target, origin = path.resolve(), Path(source).resolve()
    if target == origin and not in_place:
        raise OutputExistsError(f"{path} is the model itself. Name another path; the model is never changed.")
    if origin in target.parents and origin.is_dir():
        raise OutputExistsError(f"{path} lies inside of the model {source}. Name a path outside of it.")
    if target in origin.parents:
        raise OutputExistsError(f"{path} contains the model {source}, which would go. Name another path.")


def check_place(path: Path) -> None:
    """Refuses a path that can neither be written nor made; leaves nothing there.

    Raises:
        OutputPathError: A folder around it is none or cannot be written to, or the system does not take the name.
    """
    with _named(path):
        missing = path.absolute()
        while not missing.parent.exists():
            missing = missing.parent
        folder = missing.parent
        if not folder.is_dir():
            raise OutputPathError(f"{path} cannot be written: {folder} is no folder. Name another path.")
        # Permissions do not tell: root passes them all, and a file system may be read-only or have no files of ours.
        descriptor, probe = tempfile.mkstemp(dir=folder, prefix=temporary_prefix(missing))
        os.close(descriptor)
        os.unlink(probe)


def check_folder_place(path: Path) -> None:
    """Refuses a folder that files cannot be written into, be it there already or to be made; see `check_place`."""
    check_place(path / "content" if path.is_dir() else path)
    if path.exists() and not path.is_dir():
        raise OutputPathError(f"{path} is no folder but a file. Name another path.")


def _check_link(path: Path) -> None:
    if path.is_symlink():
        raise OutputPathError(
            f"{path} is a symbolic link to {os.readlink(path)}, and links are not replaced. Name what it points to, or "
            "another path."
        )


def _check_consent(path: Path, overwrite: bool, consent: str) -> None:
    if not overwrite:
        raise OutputExistsError(f"{path} is there already. Name another path, or {consent} to replace it.")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Says what the system has against a path in words of ours."""
    try:
        yield
    except OutputExistsError:  # It is an OSError too.
        raise
    except OSError as error:
        raise OutputPathError(
            f"{path} cannot be written: {error.strerror or error}. Name another path, or allow writing to the folder."
        ) from error
