"""What TensorFlow's C++ code writes to standard error while it is imported, before it heeds its own log level."""

from __future__ import annotations

import importlib
import os
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import IO

LOG_LEVEL_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
"""What TensorFlow's C++ code logs: 0 all, 1 no more than warnings, 2 errors, 3 nothing."""

_HEADING = "WARNING: All log messages before absl::InitializeLog"
_LOGGED = re.compile(r"([IWEF])\d{4} ")
_SEVERITIES = "IWEF"


def import_tensorflow(doing: Callable[[IO[str]], AbstractContextManager[object]] | None = None) -> None:
    """Imports TensorFlow, of whose log as much is shown as the environment variable TF_CPP_MIN_LOG_LEVEL says.

    TensorFlow itself begins to heed it when it is imported altogether. All that is no line of its log is shown.

    Args:
        doing: Shows, on the stream that it is given, that this takes its time.
    """
    level = os.environ.get(LOG_LEVEL_VARIABLE, "")
    if "tensorflow" in sys.modules or level in ("", "0"):
        importlib.import_module("tensorflow")
        return
    sys.stderr.flush()  # What was written before comes before what is written from here on.
    with tempfile.TemporaryFile() as said, os.fdopen(os.dup(2), "w") as stderr:
        os.dup2(said.fileno(), 2)
        try:
            with nullcontext() if doing is None else doing(stderr):
                importlib.import_module("tensorflow")
        finally:
            sys.stderr.flush()
            os.dup2(stderr.fileno(), 2)
            said.seek(0)
            stderr.write(at_level(said.read().decode(errors="replace"), level))


def at_level(text: str, level: str) -> str:
    """Returns what is left of what was written at a log level.

    TensorFlow begins with a heading for what it logs before it heeds the level, which is left out too.

    Args:
        text: Lines of its log, and others.
        level: The log level, as the environment variable has it.
    """
    least = int(level) if level.isdecimal() else 0
    lines = []
    for line in text.splitlines(True):
        logged = _LOGGED.match(line)
        if not line.startswith(_HEADING) and (logged is None or _SEVERITIES.index(logged[1]) >= least):
            lines.append(line)
    return "".join(lines)
