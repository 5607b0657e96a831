"""Which engine a name stands for, and which one "auto" takes: of what is there, the first that can run."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest

from tests.simulators.tensorrt.fixture import simulated_tensorrt
from tf_opt import engines, errors
from tf_opt.engines.tensorrt import cuda

GPU = "NVIDIA H200"
NO_GPU = "There is no NVIDIA driver."


class FakeBackend:
    """A backend with the machine that it is asked about."""

    def __init__(self, name: str, reason: str | None) -> None:
        self.name = name
        self.package = name
        self.install_command = f"pip install {name}"
        self.reason = reason

    def unavailable_reason(self) -> str | None:
        return self.reason


class Machine:
    """What is installed and usable; takes the place of the real machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gpu = False
        self.installed = {"openvino", "onnxruntime", "tensorrt"}
        self.unusable: dict[str, str] = {}
        self.broken: dict[str, Exception] = {}
        self.loaded: list[str] = []
        self.settings: list[Any] = []
        monkeypatch.setattr(cuda, "unavailable_reason", lambda: None if self.gpu else NO_GPU)
        monkeypatch.setattr(cuda, "cuda_driver", lambda: SimpleNamespace(device_name=lambda ordinal: GPU))
        monkeypatch.setattr(engines, "is_installed", lambda package: package in self.installed)
        monkeypatch.setattr(engines, "load_backend", self.load)

    def load(self, name: str, *, tensorrt: Any = None, provider: str | None = None) -> Any:
        label = name if provider is None else f"{name} ({provider})"
        self.loaded.append(label)
        self.settings.append(tensorrt)
        if label in self.broken:
            raise self.broken[label]
        return FakeBackend(name, self.unusable.get(label))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_order() -> None:
    assert engines.automatic_order() == ("tensorrt", "onnxruntime (cuda)", "openvino", "onnxruntime (cpu)")
    assert engines.engine_names() == ("auto", "openvino", "tensorrt", "onnxruntime")


def test_tensorrt_first_where_there_is_a_gpu(machine: Machine) -> None:
    machine.gpu = True
    choice = engines.choose_backend()
    assert (choice.label, choice.backend.name, choice.rejected) == ("tensorrt", "tensorrt", ())
    assert GPU in choice.reason
    assert machine.loaded == ["tensorrt"]  # Nothing else had to be loaded.


def test_onnxruntime_on_cuda_where_tensorrt_is_absent(machine: Machine) -> None:
    machine.gpu = True
    machine.installed = {"openvino", "onnxruntime"}
    choice = engines.choose_backend()
    assert choice.label == "onnxruntime (cuda)"
    assert GPU in choice.reason
    assert [name for name, _ in choice.rejected] == ["tensorrt"]
    assert "pip install tensorrt" in choice.rejected[0][1]


def test_each_engine_for_a_gpu_names_its_own_package(machine: Machine) -> None:
    machine.gpu = True
    machine.installed = {"openvino"}
    reasons = dict(engines.choose_backend().rejected)
    assert reasons["tensorrt"].endswith("pip install tensorrt")
    assert reasons["onnxruntime (cuda)"].endswith("pip install onnxruntime-gpu")


def test_openvino_where_no_engine_can_use_the_gpu(machine: Machine) -> None:
    machine.gpu = True
    machine.unusable = {"tensorrt": "it is too old", "onnxruntime (cuda)": "it is built for the CPU"}
    choice = engines.choose_backend()
    assert choice.label == "openvino"
    assert "no engine for a GPU can be used" in choice.reason
    assert choice.rejected == (("tensorrt", "it is too old"), ("onnxruntime (cuda)", "it is built for the CPU"))


def test_without_a_gpu_nothing_of_a_gpu_engine_is_loaded(machine: Machine) -> None:
    choice = engines.choose_backend()
    assert choice.label == "openvino"
    assert choice.rejected == (("tensorrt", NO_GPU), ("onnxruntime (cuda)", NO_GPU))
    assert machine.loaded == ["openvino"]


