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
