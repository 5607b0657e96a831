"""Temporary names beside what is written: held while a process writes there, and removed once none does.

A name is held with a lock that ends with its process, however that ends. The name has the machine in it, as the lock of
one machine may not be seen on another that shares the disk: what is in doubt stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

TEMPORARY_PREFIX = ".writing-"
"""How the names of files and folders begin that are not whole yet."""

REPLACED_PREFIX = ".replaced-"
"""How the names of folders begin that a new one takes the place of."""

_RANDOM_LENGTH = 8
"""What `tempfile` adds to a prefix."""


def temporary_prefix(target: Path, kind: str = TEMPORARY_PREFIX) -> str:
    """Returns how the temporary names for `target` begin on this machine."""
    return f"{kind}{target.name}.{_machine()}-"


@functools.cache
def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def claimed_folder(target: Path) -> tuple[Path, int]:
    """Makes a folder beside `target`.

    Returns:
        Its path, and an open descriptor of it: until that is closed, no process takes the folder for a leftover, also
        under another name.
    """
    while True:
        path = Path(tempfile.mkdtemp(dir=target.parent, prefix=temporary_prefix(target)))
        with contextlib.suppress(FileNotFoundError):
            descriptor = held(path)
            if path.exists():
                return path, descriptor
            os.close(descriptor)
        # Before it was held, another process has removed it.


def claimed_file(target: Path) -> tuple[Path, int]:
    """Makes a file beside `target`, open for writing; see `claimed_folder`."""
    while True:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=temporary_prefix(target))
        _lock(descriptor)
        if os.path.lexists(name):
            return Path(name), descriptor
        os.close(descriptor)


def held(path: Path) -> int:
    """Returns an open descriptor; until that is closed, no process takes what is at `path` for a leftover."""
    descriptor = os.open(path, os.O_RDONLY)
    _lock(descriptor)
    return descriptor


def _lock(descriptor: int) -> None:
    # Some network disks have no locks; nothing is taken for a leftover there.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def remove_leftovers(target: Path) -> None:
    """Removes what processes left beside `target` that ended while they wrote it; what is held or in doubt stays."""
    prefixes = [temporary_prefix(target)]
    if os.path.lexists(target):  # Otherwise it may be the only copy there is.
        prefixes.append(temporary_prefix(target, REPLACED_PREFIX))
    for path in list(target.parent.iterdir()):
        if any(path.name.startswith(prefix) and len(path.name) == len(prefix) + _RANDOM_LENGTH for prefix in prefixes):
            # It is held, went meanwhile, or belongs to somebody else.
            with contextlib.suppress(OSError):
                _remove_unless_held(path)


def _remove_unless_held(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    finally:
        os.close(descriptor)