def test_onnxruntime_on_the_cpu_is_the_last_resort(machine: Machine) -> None:
    machine.installed = {"onnxruntime", "tensorrt"}
    choice = engines.choose_backend()
    assert choice.label == "onnxruntime (cpu)"
    assert [name for name, _ in choice.rejected] == ["tensorrt", "onnxruntime (cuda)", "openvino"]
    assert "pip install openvino" in choice.rejected[2][1]


def test_nothing_can_run(machine: Machine) -> None:
    machine.installed = set()
    with pytest.raises(errors.EnginePackageMissingError) as caught:
        engines.choose_backend("auto")
    assert all(name in str(caught.value) for name in engines.automatic_order())
    assert "pip install openvino" in str(caught.value)
    assert NO_GPU in str(caught.value)


@pytest.mark.parametrize("error", [ImportError("libfoo.so.3"), OSError("no such file"), TypeError("nullptr")])
def test_broken_package_is_a_reason(machine: Machine, error: Exception) -> None:
    machine.gpu = True
    machine.broken = {"tensorrt": error}
    choice = engines.choose_backend()
    assert choice.label == "onnxruntime (cuda)"
    assert str(error) in choice.rejected[0][1]


def test_others_follow_in_order(machine: Machine) -> None:
    machine.gpu = True
    machine.unusable = {"openvino": "no"}
    choices = list(engines.usable_backends())
    assert [choice.label for choice in choices] == ["tensorrt", "onnxruntime (cuda)", "onnxruntime (cpu)"]
    assert [len(choice.rejected) for choice in choices] == [0, 0, 1]
    # It comes after engines that do use the GPU.
    assert "no engine for a GPU" not in choices[-1].reason


def test_settings_reach_tensorrt(machine: Machine) -> None:
    machine.gpu = True
    settings: Any = object()
    engines.choose_backend("auto", tensorrt=settings)
    engines.create_backend("tensorrt", tensorrt=settings)
    assert machine.settings == [settings, settings]


def test_only_tensorrt_is_given_its_settings() -> None:
    settings: Any = object()
    backend: Any = engines.load_backend("tensorrt", tensorrt=settings)
    assert settings in vars(backend).values()
    assert engines.load_backend("openvino", tensorrt=settings).name == "openvino"


def test_choice_on_this_machine_is_one_that_runs() -> None:
    choice = engines.choose_backend("auto")
    assert choice.backend.unavailable_reason() is None
    assert type(engines.create_backend("auto")) is type(choice.backend)


def test_simulated_tensorrt_is_taken() -> None:
    with simulated_tensorrt("10.16", gpu_name=GPU):
        choice = engines.choose_backend()
    assert (choice.label, choice.rejected) == ("tensorrt", ())
    assert GPU in choice.reason


def test_choice_by_name() -> None:
    choice = engines.choose_backend("openvino")
    assert (choice.label, choice.backend.name, choice.rejected) == ("openvino", "openvino", ())
    assert "by name" in choice.reason


def test_unknown_engine() -> None:
    with pytest.raises(errors.UnknownEngineError, match="Did you mean 'tensorrt'"):
        engines.create_backend("tensort")


@pytest.mark.parametrize("name", ["openvino", "tensorrt", "onnxruntime"])
def test_absent_package_names_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(errors.EnginePackageMissingError, match=f"pip install {name}"):
        engines.create_backend(name)


def test_tensorrt_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: package)
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: NO_GPU)
    with pytest.raises(errors.EngineUnavailableError, match=f"{NO_GPU} engine='auto' takes"):
        engines.create_backend("tensorrt")


def test_package_without_a_specification_counts_as_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(package: str) -> None:
        raise ValueError(f"{package}.__spec__ is None")

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert engines.is_installed("tensorrt")
