"""Keeps the results of optimizations on disk, so that the same one is not done twice on a machine.

One file an entry, all integers little-endian::

    8 bytes   magic b"TFOPTRES"
    u32       format version (1)
    u64       length of the header
    ...       header: a JSON object, UTF-8: the key, the report, and the lengths of the parts that follow
    ...       the optimized graph, light, as a serialized GraphDef; nothing where no engine was adopted
    ...       each constant that was derived for its engines, as a serialized NodeDef
    32 bytes  SHA-256 of everything before

The user's own constants are not stored: they come with the graph that is to be optimized. An entry that is damaged, cut
short or of another format is as good as none.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.ops.build import cache_directory
from tf_opt.plain_data import from_plain, to_plain
from tf_opt.report import OptimizationReport

logger = logging.getLogger(__name__)

MAGIC = b"TFOPTRES"
FORMAT_VERSION = 1
DEFAULT_LIMIT_BYTES = 8 * 2**30
"""Room for about seventy BERT-base in int8, whose weights are stored, or thousands in fp32, whose weights are not."""

_PREFIX = struct.Struct("<8sIQ")
_SUFFIX = ".tf_opt"
_TEMPORARY_PREFIX = ".writing-"
_ABANDONED_SECONDS = 3600.0
"""A temporary file that is older belongs to a process that died."""


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """The result of an optimization.

    Attributes:
        graph_def: Light graph with engines; None where none was adopted, so that the given graph stays as it is.
        derived_weights: Const nodes by name that `graph_def` reads besides the constants of the given graph.
        report: What the optimization found out.
    """

    graph_def: GraphDef | None
    derived_weights: Mapping[str, NodeDef] = field(default_factory=dict)
    report: OptimizationReport


class OptimizationCache:
    """A folder of results. Several processes may use it at the same time."""

    def __init__(self, folder: str | Path | None = None, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        """Touches nothing yet.

        Args:
            folder: Where entries are kept, made when the first is stored. None: "optimizations" in the folder of
                `tf_opt.ops.cache_directory`, which the environment variable TF_OPT_CACHE_DIR moves.
            limit_bytes: How large all entries together may grow; the least recently used go first.
        """
        self.folder = cache_directory() / "optimizations" if folder is None else Path(folder).expanduser()
        self.limit_bytes = limit_bytes

    def load(self, key: str) -> CacheEntry | None:
        """Returns the entry of a key, or None where there is none that can be used. An unusable one is removed.

        Args:
            key: What `tf_opt.cache_key.cache_key` returned.
        """
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        try:
            entry = _unpack(key, content)
        except (ValueError, TypeError, KeyError, struct.error, DecodeError) as error:
            logger.info("The cached optimization %s is of no use and is removed: %s", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):  # A folder that cannot be written can be read all the same.
            os.utime(path)
        return entry

    def store(self, key: str, entry: CacheEntry) -> bool:
        """Writes an entry, then removes the least recently used ones beyond the limit.

        Args:
            key: What `tf_opt.cache_key.cache_key` returned.
            entry: The result.

        Returns:
            Whether it is stored: not where it is larger than the limit, or the folder cannot be written.
        """
        parts = _pack(key, entry)
        if sum(map(len, parts)) > self.limit_bytes:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self.folder, prefix=_TEMPORARY_PREFIX)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.writelines(parts)
                # No fsync: what a crash of the machine leaves half-written has the wrong checksum.
                os.replace(temporary, self._path(key))
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            self._evict(self._path(key))
        except OSError as error:
            logger.warning("The optimization cannot be cached in %s: %s", self.folder, error)
            return False
        return True

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _evict(self, newest: Path) -> None:
        """Removes what is beyond the limit, and what processes left that died while they wrote."""
        with _exclusive(self.folder / ".lock"):
            for path in self.folder.glob(f"{_TEMPORARY_PREFIX}*"):
                if time.time() - _modified(path) > _ABANDONED_SECONDS:
                    path.unlink(missing_ok=True)
            entries = sorted(self.folder.glob(f"*{_SUFFIX}"), key=lambda path: (path != newest, -_modified(path)))
            total = 0
            for path in entries:
                total += _size(path)
                if total > self.limit_bytes:
                    path.unlink(missing_ok=True)


def is_worth_keeping(report: OptimizationReport) -> bool:
    """Tells whether an optimization would decide the same again.

    An engine that went back as slower after too few runs for a confidence interval may have been measured while the
    machine was busy; another optimization should measure it again.
    """
    return not any(
        segment.measurement is not None
        and segment.measurement.verdict == "slower"
        and math.isinf(segment.measurement.interval[1])
        for segment in report.segments
        if not segment.adopted
    )


def _pack(key: str, entry: CacheEntry) -> list[bytes]:
    parts = [] if entry.graph_def is None else [entry.graph_def.SerializeToString(deterministic=True)]
    parts += [node.SerializeToString(deterministic=True) for node in entry.derived_weights.values()]
    header = {
        "key": key,
        "has_graph": entry.graph_def is not None,
        "lengths": [len(part) for part in parts],
        "names": list(entry.derived_weights),
        "report": to_plain(entry.report),
    }
    encoded = json.dumps(header).encode()
    parts = [_PREFIX.pack(MAGIC, FORMAT_VERSION, len(encoded)), encoded, *parts]
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    return [*parts, checksum.digest()]


def _unpack(key: str, content: bytes) -> CacheEntry:
    """Returns the entry; raises one of the errors that `load` knows where the content is not whole."""
    magic, version, header_length = _PREFIX.unpack_from(content)
    if magic != MAGIC or version != FORMAT_VERSION:
        raise ValueError(f"it is of the format {magic!r} {version}")
    body = memoryview(content)[: -hashlib.sha256().digest_size]
    if hashlib.sha256(body).digest() != content[len(body) :]:
        raise ValueError("its checksum is wrong")
    header = json.loads(bytes(body[_PREFIX.size : _PREFIX.size + header_length]))
    if header["key"] != key:
        raise ValueError(f"it is the entry of {header['key']!r}")
    parts = list(_split(body[_PREFIX.size + header_length :], header["lengths"]))
    graph_def = GraphDef.FromString(parts.pop(0)) if header["has_graph"] else None
    nodes = {name: NodeDef.FromString(part) for name, part in zip(header["names"], parts, strict=True)}
    return CacheEntry(
        graph_def=graph_def, derived_weights=nodes, report=from_plain(OptimizationReport, header["report"])
    )


def _split(body: memoryview, lengths: Sequence[int]) -> Iterator[Any]:
    if sum(lengths) != len(body):
        raise ValueError("its parts have other lengths than it says")
    start = 0
    for length in lengths:
        yield bytes(body[start : start + length])
        start += length


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Holds a lock that other processes respect; the kernel drops it where the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _modified(path: Path) -> float:
    """When `path` was last used; 0 where another process has removed it."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
