"""Files of the caches, which several processes read and write: whole or absent, and checked when they are read.

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
import logging
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tf_opt.files import Bytes, write_parts
from tf_opt.leftovers import TEMPORARY_PREFIX
from tf_opt.ops.build import cache_directory

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1

_PREFIX = struct.Struct("<8sIQ")
_ABANDONED_SECONDS = 3600.0
"""A temporary file that is older belongs to a process that died."""


class UnusableFileError(ValueError):
    """A file is damaged, cut short, or of another kind; the message says which."""


def default_folder(name: str) -> Path:
    """Returns the folder of one cache in `tf_opt.ops.cache_directory`, which TF_OPT_CACHE_DIR moves."""
    return cache_directory() / name


def read_checked(path: Path, magic: bytes) -> tuple[Mapping[str, Any], memoryview]:
    """Returns header and payload.

    Raises:
        OSError: There is no such file.
        UnusableFileError: It is not whole, or something else.
    """
    content = memoryview(path.read_bytes())
    end = len(content) - hashlib.sha256().digest_size
    if end < _PREFIX.size:
        raise UnusableFileError(f"it has only {len(content)} bytes")
    found, version, header_length = _PREFIX.unpack_from(content)
    if found != magic or version != FORMAT_VERSION:
        raise UnusableFileError(f"it is of the format {found!r} {version}")
    if hashlib.sha256(content[:end]).digest() != content[end:]:
        raise UnusableFileError("its checksum is wrong")
    start = _PREFIX.size + header_length
    header = json.loads(bytes(content[_PREFIX.size : start]))
    if not isinstance(header, dict):
        raise UnusableFileError("its header is no object")
    return header, content[start:end]


def write_checked(path: Path, magic: bytes, header: Mapping[str, Any], payload: Sequence[Bytes]) -> None:
    """Writes a file that `read_checked` reads, so that others see the old one or the new one; raises OSError."""
    encoded = json.dumps(dict(header)).encode()
    parts = [_PREFIX.pack(magic, FORMAT_VERSION, len(encoded)), encoded, *payload]
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    # What a crash of the machine leaves half-written has the wrong checksum.
    write_parts(path, [*parts, checksum.digest()], sync=False)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds a lock that other threads and processes respect; the kernel drops it where the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class CacheFolder:
    """Entries by key, one file each, of which the least recently used go where they grow too large together.

    Several processes may use a folder at the same time.
    """

    def __init__(self, folder: Path, suffix: str, magic: bytes, limit_bytes: int) -> None:
        """Touches nothing yet.

        Args:
            folder: Where the files are kept, made when the first is stored.
            suffix: How their names end.
            magic: How their content begins, 8 bytes.
            limit_bytes: How large all files together may grow.
        """
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._suffix = suffix
        self._magic = magic

    def path(self, key: str) -> Path:
        """Returns the file of a key."""
        return self.folder / f"{key}{self._suffix}"

    def is_empty(self) -> bool:
        """Tells whether there is no entry."""
        return next(self.folder.glob(f"*{self._suffix}"), None) is None

    def load(self, key: str) -> tuple[Mapping[str, Any], memoryview] | None:
        """Returns header and payload of an entry, or None where there is none that is whole; removes a damaged one."""
        try:
            header, payload = read_checked(self.path(key), self._magic)
            if header.get("key") != key:
                raise UnusableFileError(f"it is the entry of {header.get('key')!r}")
        except OSError:
            return None
        except ValueError as error:
            self.discard(key, error)
            return None
        with contextlib.suppress(OSError):  # A folder that cannot be written can be read all the same.
            os.utime(self.path(key))
        return header, payload

    def discard(self, key: str, reason: object) -> None:
        """Removes an entry that turned out to be of no use."""
        logger.info("%s is of no use and is removed: %s", self.path(key), reason)
        with contextlib.suppress(OSError):
            self.path(key).unlink()

    def store(self, key: str, header: Mapping[str, Any], payload: Sequence[Bytes]) -> bool:
        """Writes an entry, then removes the least recently used ones beyond the limit.

        Returns:
            Whether it is stored: not where it is larger than the limit, or the folder cannot be written.
        """
        size = sum(map(len, payload))
        if size > self.limit_bytes:
            logger.warning("%d bytes are more than %s may hold; nothing is stored.", size, self.folder)
            return False
        try:
            write_checked(self.path(key), self._magic, {"key": key, **header}, payload)
            with exclusive(self.folder / ".lock"):
                self._evict(self.path(key))
        except OSError as error:
            logger.warning("%s cannot be written: %s", self.path(key), error)
            return False
        return True

    def _evict(self, newest: Path) -> None:
        """Removes what is beyond the limit, `newest` last, and what processes left that died while they wrote."""
        for path in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            if time.time() - _used_and_size(path)[0] > _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)
        entries = []
        for path in self.folder.glob(f"*{self._suffix}"):
            used, size = _used_and_size(path)
            entries.append((path != newest, -used, size, path))
        total = 0
        for _, _, size, path in sorted(entries):
            total += size
            if total > self.limit_bytes:
                path.unlink(missing_ok=True)


def _used_and_size(path: Path) -> tuple[float, int]:
    """When a file was last used, and its size; zeros where another process has removed it."""
    try:
        status = path.stat()
    except OSError:
        return 0.0, 0
    return status.st_mtime, status.st_size
