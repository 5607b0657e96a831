from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.simulators.tensorrt import models, plan
from tests.simulators.tensorrt.fixture import Simulation
from tests.simulators.tensorrt.questions import BATCHES, Asked

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
SHAPE_VALUES = {"s": ((1, 1), (8, 4), (128, 128))}


def build(
    asked: Asked, model: bytes, *profiles: dict[str, Any], flags: tuple[str, ...] = (), strong: bool = True
) -> Any:
    builder, network, config, errors = asked.parsed(model, strong=strong)
    assert not errors
    for flag in flags:
        config.set_flag(getattr(asked.trt.BuilderFlag, flag))
    for profile in profiles:
        assert asked.add_profile(builder, config, profile) >= 0
    return builder.build_serialized_network(network, config)


def test_parse_failed(asked: Asked) -> None:
    builder, network, config, errors = asked.parsed(models.unsupported())

    assert errors
    assert builder.build_serialized_network(network, config) is None


def test_no_outputs(asked: Asked) -> None:
    builder, network, config, _ = asked.parsed(models.fixed())
    network.unmark_output(network.get_output(0))

    assert builder.build_serialized_network(network, config) is None
    assert any("no outputs" in line for line in asked.log.lines)


def test_fixed_shapes_need_no_profile(asked: Asked) -> None:
    assert build(asked, models.fixed()) is not None


def test_shape_input_needs_values(asked: Asked) -> None:
    builder, network, config, _ = asked.parsed(models.reshape())
    asked.add_profile(builder, config, BATCHES)

    assert builder.build_serialized_network(network, config) is None
    assert asked.plan(models.reshape(), BATCHES, SHAPE_VALUES) is not None


def test_one_profile_of_two_lacks_an_input(asked: Asked) -> None:
    node = helper.make_node("Add", ["a", "b"], ["y"])
    model = models.model([node], [("a", FLOAT, ["n"]), ("b", FLOAT, ["n"])], [("y", FLOAT, ["n"])])
    bounds = ((1,), (2,), (4,))

    assert build(asked, model, {"a": bounds, "b": bounds}, {"a": bounds}) is None
    assert build(asked, model, {"a": bounds, "b": bounds}, {"a": bounds, "b": bounds}) is not None


def test_empty_profile_is_invalid(asked: Asked) -> None:
    builder, _, config, _ = asked.parsed(models.dense())

    assert config.add_optimization_profile(builder.create_optimization_profile()) == -1


@pytest.mark.parametrize(
    "bounds",
    [
        ((2, 8), (1, 8), (4, 8)),
        ((1, 8), (5, 8), (4, 8)),
        ((1, 8), (2, 8, 1), (4, 8)),
        ((-1, 8), (2, 8), (4, 8)),
        ((1,) * 9, (1,) * 9, (1,) * 9),
    ],
)
def test_inconsistent_shapes_raise(asked: Asked, bounds: Any) -> None:
    with pytest.raises(RuntimeError):
        asked.trt.Builder(asked.log).create_optimization_profile().set_shape("x", *bounds)


@pytest.mark.parametrize("bounds", [([2], [1], [4]), ([1, 1], [2], [4]), ([1] * 65, [1] * 65, [1] * 65)])
def test_inconsistent_values_raise(asked: Asked, bounds: Any) -> None:
    with pytest.raises(RuntimeError):
        asked.trt.Builder(asked.log).create_optimization_profile().set_shape_input("s", *bounds)


@pytest.mark.parametrize("flag", ["REFIT", "STRIP_PLAN"])
def test_refittable_engine_has_one_profile(asked: Asked, flag: str) -> None:
    assert build(asked, models.dense(), BATCHES, BATCHES) is not None
    assert build(asked, models.dense(), BATCHES, flags=(flag,)) is not None
    assert build(asked, models.dense(), BATCHES, BATCHES, flags=(flag,)) is None


