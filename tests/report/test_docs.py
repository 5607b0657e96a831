"""docs/report.md describes every field of a report, and the schema beside it is the one of this version."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import jsonschema
import pytest
import report_fields

from tests.report.sample_reports import full_report, saved_model_report
from tf_opt.report.optimization import OptimizationReport
from tf_opt.report.saved_model import SavedModelReport

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

STALE = "run `python docs/report_fields.py`"


def test_page_and_schema_are_up_to_date():
    page = report_fields.PAGE.read_text()
    assert report_fields.page_with_fields(page) == page, STALE
    assert report_fields.SCHEMA.read_text() == report_fields.schema_as_text(), STALE


def test_stored_schema_takes_reports():
    schema = json.loads(report_fields.SCHEMA.read_text())
    for each in (full_report(), saved_model_report()):
        jsonschema.validate(each.to_dict(), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("kind", [OptimizationReport, SavedModelReport])
def test_every_field_is_on_the_page_with_its_meaning(kind):
    page = report_fields.PAGE.read_text()
    section = page.partition(f"### {kind.__name__}\n")[2].partition("###")[0]
    rows = {
        row.split("|")[1].strip(): row.split("|")[-2].strip() for row in section.splitlines() if row.startswith("| `")
    }
    for field in dataclasses.fields(kind):
        assert len(rows[f"`{field.name}`"]) > 10
    if kind is OptimizationReport:
        assert rows["`coverage`"].endswith("(computed)")


def test_a_new_field_makes_the_page_stale():
    content = {"type": "object", "description": "New.", "properties": {"news": {"type": "string", "description": "N."}}}
    assert "| `news` | string |  | N. |" in report_fields.fields_as_markdown({"$defs": {"New": content}})


def test_picture_is_there_and_small():
    content = (DOCS / "report.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(content) < 300_000
    width, height = struct.unpack(">II", content[16:24])
    assert width >= 800
    assert height >= 600
    assert "](report.png)" in report_fields.PAGE.read_text()


def test_readme_leads_to_the_page():
    assert "(docs/report.md)" in (ROOT / "README.md").read_text()
