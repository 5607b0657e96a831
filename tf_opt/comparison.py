"""Compares two graphs on the same feeds, output by output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from rich.console import Console
from rich.table import Table

from tf_opt.comparison_mask import Mask, check_mask_fits, masks_of_feeds, outputs_of_fixed_length
from tf_opt.errors import InvalidFeedError, UnknownOutputError, did_you_mean
from tf_opt.feeds import Array, Feed, check_feeds
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.session import GraphRunner, shared_runner
from tf_opt.signature_function import SignatureFunction, described
from tf_opt.terminal import default_console

Runnable: TypeAlias = FrozenGraph | GraphRunner | SignatureFunction | Callable[..., Mapping[str, Any]]
"""A graph, an open runner, a signature of a loaded SavedModel, or a function from a feed to outputs by key."""

_Described: TypeAlias = FrozenGraph | GraphRunner | SignatureFunction
"""What has inputs that feeds are checked against."""


@dataclass(frozen=True, kw_only=True)
class OutputComparison:
    """What was found for one output over all feeds.

    Attributes:
        key: The output's key.
        dtype: Its dtype in the first graph.
        shape: Its shape in the feed with the worst element.
        maximum_absolute: Largest |a - b|; infinite where only one side is NaN or infinite.
        maximum_relative: Largest |a - b| / |a| over elements where a is not 0.
        cosine: Cosine of the angle between all elements of a and all of b; 1 for equal values. NaN where it has no
            meaning.
        minimum_cosine: Lowest cosine of any sample, where a sample is what lies at one index of the first axis (all of
            a scalar); 1 where both are zero, -1 where only one side is NaN or infinite or the values could not be
            compared. None for outputs without elements and for those that are not floating point or complex.
        worst_index: Index of the element with the largest |a - b|; None where nothing differs.
        worst_feed: Number of the feed it was found in; None where nothing differs.
        mismatched: Number of elements outside of the tolerance.
        elements: Number of elements compared; with a mask, those of real tokens.
        problem: Why the values could not be compared (shape, dtype); empty otherwise.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    maximum_absolute: float = 0.0
    maximum_relative: float = 0.0
    cosine: float = 1.0
    minimum_cosine: float | None = None
    worst_index: tuple[int, ...] | None = None
    worst_feed: int | None = None
    mismatched: int = 0
    elements: int = 0
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether all elements agree within the tolerance."""
        return not self.problem and self.mismatched == 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        outputs: One entry an output, in the order of the first graph.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        feeds: Number of feeds.
    """

    outputs: tuple[OutputComparison, ...]
    rtol: float
    atol: float
    feeds: int

    @property
    def passed(self) -> bool:
        """Whether every output agrees within the tolerance on every feed."""
        return all(output.passed for output in self.outputs)

    def __getitem__(self, key: str) -> OutputComparison:
        for output in self.outputs:
            if output.key == key:
                return output
        known = [output.key for output in self.outputs]
        raise UnknownOutputError(
            f"No output {key!r} was compared.{did_you_mean(key, known)} Compared: {', '.join(known)}."
        )

    def table(self) -> Table:
        """Returns the comparison as a rich table."""
        feeds = f"{self.feeds} feed{'' if self.feeds == 1 else 's'}"
        table = Table(title=f"Comparison over {feeds}, rtol {self.rtol:g}, atol {self.atol:g}")
        table.add_column("output", overflow="fold")
        table.add_column("dtype, shape", overflow="fold")
        for name in ("max abs", "max rel", "cosine", "differ"):
            # In a narrow terminal the names fold, not the figures.
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("worst at", overflow="fold")
        table.add_column("equal", no_wrap=True)
        for output in self.outputs:
            where = "-" if output.worst_index is None else f"{list(output.worst_index)}, feed {output.worst_feed}"
            table.add_row(
                output.key,
                f"{output.dtype} {'×'.join(map(str, output.shape)) or 'scalar'}",
                f"{output.maximum_absolute:.3g}",
                f"{output.maximum_relative:.3g}",
                # Of the worst sample; a second column would leave no room for names in a terminal of 80 columns.
                f"{output.cosine if output.minimum_cosine is None else output.minimum_cosine:.6f}",
                f"{output.mismatched}/{output.elements}",
                output.problem or where,
                "[green]yes[/green]" if output.passed else "[red]no[/red]",
            )
        return table

    def print(self, console: Console | None = None) -> None:
        """Prints the table."""
        (console or default_console()).print(self.table())


