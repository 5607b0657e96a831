from __future__ import annotations

import io
import json
import math
from dataclasses import replace

from rich.console import Console

from tests.report.sample_reports import full_report, many_refusals, report, saved_model_report
from tf_opt.report.optimization import OptimizationReport, RefusedNode


def test_counts():
    assert report().nodes_in_segments == 9
    assert report().nodes_in_engines == 6
    assert report().engine_count == 1
    assert report().coverage == 0.75
    assert report().refusal_counts == {"op": 3}
    assert OptimizationReport(engine="openvino", compute_nodes=0, original_nodes=0).coverage == 0.0


def test_engines_of_several_kinds_are_counted_apart():
    first, second = report().segments
    several = replace(
        report(),
        engine="tensorrt",
        segments=(
            first,
            replace(first, name="a", library="tensorrt 10.0.1"),
            replace(first, name="b", library="openvino 1.2"),
            second,
        ),
    )
    assert several.engine_counts == {"openvino": 2, "tensorrt": 1}
    assert several.to_dict()["engine_counts"] == {"openvino": 2, "tensorrt": 1}
    assert "in 4 segments, 2 run by openvino, 1 run by tensorrt" in " ".join(several.text().split())
    assert "<dt>Engine</dt><dd>2 openvino, 1 tensorrt</dd>" in several.to_html()
    assert "1 run by openvino" in report().text()
    assert "<dt>Engine</dt><dd>openvino</dd>" in report().to_html()
    nothing = replace(report(), segments=(second,))
    assert nothing.engine_counts == {}
    assert "none run by an engine" in nothing.text()


def test_text_has_what_a_reader_asks_for():
    text = report().text()
    for expected in ("9 of 12 compute nodes (75.0%)", "slower than TensorFlow", "Betainc", "no conversion", "2.000"):
        assert expected in text
    assert str(report()) == text


def test_measurement_says_which_feed_it_is():
    worst = report().measurement
    assert worst is not None
    figures = "original 2 ms, optimized 1 ms, ratio 2.000 (1.900 to 2.100), faster"
    assert f"Whole graph: {figures}, on x 1×16 (the worst of 3 shapes)" in " ".join(report().text().split())
    assert str(replace(worst, shapes=9)).endswith("(the worst of 3 measured of 9 shapes)")
    assert str(replace(worst, measured_shapes=1, shapes=1)) == f"{figures}, on x 1×16"
    assert str(replace(worst, measured_shapes=1, shapes=1, feed="")) == figures
    assert "ratio 2.000 (too few rounds for an interval: 9), faster" in str(replace(worst, interval=(0.0, math.inf)))


def test_text_fits_on_80_columns_and_says_the_result_first():
    for content in (full_report(), saved_model_report(), many_refusals(500)):
        stream = io.StringIO()
        content.print(Console(width=80, file=stream))
        lines = stream.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        assert "engine" in lines[0] or "as fast" in lines[0]
    assert "slower than TensorFlow: by half" in full_report().text()
    assert "outside of the tolerance" in full_report().text()


def test_text_of_a_saved_model_has_each_report_once():
    text = saved_model_report().text()
    for expected in (
        "2 of 4 signatures and 1 attribute run engines",
        "381.5 MiB before, 391.0 MiB after",
        "It computes strings",
    ):
        assert expected in text
    assert "Signatures serving_default, serve, attribute __call__" in text
    assert text.count("2.00 times as fast") == 1
    assert "the model's note" in text


def test_long_tables_say_how_much_they_leave_out():
    content = replace(
        report(),
        refused=tuple(RefusedNode(name=f"n{i}", op="Where", category="op", reason=f"reason {i}") for i in range(50)),
    )
    assert "and 10 more" in content.text()


def test_json_round_trip(tmp_path):
    path = tmp_path / "report.json"
    text = report().to_json(path)
    content = json.loads(path.read_text())
    assert content == json.loads(text)
    assert content["segments"][1]["reason"] == "slower than TensorFlow: by half"
    assert content["measurements"][0]["feed"] == "x 1×16"
    assert content["coverage"] == 0.75


def test_what_an_engine_left_to_the_next_is_shown_with_its_reason():
    for shown in (full_report().text(), full_report().to_html()):
        assert "Nodes that an engine left to the next" in shown
        assert "tensorrt: no importer for t1" in shown
    assert "left to the next" not in replace(full_report(), declined=()).text()
