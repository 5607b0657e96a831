"""What a build is given, and what becomes of one that fails."""

from __future__ import annotations

import dataclasses
import io
import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rich.console import Console
from rich.progress import Progress

from tests.engines.tensorrt.small_engines import (
    FLOAT,
    INT64,
    WEIGHT,
    build,
    dense,
    expected,
    profile,
    ready,
    rows,
    run,
    segment,
)
from tests.simulators.tensorrt.fixture import simulated_tensorrt
from tf_opt.engines.base import ShapeProfile
from tf_opt.engines.blob import EngineBlob
from tf_opt.engines.tensorrt import TensorRTSettings, model, progress
from tf_opt.engines.tensorrt.plan_builder import _named_nodes
from tf_opt.errors import EngineBuildError


@pytest.fixture
def configurations(simulation, monkeypatch):
    """The configuration of each build."""
    seen = []
    builder = simulation.module.Builder
    create = builder.create_builder_config
    monkeypatch.setattr(builder, "create_builder_config", lambda self: seen.append(create(self)) or seen[-1])
    return seen


def test_stored_engine_holds_the_model_without_weights_and_no_plan(simulation):
    segment_ = dense()
    blob = EngineBlob.unpack(build(segment_, [profile()], TensorRTSettings(timing_cache="/a/path")).blob)
    assert blob.payload == segment_.model
    assert blob.header["runtime"] == "tensorrt"
    assert blob.header["library_version"] == simulation.module.__version__
    assert blob.header["profiles"] == [{"shapes": {"input_0": [[1, 8], [4, 8], [16, 8]]}, "values": {}}]
    assert "/a/path" not in str(blob.header)


def test_unsupported_nodes_are_named(any_version):
    nodes = [
        helper.make_node("Relu", ["input_0"], ["r"], name="fine"),
        helper.make_node("Unique", ["r"], ["output_0"], name="layer/strange"),
    ]
    with pytest.raises(EngineBuildError, match=r"does not parse s\..*layer/strange \(Unique\)") as raised:
        build(segment(nodes, [(FLOAT, [None, 8])], [(FLOAT, [None])]), [profile()])
    assert raised.value.nodes == ("layer/strange",)
    assert any_version.module.__version__ in str(raised.value)


def test_nodes_that_fail_in_the_build_are_named(simulation):
    nodes = [
        helper.make_node("Cast", ["input_0"], ["half"], name="cast", to=TensorProto.FLOAT16),
        helper.make_node("Add", ["input_0", "half"], ["output_0"], name="layer/mixed"),
    ]
    with pytest.raises(EngineBuildError, match="does not build s") as raised:
        build(segment(nodes, [(FLOAT, [None, 8])], [(FLOAT, [None, 8])]), [profile()])
    assert raised.value.nodes == ("layer/mixed",)


def test_message_of_a_fused_region_blames_nobody():
    proto = onnx.ModelProto()
    for name in ("layer/first", "layer/last", "a"):
        proto.graph.node.add(name=name)
    assert (
        _named_nodes(proto, ["ERROR: Could not find any implementation for {ForeignNode[layer/first...layer/last]}"])
        == {}
    )
    line = "ERROR: [shape.cpp::1] Error Code 4: (layer/last: kernel too large)."
    assert _named_nodes(proto, [line, "ERROR: and more"]) == {"layer/last": [line]}
    assert _named_nodes(proto, ["WARNING: layer/last: slow"]) == {}
    assert _named_nodes(proto, ["ERROR: layer/last_one of layer/first/more"]) == {}


def test_float64_is_refused_and_named(simulation):
    nodes = [
        helper.make_node("Cast", ["input_0"], ["wide"], name="layer/widen", to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["wide"], ["output_0"], name="layer/narrow", to=TensorProto.FLOAT),
    ]
    with pytest.raises(EngineBuildError, match="float64") as raised:
        build(segment(nodes, [(FLOAT, [None, 8])], [(FLOAT, [None, 8])]), [profile()])
    assert "layer/widen" in raised.value.nodes
    assert simulation.builds == 0


def test_unknown_dimensions_need_a_profile(simulation):
    with pytest.raises(EngineBuildError, match=r"input_0.*no shape profile"):
        build(dense(), [])


@pytest.mark.parametrize(
    "wrong", [profile(columns=9), ShapeProfile(minimum={}, optimum={}, maximum={}), profile(-0, 1, 2, columns=0)]
)
def test_profile_that_does_not_fit(simulation, wrong):
    with pytest.raises(EngineBuildError, match="input_0"):
        build(dense(), [wrong])
    assert simulation.builds == 0


def test_settings_reach_the_build(simulation, configurations):
    trt = simulation.module
    settings = TensorRTSettings(
        workspace_bytes=1 << 28,
        optimization_level=1,
        hardware_compatibility="ampere_plus",
        version_compatible=True,
        tactic_sources=["JIT_CONVOLUTIONS"],
    )
    build(dense(), [profile()], settings)
    (config,) = configurations
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 28
    assert config.builder_optimization_level == 1
    assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.get_tactic_sources() == 1 << int(trt.TacticSource.JIT_CONVOLUTIONS)


