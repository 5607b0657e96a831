from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.small_graphs import engine_nodes, feed, mlp, two_towers
from tf_opt import adoption, errors, ops
from tf_opt.adoption import AdoptionTrials, Candidate
from tf_opt.engine_building import EngineBuilder
from tf_opt.engines import create_backend
from tf_opt.export import DEFAULT_OPSET
from tf_opt.held_weights import HeldWeights
from tf_opt.ops import held_tensors
from tf_opt.paired_comparison import paired_comparison
from tf_opt.passes.tf.pass_base import Border
from tf_opt.report.optimization import SegmentReport
from tf_opt.trial import Trial
from tf_opt.weights import detach_weights

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
    monkeypatch.setattr(adoption, "paired_comparison", functools.partial(paired_comparison, timer=result))
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


def optimized_segment(feeds: list[Any], **options: Any) -> SegmentReport:
    optimizer = tf_opt.Tf2TrtOpt(**options)
    optimizer.optimize_graph_def(mlp(), ["y"], feeds)
    (segment,) = optimizer.report.segments
    return segment


# One feed that is slower.


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


# Engines that never run.


def test_engine_that_never_ran_is_not_adopted():
    ops.reset_statistics()
    segment = optimized_segment([{"x": np.zeros((0, 16), np.float32)}])
    assert not segment.adopted
    assert segment.reason == "no feed ran on the engine: all went to the fallback; give feeds of other shapes"
    assert segment.measurement is None


def test_runs_of_an_earlier_graph_do_not_count():
    """Counters are by segment name, and every graph has a segment 0."""
    tf_opt.Tf2TrtOpt(adopt="always").optimize_graph_def(mlp(), ["y"], [feed()])
    assert ops.statistics()["tf_opt_segment_0"]["runs"] > 0
    assert not optimized_segment([{"x": np.zeros((0, 16), np.float32)}]).adopted


def test_one_feed_on_the_engine_is_enough(monkeypatch, clock):
    let_last(monkeypatch, clock, lambda _: 0.010, lambda _: 0.005)
    assert optimized_segment([{"x": np.zeros((0, 16), np.float32)}, feed()]).adopted


@pytest.mark.parametrize(("counters", "reason"), [({"fallback_runs": 0}, "none reached it"), (None, "")])
def test_idle_engine_goes_alone(monkeypatch, clock, counters, reason):
    """Of two engines one does not count runs: it goes where its counter stands still, and stays where it has none."""
    let_last(monkeypatch, clock, lambda _: 0.010, lambda _: 0.005)
    real = ops.statistics

    def statistics() -> dict[str, dict[str, int]]:
        found = real()
        found.pop("tf_opt_segment_1", None)
        return {**found, "tf_opt_segment_1": {"runs": 7, **counters}} if counters else found

    monkeypatch.setattr(ops, "statistics", statistics)
    optimizer = tf_opt.Tf2TrtOpt()
    optimized = optimizer.optimize_graph_def(two_towers(), ["left", "right"], [feed()])
    first, second = optimizer.report.segments
    assert first.adopted
    assert second.adopted == (not reason)
    assert reason in second.reason
    assert len(engine_nodes(optimized)) == (1 if reason else 2)


# Feeds on which a graph fails.


def gather_graph() -> Any:
    graph = tf.Graph()
    with graph.as_default():
        ids = tf.compat.v1.placeholder(tf.int32, [None], name="x")
        table = tf.constant(np.random.default_rng(0).normal(size=(10, 16)).astype(np.float32))
        weight = tf.constant(np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32))
        tf.nn.softmax(tf.nn.relu(tf.matmul(tf.gather(table, ids), weight)), name="y")
    return graph.as_graph_def()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_feed_that_the_original_refuses_is_named(number):
    feeds = [{"x": np.array([1], np.int32)} for _ in range(3)]
    feeds[number] = {"x": np.array([11], np.int32)}
    with pytest.raises(errors.InvalidFeedError, match=rf"(?s)fails on feed {number} .*11 is not in \[0, 10\)"):
        tf_opt.Tf2TrtOpt().optimize_graph_def(gather_graph(), ["y"], feeds)


def test_only_the_first_feed_runs_where_nothing_is_judged():
    feeds = [{"x": np.array([1], np.int32)}, {"x": np.array([11], np.int32)}]
    optimizer = tf_opt.Tf2TrtOpt(adopt="always")
    assert engine_nodes(optimizer.optimize_graph_def(gather_graph(), ["y"], feeds))


@pytest.mark.parametrize("batch", [3, 7])
def test_engine_that_fails_where_the_original_works_goes_back(monkeypatch, batch):
    run_optimized = Trial.run_optimized

    def run(self: Trial, values: Any) -> Any:
        if len(values["x:0"]) == batch:
            raise tf.errors.InternalError(None, None, "out of registers")
        return run_optimized(self, values)

    monkeypatch.setattr(Trial, "run_optimized", run)
    segment = optimized_segment([feed(3), feed(7)])
    assert not segment.adopted
    assert segment.reason == f"fails where the original works: out of registers (fed: x {batch}×16)"


# Memory.


def trials(held: HeldWeights | None) -> tuple[AdoptionTrials, list[Candidate]]:
    light, weights = detach_weights(wide_mlp())
    border = Border(inputs=("x",), outputs=("y:0",))
    options = tf_opt.Options(adopt="always")
    backends = (create_backend("auto"),)
    builder = EngineBuilder(options, backends, border, DEFAULT_OPSET, None, lambda _: nullcontext(), lambda *_: ())
    _, built, _ = builder.build_all(light, weights)
    found = AdoptionTrials(light, light, weights, ["y:0"], [feed()], options, held=held)
    return found, [each.candidate for each in built]


def wide_mlp() -> Any:
    """Its weight is big enough to be held."""
    return mlp(hidden=2048)


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> weakref.WeakSet[Any]:
    """The tensors that are held."""
    found: weakref.WeakSet[Any] = weakref.WeakSet()
    make = held_tensors.HeldTensor.__init__

    def note(self: Any, *arguments: Any) -> None:
        make(self, *arguments)
        found.add(self)

    monkeypatch.setattr(held_tensors.HeldTensor, "__init__", note)
    return found


def test_own_memory_for_weights_is_freed_with_the_decision(monkeypatch, alive):
    during: list[int] = []
    run_original = Trial.run_original

    def run(self: Trial, values: Any) -> Any:
        during.append(len(alive))
        return run_original(self, values)

    monkeypatch.setattr(Trial, "run_original", run)
    found, candidates = trials(None)
    assert found.adopt(candidates).graph_def is not None
    assert max(during) == 1
    assert not alive


def test_memory_for_weights_that_is_given_stays(alive):
    held = HeldWeights()
    for _ in range(2):
        found, candidates = trials(held)
        found.adopt(candidates)
        assert len(alive) == 1
    held.close()
    assert not alive
