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

_NOISE = re.compile(r"WARNING: All log messages before absl::InitializeLog|[IWE]\d{4} ")
"""How the lines begin that TensorFlow's C++ code writes before its log level counts."""


def prepare_environment(output: Output, *, legacy_keras: bool) -> None:
    """Imports TensorFlow, after setting what it reads when it is imported; what the user has set stays.

    Args:
        output: Where it is shown that this takes its time.
        legacy_keras: Whether a model of Hugging Face is among the inputs: its classes are written for Keras 2.
    """
    # Its errors become Python's exceptions; what it logs beside them is about GPUs that are not there.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if output.verbose else "3")
    if legacy_keras:
        # Not a default: with another value these classes do not work at all.
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
    if "tensorflow" in sys.modules or output.verbose:
        return
    with tempfile.TemporaryFile() as said, os.fdopen(os.dup(2), "w") as stderr:
        os.dup2(said.fileno(), 2)
        try:
            with output.doing("loading TensorFlow", stderr):
                importlib.import_module("tensorflow")
        finally:
            os.dup2(stderr.fileno(), 2)
            said.seek(0)
            stderr.writelines(
                line for line in said.read().decode(errors="replace").splitlines(True) if not _NOISE.match(line)
            )


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
        # TensorFlow's Python code warns through a logger of this name, Hugging Face's and nncf's through theirs.
        loggers = [logging.getLogger(name) for name in ("tensorflow", "transformers", "nncf", "tf2onnx", "absl")]
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
