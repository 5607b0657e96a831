"""Precisions are tried, judged and reported; the engines are real, the clock and the hardware are not asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import tensorflow as tf
from rich.progress import Progress

import tf_opt
from tests.small_graphs import engine_nodes, run_graph_def
from tests.whole_segments import WholeSegment
from tf_opt import errors
from tf_opt.adoption import Adoption, Candidate
from tf_opt.engines.blob import EngineBlob
from tf_opt.engines.onnxruntime import ONNXRuntimeBackend
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.options import Options
from tf_opt.precision_search import PrecisionSearch, tolerance_of
from tf_opt.report.optimization import Measurement, OptimizationReport, PrecisionAttempt
from tf_opt.tolerance import Tolerance

pytest.importorskip("nncf")
pytest.importorskip("onnxruntime")

REAL_ADOPT = PrecisionSearch._adopt


def wide_mlp(layers: int = 3, width: int = 96) -> tf.compat.v1.GraphDef:
    """x [?, 96] -> (MatMul -> BiasAdd -> Relu) x layers -> "y"; big enough to be quantized."""
    random = np.random.default_rng(0)
    with tf.Graph().as_default() as graph:
        value = tf.compat.v1.placeholder(tf.float32, [None, width], name="x")
        for _ in range(layers):
            weight = tf.constant(random.normal(size=(width, width), scale=width**-0.5).astype(np.float32))
            value = tf.nn.relu(tf.nn.bias_add(tf.matmul(value, weight), tf.ones([width])))
        tf.identity(value, name="y")
    return graph.as_graph_def()


def feeds(count: int = 4) -> list[dict[str, Any]]:
    return [{"x": np.random.default_rng(i).normal(size=(64, 96)).astype(np.float32)} for i in range(count)]


def optimized(
    monkeypatch: pytest.MonkeyPatch, speed: dict[str, float], calibration: Any = None, **options: Any
) -> tuple[Any, OptimizationReport]:
    """Optimizes the MLP; each precision is as many times faster than the original as `speed` says."""

    def adopt(self: PrecisionSearch, candidates: Any) -> Adoption:
        adoption = REAL_ADOPT(self, candidates)
        if adoption.graph_def is None:
            return adoption
        ratio = speed[candidates[0].report.precision]
        measurement = Measurement(
            original_milliseconds=ratio,
            optimized_milliseconds=1.0,
            ratio=ratio,
            interval=(ratio, ratio),
            rounds=9,
            verdict="faster",
        )
        return replace(adoption, measurement=measurement, measurements=(measurement,))

    monkeypatch.setattr(PrecisionSearch, "_adopt", adopt)
    # Such a small network loses time in an engine; here only the precision is in question.
    monkeypatch.setattr("tf_opt.adoption.measure_trial", lambda *_: ())
    optimizer = tf_opt.Tf2TrtOpt(progress=False, cache=False, **options)
    return optimizer.optimize_graph_def(wide_mlp(), ["y"], feeds(), calibration_data=calibration), optimizer.report


def int8_weights(graph_def: Any) -> list[Any]:
    return [
        node for node in graph_def.node if node.op == "Const" and node.attr["dtype"].type == tf.int8.as_datatype_enum
    ]


def tried(report: OptimizationReport) -> list[PrecisionAttempt]:
    return [attempt for attempt in report.attempts if not attempt.reason.startswith("not tried")]


def test_int8_engines_hold_int8_weights_and_are_near(monkeypatch: pytest.MonkeyPatch) -> None:
    graph_def, report = optimized(monkeypatch, {"int8": 2.0}, precision="int8")
    (segment,) = report.segments
    assert segment.adopted
    assert segment.precision == "int8"
    assert len(int8_weights(graph_def)) == 3
    given, (expected,) = feeds()[0], run_graph_def(wide_mlp(), ["y:0"], {"x:0": feeds()[0]["x"]})
    (actual,) = run_graph_def(graph_def, ["y:0"], {"x:0": given["x"]})
    assert 0 < np.abs(actual - expected).max() < 0.1
    (attempt,) = report.attempts
    assert attempt.cosine is not None
    assert 0.99 < attempt.cosine < 1


def test_without_fallback_the_original_weights_go(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, _ = optimized(monkeypatch, {"int8": 2.0}, precision="int8")
    dropped, _ = optimized(monkeypatch, {"int8": 2.0}, precision="int8", keep_fallback=False)
    assert dropped.ByteSize() < 0.5 * kept.ByteSize()
    (engine,) = engine_nodes(dropped)
    weights = [name for name in engine.input if name != "x"]
    assert all(name.startswith("tf_opt_segment_0/weight_") for name in weights)


def test_auto_keeps_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    _, report = optimized(monkeypatch, {"int8": 1.2, "fp32": 1.5}, precision="auto")
    assert report.segments[0].precision == "fp32"
    assert [attempt.precision for attempt in tried(report)] == ["int8", "fp32"]
    assert tried(report)[0].reason == "fp32 is faster"
    assert tried(report)[1].reason == ""
    _, report = optimized(monkeypatch, {"int8": 1.7, "fp32": 1.5}, precision="auto")
    assert report.segments[0].precision == "int8"
    assert "Precisions tried" in report.text()


def test_auto_says_what_calibration_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = {"int8": 1.2, "fp32": 1.5}
    few = [{"x": feeds()[0]["x"][:3]}]
    _, report = optimized(monkeypatch, speed, few, precision="auto", tolerance=Tolerance(cosine=0.5))
    assert report.segments[0].precision == "fp32"
    assert [note for note in report.segments[0].notes if note.startswith("int8, not kept: Only 3 rows")]

    nothing = [{"x": np.full((200, 96), np.nan, np.float32)}]
    _, report = optimized(monkeypatch, speed, nothing, precision="auto")
    assert report.segments[0].precision == "fp32"
    failed, kept = tried(report)
    assert "stays in fp32" in failed.reason
    assert "not finite in the calibration feeds" in failed.reason
    assert (kept.precision, kept.reason) == ("fp32", "")


def test_auto_moves_layers_back_until_within_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = optimized(monkeypatch, {"int8": 2.0}, precision="int8", tolerance=Tolerance(cosine=0.9))
    limit = whole.maximum_error
    assert limit is not None
    _, report = optimized(
        monkeypatch,
        {"int8": 2.0, "fp32": 1.5},
        precision="auto",
        tolerance=Tolerance(maximum_absolute=0.8 * limit),
    )
    assert report.segments[0].precision == "int8"
    kept = next(attempt for attempt in report.attempts if not attempt.reason)
    assert 1 <= kept.reverted_layers <= 2
    assert "outside tolerance" in report.attempts[0].reason


def test_auto_falls_back_to_fp32_where_nothing_less_is_near_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    graph_def, report = optimized(
        monkeypatch, {"int8": 2.0, "fp32": 1.5}, precision="auto", tolerance=Tolerance(maximum_absolute=1e-5)
    )
    assert report.segments[0].precision == "fp32"
    assert not int8_weights(graph_def)
    nothing_will_do = Tolerance(metric=lambda *_: 0.0, at_least=0.5)
    _, report = optimized(monkeypatch, {}, precision="auto", tolerance=nothing_will_do)
    assert all("outside tolerance" in attempt.reason for attempt in tried(report))
    assert report.segments[0].reason == tried(report)[-1].reason  # That of the most exact.


def test_a_budget_that_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"precision": "auto", "tolerance": Tolerance(maximum_absolute=1e-4)}
    _, report = optimized(monkeypatch, {"int8": 2.0, "fp32": 1.5}, tuning_seconds=0, **options)
    assert [attempt.precision for attempt in tried(report)] == ["int8", "fp32"]
    assert report.attempts[0].reason.endswith("; tuning_seconds=0 ended before enough layers were moved back")
    _, report = optimized(monkeypatch, {"int8": 2.0, "fp32": 1.5}, **options)
    assert [attempt.reverted_layers for attempt in tried(report)] == [0, 1, 2, 0]
    assert not any("tuning_seconds" in attempt.reason for attempt in report.attempts)


def test_errors_of_the_metric_reach_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnError(Exception):
        pass

    def fails(original: Any, optimized: Any) -> float:
        raise OwnError("no labels")

    for precision in ("auto", "int8", "fp32"):
        with pytest.raises(OwnError, match="no labels"):
            optimized(monkeypatch, {}, precision=precision, tolerance=Tolerance(metric=fails, at_least=0.5))


def test_metric_of_the_user_gets_outputs_by_key_and_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def share_of_equal_maxima(original: Any, optimized: Any) -> float:
        seen.append((set(original), set(optimized)))
        return float(np.mean(original["y"].argmax(1) == optimized["y"].argmax(1)))

    _, report = optimized(
        monkeypatch,
        {"int8": 2.0, "fp32": 1.5},
        precision="int8",
        tolerance=Tolerance(metric=share_of_equal_maxima, at_least=1.1),
    )
    assert seen
    assert all(keys == ({"y"}, {"y"}) for keys in seen)
    (attempt,) = report.attempts
    assert not report.segments[0].adopted
    assert attempt.metric is not None
    assert f"metric {attempt.metric:.5g}, wanted is at least 1.1" in attempt.reason


def test_calibration_data_is_used_instead_of_the_feeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tf_opt.adoption.measure_trial", lambda *_: ())
    read = 0

    def endless() -> Any:
        nonlocal read
        while True:
            read += 1
            yield feeds(1)[0]

    optimizer = tf_opt.Tf2TrtOpt(progress=False, cache=False, precision="int8")
    optimizer.optimize_graph_def(wide_mlp(), ["y"], feeds(), calibration_data=endless())
    assert 1 < read <= 512
    with pytest.raises(errors.InvalidFeedError, match="z"):
        optimizer.optimize_graph_def(wide_mlp(), ["y"], feeds(), calibration_data=[{"z": np.zeros(3, np.float32)}])
    for wrong, named in ((endless, "got function"), (5, "got int"), (feeds(1)[0], "got one mapping"), ([], "empty")):
        with pytest.raises(errors.InvalidFeedError, match=f"calibration_data: .*{named}"):
            optimizer.optimize_graph_def(wide_mlp(), ["y"], feeds(), calibration_data=wrong)


def test_segment_that_cannot_be_calibrated_stays_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 96], name="x")
        tf.nn.softmax(tf.nn.relu(x * random.normal(size=(96,)).astype(np.float32)) * 0.5, name="y")
    monkeypatch.setattr("tf_opt.adoption.measure_trial", lambda *_: ())
    optimizer = tf_opt.Tf2TrtOpt(progress=False, cache=False, precision="int8")
    optimizer.optimize_graph_def(graph.as_graph_def(), ["y"], feeds())
    (segment,) = optimizer.report.segments
    assert segment.precision == "fp32"
    assert any("stays in fp32" in note for note in segment.notes)
    strict = tf_opt.Tf2TrtOpt(progress=False, cache=False, precision="int8", strict=True)
    with pytest.raises(errors.CalibrationError):
        strict.optimize_graph_def(graph.as_graph_def(), ["y"], feeds())


@pytest.mark.parametrize(("provider", "signed"), [("cpu", False), ("tensorrt", True)])
def test_the_provider_of_onnx_runtime_decides_about_the_form(
    monkeypatch: pytest.MonkeyPatch, provider: Any, signed: bool
) -> None:
    """TensorRT takes no unsigned activations and no zero point, whoever calls it."""
    # Without the hardware only a session cannot be made.
    monkeypatch.setattr("tf_opt.engines.onnxruntime.backend.create_session", lambda *_, **__: None)
    backend, options = ONNXRuntimeBackend(provider), Options(precision="int8", strict=True, progress=False)
    segment = WholeSegment(frozen_from_graph_def(wide_mlp(), ["y"]), backend, options)
    _, built, _ = segment.builder.build_all(segment.light, segment.weights)
    seen: list[Candidate] = []

    def adopt(candidates: Sequence[Candidate], _: Tolerance | None) -> Adoption:
        seen.extend(candidates)
        return Adoption(graph_def=None, segments=tuple(each.report for each in candidates))

    calibration = segment.inputs([{f"{name}:0": array for name, array in feed.items()} for feed in feeds()])
    PrecisionSearch(
        options, backend, built, adopt, lambda _: calibration, lambda _: nullcontext(), None, Progress(disable=True)
    ).run()
    (candidate,) = seen
    graph = onnx.load_from_string(EngineBlob.unpack(candidate.node.engine).payload).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    zero_points = [constants[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert zero_points
    assert {array.dtype for array in zero_points} == {np.dtype(np.int8 if signed else np.uint8)}
    assert all(array == 0 for array in zero_points) or not signed
    weights = [
        np.frombuffer(node.attr["value"].tensor.tensor_content, np.int8) for node in candidate.derived_weights.values()
    ]
    assert [np.abs(array.astype(int)).max() for array in weights] == [127 if signed else 63] * 3


def test_precision_without_hardware_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tf_opt.engines.openvino.OpenVINOBackend.precision_refusal", lambda self, name: f"no {name}")
    optimizer = tf_opt.Tf2TrtOpt(precision="bf16")
    with pytest.raises(errors.UnsupportedPrecisionError, match="no bf16"):
        optimizer.optimize_graph_def(wide_mlp(), ["y"], feeds())
    with pytest.raises(errors.UnsupportedPrecisionError, match="no 16-bit type"):
        tf_opt.Tf2TrtOpt().optimize_graph_def(wide_mlp(), ["y"], feeds(), disable_fp16=False)
    with pytest.raises(errors.InvalidOptionError, match="disable_fp16 is 'no'; expected True or False"):
        tf_opt.Tf2TrtOpt().optimize_graph_def(wide_mlp(), ["y"], feeds(), disable_fp16="no")


def test_default_tolerances() -> None:
    assert tolerance_of(Options()) is None
    assert tolerance_of(Options(precision="int8")) == Tolerance(cosine=0.99)
    assert tolerance_of(Options(precision="bf16")) == Tolerance(cosine=0.999)
    assert tolerance_of(Options(tolerance=Tolerance(cosine=0.5))) == Tolerance(cosine=0.5)
