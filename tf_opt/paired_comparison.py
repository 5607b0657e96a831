"""Decides which of two functions is faster, with as few runs as the noise allows."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tf_opt.errors import InvalidOptionError

Verdict: TypeAlias = Literal["faster", "slower", "same"]


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """How the time of b relates to that of a.

    Attributes:
        ratio: Median over the rounds of (time of b / time of a): below 1 means that b is faster.
        lower: Lower end of the ratio's confidence interval; 0 with too few rounds for one.
        upper: Upper end; infinite with too few rounds.
        rounds: Pairs that were measured.
        seconds: Time that the comparison took, warm-up included.
        verdict: "faster" where b is faster than a by more than the margin, "slower" where it is slower by more than the
            margin, each with the whole interval; "same" otherwise.
        median_a: Median time of a in seconds.
        median_b: Median time of b in seconds.
    """

    ratio: float
    lower: float
    upper: float
    rounds: int
    seconds: float
    verdict: Verdict
    median_a: float
    median_b: float


def paired_comparison(
    run_a: Callable[[], Any],
    run_b: Callable[[], Any],
    *,
    margin: float = 0.0,
    minimum_rounds: int = 8,
    maximum_rounds: int = 64,
    maximum_seconds: float = 10.0,
    confidence: float = 0.95,
    warmup: int = 1,
    timer: Callable[[], float] = time.perf_counter,
) -> PairedComparison:
    """Measures two functions in alternating pairs (a b, b a, a b, …) until it is clear which one is faster.

    Each pair gives one ratio of times, which a slow phase of the machine hardly touches because both sides meet it. The
    interval of the ratios' median is that of order statistics: the number of ratios below the true median is binomial
    with p = 1/2 whatever their distribution (H. A. David, H. N. Nagaraja: Order Statistics, 3rd edition, section 7.1).
    The data are looked at after `minimum_rounds`, twice that, and so on; the allowed error is divided among the looks
    (Bonferroni), as looking repeatedly and stopping at the first clear result would find differences where there are
    none.

    Args:
        run_a: The reference.
        run_b: What is compared with it.
        margin: Differences up to this share count as none: 0.03 asks for b to be clear of ratios from 1/1.03 to 1.03.
        minimum_rounds: Pairs before the first decision; below 7 no interval exists at 95% with more than one look.
        maximum_rounds: Pairs after which the result stands as it is.
        maximum_seconds: Time after which it does; the pair that runs is finished, and one pair is always measured.
        confidence: Probability that the interval covers the true median ratio.
        warmup: Runs of each function before the measured ones.
        timer: Clock, in seconds.

    Raises:
        InvalidOptionError: A number is out of range.
    """
    _check_options(margin, minimum_rounds, maximum_rounds, confidence)
    start = timer()
    for _ in range(warmup):
        run_a()
        run_b()
    looks = _looks(minimum_rounds, maximum_rounds)
    error = (1.0 - confidence) / len(looks)
    times_a: list[float] = []
    times_b: list[float] = []
    while True:
        first, second = (run_a, run_b) if len(times_a) % 2 == 0 else (run_b, run_a)
        begin = timer()
        first()
        middle = timer()
        second()
        end = timer()
        pair = (middle - begin, end - middle)
        time_a, time_b = pair if first is run_a else (pair[1], pair[0])
        times_a.append(time_a)
        times_b.append(time_b)
        rounds = len(times_a)
        # Out of time is one more look than planned only where the last planned one is not reached, so it takes its
        # place.
        finished = rounds >= maximum_rounds or end - start >= maximum_seconds
        if not finished and rounds not in looks:
            continue
        ratios = [_log_ratio(b, a) for a, b in zip(times_a, times_b, strict=True)]
        lower, upper = _median_interval(ratios, error)
        clear = lower > math.log1p(margin) or upper < -math.log1p(margin)
        within = -math.log1p(margin) <= lower and upper <= math.log1p(margin)
        if finished or clear or within:
            break
    verdict: Verdict = "same"
    if upper < -math.log1p(margin):
        verdict = "faster"
    elif lower > math.log1p(margin):
        verdict = "slower"
    return PairedComparison(
        ratio=math.exp(statistics.median(ratios)),
        lower=math.exp(lower),
        upper=math.exp(upper),
        rounds=rounds,
        seconds=end - start,
        verdict=verdict,
        median_a=statistics.median(times_a),
        median_b=statistics.median(times_b),
    )


def _check_options(margin: float, minimum_rounds: int, maximum_rounds: int, confidence: float) -> None:
    if margin < 0:
        raise InvalidOptionError(f"margin must be 0 or more, got {margin}.")
    if not 1 <= minimum_rounds <= maximum_rounds:
        raise InvalidOptionError(
            f"minimum_rounds must be at least 1 and at most maximum_rounds, got {minimum_rounds} and {maximum_rounds}."
        )
    if not 0 < confidence < 1:
        raise InvalidOptionError(f"confidence must be between 0 and 1, got {confidence}.")


def _looks(minimum_rounds: int, maximum_rounds: int) -> list[int]:
    looks = []
    rounds = minimum_rounds
    while rounds < maximum_rounds:
        looks.append(rounds)
        rounds *= 2
    return [*looks, maximum_rounds]


def _log_ratio(numerator: float, denominator: float) -> float:
    # A clock may be too coarse for one of the runs; a nanosecond is below what any clock resolves.
    return math.log(max(numerator, 1e-9) / max(denominator, 1e-9))


def _median_interval(values: Sequence[float], error: float) -> tuple[float, float]:
    """Returns the narrowest symmetric pair of order statistics that covers the median but for `error`."""
    count = len(values)
    ordered = sorted(values)
    rank = 0
    tail = 0.0
    for below in range(count // 2):
        # Probability that at most `below` of `count` values lie under the median.
        tail += math.comb(count, below) * 0.5**count
        if 2.0 * tail > error:
            break
        rank = below + 1
    if rank == 0:
        return -math.inf, math.inf
    return ordered[rank - 1], ordered[count - rank]
