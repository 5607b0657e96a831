"""Signals that end a command let it tidy up first, as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class EndingSignal(KeyboardInterrupt):
    """The command was asked to end; what tidies up at Ctrl-C does at this.

    Attributes:
        signal: Which signal came.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


@contextmanager
def ending_signals() -> Iterator[None]:
    """Raises an EndingSignal in the block where SIGTERM or SIGHUP comes.

    What the process has decided about them otherwise, such as `nohup` does, stays; so do all handlers outside of the
    main thread, which alone may set them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    replaced = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) == signal.SIG_DFL]

    def end(number: int, frame: FrameType | None) -> None:
        for each in replaced:  # A second one would stop the tidying.
            signal.signal(each, signal.SIG_IGN)
        raise EndingSignal(number)

    for each in replaced:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in replaced:
            signal.signal(each, signal.SIG_DFL)
