from __future__ import annotations

import dataclasses
import json

import jsonschema
import pytest

from tests.report.sample_reports import full_report, report, saved_model_report
from tf_opt.errors import ReportError
from tf_opt.report.json import SCHEMA_VERSION, load_report, report_schema
from tf_opt.report.optimization import OptimizationReport
from tf_opt.report.saved_model import SavedModelReport
from tf_opt.report.segment_graph import SegmentGraph


def test_schema_is_one_and_reports_fulfil_it():
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    empty = OptimizationReport(engine="openvino", compute_nodes=0, original_nodes=0)
    for each in (report(), full_report(), empty, saved_model_report()):
        jsonschema.validate(json.loads(each.to_json()), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("field", "value"),
    [("compute_nodes", "12"), ("schema_version", 0), ("segments", [{"name": 1}]), ("maximum_error", "large")],
)
def test_schema_refuses_what_is_no_report(field: str, value: object):
    content = {**report().to_dict(), field: value}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, report_schema(), jsonschema.Draft202012Validator)


def test_schema_has_every_field_with_its_meaning():
    definitions = report_schema()["$defs"]
    assert definitions["OptimizationReport"]["properties"].keys() == report().to_dict().keys()
    for definition in definitions.values():
        assert definition["description"]
        for name, field in definition["properties"].items():
            assert field["description"], name
    assert definitions["SegmentReport"]["properties"]["build_seconds"]["unit"] == "s"


def test_json_has_no_number_that_json_has_not(tmp_path):
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads(full_report().to_json(), parse_constant=refuse)
    assert content["measurement"]["interval"] == [0.0, "Infinity"]
    assert content["attempts"][0]["maximum_error"] == "NaN"


def test_loads_what_was_written(tmp_path):
    path = tmp_path / "report.json"
    text = full_report().to_json(path)
    for source in (text, path, str(path)):
        loaded = load_report(source)
        assert loaded.to_json() == text
        assert loaded.measurement == full_report().measurement
        assert isinstance(loaded.graph, SegmentGraph)
    assert load_report(report().to_json()) == report()


def test_loads_reports_of_saved_models():
    loaded = load_report(saved_model_report().to_json())
    assert isinstance(loaded, SavedModelReport)
    assert loaded.to_json() == saved_model_report().to_json()
    # A signature's report is one by itself.
    part = json.dumps(saved_model_report().to_dict()["signatures"]["serve"])
    assert load_report(part).to_json() == full_report().to_json()


def test_loads_reports_of_versions_with_other_fields():
    content = report().to_dict()
    del content["notes"]
    content["something_new"] = [1]
    assert load_report(json.dumps(content)) == report()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("{}", "no report of tf_opt"),
        ('{"kind": "optimization"}', "schema version None"),
        (json.dumps({"kind": "optimization", "schema_version": SCHEMA_VERSION + 1}), "schema version 2"),
        (json.dumps({"kind": "optimization", "schema_version": SCHEMA_VERSION}), "damaged report"),
        ("/no/such/file.json", "Cannot read /no/such/file.json: No such file"),
        ("/", "Cannot read /: Is a directory"),
    ],
)
def test_what_is_no_report_is_an_error_that_says_so(text: str, message: str):
    with pytest.raises(ReportError, match=message):
        load_report(text)


def test_every_field_survives_the_way_there_and_back():
    for field in dataclasses.fields(OptimizationReport):
        assert field.name in full_report().to_dict()
