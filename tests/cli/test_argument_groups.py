"""Dataclasses as options, and options with a fixed list of values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, get_args

import typer
from typer.testing import CliRunner

from tf_opt.cli.argument_groups import expand_groups
from tf_opt.cli.choices import ENGINES, PRECISIONS, engines, one_of
from tf_opt.engines import engine_names
from tf_opt.options import Precision


@dataclass(frozen=True, kw_only=True)
class Group:
    size: Annotated[int, typer.Option(help="How large.")] = 3
    names: Annotated[list[str] | None, typer.Option("--name")] = None
    hidden: str = field(default="not an option", init=False)


def invoke(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()

    @app.command()
    @expand_groups
    def program(first: Annotated[str, typer.Argument()], group: Group, last: bool = False) -> None:
        typer.echo(f"{first} {group.size} {group.names} {last}")

    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_fields_become_options_with_their_defaults() -> None:
    assert invoke("a") == (0, "a 3 None False\n")
    assert invoke("a", "--size", "5", "--name", "x", "--name", "y", "--last") == (0, "a 5 ['x', 'y'] True\n")


def test_fields_that_are_not_given_to_the_constructor_are_no_options() -> None:
    code, text = invoke("a", "--hidden", "x")
    assert code == 2
    assert "--hidden" in text


def test_lists_of_names_are_those_of_the_library() -> None:
    assert set(ENGINES) == {*engine_names(), "fastest"}
    assert get_args(Precision) == PRECISIONS


def test_values_are_checked_and_completed() -> None:
    keywords = one_of(("left", "right"), "Where to go.")
    assert keywords["autocompletion"]("l") == ["left"]
    assert "left, right" in keywords["help"]
    assert keywords["callback"](None) is None
    assert keywords["callback"](["left"]) == ["left"]


def test_engines_may_stand_in_one_value() -> None:
    check = engines("What runs it.")["callback"]
    assert check(["tensorrt, openvino", "onnxruntime"]) == ["tensorrt", "openvino", "onnxruntime"]
    assert check(None) is None