def compare(
    a: Runnable,
    b: Runnable,
    feeds: Iterable[Feed],
    rtol: float = 1e-6,
    atol: float = 1e-3,
    *,
    mask: Mask | None = None,
    show: bool = True,
) -> Comparison:
    """Runs two graphs on the same feeds and compares each output.

    Floating point and complex elements agree where |a - b| <= atol + rtol * |a|, the rule of `numpy.allclose` with the
    first graph as the reference; NaN agrees with NaN, an infinity with the same infinity. All other dtypes must be
    equal.

    Args:
        a: The reference: a graph, an open `GraphRunner`, one of the `signatures` of a loaded SavedModel, with lookup
            tables or without, or a function from a feed to outputs by key.
        b: What is compared with it; outputs are matched by key.
        feeds: Mappings from inputs to arrays.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        mask: The name of the attention mask among the inputs, or one array for each feed: [batch, sequence], not 0
            where a token is real. Outputs that begin with these two dimensions are compared at real tokens only, the
            others whole.
        show: Whether to print the table.

    Raises:
        InvalidFeedError: There is no feed, one does not fit, or the mask is unknown or does not fit.
        UnknownOutputError: An output of `a` is missing in `b`.
        FreezeError: A signature takes or returns something else than dense tensors.
    """
    a, b = described(a), described(b)
    checked = _checked_feeds((a, b), feeds)
    accumulators: dict[str, _Accumulator] = {}
    graph = next((each for each in (a, b) if isinstance(each, _Described)), None)
    masks = masks_of_feeds(mask, checked, None if graph is None else graph.inputs)
    whole = frozenset() if graph is None else outputs_of_fixed_length(graph.inputs, graph.outputs)
    run_a, run_b = _as_function(a), _as_function(b)
    for number, (feed, feed_mask) in enumerate(zip(checked, masks, strict=True)):
        values_a, values_b = run_a(feed), run_b(feed)
        if feed_mask is not None:
            check_mask_fits(feed_mask, number, feed, values_a)
        for key, value in values_a.items():
            if key not in values_b:
                raise UnknownOutputError(
                    f"The second graph has no output {key!r}.{did_you_mean(key, values_b)} Its outputs: "
                    f"{', '.join(map(repr, values_b))}. Both graphs need the same keys."
                )
            accumulator = accumulators.setdefault(key, _Accumulator(key, rtol, atol))
            reference = np.asarray(value)
            by_token = feed_mask is not None and reference.shape[:2] == feed_mask.shape and key not in whole
            accumulator.add(reference, np.asarray(values_b[key]), number, feed_mask if by_token else None)
    result = Comparison(
        outputs=tuple(accumulator.result() for accumulator in accumulators.values()),
        rtol=rtol,
        atol=atol,
        feeds=len(checked),
    )
    if show:
        result.print()
    return result


