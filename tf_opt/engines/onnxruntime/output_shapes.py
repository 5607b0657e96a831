"""What the shapes of a session's outputs will be, learned from the runs before."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TypeAlias

Shape: TypeAlias = tuple[int, ...]

MAXIMUM_LEARNED = 1024
"""For how many sets of input shapes the outputs' shapes are remembered. An entry is a few hundred bytes."""


class OutputShapes:
    """Remembers, by the shapes of the inputs, which shapes the outputs had; used by several threads at once.

    An output that once had another shape for the same input shapes depends on values, and is expected no more.
    """

    def __init__(self, outputs: int, unexpected: Iterable[int] = (), maximum: int = MAXIMUM_LEARNED) -> None:
        """Knows nothing yet.

        Args:
            outputs: How many outputs there are.
            unexpected: Indices of those of which no shape is ever to be expected.
            maximum: For how many sets of input shapes something is remembered; the one unused for longest goes first.
        """
        self._learned: OrderedDict[tuple[Shape, ...], tuple[Shape, ...]] = OrderedDict()
        self._varying = [False] * outputs
        for index in unexpected:
            self._varying[index] = True
        self._maximum = maximum
        self._lock = threading.Lock()

    def expected(self, inputs: tuple[Shape, ...]) -> list[Shape | None] | None:
        """Returns the shape of each output, None for one that depends on values; None where nothing is known."""
        with self._lock:
            shapes = self._learned.get(inputs)
            if shapes is None:
                return None
            self._learned.move_to_end(inputs)
            return [None if varies else shape for shape, varies in zip(shapes, self._varying, strict=True)]

    def learn(self, inputs: tuple[Shape, ...], outputs: Sequence[Shape]) -> None:
        """Takes note of the shapes that the outputs had in a run."""
        found = tuple(outputs)
        with self._lock:
            before = self._learned.get(inputs, found)
            for index, (old, new) in enumerate(zip(before, found, strict=True)):
                self._varying[index] |= old != new
            self._learned[inputs] = found
            self._learned.move_to_end(inputs)
            while len(self._learned) > self._maximum:
                self._learned.popitem(last=False)
