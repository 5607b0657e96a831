"""`tf-opt benchmark`: how long models take, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tf_opt.cli.feed_arguments import FeedArguments, FeedSource
from tf_opt.cli.model_arguments import ModelArguments, prepare
from tf_opt.cli.output import Output
from tf_opt.cli.running import command
from tf_opt.cli.shapes import parse_sizes
from tf_opt.errors import InvalidFeedError

if TYPE_CHECKING:
    from tf_opt.feeds import Feed
    from tf_opt.frozen_graph import FrozenGraph

_PANEL = "Measurement"
_SHAPES = "Feeds (what the model is run on)"


@command
def benchmark(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="A [B]...", help="Models; the first is what the others are measured against."),
    ],
    model: ModelArguments,
    feed: FeedArguments,
    output: Output,
    batch: Annotated[
        str | None,
        typer.Option(metavar="SIZES", help="Batch sizes of random feeds, such as 1,8.", rich_help_panel=_SHAPES),
    ] = None,
    sequence: Annotated[
        str | None,
        typer.Option(
            metavar="SIZES", help="Sequence lengths of these feeds, such as 128,384.", rich_help_panel=_SHAPES
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs for each shape.", rich_help_panel=_PANEL)] = 30,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before these.", rich_help_panel=_PANEL)] = 3,
) -> None:
    """Measure models side by side: each round runs every model once, in an order that rotates.

    Example: tf-opt benchmark my_model my_model_fast --batch 1,8 --sequence 128,384
    """
    feeds = feed.source()
    batches, sequences = parse_sizes(batch, "--batch"), parse_sizes(sequence, "--sequence")
    if (batch or sequence) and (not feeds.is_random or feeds.shapes):
        raise typer.BadParameter(
            "feeds come from one place: sizes to make random ones for, arrays, texts or shapes.",
            param_hint="--batch" if batch else "--sequence",
        )
    kinds = prepare(models, output)
    model.check(kinds)
    feeds.check_files()
    from tf_opt.benchmarking import benchmark as measure
    from tf_opt.cli.alignment import aligned
    from tf_opt.cli.models import one_graph, read_model

    graphs: dict[str, FrozenGraph] = {}
    for path, kind, name in zip(models, kinds, display_names(models), strict=True):
        graph = one_graph(read_model(path, kind, model, output), "a measurement", output)
        graphs[name] = aligned(graph, next(iter(graphs.values())), path, models[0]) if graphs else graph
    first = next(iter(graphs.values()))
    made = _sized_feeds(first, feeds, batches, sequences) if batch or sequence else feeds.feeds(first)
    result = measure(graphs, made, warmup=warmup, runs=runs, show=False)
    if not batch and not sequence:
        output.note(feeds.describe())
    output.show(result.tables())
    output.result(json.loads(result.to_json()))


def _sized_feeds(
    graph: FrozenGraph, source: FeedSource, batches: Sequence[int | None], sequences: Sequence[int | None]
) -> list[Feed]:
    """Returns random feeds of each batch size with each length.

    Raises:
        InvalidFeedError: A size was given for a dimension that is fixed in all inputs.
    """
    from tf_opt.random_feeds import random_feeds

    for axis, option, sizes in ((0, "--batch", batches), (1, "--sequence", sequences)):
        found = [info.shape[axis] for info in graph.inputs if info.shape is not None and len(info.shape) > axis]
        if sizes != (None,) and None not in found:
            listed = ", ".join(str(info) for info in graph.inputs)
            raise InvalidFeedError(
                f"{option} has nothing to say: dimension {axis} is open in no input of the first model ({listed})."
            )
    arguments = source.arguments
    return [
        feed
        for size in batches
        for length in sequences
        for feed in random_feeds(
            graph, batch=size, sequence=length, count=arguments.feed_count or 1, seed=arguments.seed or 0
        )
    ]


def display_names(paths: Sequence[Path]) -> list[str]:
    """Returns a name for each path: its last part, or as much as it takes to tell them apart."""
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path} ({number})" for number, path in enumerate(paths, 1)]
