"""Runs frozen graphs in plain `tf.compat.v1.Session`s."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeAlias

import tensorflow as tf
from rich.table import Table

from tf_opt.errors import TfOptError, UnknownOutputError, did_you_mean
from tf_opt.feeds import Array, Feed, normalize_feed
from tf_opt.frozen_graph import FrozenGraph, find_tensor
from tf_opt.tensor_info import TensorInfo
from tf_opt.terminal import default_console

SessionConfig: TypeAlias = Any
"""A `tf.compat.v1.ConfigProto`."""

_MAXIMUM_CACHED_RUNNERS = 4
"""Enough to go back and forth between a graph and its variants."""

_MAXIMUM_CACHED_BYTES = 1_000_000_000
"""Sum of the sizes of the graphs with a cached Session; the last used one is always kept. After TensorFlow's own
optimizations a Session holds about four times the weights of its graph."""


class GraphRunner:
    """A Session for one graph, kept open between calls; a context manager. Calls from several threads may overlap."""

    def __init__(self, frozen: FrozenGraph, config: SessionConfig | None = None) -> None:
        """Imports the graph into a Session of its own.

        Args:
            frozen: The graph.
            config: Configuration of the Session; None is TensorFlow's default.
        """
        self.inputs = frozen.inputs
        self.outputs = frozen.outputs
        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(frozen.graph_def, name="")
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        self._graph = graph
        self._callables: dict[tuple[str, ...], Callable[..., list[Array]]] = {}
        self._closed = False

    def __enter__(self) -> GraphRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Releases the Session and its copy of the weights; closing twice is allowed."""
        if not self._closed:
            self._closed = True
            self._callables.clear()
            self._session.close()

    def run(self, feed: Feed, outputs: Iterable[str] | str | None = None) -> dict[str, Array]:
        """Runs the graph once.

        Args:
            feed: Values by input: key, node or tensor name.
            outputs: What to fetch: keys or names of outputs, or names of any other tensor; None fetches all outputs.

        Returns:
            Arrays by the outputs' keys (by the given name for tensors that are no outputs).

        Raises:
            InvalidFeedError: The feed does not fit the inputs.
            UnknownOutputError: There is no tensor of that name.
        """
        arrays = normalize_feed(feed, self.inputs)
        fetches = self._fetches(outputs)
        values = self._callable(tuple(fetches.values()))(*arrays.values())
        return dict(zip(fetches, values, strict=True))

    def prepare(self, outputs: Iterable[str] | str | None = None) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        """Returns a function from a normalized feed to the outputs by key, without the checks of `run`: for timing."""
        fetches = self._fetches(outputs)
        names = [info.name for info in self.inputs]
        function = self._callable(tuple(fetches.values()))

        def call(arrays: Mapping[str, Array]) -> dict[str, Array]:
            return dict(zip(fetches, function(*(arrays[name] for name in names)), strict=True))

        return call

    def _fetches(self, outputs: Iterable[str] | str | None) -> dict[str, str]:
        if outputs is None:
            return {info.key: info.name for info in self.outputs}
        fetches = {}
        for name in [outputs] if isinstance(outputs, str) else outputs:
            info = self._tensor(name)
            fetches[info.key] = info.name
        return fetches

    def _tensor(self, name: str) -> TensorInfo:
        info = find_tensor(self.outputs, name)
        if info is not None:
            return info
        try:
            tensor = self._graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
        except (KeyError, ValueError) as error:
            candidates = [candidate for each in self.outputs for candidate in (each.key, each.name)]
            raise UnknownOutputError(
                f"The graph has no output {name!r}.{did_you_mean(name, candidates)} Its outputs: "
                f"{', '.join(repr(each.key) for each in self.outputs)}; any other tensor can be fetched as "
                "'node:index'."
            ) from error
        return TensorInfo(name=tensor.name, dtype=tensor.dtype.base_dtype.name, key=name)

    def _callable(self, fetches: tuple[str, ...]) -> Callable[..., list[Array]]:
        if self._closed:
            raise TfOptError("The GraphRunner is closed. Run inside its with block, or make a new one.")
        if fetches not in self._callables:
            # A callable skips the parsing of feeds and fetches that Session.run repeats at each call.
            self._callables[fetches] = self._session.make_callable(
                [self._graph.get_tensor_by_name(name) for name in fetches],
                feed_list=[self._graph.get_tensor_by_name(info.name) for info in self.inputs],
            )
        return self._callables[fetches]


