from __future__ import annotations

from dataclasses import replace

import pytest

from tests.report.sample_reports import MEASUREMENT, full_report, many_refusals, report, saved_model_report
from tf_opt.report.html import report_page
from tf_opt.report.optimization import OptimizationReport, PrecisionAttempt
from tf_opt.report.verdict import cache_sentence, count, is_analysis, saved_model_verdict, verdict

ATTEMPT = (PrecisionAttempt(precision="fp32", reason="no segment"),)


def rejected(*reasons: str) -> OptimizationReport:
    segments = tuple(replace(report().segments[1], name=f"s{i}", reason=reason) for i, reason in enumerate(reasons))
    return replace(report(), segments=segments, measurement=None, measurements=(), attempts=ATTEMPT)


@pytest.mark.parametrize(
    ("content", "status", "headline", "explanation"),
    [
        (report(), "faster", "2.00 times as fast as the original", "Measured on one combination of shapes. 2 segments"),
        (full_report(), "faster", "2.00 times as fast", "over 2 combinations of shapes, the worst of them 2.00"),
        (
            many_refusals(4),
            "analysis",
            "No part of the graph could run in an engine",
            "An analysis, which builds and measures nothing",
        ),
        (replace(report(), measurements=()), "unmeasured", "1 engine in place, not measured", "9 of 12 compute nodes"),
        (rejected("slower than TensorFlow: by half"), "unchanged", "stays as it is", "was slower than TensorFlow: by"),
        (rejected("it does not load."), "unchanged", "stays as it is", "It does not load."),
        (rejected("slower", "wrong"), "unchanged", "stays as it is", "Of 2 segments none became an engine"),
        (rejected(), "unchanged", "stays as it is", "No node is in a segment."),
    ],
)
def test_verdict(content, status, headline, explanation):
    result = verdict(content)
    assert result.status == status
    assert headline in result.headline
    assert explanation in result.explanation
    assert ".." not in result.explanation
    assert is_analysis(content) == (status == "analysis")


def test_what_may_be_noise_is_not_called_faster():
    unsure = replace(MEASUREMENT, verdict="same", interval=(0.5, 3.0))
    result = verdict(replace(report(), measurement=unsure, measurements=(unsure,)))
    assert result.status == "undecided"
    assert "do not rule out" in result.explanation
    same = replace(unsure, ratio=1.001)
    assert verdict(replace(report(), measurement=same, measurements=(same,))).headline == "As fast as the original"


def test_verdict_on_a_saved_model():
    result = saved_model_verdict(saved_model_report())
    assert result.headline == "2 of 4 signatures and 1 attribute run engines"
    assert "serving_default 2.00" in result.explanation
    assert "attribute __call__ 2.00" in result.explanation
    only = replace(saved_model_report(), signatures={}, unconverted={})
    assert saved_model_verdict(only).headline == "1 attribute runs engines"
    kept = replace(saved_model_report(), signatures={}, unconverted={"__call__": "It computes strings."})
    assert saved_model_verdict(kept).headline == "0 of 1 signature and 1 attribute run engines"
    one = replace(saved_model_report(), signatures={"serve": full_report()}, unconverted={}, endpoints={})
    assert saved_model_verdict(one).headline == "1 of 1 signature runs engines"
    none = replace(
        saved_model_report(), signatures={"serve": rejected("slow")}, endpoints={}, unconverted={"serve": "x"}
    )
    assert saved_model_verdict(none).headline == "The SavedModel stays as it is"
    assert "1 signature." in saved_model_verdict(none).explanation


def test_what_the_cache_knows():
    assert cache_sentence(report()) == ""
    assert cache_sentence(replace(report(), from_cache=True)).startswith("From the cache: measured by an earlier run")
    segments = tuple(replace(segment, measurement=None) for segment in report().segments)
    unmeasured = replace(report(), from_cache=True, segments=segments, measurement=None, measurements=())
    assert cache_sentence(unmeasured).startswith("From the cache: decided by an earlier run")
    assert "measured by" not in unmeasured.text()


def test_attributes_are_told_from_signatures():
    content = saved_model_report()
    assert content.title(["serve"]) == "Signature serve"
    assert content.title(["serve", "encode", "__call__"]) == "Signatures serve, encode, attribute __call__"
    other = replace(content, endpoints={"__call__": report()})
    assert "\nAttribute __call__\n" in other.text()
    assert "Attribute __call__" in report_page(other)
    assert "</a> (attribute)</th>" in report_page(other)


def test_counted_nouns():
    assert [count(1, "node"), count(2, "node"), count(0, "node"), count(12345, "node")] == [
        *("1 node", "2 nodes", "0 nodes", "12,345 nodes")
    ]
