"""Measures how long graphs take, side by side: what runs alternately meets the same noise of the machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.progress import Progress
from rich.table import Table

from tf_opt.comparison import Runnable
from tf_opt.environment import describe_environment
from tf_opt.errors import InvalidFeedError, InvalidOptionError
from tf_opt.feeds import Feed, check_feeds, feed_shapes
from tf_opt.files import write_text
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.session import GraphRunner, shared_runner
from tf_opt.signature_function import SignatureFunction, described
from tf_opt.terminal import default_console

_KNOWN = (FrozenGraph, GraphRunner, SignatureFunction)
"""What has inputs that feeds are checked against."""

Timer = Callable[[], float]
"""Returns seconds from any fixed point, such as `time.perf_counter`."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """The times of one graph on the feeds of one shape.

    Attributes:
        graph: Name of the graph.
        feed: The shapes that were fed, such as "input_ids, attention_mask 8×128".
        batch: First dimension of the first input; 1 for a scalar.
        runs: Number of measured runs.
        mean: Seconds, as all times here.
        p50: Median.
        p95: 95th percentile.
        p99: 99th percentile.
        minimum: Fastest run.
        throughput: Samples a second, batch / p50.
        speedup: Median of the first graph on this shape divided by this median: above 1 is faster than the first.
    """

    graph: str
    feed: str
    batch: int
    runs: int
    mean: float
    p50: float
    p95: float
    p99: float
    minimum: float
    throughput: float
    speedup: float


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The result of `benchmark`: one row for each graph and feed shape, and where it was measured."""

    rows: tuple[BenchmarkRow, ...]
    environment: dict[str, Any]

    def to_json(self, path: str | Path | None = None) -> str:
        """Returns the rows and the environment as JSON, times in seconds; writes it to `path` too where given.

        Raises:
            OutputWriteError: The file cannot be written.
        """
        content = json.dumps({"environment": self.environment, "rows": [asdict(row) for row in self.rows]}, indent=2)
        if path is not None:
            write_text(path, content + "\n")
        return content

    def tables(self) -> Group:
        """Returns one rich table for each feed shape, times in milliseconds."""
        where = f"{self.environment.get('cpu')}, {self.environment.get('cores')} cores"
        feeds = dict.fromkeys(row.feed for row in self.rows)
        return Group(*(self._table(feed) for feed in feeds), f"Measured on {where}.")

    def _table(self, feed: str) -> Table:
        table = Table(title=f"{feed} (ms)", title_justify="left")
        table.add_column("graph", overflow="fold")
        for name in ("mean", "p50", "p95", "p99", "min", "samples/s", "speedup"):
            # In a narrow terminal the names fold, not the figures.
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.rows:
            if row.feed == feed:
                times = [f"{1e3 * t:.4g}" for t in (row.mean, row.p50, row.p95, row.p99, row.minimum)]
                table.add_row(row.graph, *times, f"{row.throughput:.1f}", f"{row.speedup:.2f}×")
        return table

    def print(self, console: Console | None = None) -> None:
        """Prints the tables."""
        (console or default_console()).print(self.tables())


