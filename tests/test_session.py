from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from tf_opt import session
from tf_opt.errors import InvalidFeedError, TfOptError, UnknownOutputError
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.session import GraphRunner, run


def example(factor: float = 2.0) -> FrozenGraph:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        y = tf.multiply(x, factor, name="y")
        tf.reduce_sum(y, name="total")
    return frozen_from_graph_def(graph.as_graph_def(), ["y", "total"], keys={"y:0": "scaled"})


def test_run_returns_outputs_by_key() -> None:
    result = run(example(), {"x": [1.0, 2.0]})
    assert list(result) == ["scaled", "total"]
    np.testing.assert_array_equal(result["scaled"], [2.0, 4.0])
    assert result["total"] == 6.0


def test_show_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    run(example(), {"x": [1.0, 2.0]}, show=True)
    printed = capsys.readouterr().out
    for expected in ("scaled", "float32", "scalar", "3", "6"):
        assert expected in printed


def test_chosen_outputs_and_inner_tensors() -> None:
    frozen = example()
    assert list(run(frozen, {"x:0": [1.0]}, "total")) == ["total"]
    assert list(run(frozen, {"x": [1.0]}, ["total:0", "y"])) == ["total", "scaled"]
    np.testing.assert_array_equal(run(frozen, {"x": [1.0]}, ["y/y"])["y/y"], 2.0)
    with pytest.raises(UnknownOutputError, match=r"no output 'totl'\. Did you mean 'total'"):
        run(frozen, {"x": [1.0]}, "totl")


def test_feeds_are_checked() -> None:
    with pytest.raises(InvalidFeedError, match="dtype float64, expected float32"):
        run(example(), {"x": np.zeros(2)})


def test_sessions_are_reused_while_the_graph_lives() -> None:
    frozen = example()
    runner = session._runners.get(frozen, None)
    assert session._runners.get(frozen, None) is runner
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1)
    assert session._runners.get(frozen, config) is not runner
    np.testing.assert_array_equal(run(frozen, {"x": [1.0]}, config=config)["scaled"], [2.0])
    gc.collect()
    before = len(session._runners)
    del frozen
    gc.collect()
    assert len(session._runners) == before - 2


def test_number_of_sessions_is_bounded() -> None:
    graphs = [example(factor) for factor in range(1, 10)]
    for factor, frozen in enumerate(graphs, start=1):
        assert run(frozen, {"x": [1.0]})["total"] == factor
    assert len(session._runners) <= session._MAXIMUM_CACHED_RUNNERS


def test_size_of_cached_sessions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = [example(), example()]
    monkeypatch.setattr(session, "_MAXIMUM_CACHED_BYTES", 1.5 * graphs[0].size_bytes)
    for frozen in graphs:
        assert run(frozen, {"x": [1.0]})["total"] == 2.0
        assert len(session._runners) == 1
    assert session.shared_runner(graphs[1]) is session.shared_runner(graphs[1])
    monkeypatch.setattr(session, "_MAXIMUM_CACHED_BYTES", 0)
    assert run(graphs[0], {"x": [1.0]})["total"] == 2.0
    assert len(session._runners) == 1


def test_runner_is_closed_at_the_end_of_its_block() -> None:
    with GraphRunner(example()) as runner:
        assert runner.run({"x": [1.0]})["total"] == 2.0
        prepared = runner.prepare("total")
        assert prepared({"x:0": np.array([3.0], "float32")}) == {"total": 6.0}
    with pytest.raises(TfOptError, match="GraphRunner is closed"):
        runner.run({"x": [1.0]})
    runner.close()


def test_calls_from_several_threads() -> None:
    with GraphRunner(example()) as runner, ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda k: runner.run({"x": [float(k)]})["total"], range(50)))
    assert results == [2.0 * k for k in range(50)]
