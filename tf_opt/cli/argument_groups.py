"""Options that several commands share, as dataclasses: a command takes one, typer sees its fields."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any


def expand_groups(function: Callable[..., None]) -> Callable[..., None]:
    """Returns a function whose parameters are those of `function`, with the fields of each dataclass in its place.

    Each field is annotated as typer wants a parameter: `Annotated[type, typer.Option(...)]`, and has a default.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        annotation = hints[parameter.name]
        if not dataclasses.is_dataclass(annotation):
            parameters.append(parameter.replace(annotation=annotation))
            continue
        groups[parameter.name] = typing.cast("type[Any]", annotation)
        parameters.extend(_parameters(groups[parameter.name]))
    names = {name: [each.name for each in _parameters(group)] for name, group in groups.items()}

    @functools.wraps(function)
    def expanded(**values: Any) -> None:
        arguments = {name: group(**{key: values.pop(key) for key in names[name]}) for name, group in groups.items()}
        function(**values, **arguments)

    # By keyword, an option with a default may stand before an argument without one.
    keyword = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    result: Any = expanded  # A function has no attribute for it, and inspect looks there first.
    result.__signature__ = inspect.Signature(keyword)
    result.__annotations__ = {each.name: each.annotation for each in keyword}
    return expanded


def _parameters(group: type[Any]) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in dataclasses.fields(group)
        if field.init
    ]
