"""Holds names, signatures and numbers of the simulator to the real bindings."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulators.real_bindings import FULL_VERSIONS, stubs_or_skip
from tests.simulators.tensorrt.conformance import differences
from tests.simulators.tensorrt.driver import SimulatedCudaDriver
from tests.simulators.tensorrt.fixture import VERSIONS
from tests.simulators.tensorrt.module import create_library


def module_of(version: str) -> Any:
    return create_library(version, SimulatedCudaDriver()).module


@pytest.mark.parametrize("version", VERSIONS)
def test_simulator_has_nothing_that_the_bindings_lack(version: str) -> None:
    assert differences(module_of(version), stubs_or_skip(FULL_VERSIONS[version])) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_members_that_a_version_lacks_are_hidden(version: str) -> None:
    """Without this, a simulator that hides nothing would pass for each version by itself."""
    module = module_of(version)
    late, eleven = version != "10.0", version == "11.4"

    assert hasattr(module.OnnxParser, "load_model_proto") is late
    assert hasattr(module.ICudaEngine, "device_memory_size_v2") is late
    assert hasattr(module.ICudaEngine, "device_memory_size") is not eleven
    assert hasattr(module.OnnxParser, "supports_model") is not eleven
    assert hasattr(module.BuilderFlag, "FP16") is not eleven


def invent_class(module: Any) -> None:
    module.Invented = type("Invented", (), {})


def invent_method(module: Any) -> None:
    module.Builder.invented = lambda self: None


def misspell_argument(module: Any) -> None:
    module.Builder.create_network = lambda self, flag=0: None


def demand_an_optional_argument(module: Any) -> None:
    module.OnnxParser.parse = lambda self, model, path, more: None


def make_a_method_of_a_property(module: Any) -> None:
    module.ICudaEngine.num_io_tensors = lambda self: 0


def make_a_property_of_a_method(module: Any) -> None:
    module.IExecutionContext.infer_shapes = property(lambda self: [])


def make_settable(module: Any) -> None:
    module.ICudaEngine.num_io_tensors = property(lambda self: 0, lambda self, value: None)


def number_otherwise(module: Any) -> None:
    module.BuilderFlag.__members__["TF32"]._value = 60


def invent_a_member(module: Any) -> None:
    module.TensorLocation.__members__["MOON"] = module.TensorLocation(2)


def number_severities_otherwise(module: Any) -> None:
    module.ILogger.Severity.__members__["ERROR"]._value = 9


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (invent_class, "Invented"),
        (invent_method, "Builder.invented"),
        (misspell_argument, "Builder.create_network"),
        (demand_an_optional_argument, "OnnxParser.parse"),
        (make_a_method_of_a_property, "ICudaEngine.num_io_tensors"),
        (make_a_property_of_a_method, "IExecutionContext.infer_shapes"),
        (make_settable, "ICudaEngine.num_io_tensors"),
        (number_otherwise, "BuilderFlag"),
        (invent_a_member, "TensorLocation"),
        (number_severities_otherwise, "ILogger.Severity"),
    ],
)
def test_each_kind_of_difference_is_found(change: Any, culprit: str) -> None:
    module = module_of("10.16")
    change(module)

    found = differences(module, stubs_or_skip(FULL_VERSIONS["10.16"]))

    assert found
    assert all(line.startswith((culprit, "Logger.Severity")) for line in found)
