"""Frozen dataclasses as plain data, and back: what a report is stored as."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import math
import types
import typing
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


NOT_FINITE = ("Infinity", "-Infinity", "NaN")
"""How numbers are written that JSON has none for; `from_plain` reads these strings as numbers too."""


def to_plain(value: Any, *, finite: bool = False) -> Any:
    """Returns `value` as dicts, lists, numbers, strings and None.

    Args:
        value: A dataclass instance, a mapping with string keys, a sequence, a number (NumPy's too), a string or None.
        finite: Whether numbers that JSON has none for become the strings of `NOT_FINITE`.

    Raises:
        TypeError: It holds something else.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name), finite=finite) for field in dataclasses.fields(value)}
    if isinstance(value, collections.abc.Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("plain data has strings as keys")
        return {key: to_plain(item, finite=finite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item, finite=finite) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if finite and isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is no plain data")


def from_plain(kind: type[T], data: Any, *, lenient: bool = False) -> T:
    """Returns the dataclass instance that `to_plain` made `data` of.

    Args:
        kind: A dataclass whose fields are annotated with numbers, strings, dataclasses, tuples, mappings from strings,
            Any, and unions with None.
        data: What `to_plain` returned.
        lenient: Whether fields that `data` lacks take their defaults and those that `kind` lacks are ignored, so that
            data of older and newer versions can be read.

    Raises:
        TypeError: The data is not of that form: a field is missing, unknown or of another type.
    """
    result: T = _restored(kind, data, lenient)
    return result


def _restored(kind: Any, data: Any, lenient: bool) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if origin in (typing.Union, types.UnionType):
        return _restored_union(arguments, data, lenient)
    if origin is typing.Literal:
        if data in arguments:
            return data
    elif isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(data, dict):
        types_of = _field_types(kind)
        if lenient or data.keys() == types_of.keys():
            known = {name: item for name, item in data.items() if name in types_of}
            return kind(**{name: _restored(types_of[name], item, lenient) for name, item in known.items()})
    elif origin is tuple and isinstance(data, list):
        if arguments[1:] == (...,):
            return tuple(_restored(arguments[0], item, lenient) for item in data)
        if len(arguments) == len(data):
            return tuple(_restored(argument, item, lenient) for argument, item in zip(arguments, data, strict=True))
    elif origin in (dict, collections.abc.Mapping) and isinstance(data, dict):
        return {key: _restored(arguments[1], item, lenient) for key, item in data.items()}
    elif kind is float and (type(data) in (int, float) or data in NOT_FINITE):
        return float(data)
    elif kind in (int, str, bool, type(None)) and type(data) is kind:
        return data
    raise TypeError(f"expected {kind}, got {type(data).__name__}")


@functools.cache
def _field_types(kind: Any) -> dict[str, Any]:
    """Returns the type of each field; looking annotations up takes longer than reading what they describe."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _restored_union(alternatives: tuple[Any, ...], data: Any, lenient: bool) -> Any:
    for alternative in alternatives:
        try:
            return _restored(alternative, data, lenient)
        except TypeError:
            continue
    raise TypeError(f"expected one of {alternatives}, got {type(data).__name__}")
