"""Execution contexts for calls that run at the same time: made when they are needed, up to a limit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from tf_opt.engines.tensorrt.context_slot import CallKey, ContextSlot
from tf_opt.errors import CudaError, EngineRunError, TfOptError

logger = logging.getLogger(__name__)

CLOSE_WAIT_SECONDS = 30.0
"""How long closing waits for calls that still run."""


class ContextPool:
    """Hands out slots, each to one call at a time. A call waits where all are busy and no more may be made."""

    def __init__(self, make: Callable[[], ContextSlot], maximum: int) -> None:
        """Makes the first slot, so that an engine that cannot run says so when it is loaded.

        Args:
            make: Makes a slot.
            maximum: How many there may be. Fewer where the GPU's memory does not suffice for so many.
        """
        self._make = make
        self._maximum = maximum
        self._idle = [make()]  # In the order of their last use, latest last.
        self._count = 1
        self._closed = False
        self._changed = threading.Condition()

    @property
    def count(self) -> int:
        """How many slots there are."""
        return self._count

    def acquire(self, key: CallKey, profile: int) -> ContextSlot:
        """Returns a slot for a call; the best suited one that is idle, else a new one, else the first that comes back.

        Args:
            key: What the call needs; a slot that is in that state costs least.
            profile: The profile that it needs.

        Raises:
            EngineRunError: The engine is closed.
        """
        with self._changed:
            while True:
                if self._closed:
                    raise EngineRunError("The TensorRT engine is closed.")
                slot = self._take_idle(key, profile)
                if slot is not None:
                    return slot
                if self._count < self._maximum:
                    self._count += 1
                    break
                if self._idle:
                    # Only slots with other shapes' graphs are left; the least recently used one gives its graph up.
                    return self._idle.pop(0)
                self._changed.wait()
        return self._make_another(key, profile)

    def release(self, slot: ContextSlot) -> None:
        """Takes a slot back."""
        with self._changed:
            self._idle.append(slot)
            self._changed.notify()

    def close(self) -> None:
        """Waits for running calls, then frees all slots. Calls that come later fail."""
        deadline = time.monotonic() + CLOSE_WAIT_SECONDS
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while len(self._idle) < self._count and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            # What a call has not given back by then is not touched: freeing it under the call would crash.
            slots, self._idle = self._idle, []
            self._count -= len(slots)
        for slot in slots:
            try:
                slot.close()
            except CudaError as error:  # The others are freed all the same.
                logger.warning("An execution context was not freed: %s", error)

    def _take_idle(self, key: CallKey, profile: int) -> ContextSlot | None:
        wishes: tuple[Callable[[ContextSlot], bool], ...] = (
            lambda slot: slot.key == key,  # With its graph, where there is one.
            lambda slot: slot.graph_key is None and slot.profile == profile,
            lambda slot: slot.graph_key is None,
        )
        for wish in wishes:
            for slot in reversed(self._idle):
                if wish(slot):
                    self._idle.remove(slot)
                    return slot
        return None

    def _make_another(self, key: CallKey, profile: int) -> ContextSlot:
        try:
            return self._make()
        except TfOptError:
            with self._changed:
                self._count -= 1
                if self._count == 0:
                    raise
                self._maximum = self._count  # Memory suffices for no more.
                self._changed.notify()
        return self.acquire(key, profile)