def _as_function(graph: Runnable) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Returns a function from a checked feed to outputs by key."""
    if isinstance(graph, FrozenGraph):
        return shared_runner(graph).run
    return graph.run if isinstance(graph, (GraphRunner, SignatureFunction)) else graph


def _checked_feeds(graphs: Sequence[Runnable], feeds: Iterable[Feed]) -> list[Mapping[str, Any]]:
    if isinstance(feeds, Mapping):
        raise InvalidFeedError("Expected a list of feeds, got one mapping. Write [feed].")
    listed: list[Mapping[str, Any]] = list(feeds)
    if not listed:
        raise InvalidFeedError("The list of feeds is empty, so there is nothing to run. Pass at least one feed.")
    for graph in graphs:
        if isinstance(graph, _Described):
            check_feeds(listed, graph.inputs)  # All of them before anything runs.
    return listed


@dataclass
class _Accumulator:
    """Collects one output's differences feed by feed, so that no feed's values are kept."""

    key: str
    rtol: float
    atol: float
    dtype: str = ""
    shape: tuple[int, ...] = ()
    maximum_absolute: float = 0.0
    maximum_relative: float = 0.0
    worst_index: tuple[int, ...] | None = None
    worst_feed: int | None = None
    mismatched: int = 0
    elements: int = 0
    problem: str = ""
    minimum_cosine: float | None = None
    products: Array = field(default_factory=lambda: np.zeros(3))
    """Sums of a·b, a·a and b·b over all elements."""

    def add(self, a: Array, b: Array, feed: int, mask: Array | None = None) -> None:
        """Compares the values of one feed; with a mask [batch, sequence], those where it is true."""
        if not self.dtype:
            self.dtype, self.shape = a.dtype.name, a.shape
        if self.problem:
            return
        if a.shape != b.shape:
            self.problem = f"shapes {list(a.shape)} and {list(b.shape)} (feed {feed})"
        elif a.dtype != b.dtype:
            self.problem = f"dtypes {a.dtype.name} and {b.dtype.name} (feed {feed})"
        if self.problem:
            self.shape, self.worst_feed = a.shape, feed
            return
        shape, indices = a.shape, None
        # The sample that each row belongs to, where rows are what lies at one index of the first axis.
        samples = np.arange(a.shape[0]) if a.ndim else np.zeros(1, int)
        if mask is not None:
            indices = np.nonzero(mask)
            a, b, samples = a[indices], b[indices], indices[0]
        self.elements += a.size
        if not a.size:
            return
        worst = self._add_values(a, b)
        if worst is not None:
            if indices is not None:
                worst = (*(int(index[worst[0]]) for index in indices), *worst[1:])
            self.worst_index, self.worst_feed, self.shape = worst, feed, shape
        if _is_inexact(a):
            lowest = _minimum_cosine(a, b, samples)
            self.minimum_cosine = lowest if self.minimum_cosine is None else min(lowest, self.minimum_cosine)

    def _add_values(self, a: Array, b: Array) -> tuple[int, ...] | None:
        """Returns the index of the worst element where it is the worst of all feeds so far."""
        if _is_inexact(a):
            wide = np.complex128 if a.dtype.kind == "c" else np.float64
            a, b = a.astype(wide), b.astype(wide)
            absolute = _absolute_difference(a, b)
            with np.errstate(invalid="ignore", over="ignore"):
                # An infinite reference allows nothing but itself; without this its tolerance would be infinite.
                allowed = self.atol + self.rtol * np.where(np.isfinite(a), np.abs(a), 0.0)
            agrees = np.asarray(absolute <= allowed)
        else:
            agrees = np.asarray(a == b)
            if a.dtype.kind in "iu":
                # Python's integers do not overflow, unlike the difference of two int64.
                absolute = np.asarray(np.abs(a.astype(object) - b.astype(object)), dtype=np.float64)
                a, b = a.astype(np.float64), b.astype(np.float64)
            else:
                absolute = (~agrees).astype(np.float64)
                a = b = np.zeros(0)
        self.mismatched += int(np.count_nonzero(~agrees))
        worst = np.unravel_index(int(np.argmax(absolute)), absolute.shape)
        if a.size:
            self._add_relative(a, b, absolute)
        if absolute[worst] <= self.maximum_absolute:
            return None
        self.maximum_absolute = float(absolute[worst])
        return tuple(int(i) for i in worst)

    def _add_relative(self, a: Array, b: Array, absolute: Array) -> None:
        scale = np.abs(a)
        known = np.isfinite(scale) & (scale > 0)
        if known.any():
            self.maximum_relative = max(self.maximum_relative, float((absolute[known] / scale[known]).max()))
        finite = np.isfinite(a) & np.isfinite(b)
        a, b = a[finite], b[finite]
        with np.errstate(over="ignore"):
            self.products += [float(np.vdot(a, b).real), float(np.vdot(a, a).real), float(np.vdot(b, b).real)]

    def result(self) -> OutputComparison:
        product, square_a, square_b = self.products
        if square_a and square_b:
            with np.errstate(invalid="ignore"):  # Squares that overflowed leave no cosine.
                cosine = float(product / np.sqrt(square_a) / np.sqrt(square_b))
        else:
            cosine = 1.0 if square_a == square_b else 0.0
        return OutputComparison(
            key=self.key,
            dtype=self.dtype,
            shape=self.shape,
            maximum_absolute=self.maximum_absolute,
            maximum_relative=self.maximum_relative,
            cosine=float("nan") if self.problem else min(cosine, 1.0),
            minimum_cosine=-1.0 if self.problem else self.minimum_cosine,
            worst_index=self.worst_index,
            worst_feed=self.worst_feed,
            mismatched=self.mismatched,
            elements=self.elements,
            problem=self.problem,
        )


def _minimum_cosine(a: Array, b: Array, samples: Array) -> float:
    """Returns the lowest cosine between the samples of two equally shaped arrays of at least one element.

    Args:
        a: [rows, ...] or a scalar.
        b: As `a`.
        samples: [rows], the number of the sample that each row belongs to.
    """
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    a, b = (array.astype(wide).reshape(len(samples), -1) for array in (a, b))
    special = ~(np.isfinite(a) & np.isfinite(b))
    if special.any():
        same = (np.isnan(a) & np.isnan(b)) | (a == b)
        if not same[special].all():
            return -1.0
        # NaN against NaN and an infinity against itself agree; the rest of the sample decides.
        a, b = np.where(special, 0.0, a), np.where(special, 0.0, b)
    # Scaled to 1, so that squares neither overflow nor vanish. The scale cancels in the cosine.
    count = int(samples.max()) + 1
    for array in (a, b):
        scale = np.zeros(count)
        np.maximum.at(scale, samples, np.abs(array).max(axis=1))
        array /= np.where(scale == 0.0, 1.0, scale)[samples, None]
    product, square_a, square_b = (
        np.bincount(samples, (left * right.conj()).real.sum(axis=1), count) for left, right in ((a, b), (a, a), (b, b))
    )
    present = np.bincount(samples, minlength=count) > 0
    zeros = (square_a == 0) | (square_b == 0)
    cosine = np.divide(product, np.sqrt(square_a) * np.sqrt(square_b), out=np.zeros(count), where=~zeros)
    cosine[(square_a == 0) & (square_b == 0)] = 1.0
    return min(float(cosine[present].min()), 1.0)


def _absolute_difference(a: Array, b: Array) -> Array:
    """Returns |a - b|: 0 where both are NaN or the same infinity, infinite where only one side is NaN or infinite."""
    with np.errstate(invalid="ignore", over="ignore"):
        absolute = np.array(np.abs(a - b))  # A scalar's difference is no array otherwise.
    absolute[(np.isnan(a) & np.isnan(b)) | (a == b)] = 0.0
    absolute[np.isnan(absolute)] = np.inf
    return absolute


def _is_inexact(array: Array) -> bool:
    # bfloat16 and the float8 types of ml_dtypes are of kind "V" for numpy.
    return array.dtype.kind in "fc" or (array.dtype.kind == "V" and "float" in array.dtype.name)
