from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tests.simulators.tensorrt import models
from tests.simulators.tensorrt.fixture import VERSIONS, Simulation, simulated_tensorrt
from tests.simulators.tensorrt.questions import Asked


def plan_of(version: str, *flags: str, level: str = "NONE", **machine: Any) -> bytes:
    """Returns a plan for `models.dense`, built by a version on a machine."""
    with simulated_tensorrt(version, **machine) as simulation:
        asked = Asked(simulation.module, simulation.driver)
        builder, network, config, _ = asked.parsed(models.dense())
        for flag in flags:
            config.set_flag(getattr(asked.trt.BuilderFlag, flag))
        config.hardware_compatibility_level = getattr(asked.trt.HardwareCompatibilityLevel, level)
        asked.add_profile(builder, config, {"x": ((1, 8), (4, 8), (16, 8))})
        return bytes(builder.build_serialized_network(network, config))


def loads(plan: bytes, version: str = "10.16", *, host_code: bool = False, **machine: Any) -> bool:
    """Tells whether a version on a machine loads a plan; a refusal has to be logged."""
    with simulated_tensorrt(version, **machine) as simulation:
        asked = Asked(simulation.module, simulation.driver)
        runtime = asked.trt.Runtime(asked.log)
        runtime.engine_host_code_allowed = host_code
        loaded = runtime.deserialize_cuda_engine(plan) is not None
        assert loaded or any("ERROR" in line for line in asked.log.lines)
        return loaded


def test_plan_loads_where_it_was_built() -> None:
    assert loads(plan_of("10.16"))


@pytest.mark.parametrize("version", [version for version in VERSIONS if version != "10.16"])
def test_plan_of_another_version(version: str) -> None:
    assert not loads(plan_of("10.16"), version)


def test_plan_of_another_gpu() -> None:
    plan = plan_of("10.16")

    assert not loads(plan, compute_capability=(8, 6))
    assert not loads(plan, gpu_name="Another GPU")


def test_compatible_hardware() -> None:
    ampere = plan_of("10.16", level="AMPERE_PLUS", compute_capability=(8, 0))
    same = plan_of("10.16", level="SAME_COMPUTE_CAPABILITY")

    assert loads(ampere, compute_capability=(9, 0))
    assert not loads(ampere, compute_capability=(7, 5))
    assert loads(same, gpu_name="Another GPU")
    assert not loads(same, compute_capability=(8, 0))


