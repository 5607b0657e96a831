"""Sizes of files, and how they are written for people."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def stored_bytes(path: str | os.PathLike[str]) -> int:
    """Returns the size of a file, or of all files in a folder and its folders; what goes meanwhile does not count."""
    top = Path(path)
    total = 0
    for each in top.rglob("*") if top.is_dir() else [top]:
        with contextlib.suppress(FileNotFoundError):
            total += each.stat().st_size if each.is_file() else 0
    return total


def size_text(size: float) -> str:
    """Returns a number of bytes in the unit in which it reads well: "512 bytes", "1.6 KiB", "2.31 GiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
