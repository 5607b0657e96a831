"""What has to be set before TensorFlow is imported, and what keeps libraries from talking in between."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator

from tf_opt.cli.output import Output

LOG_LEVEL_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
"""What TensorFlow's C++ code logs: 0 all, 1 no more than warnings, 2 errors, 3 nothing."""

_HEADING = "WARNING: All log messages before absl::InitializeLog"
_LOGGED = re.compile(r"([IWEF])\d{4} ")
_SEVERITIES = "IWEF"

_TALKATIVE = ("tensorflow", "transformers", "nncf", "tf2onnx", "absl", "matplotlib")
"""Loggers that warn of what a user of the command line can do nothing about."""


def prepare_environment(output: Output, *, legacy_keras: bool) -> None:
    """Imports TensorFlow, after setting what it reads when it is imported; a log level that the user has set stays.

    Args:
        output: Where it is shown that this takes its time.
        legacy_keras: Whether a model of Hugging Face is among the inputs: its classes are written for Keras 2.
    """
    # Its errors become Python's exceptions; what it logs beside them is about GPUs that are not there.
    level = os.environ.setdefault(LOG_LEVEL_VARIABLE, "1" if output.verbose else "3")
    if legacy_keras:
        # Not a default: with another value these classes do not work at all.
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
    if "tensorflow" in sys.modules or output.verbose or level in ("", "0"):
        return
    with tempfile.TemporaryFile() as said, os.fdopen(os.dup(2), "w") as stderr:
        os.dup2(said.fileno(), 2)
        try:
            with output.doing("loading TensorFlow", stderr):
                importlib.import_module("tensorflow")
        finally:
            os.dup2(stderr.fileno(), 2)
            said.seek(0)
            stderr.write(at_level(said.read().decode(errors="replace"), level))


def at_level(text: str, level: str) -> str:
    """Returns what is left at a log level of what TensorFlow's C++ code writes while it is imported.

    It does not heed the level before Python has imported all of it, and begins with a heading for that.

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


@contextlib.contextmanager
def quiet_libraries(*, verbose: bool) -> Iterator[None]:
    """Sends what libraries print to stderr and, unless it is asked for, leaves out their warnings.

    Standard output is for the result alone, which a program may read.

    Args:
        verbose: Whether warnings and log lines are shown.
    """
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        if verbose:
            with _log_lines_on_stderr():
                yield
            return
        warnings.simplefilter("ignore")
        # TensorFlow's Python code warns through a logger of this name, the others through theirs.
        loggers = [logging.getLogger(name) for name in _TALKATIVE]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _log_lines_on_stderr() -> Iterator[None]:
    """Shows log lines; the process may go on afterwards, and standard error may be another one then."""
    root, handler = logging.getLogger(), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