def benchmark(
    graphs: Mapping[str, Runnable],
    feeds: Iterable[Feed],
    warmup: int = 3,
    runs: int = 30,
    *,
    show: bool = True,
    timer: Timer = time.perf_counter,
) -> Benchmark:
    """Measures graphs side by side: each round runs every graph once on one feed, in an order that rotates.

    Args:
        graphs: Graphs, open `GraphRunner`s, signatures of loaded SavedModels or functions from a feed to outputs, by
            name; the first is what others are compared with.
        feeds: Mappings from inputs to arrays. Feeds of the same shapes share a row and take turns.
        warmup: Runs of each graph and feed before the measured ones.
        runs: Measured runs of each graph for each shape.
        show: Whether to print the tables.
        timer: Clock, in seconds.

    Raises:
        InvalidFeedError: There is no feed, or one does not fit.
        InvalidOptionError: There is no graph, or a count is out of range.
    """
    if not graphs:
        raise InvalidOptionError(
            "There is nothing to measure. Pass at least one graph: benchmark({'name': graph}, feeds)."
        )
    if runs < 1 or warmup < 0:
        raise InvalidOptionError(f"runs must be at least 1 and warmup at least 0, got runs={runs} and warmup={warmup}.")
    graphs = {name: described(graph) for name, graph in graphs.items()}
    groups = _groups(graphs, feeds)
    rows = []
    functions = {name: _prepared(graph) for name, graph in graphs.items()}
    # Without a terminal the progress shows nothing, with one it vanishes at the end.
    console = Console(stderr=True)
    with Progress(transient=True, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("Benchmark", total=len(groups) * runs)
        for label, group in groups.items():
            for prepared in group:
                for _ in range(warmup):
                    for name, function in functions.items():
                        function(prepared[name])
            times: dict[str, list[float]] = {name: [] for name in functions}
            for number in range(runs):
                for name in _rotated(list(functions), number):
                    feed = group[number % len(group)][name]
                    start = timer()
                    functions[name](feed)
                    times[name].append(timer() - start)
                progress.advance(task)
            rows.extend(_rows(label, _batch(group[0]), times))
    result = Benchmark(rows=tuple(rows), environment=describe_environment())
    if show:
        result.print()
    return result


def _groups(graphs: Mapping[str, Runnable], feeds: Iterable[Feed]) -> dict[str, list[dict[str, Mapping[str, Any]]]]:
    """Returns, by label of the shapes, the feeds as each graph takes them."""
    listed = [feeds] if isinstance(feeds, Mapping) else list(feeds)
    if not listed or isinstance(feeds, Mapping):
        raise InvalidFeedError("Expected a list of at least one feed. Write [feed], or use tf_opt.random_feeds(graph).")
    by_graph: dict[str, list[Any]] = {}
    for name, graph in graphs.items():
        by_graph[name] = check_feeds(listed, graph.inputs) if isinstance(graph, _KNOWN) else listed
    groups: dict[str, list[dict[str, Mapping[str, Any]]]] = {}
    for number, feed in enumerate(listed):
        shapes = feed_shapes({name: np.asarray(value) for name, value in feed.items()})
        groups.setdefault(_label(shapes), []).append({name: by_graph[name][number] for name in graphs})
    return groups


def _label(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """Returns "input_ids, attention_mask 8×128; labels 8": the inputs of one shape stand together."""
    names: dict[tuple[int, ...], list[str]] = {}
    for name, shape in shapes:
        names.setdefault(shape, []).append(name)
    return "; ".join(f"{', '.join(each)} {'×'.join(map(str, shape)) or 'scalar'}" for shape, each in names.items())


def _prepared(graph: Runnable) -> Callable[[Mapping[str, Any]], Any]:
    """Returns a function that runs a checked feed with as little around it as possible."""
    if isinstance(graph, FrozenGraph):
        return shared_runner(graph).prepare()
    if isinstance(graph, GraphRunner):
        return graph.prepare()
    return graph.run if isinstance(graph, SignatureFunction) else graph


def _rotated(names: list[str], count: int) -> list[str]:
    """Returns `names` from another start each round, so that none always runs in the wake of the same other one."""
    start = count % len(names)
    return names[start:] + names[:start]


def _batch(feeds: Mapping[str, Mapping[str, Any]]) -> int:
    arrays = [np.asarray(value) for value in next(iter(feeds.values())).values()]
    return int(arrays[0].shape[0]) if arrays and arrays[0].ndim else 1


def _rows(label: str, batch: int, times: Mapping[str, list[float]]) -> list[BenchmarkRow]:
    medians = {name: float(np.median(values)) for name, values in times.items()}
    reference = next(iter(medians.values()))
    rows = []
    for name, values in times.items():
        p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
        rows.append(
            BenchmarkRow(
                graph=name,
                feed=label,
                batch=batch,
                runs=len(values),
                mean=float(np.mean(values)),
                p50=p50,
                p95=p95,
                p99=p99,
                minimum=min(values),
                throughput=batch / p50 if p50 else float("inf"),
                speedup=reference / medians[name] if medians[name] else float("inf"),
            )
        )
    return rows
