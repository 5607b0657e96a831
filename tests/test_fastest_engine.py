"""`engine="fastest"`: every engine that can run here is tried, and the fastest result is kept."""

from __future__ import annotations

import pytest

import tf_opt
from tests.small_graphs import engine_nodes, feed, mlp
from tf_opt import errors
from tf_opt.adoption import AdoptionTrials
from tf_opt.report.optimization import OptimizationReport

SPEEDS = {"openvino": 1.1, "onnxruntime": 1.3}


@pytest.fixture
def speeds(monkeypatch):
    """Keeps every engine, and says how fast each is."""
    wanted = dict(SPEEDS)
    original = AdoptionTrials.__init__

    def always(self, *arguments):
        original(self, *arguments)
        self._options = tf_opt.Tf2TrtOpt(adopt="always").options

    monkeypatch.setattr(AdoptionTrials, "__init__", always)
    monkeypatch.setattr(OptimizationReport, "speed", property(lambda self: wanted[self.engine]))
    return wanted


def optimize(**options):
    optimizer = tf_opt.Tf2TrtOpt(engine="fastest", progress=False, **options)
    return optimizer.optimize_graph_def(mlp(), ["y:0"], [feed()]), optimizer.report


@pytest.mark.parametrize("fastest", SPEEDS)
def test_the_fastest_is_kept(speeds, fastest):
    speeds[fastest] = 2.0
    optimized, report = optimize()
    assert {node.attr["runtime"].s.decode() for node in engine_nodes(optimized)} == {fastest} == {report.engine}
    assert {(each.engine, each.speed) for each in report.engines_tried} == {
        ("openvino", speeds["openvino"]),
        ("onnxruntime (cpu)", speeds["onnxruntime"]),
    }
    assert "Engines tried" in report.text()


def test_an_engine_without_the_precision_is_left_out(speeds, monkeypatch):
    monkeypatch.setattr("tf_opt.engines.openvino.OpenVINOBackend.precision_refusal", lambda *_: None)
    _, report = optimize(precision="bf16")
    assert report.engine == "openvino"
    assert report.precision == "bf16"


def test_a_precision_that_no_engine_has(monkeypatch):
    monkeypatch.setattr("tf_opt.engines.openvino.OpenVINOBackend.precision_refusal", lambda *_: "no hardware")
    with pytest.raises(errors.UnsupportedPrecisionError, match="no hardware"):
        optimize(precision="bf16")


def test_speed_is_the_mean_ratio_and_one_without_engines():
    report = tf_opt.Tf2TrtOpt(engine="openvino").analyze(mlp(), ["y:0"])
    assert report.speed == 1.0


def test_unmeasured_adoption_knows_no_fastest():
    with pytest.raises(errors.InvalidOptionError, match="has to be measured"):
        tf_opt.Tf2TrtOpt(engine="fastest", adopt="always")
