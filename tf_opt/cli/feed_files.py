"""Reads feeds from files: arrays from .npz, texts from .jsonl."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tf_opt.errors import FeedFileError


def read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Returns the arrays of a .npz file by name: one feed.

    Raises:
        FeedFileError: The file is missing, damaged, empty, or holds Python objects.
    """
    hint = "Expected what numpy.savez('feeds.npz', input_ids=..., attention_mask=...) writes."
    try:
        with np.load(path, allow_pickle=False) as content:
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise FeedFileError(f"{path} holds a single array without a name. {hint}")
            arrays = {name: content[name] for name in content.files}
    except OSError as error:
        raise FeedFileError(f"{path} cannot be read: {error.strerror or error}. {hint}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        reason = "it holds Python objects" if "allow_pickle" in str(error) else f"it is damaged or none ({error})"
        raise FeedFileError(f"{path} is no file of arrays: {reason}. {hint}") from error
    if not arrays:
        raise FeedFileError(f"{path} holds no array. {hint}")
    return arrays


def read_texts(path: Path) -> list[str]:
    """Returns the texts of a .jsonl file, one a line: a JSON string, or an object with a "text".

    Empty lines do not count.

    Raises:
        FeedFileError: The file is missing or holds no text, or a line is something else; the message has its number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise FeedFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise FeedFileError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}.") from error
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
