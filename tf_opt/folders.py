"""Writes folders so that a reader never sees half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tf_opt.errors import OutputExistsError
from tf_opt.files import TEMPORARY_PREFIX

_OLD_PREFIX = ".replaced-"


def check_output_folder(
    target: str | os.PathLike[str], *, overwrite: bool, source: str | os.PathLike[str] | None = None
) -> Path:
    """Returns the folder that is to be written, once it is sure that writing it destroys nothing unasked.

    Args:
        target: The folder.
        overwrite: Whether a SavedModel in its place may be replaced.
        source: Folder of the model that is read meanwhile.

    Raises:
        OutputExistsError: There is something in its place; or replacing it would take the source away, or something
            that is no SavedModel.
    """
    path = Path(target)
    if source is not None:
        real, origin = path.resolve(), Path(source).resolve()
        if origin in real.parents:
            raise OutputExistsError(
                f"{path} lies inside of the SavedModel {source}, which would then hold itself. Choose a folder beside "
                "it."
            )
        if real in origin.parents:
            raise OutputExistsError(
                f"{path} holds the SavedModel {source} that is read, so it cannot be replaced. Choose another folder."
            )
    if not os.path.lexists(path):
        for parent in path.parents:
            if parent.exists():
                if not parent.is_dir():
                    raise OutputExistsError(f"{path} cannot be made: {parent} is no folder. Choose another place.")
                break
        return path
    if not overwrite:
        raise OutputExistsError(f"{path} exists. Choose another folder, or pass overwrite=True to replace it.")
    if path.is_symlink() or not path.is_dir():
        raise OutputExistsError(f"{path} is no folder, and is not overwritten. Remove it, or choose another place.")
    if any(path.iterdir()) and not any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise OutputExistsError(
            f"{path} holds something else than a SavedModel, and is not overwritten. Choose another folder."
        )
    return path


@contextmanager
def writing_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yields an empty folder beside `target`, which gets this name when the block ends without an error.

    A folder that is replaced stays until the new one is whole.

    Args:
        target: The folder to write.
        overwrite: Whether a folder of this name is replaced.

    Raises:
        OutputExistsError: Another process wrote the folder in the meantime, and `overwrite` is off.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{TEMPORARY_PREFIX}{target.name}."))
    try:
        # mkdtemp makes the folder private to the user; what mkdir() makes follows the umask.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        yield temporary
        if not overwrite and os.path.lexists(target):
            raise OutputExistsError(f"{target} was written by something else in the meantime. Choose another folder.")
        _replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _replace(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{_OLD_PREFIX}{target.name}."))
    target.rename(old)  # Onto an empty folder, which a rename may replace.
    try:
        temporary.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