def test_weak_precision_flags(simulation: Simulation, asked: Asked) -> None:
    flags = asked.trt.BuilderFlag
    if simulation.library.major >= 11:
        for name in ("FP16", "BF16", "INT8", "FP8", "OBEY_PRECISION_CONSTRAINTS"):
            with pytest.raises(AttributeError):
                getattr(flags, name)
    else:
        assert build(asked, models.dense(), BATCHES, flags=("FP16",)) is None
        assert build(asked, models.dense(), BATCHES, flags=("FP16",), strong=False) is not None


def test_removed_attributes(simulation: Simulation, asked: Asked) -> None:
    builder, network, config, _ = asked.parsed(models.dense())

    with pytest.raises(AttributeError):
        config.max_workspace_size = 1 << 30
    with pytest.raises(AttributeError):
        builder.build_engine(network, config)
    assert hasattr(builder, "platform_has_fast_fp16") is (simulation.library.major < 11)
    assert hasattr(asked.trt.TacticSource, "CUBLAS") is (simulation.library.major < 11)
    assert hasattr(asked.trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH") is (simulation.library.major < 11)


def test_arguments_of_wrong_types(asked: Asked) -> None:
    builder, network, config, _ = asked.parsed(models.dense())

    with pytest.raises(TypeError):
        config.set_flag(6)
    with pytest.raises(TypeError):
        config.set_memory_pool_limit(1 << 30, 0)
    with pytest.raises(TypeError):
        builder.build_serialized_network(config, network)
    with pytest.raises(TypeError):
        asked.trt.Builder("no logger")
    with pytest.raises(TypeError):
        asked.trt.OnnxParser(network, asked.log).parse("no bytes")


def test_base_class_has_to_be_initialized(asked: Asked) -> None:
    class Forgetful(asked.trt.ILogger):
        def __init__(self) -> None:
            pass

        def log(self, severity: Any, msg: str) -> None:
            pass

    with pytest.raises(TypeError, match="__init__"):
        asked.trt.Builder(Forgetful())


def test_serialized_engine_is_a_buffer_and_nothing_else(asked: Asked) -> None:
    memory = asked.plan(models.dense())

    assert len(bytes(memory)) == memoryview(memory).nbytes == memory.nbytes > 0
    with pytest.raises(TypeError):
        len(memory)
    with pytest.raises(TypeError):
        memory[:4]
    with pytest.raises(AttributeError):
        memory.decode()


def test_rank_above_eight(asked: Asked) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model = models.model([node], [("x", FLOAT, ["n"] + [1] * 8)], [("y", FLOAT, ["n"] + [1] * 8)])
    shape = (1,) * 9

    builder, _, _, _ = asked.parsed(model)
    with pytest.raises(RuntimeError):
        builder.create_optimization_profile().set_shape("x", shape, shape, shape)


def test_shape_input_of_more_than_64_elements(asked: Asked) -> None:
    nodes = [helper.make_node("Gather", ["s", "first"], ["size"]), helper.make_node("Expand", ["x", "size"], ["y"])]
    inputs = [("x", FLOAT, [1]), ("s", TensorProto.INT64, [65])]
    builder, network, config, errors = asked.parsed(
        models.model(nodes, inputs, [("y", FLOAT, [None])], {"first": np.array([0])})
    )

    assert not errors
    asked.add_profile(builder, config, {"x": ((1,), (1,), (1,))})
    assert builder.build_serialized_network(network, config) is None
    assert any("65 elements" in line for line in asked.log.lines)


def monitor(asked: Asked, cancel_at: str = "") -> Any:
    class Monitor(asked.trt.IProgressMonitor):
        def __init__(self) -> None:
            asked.trt.IProgressMonitor.__init__(self)
            self.events: list[Any] = []

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.events.append(("start", phase_name, parent_phase))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.events.append(("step", phase_name, step))
            return phase_name != cancel_at

        def phase_finish(self, phase_name: str) -> None:
            self.events.append(("finish", phase_name))

    return Monitor()


def test_progress_has_nested_phases(asked: Asked) -> None:
    builder, network, config, _ = asked.parsed(models.fixed())
    watcher = monitor(asked)
    config.progress_monitor = watcher

    assert builder.build_serialized_network(network, config) is not None
    parents = {event[1]: event[2] for event in watcher.events if event[0] == "start"}
    assert None in parents.values()
    assert any(parent in parents for parent in parents.values())
    assert sorted(parents) == sorted(event[1] for event in watcher.events if event[0] == "finish")


def test_progress_monitor_cancels(asked: Asked) -> None:
    builder, network, config, _ = asked.parsed(models.fixed())
    watcher = monitor(asked, cancel_at="Tactic Selection")
    config.progress_monitor = watcher

    assert builder.build_serialized_network(network, config) is None
    starts = [event[1] for event in watcher.events if event[0] == "start"]
    assert sorted(starts) == sorted(event[1] for event in watcher.events if event[0] == "finish")


def test_timing_cache_grows_and_is_serialized(simulation: Simulation, asked: Asked) -> None:
    builder, network, config, _ = asked.parsed(models.fixed())
    cache = config.create_timing_cache(b"")
    empty = bytes(cache.serialize())
    assert config.set_timing_cache(cache, False)

    builder.build_serialized_network(network, config)

    filled = bytes(config.get_timing_cache().serialize())
    assert len(filled) > len(empty)
    assert bytes(config.create_timing_cache(filled).serialize()) == filled


def test_damaged_timing_cache(asked: Asked) -> None:
    _, _, config, _ = asked.parsed(models.fixed())

    assert config.create_timing_cache(b"garbage") is None
    assert any("ERROR" in line for line in asked.log.lines)


def test_foreign_timing_cache_is_refused_unless_told_to_ignore_it(simulation: Simulation, asked: Asked) -> None:
    _, _, config, _ = asked.parsed(models.fixed())
    for version, gpu in (((9, 9), "Simulated GPU"), (simulation.library.version, "Another GPU")):
        foreign = config.create_timing_cache(plan.pack_timing_cache(version, gpu, ["entry"]))

        assert not config.set_timing_cache(foreign, False)
        assert config.set_timing_cache(foreign, True)


def test_unknown_tactic_source(asked: Asked) -> None:
    _, _, config, _ = asked.parsed(models.fixed())
    known = [int(source) for source in asked.trt.TacticSource.__members__.values()]

    assert config.set_tactic_sources(1 << max(known))
    assert not config.set_tactic_sources(1 << (max(known) + 1))


def test_sixteen_bit_values_are_rounded(asked: Asked) -> None:
    model = onnx.ModelProto.FromString(models.dense(element_type=TensorProto.BFLOAT16))
    engine = asked.engine(model.SerializeToString())
    assert engine.get_tensor_dtype("y") == asked.trt.DataType.BF16
    context = asked.context(engine)
    array = np.random.default_rng(1).standard_normal((3, 8)).astype(ml_dtypes.bfloat16)
    out = asked.driver.allocate(24)
    context.set_input_shape("x", (3, 8))
    context.set_tensor_address("x", asked.upload(array))
    context.set_tensor_address("y", out)

    assert context.execute_async_v3(asked.stream)

    product = array.astype(np.float32) @ models.WEIGHTS.astype(ml_dtypes.bfloat16).astype(np.float32)
    wanted = np.maximum(product, 0).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(asked.download(out, (3, 4), ml_dtypes.bfloat16), wanted)


def test_unknown_network_flag(asked: Asked) -> None:
    with pytest.raises(TypeError):
        asked.trt.Builder(asked.log).create_network(1 << 20)


def test_timing_cache_that_is_switched_off(asked: Asked) -> None:
    builder, network, config, _ = asked.parsed(models.fixed())
    config.set_flag(asked.trt.BuilderFlag.DISABLE_TIMING_CACHE)

    assert builder.build_serialized_network(network, config) is not None
    assert config.get_timing_cache() is None


def test_empty_network(asked: Asked) -> None:
    builder = asked.trt.Builder(asked.log)

    assert builder.build_serialized_network(builder.create_network(0), builder.create_builder_config()) is None
    assert any("empty" in line for line in asked.log.lines)


def test_shape_input_of_two_dimensions(asked: Asked) -> None:
    nodes = [helper.make_node("Reshape", ["s", "flat"], ["sizes"]), helper.make_node("Reshape", ["x", "sizes"], ["y"])]
    inputs = [("x", FLOAT, ["n", 8]), ("s", TensorProto.INT64, [2, 1])]
    model = models.model(nodes, inputs, [("y", FLOAT, [None, None])], {"flat": np.array([2])})

    with pytest.raises(AssertionError):
        asked.engine(model, BATCHES, {"s": ((1, 1), (4, 8), (16, 8))})
    assert any("at most one dimension" in line for line in asked.log.lines)


def test_profile_with_one_name_too_many(asked: Asked) -> None:
    assert build(asked, models.dense(), {**BATCHES, "nope": BATCHES["x"]}) is None


def test_profile_with_too_few_values(asked: Asked) -> None:
    assert asked.plan(models.reshape(), BATCHES, {"s": ((1,), (8,), (128,))}) is None


def test_profile_answers_what_was_set(asked: Asked) -> None:
    profile = asked.trt.Builder(asked.log).create_optimization_profile()
    for ask in (profile.get_shape, profile.get_shape_input):
        with pytest.raises(RuntimeError):
            ask("x")

    profile.set_shape("x", *BATCHES["x"])
    profile.set_shape_input("s", [1], [2], [3])

    assert [tuple(shape) for shape in profile.get_shape("x")] == list(BATCHES["x"])
    assert profile.get_shape_input("s") == [[1], [2], [3]]


def test_timing_caches_are_combined(simulation: Simulation, asked: Asked) -> None:
    def cache(gpu: str, key: str) -> Any:
        return config.create_timing_cache(plan.pack_timing_cache(simulation.library.version, gpu, [key]))

    _, _, config, _ = asked.parsed(models.fixed())
    mine, other, foreign = cache("Simulated GPU", "a"), cache("Simulated GPU", "b"), cache("Another GPU", "c")

    assert mine.combine(other, False)
    assert not mine.combine(foreign, False)
    assert bytes(mine.serialize()) == plan.pack_timing_cache(simulation.library.version, "Simulated GPU", ["a", "b"])
    assert mine.combine(foreign, True)


def test_settings_that_are_refused(asked: Asked) -> None:
    _, _, config, _ = asked.parsed(models.fixed())

    config.builder_optimization_level = 5
    config.builder_optimization_level = 6
    assert config.builder_optimization_level == 5
    assert any("0 to 5" in line for line in asked.log.lines)
    for set_wrongly in (
        lambda: config.add_optimization_profile("profile"),
        lambda: config.set_timing_cache(b"cache", False),
        lambda: setattr(config, "hardware_compatibility_level", 1),
        lambda: setattr(config, "progress_monitor", "monitor"),
    ):
        with pytest.raises(TypeError):
            set_wrongly()
    config.progress_monitor = None


def test_sixteen_bit_values_are_rounded_behind_each_node(asked: Asked) -> None:
    half = TensorProto.FLOAT16
    nodes = [helper.make_node("Add", ["x", "one"], ["s"]), helper.make_node("Sub", ["s", "one"], ["y"])]
    model = models.model(nodes, [("x", half, [1])], [("y", half, [1])], {"one": np.ones(1, np.float16)})
    context, out = asked.context(asked.engine(model, {"x": ((1,),) * 3})), asked.driver.allocate(2)
    context.set_tensor_address("x", asked.upload(np.array([2.0**-12], np.float16)))
    context.set_tensor_address("y", out)

    assert context.execute_async_v3(asked.stream)

    assert asked.download(out, (1,), np.float16)[0] == 0
