"""What has to be set before TensorFlow is imported, and what keeps libraries from talking in between."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

from tf_opt.cli.output import Output
from tf_opt.tensorflow_log import LOG_LEVEL_VARIABLE, import_tensorflow

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
    if not output.verbose and level not in ("", "0"):
        import_tensorflow(lambda stderr: output.doing("loading TensorFlow", stderr))


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
