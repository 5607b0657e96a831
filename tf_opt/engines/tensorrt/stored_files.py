"""Files that several processes read and write: whole or absent, and checked when they are read.

Layout, all integers little-endian::

    8 bytes   magic, by kind of file
    u32       format version (1)
    u64       length of the header
    ...       header: a JSON object, UTF-8
    ...       payload
    32 bytes  SHA-256 of everything before
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tf_opt.ops.build import cache_directory

FORMAT_VERSION = 1

_PREFIX = struct.Struct("<8sIQ")
_TEMPORARY_PREFIX = ".writing-"
_ABANDONED_SECONDS = 3600.0
"""A temporary file that is older belongs to a process that died."""


class UnusableFileError(ValueError):
    """A file is damaged, cut short, or of another kind; the message says which."""


def default_folder(name: str) -> Path:
    """Returns a folder of this backend in `tf_opt.ops.cache_directory`, which TF_OPT_CACHE_DIR moves."""
    return cache_directory() / name


def read_checked(path: Path, magic: bytes) -> tuple[Mapping[str, Any], bytes]:
    """Returns header and payload.

    Raises:
        OSError: There is no such file.
        UnusableFileError: It is not whole, or something else.
    """
    content = path.read_bytes()
    end = len(content) - hashlib.sha256().digest_size
    if end < _PREFIX.size:
        raise UnusableFileError(f"it has only {len(content)} bytes")
    found, version, header_length = _PREFIX.unpack_from(content)
    if found != magic or version != FORMAT_VERSION:
        raise UnusableFileError(f"it is of the format {found!r} {version}")
    if hashlib.sha256(memoryview(content)[:end]).digest() != content[end:]:
        raise UnusableFileError("its checksum is wrong")
    start = _PREFIX.size + header_length
    header = json.loads(content[_PREFIX.size : start])
    if not isinstance(header, dict):
        raise UnusableFileError("its header is no object")
    return header, content[start:end]


def write_checked(path: Path, magic: bytes, header: Mapping[str, Any], payload: bytes) -> None:
    """Writes a file that `read_checked` reads, so that others see the old one or the new one; raises OSError."""
    encoded = json.dumps(dict(header), sort_keys=True).encode()
    prefix = _PREFIX.pack(magic, FORMAT_VERSION, len(encoded)) + encoded
    checksum = hashlib.sha256(prefix)
    checksum.update(payload)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY_PREFIX)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines((prefix, payload, checksum.digest()))
        # No fsync: what a crash of the machine leaves half-written has the wrong checksum.
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds a lock that other threads and processes respect; the kernel drops it where the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def evict(folder: Path, suffix: str, limit_bytes: int, newest: Path) -> None:
    """Removes the least recently used files beyond a limit, and what processes left that died while they wrote.

    Args:
        folder: Where the files lie.
        suffix: Which files count.
        limit_bytes: How large they may be together.
        newest: The file that goes last, whatever its time says.
    """
    for path in folder.glob(f"{_TEMPORARY_PREFIX}*"):
        if time.time() - _stat(path)[0] > _ABANDONED_SECONDS:
            path.unlink(missing_ok=True)
    files = [(path != newest, -_stat(path)[0], _stat(path)[1], path) for path in folder.glob(f"*{suffix}")]
    total = 0
    for _, _, size, path in sorted(files):
        total += size
        if total > limit_bytes:
            path.unlink(missing_ok=True)


def _stat(path: Path) -> tuple[float, int]:
    """When a file was last used, and its size; zeros where another process has removed it."""
    try:
        status = path.stat()
    except OSError:
        return 0.0, 0
    return status.st_mtime, status.st_size
