from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from tf_opt.benchmarking import benchmark
from tf_opt.errors import InvalidFeedError, InvalidOptionError
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.session import GraphRunner


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def function(self, name: str, seconds: Callable[[], float]) -> Callable[[Any], dict[str, Any]]:
        def run(feed: Any) -> dict[str, Any]:
            self.calls.append(name)
            self.now += seconds()
            return {}

        return run


def feed(*shape: int) -> dict[str, Any]:
    return {"x": np.zeros(shape, "float32"), "mask": np.zeros(shape, "float32"), "k": np.float32(1.0)}


def test_times_of_each_graph_and_shape() -> None:
    clock = Clock()
    slow = iter([0.0] * 2 + [0.1 * k for k in range(1, 101)])
    functions = {"slow": clock.function("s", lambda: next(slow)), "fast": clock.function("f", lambda: 0.01)}
    result = benchmark(functions, [feed(8, 128)], warmup=2, runs=100, timer=clock, show=False)
    slow_row, fast_row = result.rows
    assert (slow_row.graph, slow_row.feed, slow_row.batch, slow_row.runs) == ("slow", "x, mask 8×128; k scalar", 8, 100)
    assert slow_row.mean == pytest.approx(5.05)
    assert slow_row.p50 == pytest.approx(5.05)
    assert slow_row.p95 == pytest.approx(9.505)
    assert slow_row.p99 == pytest.approx(9.901)
    assert slow_row.minimum == pytest.approx(0.1)
    assert slow_row.speedup == 1.0
    assert fast_row.throughput == pytest.approx(800.0)
    assert fast_row.speedup == pytest.approx(505.0)


def test_order_rotates_and_feeds_of_a_shape_share_a_row() -> None:
    clock = Clock()
    functions = {name: clock.function(name, lambda: 1.0) for name in "abc"}
    result = benchmark(functions, [feed(1), feed(1), feed(2)], warmup=0, runs=4, timer=clock, show=False)
    assert "".join(clock.calls[:12]) == "abcbcacababc"
    assert len(clock.calls) == 24
    assert [(row.graph, row.batch) for row in result.rows] == [(name, batch) for batch in (1, 2) for name in "abc"]


def graph(factor: float) -> FrozenGraph:
    with tf.Graph().as_default() as built:
        x = tf.compat.v1.placeholder(tf.float32, [None, 3], name="x")
        tf.multiply(x, factor, name="y")
    return frozen_from_graph_def(built.as_graph_def(), "y")


def test_graphs_and_runners(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feeds = [{"x": np.ones((4, 3), "float32")}]
    with GraphRunner(graph(2.0)) as runner:
        result = benchmark({"original": graph(1.0), "open": runner}, feeds, warmup=1, runs=2)
        runner.run(feeds[0])
    assert [row.batch for row in result.rows] == [4, 4]
    assert all(row.minimum > 0 for row in result.rows)
    assert "original" in capsys.readouterr().out
    content = json.loads(result.to_json(tmp_path / "result.json"))
    assert content == json.loads((tmp_path / "result.json").read_text())
    assert content["rows"][0]["graph"] == "original"
    assert content["environment"]["versions"]["numpy"] == np.__version__


def test_table_keeps_its_figures_in_a_narrow_terminal() -> None:
    clock = Clock()
    result = benchmark({"a": clock.function("a", lambda: 0.0123)}, [feed(8, 128)], timer=clock, show=False)
    stream = io.StringIO()
    result.print(Console(file=stream, width=80))
    assert "12.3" in stream.getvalue()
    assert "1.00×" in stream.getvalue()


def test_wrong_arguments() -> None:
    with pytest.raises(InvalidOptionError, match="at least one graph"):
        benchmark({}, [feed(1)])
    with pytest.raises(InvalidOptionError, match="runs=0"):
        benchmark({"a": graph(1.0)}, [{"x": np.ones((4, 3), "float32")}], runs=0)
    with pytest.raises(InvalidFeedError, match=r"Feed 0: .*lacks 'x'"):
        benchmark({"a": graph(1.0)}, [{}])
    for empty in ([], {"x": 1}):
        with pytest.raises(InvalidFeedError, match="list of at least one feed"):
            benchmark({"a": graph(1.0)}, empty)
