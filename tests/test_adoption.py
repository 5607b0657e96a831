from __future__ import annotations

import weakref
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.small_graphs import engine_nodes, feed, mlp, optimized_segment, two_towers
from tf_opt import adoption, errors, ops
from tf_opt.adoption import AdoptionTrials, Candidate
from tf_opt.engine_building import EngineBuilder
from tf_opt.engines import create_backend
from tf_opt.export import DEFAULT_OPSET
from tf_opt.held_weights import HeldWeights
from tf_opt.ops import held_tensors
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.splice import splice_segments
from tf_opt.report.optimization import Measurement
from tf_opt.trial import Trial
from tf_opt.weights import detach_weights


def measurement(original: float, optimized: float) -> Measurement:
    """A clear result of two times in milliseconds."""
    ratio = original / optimized
    return Measurement(
        original_milliseconds=original,
        optimized_milliseconds=optimized,
        ratio=ratio,
        interval=(0.9 * ratio, 1.1 * ratio),
        rounds=8,
        verdict="faster" if ratio > 1 else "slower",
    )


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every graph with engines is faster than the original, whatever the machine is busy with."""
    monkeypatch.setattr(adoption, "measure_trial", lambda *_: (measurement(original=2.0, optimized=1.0),))


# What a measurement decides.


def test_slower_engine_goes_back(monkeypatch):
    slow = measurement(original=1.0, optimized=2.0)
    monkeypatch.setattr(adoption, "measure_trial", lambda *_: (slow,))
    graph_def = mlp()
    optimizer = tf_opt.Tf2TrtOpt()
    optimized = optimizer.optimize_graph_def(graph_def, ["y"], [feed()])
    assert optimized is graph_def
    (segment,) = optimizer.report.segments
    assert not segment.adopted
    assert "original 1 ms, optimized 2 ms" in segment.reason
    assert segment.measurement == slow


def test_wrong_engine_goes_back_alone(monkeypatch, faster):
    """One of two segments is replaced by an engine of another segment's weights: only that one is rejected."""

    def splice_wrongly(graph_def, nodes):
        result = splice_segments(graph_def, nodes)
        names = {node.segment.name for node in nodes}
        if "tf_opt_segment_1" in names:  # `right` is fetched from the segment: negated, it is far off.
            (identity,) = [node for node in result.node if node.name == "right"]
            identity.op = "Neg"
        return result

    monkeypatch.setattr(adoption, "splice_segments", splice_wrongly)
    optimizer = tf_opt.Tf2TrtOpt()
    optimized = optimizer.optimize_graph_def(two_towers(), ["left", "right"], [feed()])
    first, second = optimizer.report.segments
    assert first.adopted
    assert first.maximum_error < 1e-4
    assert not second.adopted
    assert "outside tolerance at output right:0" in second.reason
    assert second.maximum_error > 1e-3
    assert [node.name for node in engine_nodes(optimized)] == ["tf_opt_segment_0"]


def test_measured_adoption_reports_both_figures():
    optimizer = tf_opt.Tf2TrtOpt(measurement_seconds=0.5)
    optimizer.optimize_graph_def(mlp(), ["y"], [feed(), feed(5)])
    (segment,) = optimizer.report.segments
    assert segment.measurement.original_milliseconds > 0
    assert segment.measurement.optimized_milliseconds > 0
    assert segment.measurement.feed in ("x 3×16", "x 5×16")
    assert segment.adopted == (segment.measurement.verdict != "slower")


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


def test_one_feed_on_the_engine_is_enough(faster):
    assert optimized_segment([{"x": np.zeros((0, 16), np.float32)}, feed()]).adopted


@pytest.mark.parametrize(("counters", "reason"), [({"fallback_runs": 0}, "none reached it"), (None, "")])
def test_idle_engine_goes_alone(monkeypatch, faster, counters, reason):
    """Of two engines one does not count runs: it goes where its counter stands still, and stays where it has none."""
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
