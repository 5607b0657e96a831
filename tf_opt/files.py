"""Writes files so that a reader never sees half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from tf_opt.errors import DumpError

TEMPORARY_PREFIX = ".writing-"
"""How the names of files begin that are not whole yet."""

Bytes: TypeAlias = bytes | bytearray | memoryview


def write_parts(path: str | Path, parts: Iterable[Bytes], *, sync: bool = True) -> None:
    """Writes to a temporary file beside `path` and renames it, so that `path` is old or new, never between.

    Args:
        path: The file; its folder is made where it is missing.
        parts: The content, in order.
        sync: Whether the content is on the disk before the name is. A file that is checked when it is read needs not.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f"{TEMPORARY_PREFIX}{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        # mkstemp makes the file private to the user; what open() makes follows the umask.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a whole file; see `write_parts`."""
    write_parts(path, (content,))


def write_text(path: str | Path, content: str) -> None:
    """Writes `content` as UTF-8; see `write_parts`."""
    write_bytes(path, content.encode())


def write_dump(path: str | Path, content: bytes) -> None:
    """Writes a whole file of a dump; see `write_parts`.

    Raises:
        DumpError: The folder cannot be written, or the disk is full.
    """
    try:
        write_parts(path, (content,), sync=False)
    except OSError as error:
        raise dump_error(path, error) from error


def dump_error(path: str | Path, error: OSError) -> DumpError:
    """Returns what is raised where a file of a dump cannot be written."""
    return DumpError(
        f"The dump cannot write {path}: {error.strerror or error}. Make room, give dump_dir another folder, or leave "
        "it out: nothing else needs it."
    )
