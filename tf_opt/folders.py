"""Writes folders so that a reader never sees half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tf_opt.errors import OutputExistsError
from tf_opt.leftovers import REPLACED_PREFIX, claimed_folder, held, remove_leftovers, temporary_prefix


@contextmanager
def writing_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yields an empty folder beside `target`, which gets this name when the block ends without an error.

    A folder that is replaced stays until the new one is whole. What processes left beside it that ended while they
    wrote the same folder is removed.

    Args:
        target: The folder to write.
        overwrite: Whether a folder of this name is replaced.

    Raises:
        OutputExistsError: Another process wrote the folder in the meantime, and `overwrite` is off.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    temporary, descriptor = claimed_folder(target)
    try:
        # mkdtemp makes the folder private to the user; what mkdir() makes follows the umask.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        yield temporary
        if not overwrite and os.path.lexists(target):
            raise OutputExistsError(f"{target} was written by something else in the meantime. Choose another folder.")
        _replace(temporary, target)
        remove_leftovers(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def _replace(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    descriptor = held(target)
    try:
        old = Path(tempfile.mkdtemp(dir=target.parent, prefix=temporary_prefix(target, REPLACED_PREFIX)))
        target.rename(old)  # Onto an empty folder, which a rename may replace.
        try:
            temporary.rename(target)
        except BaseException:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(descriptor)
