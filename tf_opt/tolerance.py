"""How far an optimized graph may be from the original before its engines go back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tf_opt.errors import InvalidOptionError

Outputs: TypeAlias = Mapping[str, np.ndarray[Any, Any]]
"""Arrays by output key."""

Metric: TypeAlias = Callable[[Outputs, Outputs], float]
"""(original outputs, optimized outputs) of one feed -> a number."""

DEFAULT_COSINE = {"fp16": 0.999, "bf16": 0.999, "int8": 0.99, "auto": 0.99}
"""Lowest cosine between original and optimized outputs that is accepted where no tolerance is given, by precision. An
int8 BERT whose sentence embeddings stay above 0.99 keeps the order of nearest neighbours; 16-bit types are about ten
times as exact."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What the outputs have to fulfil on every feed. Each criterion that is given must hold.

    Example:
        >>> Tolerance(cosine=0.995)
        >>> Tolerance(metric=lambda original, optimized: agreement(original, optimized), at_least=0.99)

    Attributes:
        maximum_absolute: Largest |original - optimized| of any element of any output.
        cosine: Lowest cosine between original and optimized values of each sample (along the first axis) of each
            floating point output; 0 to 1.
        metric: Called with the outputs of one feed, (original, optimized), by output key.
        at_least: Lowest value of the metric that is accepted.
        at_most: Highest value of the metric that is accepted.
    """

    maximum_absolute: float | None = None
    cosine: float | None = None
    metric: Metric | None = None
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if self.maximum_absolute is None and self.cosine is None and self.metric is None:
            raise InvalidOptionError(
                "A Tolerance without any criterion accepts everything. Give maximum_absolute, cosine, or a metric with "
                "at_least or at_most."
            )
        if (self.metric is None) != (self.at_least is None and self.at_most is None):
            raise InvalidOptionError("metric needs at_least or at_most, and these need a metric.")
        if self.metric is not None and not callable(self.metric):
            raise InvalidOptionError(f"metric is {self.metric!r}; expected a callable (original, optimized) -> float.")
        for name, lowest, highest in (
            ("maximum_absolute", 0.0, math.inf),
            ("cosine", 0.0, 1.0),
            ("at_least", -math.inf, math.inf),
            ("at_most", -math.inf, math.inf),
        ):
            value = getattr(self, name)
            if value is None:
                continue
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            # The comparison is written so that NaN fails it.
            if not is_number or not lowest <= value <= highest:
                raise InvalidOptionError(f"{name} is {value!r}; expected a number from {lowest:g} to {highest:g}.")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise InvalidOptionError(
                f"at_least is {self.at_least!r} and at_most {self.at_most!r}, so no value of the metric is accepted; "
                "give only one of them, or exchange them."
            )

    def describe(self) -> str:
        """Returns the criteria as text, such as "cosine at least 0.99"."""
        parts = []
        if self.maximum_absolute is not None:
            parts.append(f"largest difference at most {self.maximum_absolute:g}")
        if self.cosine is not None:
            parts.append(f"cosine at least {self.cosine:g}")
        if self.at_least is not None:
            parts.append(f"metric at least {self.at_least:g}")
        if self.at_most is not None:
            parts.append(f"metric at most {self.at_most:g}")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How near optimized outputs came to the original ones, over all feeds.

    Attributes:
        maximum_absolute: Largest absolute difference.
        cosine: Lowest cosine of any sample; None where no output is floating point.
        metric: Worst value of the user's metric; None without one.
    """

    maximum_absolute: float
    cosine: float | None = None
    metric: float | None = None


def worst_metric(tolerance: Tolerance, values: list[float]) -> float | None:
    """Returns the value of the metric that is farthest on the wrong side; NaN where any is NaN.

    Args:
        tolerance: Says which side is wrong.
        values: The metric of each feed.
    """
    if tolerance.metric is None or not values:
        return None
    if any(math.isnan(value) for value in values):
        return math.nan
    lowest = -math.inf if tolerance.at_least is None else tolerance.at_least
    highest = math.inf if tolerance.at_most is None else tolerance.at_most
    return max(values, key=lambda value: max(lowest - value, value - highest))


def objection(tolerance: Tolerance, accuracy: Accuracy) -> str:
    """Returns what the tolerance has against these outputs; empty where it accepts them."""
    # The comparisons are written so that NaN fails them.
    if tolerance.maximum_absolute is not None and not accuracy.maximum_absolute <= tolerance.maximum_absolute:
        return f"largest difference {accuracy.maximum_absolute:.3g}, allowed is {tolerance.maximum_absolute:g}"
    if tolerance.cosine is not None and accuracy.cosine is not None and not accuracy.cosine >= tolerance.cosine:
        return f"cosine {_beside(accuracy.cosine, tolerance.cosine)}, wanted is at least {tolerance.cosine:.12g}"
    if accuracy.metric is not None:
        lowest, highest = tolerance.at_least, tolerance.at_most
        if lowest is not None and not accuracy.metric >= lowest:
            return f"metric {_beside(accuracy.metric, lowest)}, wanted is at least {lowest:.12g}"
        if highest is not None and not accuracy.metric <= highest:
            return f"metric {_beside(accuracy.metric, highest)}, wanted is at most {highest:.12g}"
    return ""


def _beside(value: float, limit: float) -> str:
    """Returns a number with as many digits, from 5 on, as tell it from the limit that it missed."""
    return next((text for digits in range(5, 17) if float(text := f"{value:.{digits}g}") != limit), repr(value))
