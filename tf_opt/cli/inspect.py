"""`tf-opt inspect`: what is in a model, optimized or not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tf_opt.cli.model_arguments import ModelArguments, prepare
from tf_opt.cli.output import Output
from tf_opt.cli.running import command
from tf_opt.sizes import size_text

if TYPE_CHECKING:
    from rich.table import Table

    from tf_opt.cli.contents import Contents


@command
def inspect(
    source: Annotated[
        Path, typer.Argument(metavar="OUT", help="SavedModel, .pb, .keras or Hugging Face folder; optimized or not.")
    ],
    model: ModelArguments,
    output: Output,
    graph: Annotated[bool, typer.Option("--graph", help="Print the graph as a listing that can be read.")] = False,
) -> None:
    """Tell what is in a model: signatures, engines, sizes, and the report that it was stored with.

    Example: tf-opt inspect my_model_fast
    """
    [kind] = prepare([source], output)
    model.check([kind])
    from tf_opt.cli.contents import read_contents

    contents = read_contents(source, kind, model, output)
    listings = contents.listings() if graph else {}
    output.show(f"{source}: {kind.value}, {size_text(contents.total_bytes)}", _sizes(contents))
    output.show(_signatures(contents))
    output.show(_engines(contents) if contents.engines else "No engines.")
    if contents.report_problem:
        output.note(f"Note: its report cannot be read. {contents.report_problem}")
    if contents.report is not None and not output.as_json:
        output.show("Report, as it was stored:")
        contents.report.print(output.console())
    for title, listing in listings.items():
        output.write(f"\n# {title}\n{listing}" if title else f"\n{listing}")
    output.result({**contents.to_dict(), **({"graph": listings} if graph else {})})


def _table(*columns: str, **options: Any) -> Table:
    from rich.table import Table

    table = Table(title_justify="left", **options)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _sizes(contents: Contents) -> Table:
    table = _table("part", "size", title="Files")
    for name, size in contents.sizes.items():
        table.add_row(name, size_text(size))
    return table


def _signatures(contents: Contents) -> Table:
    table = _table("signature", "inputs", "outputs", title="Signatures")
    for key, signature in contents.signatures.items():
        described = [
            "\n".join(f"{info.key} {info.dtype} {_shape(info.shape)}" for info in infos)
            for infos in (signature.inputs, signature.outputs)
        ]
        table.add_row(key or "–", *described)
    return table


def _engines(contents: Contents) -> Table:
    table = _table("engine", "runs in", "precision", title="Engines")
    for name in ("nodes", "stored", "fallback"):
        table.add_column(name, justify="right")
    for engine in contents.engines:
        table.add_row(
            engine.name,
            f"{engine.runtime} {engine.library_version}" if not engine.problem else f"unreadable: {engine.problem}",
            engine.precision,
            "" if engine.nodes is None else str(engine.nodes),
            size_text(engine.stored_bytes),
            "yes" if engine.fallback else "no",
        )
    return table


def _shape(shape: tuple[int | None, ...] | None) -> str:
    # Round brackets: rich reads square ones as markup.
    return "of any rank" if shape is None else f"({', '.join('?' if size is None else str(size) for size in shape)})"