def test_tf32_is_left_on_where_it_is_asked_for(simulation, configurations):
    build(dense(), [profile()], TensorRTSettings(tf32=True))
    (config,) = configurations
    assert config.get_flag(simulation.module.BuilderFlag.TF32)


def test_unknown_tactic_source_names_the_known(simulation):
    with pytest.raises(EngineBuildError, match=r"'CUBLASS'.*CUBLAS"):
        build(dense(), [profile()], TensorRTSettings(tactic_sources=["CUBLASS"]))


def test_compatibility_that_a_version_lacks(cache_folder):
    settings = TensorRTSettings(hardware_compatibility="same_compute_capability")
    with simulated_tensorrt("10.0") as old, pytest.raises(EngineBuildError, match=r"10\.0.*same_compute_capability"):
        build(dense(), [profile()], settings)
    assert old.builds == 0


@pytest.mark.parametrize("content", [b"no model", b""])
def test_unreadable_model_names_the_segment(simulation, content):
    with pytest.raises(EngineBuildError, match=r"\bs\b"):
        build(dataclasses.replace(dense(), model=content), [profile()])


# Weights.


def test_large_weights_travel_in_a_file(any_version, monkeypatch):
    monkeypatch.setattr(model.with_weights.__wrapped__, "__defaults__", (1000,))
    weight = np.random.default_rng(1).standard_normal((8, 512)).astype(np.float32)
    paths = []
    parser = any_version.module.OnnxParser
    parse = parser.parse
    monkeypatch.setattr(
        parser, "parse", lambda self, data, path=None: paths.append((len(data), path)) or parse(self, data, path)
    )
    engine = ready(dense(weight), [profile()])
    np.testing.assert_allclose(run(engine, rows(4))[0], expected(rows(4), weight), rtol=1e-4)
    ((size, path),) = paths
    assert size < weight.nbytes
    assert path.endswith("model.onnx")
    engine.close()


def test_weights_become_initializers_once_and_the_model_stays(simulation):
    stored = onnx.ModelProto.FromString(dense().model)
    asked = []
    with model.with_weights(stored, lambda index: asked.append(index) or WEIGHT) as complete:
        read = onnx.ModelProto.FromString(complete.content)
    assert asked == [0]
    assert [value.name for value in read.graph.input] == ["input_0"]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(read.graph.initializer[0]), WEIGHT)
    assert [value.name for value in stored.graph.input] == ["input_0", "weight_0"]


def test_digest_tells_weights_apart():
    stored = onnx.ModelProto.FromString(dense().model)
    arrays = [WEIGHT, WEIGHT.T.copy(), WEIGHT.astype(np.float64), -WEIGHT, WEIGHT.reshape(4, 8)]
    assert len({model.weights_digest(stored, lambda _, array=array: array) for array in arrays}) == len(arrays)
    assert model.weights_digest(stored, lambda _: WEIGHT) == model.weights_digest(
        stored, lambda _: np.asfortranarray(WEIGHT)
    )


# Messages and progress.


def test_messages_go_to_logging_and_into_the_engine(simulation, caplog):
    node = helper.make_node("Cast", ["input_0"], ["output_0"], name="cast", to=TensorProto.INT64)
    with caplog.at_level(logging.DEBUG, "tf_opt.engines.tensorrt"):
        build(segment([node], [(FLOAT, [None, 8])], [(INT64, [None, 8])]), [profile()])
    assert f"builds s for {simulation.driver.device_name(0)}" in caplog.text


def test_progress_is_drawn_on_a_terminal_and_nowhere_else(simulation):
    trt = simulation.module
    for terminal in (True, False):
        text = io.StringIO()
        console = Console(file=text, force_terminal=terminal, width=100)
        with progress.progress_monitor("TensorRT builds s", console) as monitor:
            assert isinstance(monitor, trt.IProgressMonitor)
            monitor.phase_start("Building", None, 2)
            monitor.phase_start("Timing", "Building", 5)
            assert monitor.step_complete("Timing", 0) is True
            assert monitor.step_complete("unknown", 0) is True
            monitor.phase_finish("Timing")
            monitor.phase_finish("Building")
        assert ("TensorRT builds s: Building" in text.getvalue()) is terminal


def test_interruption_ends_the_build_and_is_raised(simulation, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(dense(), [profile()])
    assert simulation.builds == 0
    monkeypatch.undo()


def test_bar_that_fails_is_no_reason_to_end_a_build(simulation, monkeypatch):
    monkeypatch.setattr(Progress, "update", lambda *_, **__: 1 / 0)
    build(dense(), [profile()])
    assert simulation.builds == 1
