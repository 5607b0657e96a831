"""What the simulator does where TensorRT or CUDA would have undefined behaviour: it fails the test."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from typing import NoReturn


class SimulatorError(Exception):
    """A call that the real library answers with undefined behaviour."""


class Violations:
    """Collects violations, so that one on another thread, or one that was swallowed, fails the test too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: list[SimulatorError] = []

    @property
    def found(self) -> tuple[SimulatorError, ...]:
        """All violations so far that nobody expected."""
        with self._lock:
            return tuple(self._found)

    def record(self, message: str) -> SimulatorError:
        """Remembers a violation where nothing can be raised, such as in a destructor."""
        error = SimulatorError(message)
        with self._lock:
            self._found.append(error)
        return error

    def fail(self, message: str) -> NoReturn:
        """Remembers a violation and raises it."""
        raise self.record(message)

    def raise_first(self) -> None:
        """Raises the first violation, where there was one."""
        if self.found:
            raise self.found[0]

    @contextlib.contextmanager
    def expected(self, pattern: str) -> Iterator[None]:
        """Demands that the body causes a violation whose message matches, and forgives it."""
        before = len(self.found)
        with contextlib.suppress(SimulatorError):
            yield
        with self._lock:
            mine, self._found = self._found[before:], self._found[:before]
        if not mine or not re.search(pattern, str(mine[0])):
            raise AssertionError(f"Expected a violation matching {pattern!r}, got {[str(error) for error in mine]}.")
