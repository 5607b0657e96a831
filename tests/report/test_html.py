from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.report.sample_reports import EVIL, GRAPH, evil_report, full_report, many_refusals, report, saved_model_report
from tf_opt.report.optimization import OptimizationReport

ROOT = Path(__file__).resolve().parents[2]
STYLE = (ROOT / "tf_opt" / "report" / "templates" / "report.css").read_text()


class Reader(HTMLParser):
    """What a browser makes of a page: its tags with attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(each == tag for each, _ in self.tags)


def test_page_has_everything_of_the_report():
    text = Reader(full_report().to_html()).text
    for expected in (
        *("2.00 times as fast as the original", "tf_opt_segment_0", "openvino 1.2", "fp32", "MatMul", "1e-06"),
        *(
            "x:0 float32 [?, 16]",
            "y:0 float32 [?, 4]",
            "3.0 MiB",
            "2.0 KiB",
            "1 min 10 s",
            "1.90 to 2.10",
            "too few pairs",
        ),
        *(
            "slower than TensorFlow: by half",
            "Betainc",
            "no conversion",
            "n0",
            "outside of the tolerance",
            "onnxruntime",
        ),
        *("it runs here", "there is no GPU", "passes", "500 ms", "a processor", "2.21.0", "the graph's note"),
        *("the segment's note", "attention", "fuse_gelu", "From the cache", "order only", "chosen by measurement"),
    ):
        assert expected in text, expected


def test_page_is_written_where_asked(tmp_path):
    path = tmp_path / "folder" / "report.html"
    page = report().to_html(path)
    assert path.read_text() == page
    assert page.startswith("<!DOCTYPE html>")


def test_page_is_the_same_each_time():
    assert full_report().to_html() == full_report().to_html()


def test_page_names_nothing_outside_of_itself():
    reader = Reader(full_report().to_html())
    for tag, attributes in reader.tags:
        assert tag not in {"img", "iframe", "object", "embed", "base", "form"}
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        if (address := attributes.get("href")) is not None:
            assert address.startswith(("#", "data:,"))
    assert "@import" not in STYLE
    assert "url(" not in STYLE


def test_names_are_text_wherever_they_stand():
    evil, plain = Reader(evil_report().to_html()), Reader(full_report().to_html())
    assert EVIL in evil.text
    assert evil.count("img") == 0
    assert evil.count("script") == plain.count("script") == 2  # The data of the refused nodes, and the page's own.
    assert "{{ 7 * 7 }}" in evil.text  # Not a template either.


def test_policy_allows_the_one_script_and_nothing_else():
    policies = [
        attributes["content"]
        for _, attributes in Reader(report().to_html()).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'")
    assert re.search(r"script-src 'sha256-[\w+/=]+';", policies[0])


def test_page_of_a_saved_model_has_every_signature():
    text = Reader(saved_model_report().to_html()).text
    for expected in (
        *(
            "2 of 4 signatures and 1 attribute run engines",
            "serving_default",
            "serve",
            "__call__",
            "encode",
            "It computes strings.",
        ),
        *("381.5 MiB", "391.0 MiB", "1.02 of the original", "195.3 KiB", "the model's note", "slower than TensorFlow"),
    ):
        assert expected in text, expected
    reader = Reader(saved_model_report().to_html())
    assert reader.count("h1") == 1
    assert reader.count("article") == 2  # Signatures of one graph share a report.


@pytest.mark.parametrize(
    ("content", "headline"),
    [
        (many_refusals(5), "No part of the graph could run in an engine"),
        (OptimizationReport(engine="openvino", compute_nodes=0, original_nodes=0), "No part of the graph"),
    ],
)
def test_reports_without_engines_have_a_page_too(content, headline):
    assert headline in Reader(content.to_html()).text


def test_ids_are_unique_and_every_reference_leads_somewhere():
    tags = Reader(saved_model_report().to_html()).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tags:
        for name in ("data-details", "aria-describedby", "aria-controls", "aria-labelledby", "data-nodes"):
            if name in attributes:
                assert attributes[name] in ids
    assert sum("data-details" in attributes for _, attributes in tags) == len(GRAPH.boxes) + len(GRAPH.edges)


def test_tables_have_headers_and_buttons_have_names():
    reader = Reader(full_report().to_html())
    for tag, attributes in reader.tags:
        if tag == "th":
            assert attributes.get("scope") in {"row", "col"}
        if tag == "button":
            assert attributes.get("type") == "button"
    assert dict(reader.tags)["html"]["lang"] == "en"


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


LIGHT, DARK = (colours(block) for block in re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)[:2])


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        *(("text", ground) for ground in ("page", "card", "good-card", "bad-card", "maybe-card", "plain-card", "bar")),
        *(("muted", ground) for ground in ("page", "card", "good-card", "plain-card")),
        *((colour, f"{colour}-card") for colour in ("good", "bad", "maybe")),
        *((colour, "card") for colour in ("good", "accent")),
    ],
)
def test_text_has_contrast(scheme, text, ground):
    lighter, darker = sorted((luminance(scheme[text]), luminance(scheme[ground])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_templates_are_installed_with_the_package():
    # What a wheel leaves out is missed only there, not in a checkout.
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "tf_opt.report"
    ]
    package = ROOT / "tf_opt" / "report"
    installed = {path for pattern in patterns for path in package.glob(pattern)}
    assert set((package / "templates").iterdir()) <= installed
    assert "recursive-include tf_opt/report/templates *" in (ROOT / "MANIFEST.in").read_text().splitlines()
