"""Writes what docs/report.md says of each field of a report, and docs/report.schema.json, from the dataclasses.

python docs/report_fields.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tf_opt.plain_data import NOT_FINITE
from tf_opt.report.json import report_schema

DOCS = Path(__file__).resolve().parent
PAGE, SCHEMA = DOCS / "report.md", DOCS / "report.schema.json"
BEGIN, END = "<!-- fields: written by docs/report_fields.py -->\n", "<!-- end of fields -->\n"


def fields_as_markdown(schema: dict[str, Any]) -> str:
    """Returns a table of the fields of each kind of object in a report."""
    parts = []
    for name, definition in schema["$defs"].items():
        rows = [
            f"| `{field}` | {type_of(content)} | {content.get('unit', '')} | {meaning(content)} |"
            for field, content in definition["properties"].items()
        ]
        head = ["| field | type | unit | meaning |", "|---|---|---|---|"]
        parts.append("\n".join([f"### {name}", "", definition["description"], "", *head, *rows, ""]))
    return "\n".join(parts)


def meaning(content: dict[str, Any]) -> str:
    """Returns the description, and whether a reader computes the field rather than storing it."""
    text = str(content["description"]).replace("|", "\\|")
    return f"{text} (computed)" if content.get("readOnly") else text


def type_of(content: dict[str, Any]) -> str:
    """Returns a schema's type in words."""
    if "$ref" in content:
        name = content["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in content:
        return f"`{json.dumps(content['const'])}`"
    if "enum" in content:
        return " or ".join(f"`{json.dumps(value)}`" for value in content["enum"])
    if "anyOf" in content:
        # Numbers that JSON has none for are explained once, above the tables.
        return " or ".join(type_of(each) for each in content["anyOf"] if each.get("enum") != list(NOT_FINITE))
    if content.get("type") == "array":
        items = content.get("prefixItems")
        return f"list of {type_of(content['items'])}" if not items else f"[{', '.join(map(type_of, items))}]"
    if content.get("type") == "object":
        return f"object of {type_of(content['additionalProperties'])}"
    return str(content.get("type", "any"))


def page_with_fields(page: str) -> str:
    """Returns the page with its tables as they should be."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + "\n" + fields_as_markdown(report_schema()) + "\n" + END + rest.partition(END)[2]


def schema_as_text() -> str:
    """Returns the schema as it is stored."""
    return json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page_with_fields(PAGE.read_text()))
    SCHEMA.write_text(schema_as_text())
