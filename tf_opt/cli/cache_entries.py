"""What lies in the cache folder, by kind. Files of other names are not ours, and are neither listed nor removed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tf_opt.errors import TfOptError

_KEY = r"[0-9a-f]{16,}"
_OPS = r"libtf_opt_\w+-[0-9a-f]{20}\.so|[0-9a-f]{8}\.compiler"


class CacheRemovalError(TfOptError):
    """Entries of the cache could not be removed."""


@dataclass(frozen=True)
class CacheKind:
    """One kind of entry.

    Attributes:
        name: What the user calls it.
        what: What it is, in a few words.
        folder: Where its files lie, below the cache folder.
        pattern: What their names match, whole.
        magic: How their content begins, where all of them begin alike.
    """

    name: str
    what: str
    folder: str
    pattern: str
    magic: bytes = b""

    def files(self, cache: Path) -> Iterator[Path]:
        """Yields its files."""
        with contextlib.suppress(OSError):  # The folder is not there yet, or cannot be read.
            for path in sorted((cache / self.folder).iterdir()):
                if re.fullmatch(self.pattern, path.name) and self._is_ours(path):
                    yield path

    def _is_ours(self, path: Path) -> bool:
        if path.is_symlink() or not path.is_file():
            return False
        with contextlib.suppress(OSError), path.open("rb") as file:
            return file.read(len(self.magic)) == self.magic
        return False


KINDS = (
    CacheKind("optimizations", "results of optimizations", "optimizations", rf"{_KEY}\.tf_opt", b"TFOPTRES"),
    CacheKind("calibrations", "ranges that int8 was calibrated with", "optimizations/calibrations", rf"{_KEY}\.int8"),
    CacheKind("plans", "TensorRT's engines for the GPUs here", "plans", rf"{_KEY}\.plan", b"TFOPTTRT"),
    CacheKind("timings", "how long TensorRT's kernels took", "timing_caches", r"[\w.+-]+\.timing", b"TFOPTTIM"),
    CacheKind("ops", "compiled libraries of the native op", "", rf"({_OPS})"),
)
KIND_NAMES = tuple(kind.name for kind in KINDS)


@dataclass(frozen=True, kw_only=True)
class CacheEntries:
    """The entries of one kind.

    Attributes:
        kind: Which.
        files: Where they lie.
        total_bytes: Their size together.
        newest: When the last one was used, in seconds since the epoch; None where there are none.
        oldest: The same of the one that was not used for longest.
    """

    kind: CacheKind
    files: tuple[Path, ...]
    total_bytes: int
    newest: float | None
    oldest: float | None


def cache_folder() -> Path:
    """Returns the folder of all caches, which TF_OPT_CACHE_DIR moves."""
    from tf_opt.ops.build import cache_directory

    return cache_directory()


def list_entries(cache: Path, wanted: Callable[[CacheKind], bool] = lambda kind: True) -> list[CacheEntries]:
    """Returns the entries of each kind that is wanted."""
    return [_entries(kind, cache) for kind in KINDS if wanted(kind)]


def remove(entries: CacheEntries) -> None:
    """Removes files. A process that uses one keeps it until it ends; one that is gone already is as good as removed.

    Raises:
        CacheRemovalError: A file cannot be removed.
    """
    for path in entries.files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CacheRemovalError(f"{path} cannot be removed: {error.strerror}.") from error


def _entries(kind: CacheKind, cache: Path) -> CacheEntries:
    files, sizes, times = [], [], []
    for path in kind.files(cache):
        with contextlib.suppress(OSError):  # Another process has just removed it.
            status = path.stat()
            files.append(path)
            sizes.append(status.st_size)
            times.append(status.st_mtime)
    return CacheEntries(
        kind=kind,
        files=tuple(files),
        total_bytes=sum(sizes),
        newest=max(times, default=None),
        oldest=min(times, default=None),
    )