def run(
    frozen: FrozenGraph,
    feed: Feed,
    outputs: Iterable[str] | str | None = None,
    config: SessionConfig | None = None,
    *,
    show: bool = False,
) -> dict[str, Array]:
    """Runs a frozen graph once in a plain Session.

    The Session stays open for the next call with the same graph and configuration (a few graphs at a time, and no
    longer than the graph lives). `GraphRunner` gives control over that.

    Args:
        frozen: The graph.
        feed: Values by input: key ("input_ids"), node or tensor name ("input_ids:0").
        outputs: Keys or names of what to fetch; None fetches all outputs.
        config: A `tf.compat.v1.ConfigProto`; None is TensorFlow's default.
        show: Whether to print a table of the outputs.

    Returns:
        Arrays by output key.

    Raises:
        InvalidFeedError: The feed does not fit the inputs.
        UnknownOutputError: There is no tensor of that name.
    """
    values = shared_runner(frozen, config).run(feed, outputs)
    if show:
        default_console().print(_table(values))
    return values


def _table(values: Mapping[str, Array]) -> Table:
    table = Table(title="Outputs")
    for name in ("output", "dtype", "shape"):
        table.add_column(name, overflow="fold")
    for name in ("min", "mean", "max"):
        table.add_column(name, justify="right")
    for key, value in values.items():
        is_number = value.size > 0 and value.dtype.kind in "biuf"
        figures = (value.min(), value.mean(), value.max()) if is_number else ()
        shape = "×".join(map(str, value.shape)) or "scalar"
        table.add_row(key, value.dtype.name, shape, *(f"{float(figure):.6g}" for figure in figures))
    return table


def shared_runner(frozen: FrozenGraph, config: SessionConfig | None = None) -> GraphRunner:
    """Returns the open runner that `run`, `compare` and `benchmark` share for a graph. Do not close it.

    The first run of a Session optimizes the whole graph, which takes many seconds where it is large: once is enough.
    """
    return _runners.get(frozen, config)


class _RunnerCache:
    """The runners of `run`, least recently used first. Graphs are known by their identity."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runners: OrderedDict[tuple[int, bytes], tuple[weakref.ref[FrozenGraph], GraphRunner, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._runners)

    def get(self, frozen: FrozenGraph, config: SessionConfig | None) -> GraphRunner:
        key = (id(frozen), b"" if config is None else config.SerializeToString(deterministic=True))
        with self._lock:
            entry = self._runners.get(key)
            # An id comes again after its object is gone, so the reference decides.
            if entry is None or entry[0]() is not frozen:
                reference = weakref.ref(frozen, lambda gone: self._forget(key, gone))
                entry = (reference, GraphRunner(frozen, config), frozen.size_bytes)
                self._runners[key] = entry
            self._runners.move_to_end(key)
            # A runner that leaves the cache is not closed, as another thread may be running it: its Session goes with
            # the last reference.
            while len(self._runners) > 1:
                # A list first, as `_forget` may change the dictionary while it is summed up.
                total = sum(size for _, _, size in list(self._runners.values()))
                if len(self._runners) <= _MAXIMUM_CACHED_RUNNERS and total <= _MAXIMUM_CACHED_BYTES:
                    break
                self._runners.popitem(last=False)
            return entry[1]

    def _forget(self, key: tuple[int, bytes], gone: weakref.ref[FrozenGraph]) -> None:
        # Runs whenever the collector finds the graph unused, perhaps inside `get`, so it must not take the lock; single
        # operations on a dictionary are atomic.
        entry = self._runners.get(key)
        if entry is not None and entry[0] is gone:
            self._runners.pop(key, None)


_runners = _RunnerCache()
