"""A simulated TensorRT and CUDA driver, and a cache folder of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulators.tensorrt.fixture import VERSIONS, Simulation, simulated_tensorrt


@pytest.fixture
def cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where plans and timings go; no test finds those of another or of the developer."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("tf_opt.cache_files.cache_directory", lambda: folder)
    return folder


@pytest.fixture
def simulation(cache_folder: Path) -> Iterator[Simulation]:
    """TensorRT 10.16 on one GPU."""
    with simulated_tensorrt("10.16") as running:
        yield running


@pytest.fixture(params=VERSIONS)
def any_version(request: pytest.FixtureRequest, cache_folder: Path) -> Iterator[Simulation]:
    """Each simulated version in turn."""
    with simulated_tensorrt(request.param) as running:
        yield running
