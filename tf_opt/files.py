"""Writes files so that a reader never sees half of one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from tf_opt.errors import DumpError
from tf_opt.leftovers import claimed_file, remove_leftovers
from tf_opt.write_errors import named_write_errors

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
    if sync:  # Others are written by the thousand into folders that are looked through by age.
        remove_leftovers(target)
    temporary, descriptor = claimed_file(target)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
            file.flush()
            if sync:
                os.fsync(descriptor)
            # mkstemp makes the file private to the user; what open() makes follows the umask.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, target)  # While it is held.
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a whole file that the user asked for; see `write_parts`.

    Raises:
        OutputWriteError: The disk is full, or something else keeps it from being written.
    """
    with named_write_errors(Path(path), len(content)):
        write_parts(path, (content,))


def write_text(path: str | Path, content: str) -> None:
    """Writes `content` as UTF-8; see `write_bytes`."""
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
