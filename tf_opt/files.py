"""Writes files so that a reader never sees half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

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
