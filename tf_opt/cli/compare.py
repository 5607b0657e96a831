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
from tf_opt.errors import ModelPathError, did_you_mean

if TYPE_CHECKING:
    from tf_opt.cli.models import Model
    from tf_opt.frozen_graph import FrozenGraph

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

    Exit code 3 where an output differs beyond the tolerance.

    Example: tf-opt compare my_model my_model_fast --shape input_ids=1..8x16..384
    """
    feeds = feed.source()
    kinds = prepare([a, b], output)
    model.check(kinds)
    feeds.check_files()
    from tf_opt.cli.alignment import aligned
    from tf_opt.cli.models import read_model
    from tf_opt.comparison import compare as compare_graphs

    first, second = (read_model(path, kind, model, output) for path, kind in zip((a, b), kinds, strict=True))
    pairs = {key: (graph, aligned(other, graph, b, a)) for key, (graph, other) in matched(first, second).items()}
    made = feeds.feeds_by_signature({key: graph for key, (graph, _) in pairs.items()})
    comparisons = {}
    for key, (graph, other) in pairs.items():
        with output.doing(f"comparing {key or 'outputs'}"):
            comparisons[key] = compare_graphs(graph, other, made[key], rtol, atol, mask=mask, show=False)
    output.note(feeds.describe())
    for key, comparison in comparisons.items():
        output.show(*([f"Signature {key}"] if key else []), comparison.table())
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
        }
    )
    if not passed:
        output.note("The outputs differ beyond the tolerance.")
        raise typer.Exit(exit_codes.DIFFERENT)


def matched(first: Model, second: Model) -> dict[str, tuple[FrozenGraph, FrozenGraph]]:
    """Returns the graphs of two models that stand for each other, by signature of the first.

    Raises:
        ModelPathError: A signature has no counterpart.
    """
    if len(first.graphs) == len(second.graphs) == 1:
        [(key, graph)], [other] = first.graphs.items(), second.graphs.values()
        return {key: (graph, other)}
    for key in first.graphs:
        if key not in second.graphs:
            known = ", ".join(repr(name) for name in second.graphs if name) or "none"
            raise ModelPathError(
                f"{second.path} has no signature {key!r} beside that of {first.path}."
                f"{did_you_mean(key, second.graphs)} It has: {known}. Choose with --signature what both have."
            )
    return {key: (graph, second.graphs[key]) for key, graph in first.graphs.items()}
