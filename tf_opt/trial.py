"""Runs the original and an optimized graph side by side in one session, to decide which of the two is kept.

Both graphs stand in one GraphDef and read the same constants, so that a trial holds the weights once:

    weights ─┬─ original nodes ────────────────── original outputs
             └─ tf_opt_trial/ optimized nodes ─── tf_opt_trial/ optimized outputs

A run fetches only one side, and TensorFlow executes only what a fetch needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType

import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tf_opt.feeds import Array, NormalizedFeed, feed_shapes
from tf_opt.held_weights import HeldWeights
from tf_opt.tensor_info import node_name
from tf_opt.weights import WeightStore, is_weight

PREFIX = "tf_opt_trial/"


def combine_graphs(
    original: graph_pb2.GraphDef, optimized: graph_pb2.GraphDef, weights: WeightStore
) -> tuple[graph_pb2.GraphDef, WeightStore]:
    """Returns one light graph that holds both, the optimized one's nodes under `PREFIX`, and its weights.

    Placeholders of the user and weights without control inputs stand once. A weight in the frame of a while loop has a
    control input on that frame, so that each graph keeps its own.

    Args:
        original: Light graph.
        optimized: Light graph with the same placeholders.
        weights: The constants of both.
    """
    combined = graph_pb2.GraphDef()
    combined.CopyFrom(original)
    present = {function.signature.name for function in combined.library.function}
    combined.library.function.extend(f for f in optimized.library.function if f.signature.name not in present)
    original_names = {node.name for node in original.node}
    renamed: dict[str, str] = {}
    shared = {
        node.name
        for node in optimized.node
        if node.op == "Placeholder" and not node.input and node.name in original_names
    }

    def rename(reference: str) -> str:
        if node_name(reference) in shared:
            return reference
        return f"^{PREFIX}{reference[1:]}" if reference.startswith("^") else PREFIX + reference

    for node in optimized.node:
        if node.name in shared:
            continue
        copy = combined.node.add()
        copy.CopyFrom(node)
        copy.name = PREFIX + node.name
        del copy.input[:]
        copy.input.extend(rename(reference) for reference in node.input)
        # Colocation names nodes that are called otherwise here; on one device it means nothing.
        copy.attr.pop("_class", None)
        if is_weight(node):
            renamed[copy.name] = node.name
    return combined, weights.with_names(renamed)


class Trial:
    """A session that runs the original and the optimized graph on the same feeds. Use it as a context manager."""

    def __init__(
        self,
        original: graph_pb2.GraphDef,
        optimized: graph_pb2.GraphDef,
        weights: WeightStore,
        outputs: Sequence[str],
        feeds: Sequence[NormalizedFeed],
        held: HeldWeights | None = None,
    ) -> None:
        """Makes the session; nothing runs yet.

        Args:
            original: Light graph.
            optimized: Light graph with the same placeholders and outputs.
            weights: The constants of both.
            outputs: Tensor names.
            feeds: Arrays by tensor name; all with the same names.
            held: Memory for the weights that several trials share; None for an own one.
        """
        combined, constants = combine_graphs(original, optimized, weights)
        self._outputs = tuple(outputs)
        self._names = list(feeds[0])
        # An output that is a placeholder or weight stands once in the combined graph.
        renamed = {node.name for node in combined.node}
        optimized_outputs = [PREFIX + name if PREFIX + node_name(name) in renamed else name for name in outputs]
        self._held = held or HeldWeights()  # Kernels are made at the first run, and refer to it.
        runnable = self._held.session_graph(combined, constants, [*outputs, *optimized_outputs])
        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(runnable.graph_def, name="")
        self._session = tf.compat.v1.Session(graph=graph, config=runnable.config)
        self._original = self._session.make_callable(list(outputs), feed_list=self._names)
        self._optimized = self._session.make_callable(optimized_outputs, feed_list=self._names)

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._session.close()

    def run_original(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the original outputs by tensor name; the feed is by tensor name too."""
        return self._run(self._original, feed)

    def run_optimized(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the optimized outputs by tensor name; the feed is by tensor name too."""
        return self._run(self._optimized, feed)

    def _run(self, function: Callable[..., list[Array]], feed: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(self._outputs, function(*(feed[name] for name in self._names)), strict=True))


def representative_feeds(feeds: Sequence[NormalizedFeed], maximum: int = 16) -> list[NormalizedFeed]:
    """Returns the feeds that a measurement runs: the first of each combination of shapes.

    More feeds of a shape would take longer without telling more about time. Of more than `maximum` shapes, those are
    chosen that are spread evenly over all, sorted by their number of elements; the smallest and the largest are among
    them.

    Args:
        feeds: Arrays by tensor name.
        maximum: Number of feeds to return at most; 2 or more.

    Returns:
        The chosen feeds, in the order given.
    """
    seen: dict[tuple[tuple[str, tuple[int, ...]], ...], NormalizedFeed] = {}
    for feed in feeds:
        seen.setdefault(feed_shapes(feed), feed)
    distinct = list(seen.values())
    if len(distinct) <= maximum:
        return distinct
    by_size = sorted(range(len(distinct)), key=lambda number: sum(array.size for array in distinct[number].values()))
    chosen = {by_size[round(step * (len(distinct) - 1) / (maximum - 1))] for step in range(maximum)}
    return [distinct[number] for number in sorted(chosen)]


def describe_shapes(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """Returns "input_ids, attention_mask 1×16; labels 1": inputs of one shape stand together.

    Args:
        shapes: Tensor name and shape of each input.
    """
    names: dict[tuple[int, ...], list[str]] = {}
    for name, shape in shapes:
        names.setdefault(shape, []).append(node_name(name))
    return "; ".join(f"{', '.join(each)} {'×'.join(map(str, shape)) or 'scalar'}" for shape, each in names.items())
