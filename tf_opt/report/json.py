"""Reports as JSON, and back. docs/report.md describes the fields, `report_schema` is the same for programs."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tf_opt.errors import ReportError
from tf_opt.plain_data import from_plain, to_plain
from tf_opt.report.optimization import OptimizationReport
from tf_opt.report.output import ReportOutput
from tf_opt.report.saved_model import SavedModelReport
from tf_opt.report.schema import computed_properties, schema_of

SCHEMA_VERSION = 1
"""Raised where a field goes away or changes its meaning; not for new fields, which readers have to ignore."""

_SCHEMA_ADDRESS = "https://json-schema.org/draft/2020-12/schema"


def _report_kinds() -> dict[str, type[OptimizationReport] | type[SavedModelReport]]:
    """Returns the reports by what they call themselves in JSON."""
    return {"optimization": OptimizationReport, "saved_model": SavedModelReport}


def report_to_dict(report: ReportOutput) -> dict[str, Any]:
    """Returns a report as `report_schema` describes it: its fields, computed figures, and what kind of report it is.

    Numbers that JSON has none for are written as "Infinity", "-Infinity" and "NaN".
    """
    written: dict[str, Any] = _written(report)
    return written


def report_schema() -> dict[str, Any]:
    """Returns the JSON Schema (draft 2020-12) of every kind of report."""
    definitions: dict[str, Any] = {}
    alternatives = [schema_of(report, definitions) for report in _report_kinds().values()]
    for kind, report in _report_kinds().items():
        definition = definitions[report.__name__]
        definition["properties"] = {**_identity_schema(kind), **definition["properties"]}
        definition["required"] = [*_identity_schema(kind), *definition["required"]]
    return {
        "$schema": _SCHEMA_ADDRESS,
        "title": "tf_opt report",
        "anyOf": alternatives,
        "$defs": definitions,
    }


def load_report(path_or_text: str | Path) -> OptimizationReport | SavedModelReport:
    """Returns the report that `to_json` wrote.

    Args:
        path_or_text: A file, or the JSON itself.

    Raises:
        ReportError: The file is missing, it holds no report, or one of another version.
    """
    text = path_or_text if isinstance(path_or_text, str) and path_or_text.lstrip().startswith("{") else None
    what = f"{path_or_text}" if text is None else "the text"
    try:
        content = json.loads(Path(path_or_text).read_text(encoding="utf-8") if text is None else text)
    except OSError as error:
        raise ReportError(f"Cannot read {what}: {error.strerror}. Give the file that to_json wrote.") from error
    except ValueError as error:
        raise ReportError(f"{what} is no JSON: {error}. Give what to_json wrote.") from error
    kinds = _report_kinds()
    if not isinstance(content, dict) or content.get("kind") not in kinds:
        raise ReportError(
            f"{what} is JSON, but no report of tf_opt: its field 'kind' is none of {', '.join(map(repr, kinds))}. "
            "Give what to_json wrote."
        )
    if content.get("schema_version") != SCHEMA_VERSION:
        raise ReportError(
            f"{what} is a report of schema version {content.get('schema_version')!r}; this tf_opt reads version "
            f"{SCHEMA_VERSION}. Read it with the tf_opt that wrote it, or make it again."
        )
    try:
        kind: type[OptimizationReport | SavedModelReport] = kinds[content["kind"]]
        return from_plain(kind, content, lenient=True)
    except TypeError as error:
        raise ReportError(f"{what} is a damaged report: {error}. Make it again.") from error


def _identity_schema(kind: str) -> dict[str, Any]:
    return {
        "kind": {"const": kind, "description": "What kind of report this is."},
        "schema_version": {"const": SCHEMA_VERSION, "description": "Version of this schema."},
    }


@functools.cache
def _layout(dataclass: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns what tells that an object is a report, where it is one, and the names of what is written of it."""
    kinds = [kind for kind, report in _report_kinds().items() if issubclass(dataclass, report)]
    names = (*(field.name for field in dataclasses.fields(dataclass)), *computed_properties(dataclass))
    return ({"kind": kinds[0], "schema_version": SCHEMA_VERSION} if kinds else {}), names


def _written(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        identity, names = _layout(type(value))
        return identity | {name: _written(getattr(value, name)) for name in names}
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, Mapping):
        return {key: _written(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_written(item) for item in value]
    return to_plain(value, finite=True)
