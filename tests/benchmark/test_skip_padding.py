"""The parts of the benchmark of padding that need no model."""

from __future__ import annotations

import numpy as np
import pytest
import skip_padding


class Clock:
    """A clock that only runners advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


CLOCK = Clock()


class Runner:
    """Answers a number at real tokens and another one at padded ones, after a while."""

    def __init__(self, value: float, at_padding: float = 0.0, seconds: float = 0.0) -> None:
        self._value, self._at_padding, self._seconds = value, at_padding, seconds

    def run(self, feed):
        CLOCK.now += self._seconds
        mask = feed[skip_padding.MASK].astype(bool)
        hidden = np.where(mask[..., None], self._value, self._at_padding)
        return {"last_hidden_state": np.broadcast_to(hidden, (*mask.shape, 4))}


FEED = {skip_padding.MASK: np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.int32)}


def test_differences_are_those_of_real_tokens():
    sides = {"original": Runner(1.0, 7.0), "all": Runner(1.0, 6.0), "real": Runner(1.25)}
    row = skip_padding.measure(sides, FEED, rounds=2)
    assert row["difference"] == {"all": 0.0, "real": 0.25}
    assert row["share_of_real_tokens"] == 0.5


def test_every_side_is_timed_in_every_round(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(skip_padding, "time", CLOCK)
    seconds = {"original": 4.0, "all": 3.0, "real": 2.0}
    row = skip_padding.measure({name: Runner(1.0, seconds=each) for name, each in seconds.items()}, FEED, rounds=3)
    assert row["rounds"] == 3
    assert row["median"] == row["p95"] == pytest.approx(seconds)
    assert row["all_over_real"] == pytest.approx(1.5)


def test_batches_have_all_lengths_and_one_without_padding(monkeypatch: pytest.MonkeyPatch):
    def random_feeds(frozen, *, batch, sequence, seed):
        return [{"input_ids": np.ones((batch, sequence), np.int32), skip_padding.MASK: np.ones((1, 1), np.int32)}]

    monkeypatch.setattr(skip_padding.tf_opt, "random_feeds", random_feeds)
    feeds = skip_padding.feeds_of(None, 400, 16)
    lengths = feeds["padded"][skip_padding.MASK].sum(axis=1)
    assert set(lengths) == set(range(skip_padding.SHORTEST, 17))
    assert feeds["full"][skip_padding.MASK].all()
    assert feeds["full"][skip_padding.MASK].dtype == np.int32
