"""Settings for all tests: quiet TensorFlow, repeatable hypothesis, slow tests last, GPU tests only on a GPU."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from pathlib import Path

# TensorFlow reads both when it is imported, which the first test module does.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Hugging Face's TensorFlow classes need Keras 2; `import keras` is Keras 3 all the same.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import hypothesis
import pytest

from tests.line_tracing import adds_lines, load_what_all_tests_load, untraced

# Building an engine or tracing a function takes longer than hypothesis's 200 ms, the more so on a busy machine.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

_test_numbers = itertools.count()


@pytest.fixture(autouse=True)
def own_optimizations(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this test's optimizations are kept, so that none finds the result of another or of the developer."""
    folder = tmp_path_factory.getbasetemp() / "caches" / str(next(_test_numbers))
    # Not imported for it: tests of what an import loads must not find TensorFlow loaded.
    if (module := sys.modules.get("tf_opt.cache_files")) is not None:
        monkeypatch.setattr(module, "cache_directory", lambda: folder)
    return folder


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Has new processes end at SIGINT: what a shell runs in the background ignores it, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


ENGINES = (
    "openvino",
    "onnxruntime",
    # Without TensorRT and without a GPU, its backend runs on a simulation that holds it to TensorRT's contract.
    "simulated tensorrt 10.0",
    "simulated tensorrt 10.16",
    "simulated tensorrt 11.4",
    pytest.param("tensorrt", marks=pytest.mark.gpu),
)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, own_optimizations: Path) -> Iterator[str]:
    """Name of an engine that can run while the test runs; a test that asks for it runs once for each."""
    simulated, _, version = request.param.rpartition(" ")
    if not simulated:
        yield version
        return
    from tests.simulators.tensorrt.fixture import simulated_tensorrt

    monkeypatch.setattr("tf_opt.cache_files.cache_directory", lambda: own_optimizations)
    with simulated_tensorrt(version):
        yield "tensorrt"


@functools.cache
def why_no_gpu() -> str | None:
    """Returns why tests cannot use a GPU here, None where they can. Asks the driver: TensorRT crashes without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"no NVIDIA driver ({error})"
    if status := driver.cuInit(0):
        return f"the NVIDIA driver does not start (cuInit returned {status})"
    count = ctypes.c_int()
    if status := driver.cuDeviceGetCount(ctypes.byref(count)):
        return f"the NVIDIA driver lists no devices (cuDeviceGetCount returned {status})"
    return None if count.value else "the NVIDIA driver sees no GPU"


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        load_what_all_tests_load()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A stable sort: the order stays as it is otherwise, and a quick test that fails is seen first.
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    if "PYTEST_XDIST_WORKER" in os.environ:
        ranks: dict[Path, int] = {}
        for item in items:
            ranks[item.path] = min(start_rank(item), ranks.get(item.path, 2))
        items.sort(key=lambda item: ranks[item.path])
    for item in items:
        if item.get_closest_marker("gpu") is not None and (reason := why_no_gpu()) is not None:
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {reason}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # pytest-cov's marker `no_cover` would leave out the test alone and trace its fixtures, which make the models.
    with nullcontext() if adds_lines(item) else untraced():
        return (yield)


def start_rank(item: pytest.Item) -> int:
    """When processes that share the files start this test's: long ones first, so that none is left alone with one."""
    if item.get_closest_marker("memory") is not None:
        return 0  # While the other processes are small.
    return 1 if item.get_closest_marker("slow") is not None else 2
