"""TensorRT's messages: into `logging`, and to whoever waits for the reason of a failure."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt as trt

logger = logging.getLogger(__name__)

KEPT_LINES = 50
"""How many of the last messages a capture keeps."""

_LEVELS = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.DEBUG,  # Hundreds of lines a build.
    "VERBOSE": logging.DEBUG,
}

_captures: dict[int, deque[str]] = {}
"""By identity. A dict, because calls come and go on several threads, and adding and removing a key are single steps."""


def shared_logger() -> trt.ILogger:
    """Returns the logger that everything of TensorRT in this process gets: TensorRT itself keeps to the first one."""
    import tensorrt as trt

    made: trt.ILogger = _make_logger(trt)
    return made


@contextlib.contextmanager
def captured_messages() -> Iterator[deque[str]]:
    """Collects the warnings and errors that come while the block runs, from any thread; the last ones are kept.

    TensorRT's messages do not say which build they belong to: one that runs at the same time is heard too.
    """
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    _captures[id(lines)] = lines
    try:
        yield lines
    finally:
        del _captures[id(lines)]


@functools.cache
def _make_logger(module: Any) -> Any:
    """Makes the class here, because its base is known only once TensorRT is imported."""

    class Logger(module.ILogger):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            # Nothing may escape into TensorRT's threads, where an exception ends the process.
            with contextlib.suppress(Exception):
                level = _LEVELS.get(severity.name, logging.WARNING)
                if level >= logging.WARNING:
                    for lines in list(_captures.values()):
                        lines.append(f"{severity.name}: {msg}")
                # A refused model is an error of TensorRT's, but ours to report: the exception has the text.
                logger.log(min(level, logging.WARNING), "%s", msg)

    return Logger()
