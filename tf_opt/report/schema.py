"""JSON Schema of dataclasses: what a report looks like as JSON, from the one place that defines its fields."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import re
import types
import typing
from typing import Any

from tf_opt.plain_data import NOT_FINITE

_PLAIN_TYPES = {str: "string", int: "integer", bool: "boolean", type(None): "null"}

_UNITS = {"seconds": "s", "milliseconds": "ms", "bytes": "bytes"}
"""Units by the last word of a field's name."""


def schema_of(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    """Returns a reference to the schema of a dataclass, which it adds to `definitions` with all that it needs.

    Fields come first, then properties, which are written for readers and are no input. A field is required where it has
    no default. Descriptions come from the docstrings, units from the names.

    Args:
        kind: A dataclass whose fields are annotated as `tf_opt.plain_data` wants.
        definitions: Schemas by name of the dataclass.

    Raises:
        TypeError: A field is annotated in a way that is no plain data.
    """
    reference = {"$ref": f"#/$defs/{kind.__name__}"}
    if kind.__name__ in definitions:
        return reference
    definition: dict[str, Any] = {}
    definitions[kind.__name__] = definition  # Before its fields are visited, so that types may nest.
    hints = typing.get_type_hints(kind)
    descriptions = _attribute_descriptions(kind)
    properties: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        properties[field.name] = _described(
            _schema_of_type(hints[field.name], definitions), field.name, descriptions.get(field.name, "")
        )
    for name, value in computed_properties(kind).items():
        returned = typing.get_type_hints(value.fget)["return"]
        properties[name] = _described(
            {**_schema_of_type(returned, definitions), "readOnly": True}, name, _one_line(value.__doc__ or "")
        )
    definition.update(
        type="object",
        description=_one_line(inspect.getdoc(kind) or "").split(". ")[0].rstrip(".") + ".",
        properties=properties,
        required=[field.name for field in dataclasses.fields(kind) if _has_no_default(field)],
    )
    return reference


def computed_properties(kind: type) -> dict[str, property]:
    """Returns the public properties of a class by name, in the order of its source."""
    return {name: value for name, value in vars(kind).items() if isinstance(value, property) and name[0] != "_"}


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _schema_of_type(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return {}
    if kind is float:
        return {"anyOf": [{"type": "number"}, {"enum": list(NOT_FINITE)}]}
    if kind in _PLAIN_TYPES:
        return {"type": _PLAIN_TYPES[kind]}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema_of_type(argument, definitions) for argument in arguments]}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is tuple and arguments[1:] == (...,):
        return {"type": "array", "items": _schema_of_type(arguments[0], definitions)}
    if origin is tuple:
        items = [_schema_of_type(argument, definitions) for argument in arguments]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    if origin in (dict, collections.abc.Mapping):
        return {"type": "object", "additionalProperties": _schema_of_type(arguments[1], definitions)}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return schema_of(kind, definitions)
    raise TypeError(f"{kind} is no plain data")


def _described(schema: dict[str, Any], name: str, description: str) -> dict[str, Any]:
    unit = _UNITS.get(name.rpartition("_")[2])
    return {**schema, **({"description": description} if description else {}), **({"unit": unit} if unit else {})}


def _attribute_descriptions(kind: type) -> dict[str, str]:
    """Returns what the section "Attributes" of a Google docstring says of each attribute."""
    section = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", section, flags=re.MULTILINE)
    return {name: _one_line(text) for name, text in entries}


def _one_line(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())
