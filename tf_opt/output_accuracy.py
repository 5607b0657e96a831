"""Judges the outputs of an optimized graph by the tolerance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from tf_opt.comparison import Comparison
from tf_opt.errors import InvalidOptionError
from tf_opt.feeds import Array
from tf_opt.tolerance import Accuracy, Tolerance, objection, worst_metric

Run: TypeAlias = Callable[[Mapping[str, Array]], dict[str, Array]]
"""From a feed to outputs, both by tensor name."""


class JudgedOutputs:
    """Both sides of a comparison, with the user's metric taken of each feed on the way."""

    def __init__(self, original: Run, optimized: Run, tolerance: Tolerance | None) -> None:
        """Wraps the functions that run each side; without a tolerance nothing but the comparison counts."""
        self._original = original
        self._optimized = optimized
        self._tolerance = tolerance
        self._latest: dict[str, Array] = {}
        self._metrics: list[float] = []

    def run_original(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the original; to be called before `run_optimized` for each feed."""
        self._latest = self._original(feed)
        return self._latest

    def run_optimized(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the optimized graph on the feed that the original ran on last."""
        outputs = self._optimized(feed)
        if self._tolerance is not None and self._tolerance.metric is not None:
            self._metrics.append(_number(self._tolerance.metric(_read_only(self._latest), _read_only(outputs))))
        return outputs

    def accuracy(self, comparison: Comparison) -> Accuracy:
        """Returns what the whole comparison showed."""
        cosines = [output.minimum_cosine for output in comparison.outputs if output.minimum_cosine is not None]
        return Accuracy(
            maximum_absolute=max(output.maximum_absolute for output in comparison.outputs),
            cosine=min(cosines, default=None),
            metric=None if self._tolerance is None else worst_metric(self._tolerance, self._metrics),
        )


def _read_only(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Returns views that cannot be written: the same arrays are compared afterwards."""
    views = {name: np.asarray(array).view() for name, array in outputs.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


def _number(value: object) -> float:
    """Returns what the user's metric gave as a number.

    Raises:
        InvalidOptionError: It is none.
    """
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiub":
        what = f"an array of shape {list(array.shape)}" if array.ndim else repr(value)
        raise InvalidOptionError(
            f"The metric of the tolerance returned {what}; expected one number for each feed, such as "
            "float(np.mean(...))."
        )
    return float(array.reshape(()))


def outside_tolerance(comparison: Comparison, accuracy: Accuracy, tolerance: Tolerance | None) -> str:
    """Returns what is wrong with the outputs; empty where they are within tolerance."""
    for output in comparison.outputs:
        if output.problem or (tolerance is None and not output.passed):
            found = output.problem or (
                f"{output.mismatched} of {output.elements} elements differ, by up to {output.maximum_absolute:.3g} "
                f"at {list(output.worst_index or ())} of feed {output.worst_feed}"
            )
            return (
                f"outside tolerance at output {output.key}: {found}; allowed are rtol {comparison.rtol:g} and atol "
                f"{comparison.atol:g}{_hint(output.dtype)}"
            )
    found = "" if tolerance is None else objection(tolerance, accuracy)
    return f"outside tolerance: {found}" if found else ""


def _hint(dtype: str) -> str:
    """Returns how to judge outputs that the original itself rounds to 16 bits; empty for other element types."""
    if dtype not in ("bfloat16", "float16"):
        return ""
    return (
        f"; the original rounds to {dtype} on its way, so that its own last bits are noise: "
        "tolerance=tf_opt.Tolerance(cosine=0.999) judges by more than these"
    )
