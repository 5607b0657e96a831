"""Reads feeds from files: arrays from .npz, texts from .jsonl."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tf_opt.errors import FeedFileError

_ARCHIVE_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
"""How a ZIP archive begins, with files in it and without."""

_ARRAY_START = b"\x93NUMPY"
"""How a .npy file begins: one array."""


def read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Returns the arrays of a .npz file by name: one feed.

    Raises:
        FeedFileError: The file is missing, empty, damaged or something else, or it holds Python objects.
    """
    hint = "Expected what numpy.savez('feeds.npz', input_ids=..., attention_mask=...) writes."
    try:
        _check_archive(path, hint)
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except OSError as error:
        raise FeedFileError(f"{path} cannot be read: {error.strerror or error}. {hint}") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = "holds Python objects, which are not read" if "allow_pickle" in str(error) else f"is damaged: {error}"
        raise FeedFileError(f"{path} {reason}. {hint}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise FeedFileError(f"{path} holds {name!r}, which is no array. {hint}")
    if not arrays:
        raise FeedFileError(f"{path} holds no array. {hint}")
    return arrays


def _check_archive(path: Path, hint: str) -> None:
    """Raises FeedFileError where a file does not begin as a .npz does; numpy.load takes anything else for a pickle."""
    with path.open("rb") as file:
        start = file.read(len(_ARRAY_START))
    if not start:
        raise FeedFileError(f"{path} is empty. {hint}")
    if start == _ARRAY_START:
        raise FeedFileError(f"{path} holds a single array without a name. {hint}")
    if not start.startswith(_ARCHIVE_STARTS):
        raise FeedFileError(f"{path} is no .npz archive: it begins with {start!r}. {hint}")


def read_texts(path: Path) -> list[str]:
    """Returns the texts of a .jsonl file, one a line: a JSON string, or an object with a "text".

    Empty lines do not count.

    Raises:
        FeedFileError: The file is missing or holds no text, or a line is something else; the message has its number.
    """
    try:
        # Some editors begin a file with a byte order mark. Lines end as JSON Lines has it: a text may hold characters
        # that Python ends lines at too.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise FeedFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        line = bytes(error.object[: error.start]).count(b"\n") + 1
        raise FeedFileError(
            f"{path}, line {line}: no UTF-8 text ({error.reason} at byte {error.start}). Store the file as UTF-8."
        ) from error
    texts = [_text(line, number, path) for number, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise FeedFileError(f'{path} holds no text. Expected one a line, as a JSON string or an object with "text".')
    return texts


def _text(line: str, number: int, path: Path) -> str:
    expected = 'expected a JSON string, or an object such as {"text": "A sentence."}'
    try:
        value = json.loads(line)
    except ValueError as error:
        raise FeedFileError(f"{path}, line {number}: {error}; {expected}.") from error
    if isinstance(value, dict):
        if "text" not in value:
            raise FeedFileError(f'{path}, line {number}: the object has no "text" but {sorted(value)}; {expected}.')
        value = value["text"]
    if not isinstance(value, str):
        raise FeedFileError(f"{path}, line {number}: {type(value).__name__} is no text; {expected}.")
    return value
