"""`tf-opt cache`: what is kept on disk, and how it goes."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from tf_opt.cli.cache_entries import KIND_NAMES, CacheEntries, CacheKind, cache_folder, list_entries, remove
from tf_opt.cli.choices import one_of
from tf_opt.cli.output import Output
from tf_opt.cli.running import command
from tf_opt.sizes import size_text

cache_app = typer.Typer(
    help="Look at what tf_opt keeps on disk (TF_OPT_CACHE_DIR moves it), or remove it.", no_args_is_help=True
)

_KIND = typer.Option(show_default="all", **one_of(KIND_NAMES, "Only this kind. Repeatable."))


@cache_app.command("list")
@command
def list_cache(output: Output, kind: Annotated[list[str] | None, _KIND] = None) -> None:
    """List what is kept: how many files of each kind, how large, and when they were last used.

    Example: tf-opt cache list
    """
    folder = cache_folder()
    entries = list_entries(folder, _wanted(kind))
    if not output.as_json:
        from rich.table import Table

        table = Table(title=str(folder), title_justify="left")
        for name in ("kind", "what"):
            table.add_column(name, overflow="fold")
        for name in ("files", "size", "used", "oldest"):
            table.add_column(name, justify="right", no_wrap=True)
        for each in entries:
            ages = [format_age(moment) for moment in (each.newest, each.oldest)]
            table.add_row(each.kind.name, each.kind.what, str(len(each.files)), size_text(each.total_bytes), *ages)
        output.show(table)
    output.result({"folder": str(folder), "kinds": [_plain(each) for each in entries]})


@cache_app.command("clear")
@command
def clear_cache(
    output: Output,
    kind: Annotated[list[str] | None, _KIND] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove what is kept. It is made again when it is next needed, which takes its time.

    Example: tf-opt cache clear --kind optimizations --yes
    """
    folder = cache_folder()
    entries = [each for each in list_entries(folder, _wanted(kind)) if each.files]
    files, size = sum(len(each.files) for each in entries), sum(each.total_bytes for each in entries)
    what = f"{files} file{'' if files == 1 else 's'} ({size_text(size)}) in {folder}"
    if files and not yes:
        if not is_asked():
            raise typer.BadParameter("without a terminal, nobody can be asked; say --yes.", param_hint="--yes")
        listed = ", ".join(f"{each.kind.name} {len(each.files)}" for each in entries)
        if not typer.confirm(f"Remove {what}: {listed}?", err=True):
            output.note("Nothing was removed.")
            output.result({"folder": str(folder), "removed": []})
            return
    for each in entries:
        remove(each)
    output.show(f"Removed {what}." if files else f"There is nothing to remove in {folder}.")
    output.result({"folder": str(folder), "removed": [_plain(each) for each in entries]})


def is_asked() -> bool:
    """Whether there is a terminal on which somebody could answer."""
    return sys.stdin.isatty()


def format_age(moment: float | None) -> str:
    """Returns how long ago a moment was: "3 min", "2 d"; empty for none."""
    if moment is None:
        return ""
    seconds = max(time.time() - moment, 0.0)
    for unit, length, limit in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 2 * 86400)):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def _wanted(names: list[str] | None) -> Any:
    def wanted(kind: CacheKind) -> bool:
        return not names or kind.name in names

    return wanted


def _plain(entries: CacheEntries) -> dict[str, Any]:
    return {
        "kind": entries.kind.name,
        "files": len(entries.files),
        "bytes": entries.total_bytes,
        "last_used": entries.newest,
        "oldest": entries.oldest,
        "paths": [str(path) for path in entries.files],
    }