def test_compatible_version() -> None:
    plan = plan_of("10.0", "VERSION_COMPATIBLE")
    lean = plan_of("10.0", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME")

    assert not loads(plan, "10.16")
    assert loads(plan, "10.16", host_code=True)
    assert loads(lean, "10.16")
    assert not loads(plan, "11.4", host_code=True)


@pytest.mark.parametrize("damage", [lambda p: p[:-1], lambda p: p[: len(p) // 2], lambda p: b"", lambda p: p + b"x"])
def test_plan_of_another_length(asked: Asked, damage: Any) -> None:
    assert asked.load(damage(bytes(asked.plan(models.dense())))) is None


def test_plan_with_a_flipped_bit(asked: Asked) -> None:
    plan = bytearray(bytes(asked.plan(models.dense())))
    plan[len(plan) // 2] ^= 1

    assert asked.load(bytes(plan)) is None


def test_text_is_no_plan(asked: Asked) -> None:
    with pytest.raises(TypeError):
        asked.load("plan")


def test_engine_serializes_to_its_plan(asked: Asked) -> None:
    plan = bytes(asked.plan(models.dense()))

    assert bytes(asked.load(plan).serialize()) == plan


def big() -> bytes:
    """A model whose weights are most of it."""
    weights = np.random.default_rng(0).standard_normal((8, 4096)).astype(np.float32)
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    float32 = onnx.TensorProto.FLOAT
    return models.model([node], [("x", float32, ["n", 8])], [("y", float32, ["n", 4096])], {"w": weights})


def run(asked: Asked, engine: Any) -> Any:
    context = asked.context(engine)
    out = asked.driver.allocate(4096 * 4)
    context.set_input_shape("x", (1, 8))
    context.set_tensor_address("x", asked.upload(np.ones((1, 8), np.float32)))
    context.set_tensor_address("y", out)
    assert context.execute_async_v3(asked.stream)
    return asked.download(out, (1, 4096))


def test_stripped_plan_has_no_weights_until_it_is_refitted(asked: Asked) -> None:
    whole, stripped = asked.plan(big()), asked.plan(big(), flags=("STRIP_PLAN",))
    engine = asked.load(stripped)

    assert whole.nbytes > 100_000 > stripped.nbytes
    with asked.driver.violations.expected("without its weights"):
        run(asked, engine)
    refitter = asked.trt.Refitter(engine, asked.log)
    assert refitter.get_missing_weights() == ["w"]
    assert not refitter.refit_cuda_engine()
    assert asked.trt.OnnxParserRefitter(refitter, asked.log).refit_from_bytes(big())
    assert refitter.refit_cuda_engine()
    np.testing.assert_array_equal(run(asked, engine), run(asked, asked.load(whole)))


def test_refit_with_a_model_that_lacks_weights(asked: Asked) -> None:
    engine = asked.load(asked.plan(big(), flags=("STRIP_PLAN",)))
    refitter = asked.trt.OnnxParserRefitter(asked.trt.Refitter(engine, asked.log), asked.log)

    assert not refitter.refit_from_bytes(models.integers())
    assert refitter.get_error(0).code() == asked.trt.ErrorCode.REFIT_FAILED


def test_refit_with_weights_of_another_shape(asked: Asked) -> None:
    engine = asked.load(asked.plan(big(), flags=("STRIP_PLAN",)))
    refitter = asked.trt.OnnxParserRefitter(asked.trt.Refitter(engine, asked.log), asked.log)

    assert not refitter.refit_from_bytes(models.dense())


def test_engine_that_is_not_refittable(asked: Asked) -> None:
    with pytest.raises(TypeError):
        asked.trt.Refitter(asked.engine(models.dense()), asked.log)


def test_refit_changes_weights(asked: Asked) -> None:
    engine = asked.load(asked.plan(big(), flags=("REFIT",)))
    refitter = asked.trt.Refitter(engine, asked.log)

    assert refitter.set_named_weights("w", np.zeros((8, 4096), np.float32))
    assert not refitter.set_named_weights("nope", np.zeros(1, np.float32))
    assert refitter.refit_cuda_engine()
    assert not run(asked, engine).any()


def test_module_says_that_it_is_a_simulator(simulation: Simulation) -> None:
    text = simulation.module.__version__

    assert "simulated" in text
    assert tuple(int(part) for part in text.split(".")[:2]) == simulation.library.version


def test_module_is_gone_afterwards() -> None:
    import importlib.util
    import sys

    before = "tensorrt" in sys.modules
    with simulated_tensorrt("10.0"):
        assert importlib.util.find_spec("tensorrt") is not None
    assert ("tensorrt" in sys.modules) is before


def test_engine_serialized_without_weights(asked: Asked) -> None:
    engine = asked.load(asked.plan(big(), flags=("STRIP_PLAN",)))
    asked.trt.OnnxParserRefitter(refitter := asked.trt.Refitter(engine, asked.log), asked.log).refit_from_bytes(big())
    refitter.refit_cuda_engine()
    without = engine.create_serialization_config()
    without.set_flag(asked.trt.SerializationFlag.EXCLUDE_WEIGHTS)

    whole = engine.serialize_with_config(engine.create_serialization_config())

    assert whole.nbytes > 100_000 > engine.serialize_with_config(without).nbytes
    np.testing.assert_array_equal(run(asked, asked.load(whole)), run(asked, engine))


def test_refit_with_weights_from_memory(simulation: Simulation, asked: Asked) -> None:
    if simulation.library.version < (10, 16):
        assert not hasattr(asked.trt.OnnxParserRefitter, "load_initializer")
        return
    model = onnx.ModelProto.FromString(big())
    held = np.frombuffer(model.graph.initializer[0].raw_data, np.uint8)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "nowhere", 0, held.nbytes)
    model.graph.initializer[0].ClearField("raw_data")
    engine = asked.load(asked.plan(big(), flags=("STRIP_PLAN",)))
    refitter = asked.trt.Refitter(engine, asked.log)
    parser = asked.trt.OnnxParserRefitter(refitter, asked.log)

    assert not parser.load_initializer("w", held.ctypes.data, held.nbytes)
    assert not parser.refit_model_proto()
    assert parser.load_model_proto(model.SerializeToString())
    assert not parser.refit_model_proto()  # The weights are still missing.
    assert parser.load_initializer("w", held.ctypes.data, held.nbytes)
    assert parser.refit_model_proto()
    assert refitter.refit_cuda_engine()
    np.testing.assert_array_equal(run(asked, engine), run(asked, asked.load(asked.plan(big()))))


def test_refit_with_something_else(asked: Asked) -> None:
    engine = asked.load(asked.plan(big(), flags=("STRIP_PLAN",)))

    with pytest.raises(TypeError):
        asked.trt.Refitter("engine", asked.log)
    parser = asked.trt.OnnxParserRefitter(asked.trt.Refitter(engine, asked.log), asked.log)
    assert not parser.refit_from_bytes(b"garbage")
    assert parser.get_error(0).code() == asked.trt.ErrorCode.MODEL_DESERIALIZE_FAILED
