"""Whether TensorRT can be used: the driver is asked first, and nothing ends the process."""

from __future__ import annotations

import ctypes
import importlib
import subprocess
import sys
import types
from importlib import metadata

import pytest

from tests.simulators.tensorrt.fixture import VERSIONS, simulated_tensorrt
from tf_opt.engines import choose_backend, create_backend
from tf_opt.engines.tensorrt import TensorRTBackend, bindings, cuda
from tf_opt.errors import CudaUnavailableError, EnginePackageMissingError, EngineUnavailableError

ABSENT = "There is no driver."


@pytest.fixture
def without_gpu(monkeypatch):
    def absent():
        raise CudaUnavailableError(ABSENT)

    monkeypatch.setattr(cuda, "cuda_driver", absent)


@pytest.mark.parametrize("version", VERSIONS)
def test_usable(version):
    with simulated_tensorrt(version):
        assert TensorRTBackend().unavailable_reason() is None
        assert bindings.installed_version() == tuple(map(int, version.split(".")))


def test_without_a_gpu_tensorrt_is_not_imported(without_gpu, monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"{name} is imported"))
    backend = TensorRTBackend()
    assert backend.unavailable_reason() == ABSENT
    assert backend.refusal("Add", [], []) == ABSENT
    assert backend.precision_refusal("fp16") == ABSENT
    with pytest.raises(EngineUnavailableError, match=ABSENT):
        bindings.tensorrt_module()


def test_target_without_a_gpu_is_that_of_the_newest(without_gpu):
    target = TensorRTBackend().onnx_target
    assert (target.opset, target.gelu) == (20, True)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt"), "pip install tensorrt"),
        (ModuleNotFoundError("No module named 'tensorrt_bindings'", name="tensorrt_bindings"), "tensorrt_bindings"),
        (ImportError("libnvinfer.so.10: cannot open shared object file"), "libnvinfer.so.10"),
        (RuntimeError("broken"), "broken"),
    ],
)
def test_packages_that_do_not_load_are_reasons(error, message, monkeypatch):
    with simulated_tensorrt("10.16"):

        def refuse(name):
            raise error

        monkeypatch.setattr(importlib, "import_module", refuse)
        assert message in TensorRTBackend().unavailable_reason()
        with pytest.raises((EngineUnavailableError, EnginePackageMissingError)):
            bindings.tensorrt_module()
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("version", "usable"),
    [("7.2.3", False), ("8.4.1", False), ("8.5.3.1", True), ("8.6.0", True), ("9.3.0", False), ("12.0.1", False)],
)
def test_supported_versions(version, usable, monkeypatch):
    with simulated_tensorrt("10.16"):
        module = types.ModuleType("tensorrt")
        module.__version__ = version
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        reason = TensorRTBackend().unavailable_reason()
        assert (reason is None) is usable
        assert usable or version in reason
        if usable:
            target = TensorRTBackend().onnx_target
            assert (target.opset, target.gelu, target.layer_normalization) == (17, False, False)
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("distribution", "driver", "usable"),
    [
        ("tensorrt-cu13", 13000, True),
        ("tensorrt-cu13", 12090, False),
        ("tensorrt-cu12", 12010, True),
        ("tensorrt-cu12", 13010, True),
        ("tensorrt-cu12", 11080, False),
        ("something-else", 11080, True),
    ],
)
def test_driver_has_to_serve_the_cuda_of_the_libraries(distribution, driver, usable, monkeypatch):
    def version(name):
        if name != distribution:
            raise metadata.PackageNotFoundError(name)
        return "10.16.1"

    monkeypatch.setattr(metadata, "version", version)
    with simulated_tensorrt("10.16", driver_version=driver):
        reason = TensorRTBackend().unavailable_reason()
    if usable:
        assert reason is None
    else:
        wanted, served = distribution[-2:], f"{driver // 1000}.{driver % 1000 // 10}"
        assert f"built for CUDA {wanted}" in reason
        assert f"CUDA up to {served}" in reason
        assert f"tensorrt-cu{driver // 1000}" in reason


