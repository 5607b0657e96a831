"""`tf-opt compare`: do two models say the same?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tf_opt.cli import exit_codes
from tf_opt.cli.feed_arguments import FeedArguments
from tf_opt.cli.model_arguments import ModelArguments, prepare
from tf_opt.cli.output import Output
from tf_opt.cli.running import command
from tf_opt.errors import InvalidFeedError, ModelPathError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from tf_opt.cli.models import Model
    from tf_opt.comparison import Comparison
    from tf_opt.feeds import Feed
    from tf_opt.frozen_graph import FrozenGraph
    from tf_opt.signature_function import SignatureFunction

    Runs: TypeAlias = FrozenGraph | SignatureFunction

_PANEL = "What counts as equal"


@command
def compare(
    a: Annotated[
        Path, typer.Argument(metavar="A", help="The reference: SavedModel, .pb, .keras, Hugging Face folder.")
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is compared with it.")],
    model: ModelArguments,
    feed: FeedArguments,
    output: Output,
    rtol: Annotated[float, typer.Option(min=0.0, help="Relative tolerance.", rich_help_panel=_PANEL)] = 1e-6,
    atol: Annotated[float, typer.Option(min=0.0, help="Absolute tolerance.", rich_help_panel=_PANEL)] = 1e-3,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="INPUT", help="The attention mask: look at outputs of real tokens only.", rich_help_panel=_PANEL
        ),
    ] = None,
) -> None:
    """Run two models on the same feeds and compare each output, signature by signature.

    Signatures that cannot be frozen, such as those with lookup tables, run as they are. Exit code 3 where an output
    differs beyond the tolerance, 4 where nothing does, but a signature could not be compared.

    Example: tf-opt compare my_model my_model_fast --shape input_ids=1..8x16..384
    """
    feeds = feed.source()
    kinds = prepare([a, b], output)
    model.check(kinds)
    feeds.check_files()
    from tf_opt.cli.alignment import aligned
    from tf_opt.cli.comparison_feeds import feeds_or_reasons, nothing_compared
    from tf_opt.cli.models import read_model

    first, second = (
        read_model(path, kind, model, output, as_it_is=True) for path, kind in zip((a, b), kinds, strict=True)
    )
    counterparts, not_compared = matched(first, second)
    pairs = {key: (graph, aligned(other, graph, b, a)) for key, (graph, other) in counterparts.items()}
    made, reasons = feeds_or_reasons(feeds, {key: graph for key, (graph, _) in pairs.items()})
    not_compared |= reasons
    comparisons = {}
    for key, (graph, other) in pairs.items():
        if key in made:
            with output.doing(f"comparing {key or 'outputs'}"):
                found = _compared(graph, other, made[key], rtol, atol, mask)
            if isinstance(found, str):
                not_compared[key] = found
            else:
                comparisons[key] = found
    if not comparisons:
        raise InvalidFeedError(nothing_compared(not_compared))
    output.note(feeds.describe())
    for key, comparison in comparisons.items():
        output.show(*([f"Signature {key}"] if key else []), comparison.table())
    for key, reason in not_compared.items():
        output.show(f"Signature {key}", f"not compared: {reason}")
    passed = all(comparison.passed for comparison in comparisons.values())
    output.result(
        {
            "a": str(a),
            "b": str(b),
            "feeds": feeds.describe(),
            "rtol": rtol,
            "atol": atol,
            "passed": passed,
            "signatures": {
                key: {
                    "passed": comparison.passed,
                    "feeds": comparison.feeds,
                    "outputs": [asdict(each) for each in comparison.outputs],
                }
                for key, comparison in comparisons.items()
            },
            "not_compared": not_compared,
        }
    )
    if not passed:
        output.note("The outputs differ beyond the tolerance.")
        raise typer.Exit(exit_codes.DIFFERENT)
    if not_compared:
        output.note(f"Not compared: {', '.join(not_compared)}.")
        raise typer.Exit(exit_codes.NOT_COMPARED)


def matched(first: Model, second: Model) -> tuple[dict[str, tuple[Runs, Runs]], dict[str, str]]:
    """Returns what of two models stands for each other, by signature of the first, and why others do not.

    Raises:
        ModelPathError: No signature has a counterpart.
    """
    ours, theirs = first.callables, second.callables
    if len(ours) == len(theirs) == 1:
        [(key, graph)], [other] = ours.items(), theirs.values()
        return {key: (graph, other)}, {}
    known = ", ".join(repr(name) for name in theirs if name) or "none"
    lacking = {
        key: f"{second.path} has no signature {key!r} beside that of {first.path}.{did_you_mean(key, theirs)} It has: "
        f"{known}."
        for key in ours
        if key not in theirs
    }
    if len(lacking) == len(ours):
        raise ModelPathError(f"{next(iter(lacking.values()))} Choose with --signature what both have.")
    return {key: (graph, theirs[key]) for key, graph in ours.items() if key in theirs}, lacking


def _compared(
    graph: Runs, other: Runs, feeds: Sequence[Feed], rtol: float, atol: float, mask: str | None
) -> Comparison | str:
    """Returns what was found, or why one of the two does not run on the feeds."""
    from tensorflow.errors import OpError

    from tf_opt.comparison import compare as compare_graphs
    from tf_opt.run_errors import brief_message

    try:
        return compare_graphs(graph, other, feeds, rtol, atol, mask=mask, show=False)
    except OpError as error:
        return f"it fails on these feeds: {brief_message(error)}."
