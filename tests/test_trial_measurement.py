from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from tests.small_graphs import feed, optimized_segment
from tf_opt import trial_measurement
from tf_opt.paired_comparison import paired_comparison
from tf_opt.trial import Trial

Seconds = Callable[[int], float]


class Clock:
    """Time that passes only where a run says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What measuring reads instead of the machine's clock."""
    result = Clock()
    monkeypatch.setattr(trial_measurement, "paired_comparison", functools.partial(paired_comparison, timer=result))
    return result


def let_last(monkeypatch: pytest.MonkeyPatch, clock: Clock, original: Seconds, optimized: Seconds) -> None:
    """Makes both graphs take the given seconds by the batch."""
    run_original, run_optimized = Trial.run_original, Trial.run_optimized

    def slow_original(self: Trial, values: Any) -> Any:
        clock.now += original(len(values["x:0"]))
        return run_original(self, values)

    def slow_optimized(self: Trial, values: Any) -> Any:
        clock.now += optimized(len(values["x:0"]))
        return run_optimized(self, values)

    monkeypatch.setattr(Trial, "run_original", slow_original)
    monkeypatch.setattr(Trial, "run_optimized", slow_optimized)


def test_loss_on_a_small_feed_is_not_paid_for_by_a_large_one(monkeypatch, clock):
    let_last(monkeypatch, clock, lambda n: 0.001 if n == 1 else 0.040, lambda n: 0.006 if n == 1 else 0.030)
    segment = optimized_segment([feed(8), feed(1)])
    assert not segment.adopted
    assert segment.measurement.feed == "x 1×16"
    assert segment.measurement.verdict == "slower"
    assert segment.measurement.ratio == pytest.approx(1 / 6)
    assert "original 1 ms, optimized 6 ms" in segment.reason
    assert "on x 1×16 (the worst of 2 shapes)" in segment.reason


@pytest.mark.parametrize("slow", [1, 9, 16])
def test_every_shape_is_measured(monkeypatch, clock, slow):
    let_last(monkeypatch, clock, lambda _: 0.002, lambda n: 0.1 if n == slow else 0.001)
    segment = optimized_segment([feed(batch) for batch in range(1, 17)])
    assert not segment.adopted
    assert segment.measurement.feed == f"x {slow}×16"
    assert segment.measurement.measured_shapes == slow  # Nothing is measured after it.


def test_large_feed_is_measured_beyond_its_share(monkeypatch, clock):
    let_last(monkeypatch, clock, lambda n: 0.002 if n == 1 else 1.4, lambda n: 0.001 if n == 1 else 1.6)
    segment = optimized_segment([feed(1), feed(8)])
    assert not segment.adopted
    assert segment.measurement.feed == "x 8×16"
    assert segment.measurement.rounds == 3


def test_huge_feed_gets_the_pair_that_is_always_measured(monkeypatch, clock):
    let_last(monkeypatch, clock, lambda _: 10.0, lambda _: 12.0)
    segment = optimized_segment([feed(1), feed(8)])
    assert not segment.adopted
    assert (segment.measurement.feed, segment.measurement.rounds) == ("x 1×16", 1)
    assert segment.measurement.measured_shapes == 1


def test_small_loss_without_an_interval_is_none(monkeypatch, clock):
    let_last(monkeypatch, clock, lambda _: 1.0, lambda _: 1.08)
    segment = optimized_segment([feed(1)])
    assert segment.adopted
    assert segment.measurement.verdict == "same"
    assert segment.measurement.rounds == 3


def test_small_loss_with_an_interval_is_one(monkeypatch, clock):
    let_last(monkeypatch, clock, lambda _: 0.1, lambda _: 0.103)
    assert not optimized_segment([feed(1)]).adopted


def test_worst_ratio_is_reported_of_an_adopted_engine(monkeypatch, clock):
    let_last(monkeypatch, clock, lambda _: 0.010, lambda n: 0.009 if n == 5 else 0.005)
    segment = optimized_segment([feed(3), feed(5), feed(7), feed(5)])
    assert segment.adopted
    assert segment.measurement.feed == "x 5×16"
    assert "(the worst of 3 shapes)" in str(segment.measurement)


def test_of_many_shapes_sixteen_are_measured_and_it_says_so(monkeypatch, clock):
    let_last(monkeypatch, clock, lambda _: 0.010, lambda n: 0.009 if n == 31 else 0.005)
    segment = optimized_segment([feed(batch) for batch in range(1, 32)])
    assert segment.adopted
    assert "on x 31×16 (the worst of 16 measured of 31 shapes)" in str(segment.measurement)
