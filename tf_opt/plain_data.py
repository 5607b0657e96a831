"""Frozen dataclasses as plain data, and back: what a report is stored as."""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Returns `value` as dicts, lists, numbers, strings and None.

    Args:
        value: A dataclass instance, a mapping with string keys, a sequence, a number (NumPy's too), a string or None.

    Raises:
        TypeError: It holds something else.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, collections.abc.Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("plain data has strings as keys")
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is no plain data")


def from_plain(kind: type[T], data: Any) -> T:
    """Returns the dataclass instance that `to_plain` made `data` of.

    Args:
        kind: A dataclass whose fields are annotated with numbers, strings, dataclasses, tuples, mappings from strings,
            Any, and unions with None.
        data: What `to_plain` returned.

    Raises:
        TypeError: The data is not of that form: a field is missing, unknown or of another type.
    """
    result: T = _restored(kind, data)
    return result


def _restored(kind: Any, data: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if origin in (typing.Union, types.UnionType):
        return _restored_union(arguments, data)
    if origin is typing.Literal:
        if data in arguments:
            return data
    elif isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(data, dict):
        hints = typing.get_type_hints(kind)
        if data.keys() == {field.name for field in dataclasses.fields(kind)}:
            return kind(**{name: _restored(hints[name], item) for name, item in data.items()})
    elif origin is tuple and isinstance(data, list):
        if arguments[1:] == (...,):
            return tuple(_restored(arguments[0], item) for item in data)
        if len(arguments) == len(data):
            return tuple(_restored(argument, item) for argument, item in zip(arguments, data, strict=True))
    elif origin in (dict, collections.abc.Mapping) and isinstance(data, dict):
        return {key: _restored(arguments[1], item) for key, item in data.items()}
    elif kind is float and type(data) in (int, float):
        return float(data)
    elif kind in (int, str, bool, type(None)) and type(data) is kind:
        return data
    raise TypeError(f"expected {kind}, got {type(data).__name__}")


def _restored_union(alternatives: tuple[Any, ...], data: Any) -> Any:
    for alternative in alternatives:
        try:
            return _restored(alternative, data)
        except TypeError:
            continue
    raise TypeError(f"expected one of {alternatives}, got {type(data).__name__}")