def test_distributions_of_a_loaded_package_are_looked_through_once(monkeypatch):
    asked = []

    def version(name):
        asked.append(name)
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    for _ in range(2):
        with simulated_tensorrt("10.16"):
            assert TensorRTBackend().unavailable_reason() is None
            assert TensorRTBackend().refusal("Relu", (), ()) is None
    assert asked == 2 * list(bindings.CUDA_OF_DISTRIBUTION)


def test_importing_the_backend_imports_neither_tensorrt_nor_tensorflow_nor_the_driver():
    code = (
        "import sys, ctypes\n"
        "ctypes.CDLL = lambda *a, **k: sys.exit('a library is opened')\n"
        "import tf_opt.engines.tensorrt.backend, tf_opt.engines.tensorrt.runtime\n"
        "found = {'tensorrt', 'tensorflow', 'onnx'} & set(sys.modules)\n"
        "sys.exit(str(found) if found else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def driver_library(monkeypatch, tmp_path):
    """Has a file stand in for the driver's library; what is written there, or compiled of C++, the loader finds."""
    open_library = ctypes.CDLL
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: open_library(str(tmp_path / name)))
    cuda.cuda_driver.cache_clear()
    yield tmp_path / "libcuda.so.1"
    cuda.cuda_driver.cache_clear()


def compile_library(path, **statuses):
    """Compiles a driver with one GPU whose functions return these statuses, 0 where none is given."""
    integer, unsigned = "int* value", "unsigned flags"
    arguments = {"cuInit": unsigned, "cuDeviceGetCount": integer, "cuDriverGetVersion": integer}
    arguments |= {"cuDeviceGet": f"{integer}, int", "cuDeviceGetName": "char* name, int, int"}
    arguments |= {"cuDeviceGetAttribute": f"{integer}, int, int"}
    functions = [
        f"int {name}({each}) {{ {'*value = 1; ' if integer in each else ''}return {statuses.get(name, 0)}; }}"
        for name, each in arguments.items()
    ]
    source = path.with_suffix(".cc")
    source.write_text(f'extern "C" {{\n{chr(10).join(functions)}\n}}\n')
    subprocess.run(["g++", "-shared", "-fPIC", "-o", path, source], check=True)


def test_driver_library_that_is_absent(driver_library):
    assert "no NVIDIA driver" in cuda.unavailable_reason()


def test_driver_library_that_does_not_load_has_the_loader_s_reason(driver_library):
    driver_library.write_bytes(b"no library")
    reason = cuda.unavailable_reason()
    assert "no NVIDIA driver" not in reason
    assert "is here, but its library does not load" in reason
    assert "file too short" in reason


@pytest.mark.parametrize("name", ["cuInit", "cuDriverGetVersion", "cuDeviceGetName", "cuDeviceGetCount"])
def test_driver_that_fails_and_has_no_names_of_errors_leaves_auto_the_next_engine(name, driver_library, monkeypatch):
    compile_library(driver_library, **{name: 3})
    module = types.ModuleType("tensorrt")
    module.__version__ = "10.16.1"
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    reason = cuda.unavailable_reason()
    if name in ("cuInit", "cuDeviceGetCount"):
        assert f"{name}" in reason
        assert "unknown (3)" in reason
    else:
        assert reason is None
    if name != "cuDeviceGetName":
        assert name in TensorRTBackend().unavailable_reason()
        assert name in TensorRTBackend().precision_refusal("fp16")
        with pytest.raises(EngineUnavailableError, match=name):
            create_backend("tensorrt")
    choice = choose_backend()
    assert choice.backend.name == "openvino"
    assert name in dict(choice.rejected)["tensorrt"]


def test_precision_of_a_gpu_that_does_not_tell_its_capability(driver_library, monkeypatch):
    compile_library(driver_library, cuDeviceGetAttribute=3)
    monkeypatch.setattr(bindings, "tensorrt_module", lambda: types.SimpleNamespace(__version__="10.16.1"))
    assert "cuDeviceGetAttribute" in TensorRTBackend().precision_refusal("fp16")
