from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tf_opt.errors import InvalidOptionError
from tf_opt.paired_comparison import _median_interval, paired_comparison


class Clock:
    """Time that passes only while a function runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order = ""

    def __call__(self) -> float:
        return self.now

    def function(self, name: str, seconds: Iterator[float]) -> Callable[[], None]:
        def run() -> None:
            self.order += name
            self.now += next(seconds)

        return run


def measure(a: Any, b: Any, **options: Any) -> Any:
    clock = Clock()
    seconds = [itertools.repeat(each) if isinstance(each, float) else iter(each) for each in (a, b)]
    result = paired_comparison(
        clock.function("a", seconds[0]), clock.function("b", seconds[1]), timer=clock, maximum_seconds=1e9, **options
    )
    return result, clock


def test_faster_function_is_found_at_the_first_look() -> None:
    result, clock = measure(0.2, 0.1, minimum_rounds=8, maximum_rounds=64, warmup=2)
    assert result.verdict == "faster"
    assert result.ratio == pytest.approx(0.5)
    assert result.lower <= result.ratio <= result.upper
    assert result.rounds == 8
    assert (result.median_a, result.median_b) == pytest.approx((0.2, 0.1))
    assert result.seconds == pytest.approx(10 * 0.3)
    assert clock.order == "abab" + "abba" * 4


def test_slower_function() -> None:
    result, _ = measure(0.1, 0.2)
    assert (result.verdict, result.ratio) == ("slower", pytest.approx(2.0))


def test_equal_functions_are_the_same() -> None:
    result, _ = measure(0.1, 0.1, margin=0.01)
    assert (result.verdict, result.ratio, result.rounds) == ("same", pytest.approx(1.0), 8)


def test_a_difference_within_the_margin_is_none() -> None:
    assert measure(0.1, 0.102, margin=0.05)[0].verdict == "same"
    assert measure(0.1, 0.102, margin=0.01)[0].verdict == "slower"
    assert measure(0.102, 0.1, margin=0.05)[0].verdict == "same"
    assert measure(0.102, 0.1, margin=0.01)[0].verdict == "faster"


def noisy(seed: int, mean: float) -> Iterator[float]:
    generator = np.random.default_rng(seed)
    return (float(mean * value) for value in generator.lognormal(0, 0.3, 10_000))


def test_noise_needs_more_rounds() -> None:
    result, _ = measure(noisy(0, 1.0), noisy(1, 0.7), maximum_rounds=256)
    assert result.verdict == "faster"
    assert 8 < result.rounds <= 256
    assert 0.55 < result.lower < 0.7 < result.upper < 1.0


def test_noise_alone_is_rarely_taken_for_a_difference() -> None:
    # 5% of verdicts may be wrong; 200 trials show more than 20 wrong ones with a probability below 0.1%.
    wrong = sum(measure(noisy(2 * k, 1.0), noisy(2 * k + 1, 1.0))[0].verdict != "same" for k in range(200))
    assert wrong <= 20


def test_a_slow_phase_of_the_machine_does_not_matter() -> None:
    phases = [1.0] * 10 + [7.0] * 10 + [1.0] * 100
    result, _ = measure(iter(phases), iter([0.9 * phase for phase in phases]), minimum_rounds=16)
    assert (result.verdict, result.ratio) == ("faster", pytest.approx(0.9))


def test_time_runs_out() -> None:
    clock = Clock()
    a, b = (clock.function(name, itertools.repeat(seconds)) for name, seconds in (("a", 2.0), ("b", 1.0)))
    result = paired_comparison(a, b, timer=clock, maximum_seconds=10.0, warmup=0)
    # Four pairs give no interval: the verdict is not guessed.
    assert (result.rounds, result.verdict, result.lower, result.upper) == (4, "same", 0.0, math.inf)
    assert result.ratio == pytest.approx(0.5)


def test_rounds_run_out() -> None:
    generator = np.random.default_rng(0)
    result, _ = measure(iter(generator.uniform(1, 2, 100)), iter(generator.uniform(1, 2, 100)), maximum_rounds=20)
    assert (result.rounds, result.verdict) == (20, "same")


def test_clock_that_is_too_coarse() -> None:
    result, _ = measure(0.0, 0.0)
    assert (result.verdict, result.ratio) == ("same", 1.0)


@pytest.mark.parametrize(("count", "rank"), [(5, None), (6, 1), (10, 2), (20, 6), (40, 14)])
def test_interval_is_the_one_of_the_tables(count: int, rank: int | None) -> None:
    # Ranks for 95%: W. J. Conover, Practical Nonparametric Statistics, binomial(n, 1/2) quantiles.
    lower, upper = _median_interval([float(k) for k in range(1, count + 1)], 0.05)
    assert (lower, upper) == ((-math.inf, math.inf) if rank is None else (rank, count + 1 - rank))


@pytest.mark.parametrize(
    "options",
    [{"margin": -0.1}, {"minimum_rounds": 0}, {"minimum_rounds": 9, "maximum_rounds": 8}, {"confidence": 1.0}],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError, match="must be"):
        measure(0.1, 0.1, **options)
